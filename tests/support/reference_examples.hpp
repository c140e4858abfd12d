// Calls in double that own their memory: empty ones to fill by hand, and random ones.
#pragma once

#include <attn/reference.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <vector>

namespace attn::test {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

struct Shape {
  std::int64_t batch = 1, num_q_heads = 1, num_kv_heads = 1, q_len = 1, kv_len = 1, head_dim = 1,
               v_head_dim = 1;
};

/// A call in double that owns its memory, filled with zeros; only lse is f32.
struct Example {
  explicit Example(const Shape& sizes)
      : shape(sizes),
        q(DType::f64, {sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.head_dim}),
        k(DType::f64, {sizes.batch, sizes.num_kv_heads, sizes.kv_len, sizes.head_dim}),
        v(DType::f64, {sizes.batch, sizes.num_kv_heads, sizes.kv_len, sizes.v_head_dim}),
        out(DType::f64, {sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.v_head_dim}),
        lse(DType::f32, {sizes.batch, sizes.num_q_heads, sizes.q_len}) {
    tensors.q = q.view();
    tensors.k = k.view();
    tensors.v = v.view();
    tensors.out = out.view();
    tensors.lse = lse.view();
  }

  void run() { attention_reference(tensors, options, execution); }
  std::vector<double> scores(ScoreStage stage) const {
    Tensor scores(DType::f64, {shape.batch, shape.num_q_heads, shape.q_len, shape.kv_len});
    reference_scores(tensors, options, stage, scores.view(), execution);
    return {scores.data<double>(), scores.data<double>() + scores.size()};
  }

  Shape shape;
  Tensor q, k, v, out, lse;
  AttentionTensors tensors;
  AttentionOptions options;
  Execution execution{};
};

/// Random shape, options, masks and values, with scores of order one.
class RandomCall {
 public:
  explicit RandomCall(std::uint64_t seed)
      : generator_(static_cast<std::uint32_t>(seed)), example(shape()) {
    for (Tensor* tensor : {&example.q, &example.k, &example.v}) {
      std::generate_n(tensor->data<double>(), tensor->size(),
                      [this] { return normal_(generator_); });
    }
    choose_settings();
    choose_side_tensors();
  }

 private:
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution(low, high)(generator_);
  }
  bool coin() { return between(0, 1) == 1; }
  float order_one() { return static_cast<float>(normal_(generator_)); }

  Shape shape() {
    const std::int64_t kv_heads = between(1, 2);
    return {between(1, 3), kv_heads * between(1, 3), kv_heads,
            between(1, 9), between(1, 40),           between(1, 8),
            between(1, 8)};
  }

  void choose_settings() {
    if (coin()) example.options.softcap = 1.5f;
    if (coin())
      example.options.causal =
          coin() ? Causal::bottom_right() : Causal::with_offset(between(-3, 12));
    if (coin())
      example.options.window =
          Window{coin() ? std::optional(between(0, 5)) : std::nullopt, between(0, 5)};
  }

  void choose_side_tensors() {
    const Shape& sizes = example.shape;
    for (float* values : {slopes_, sinks_})
      std::generate_n(values, sizes.num_q_heads, [this] { return order_one(); });
    if (coin()) example.tensors.alibi_slopes = {slopes_, {sizes.num_q_heads}};
    if (coin()) example.tensors.sinks = {sinks_, {sizes.num_q_heads}};
    std::generate_n(lengths_, sizes.batch,
                    [&] { return static_cast<std::int32_t>(between(0, sizes.kv_len)); });
    if (coin()) example.tensors.kv_lens = {lengths_, {sizes.batch}};
    const Dims full{sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.kv_len};
    mask_.resize(static_cast<std::size_t>(full.product()));
    std::generate(mask_.begin(), mask_.end(), [this] {
      return between(0, 3) == 0 ? -std::numeric_limits<float>::infinity() : order_one();
    });
    if (coin()) example.tensors.mask = {mask_.data(), full};
  }

  std::mt19937 generator_;
  std::normal_distribution<double> normal_;
  float slopes_[6], sinks_[6];
  std::int32_t lengths_[3];
  std::vector<float> mask_;

 public:
  Example example;
};

}  // namespace attn::test
