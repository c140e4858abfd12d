// The reference against a second algorithm: softmax states of single keys, merged pairwise, in long
// double.
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "support/reference_examples.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// The softmax state of some keys: the identity, one more key, and the merge of disjoint keys.
struct Running {
  long double max = -infinity;
  long double sum = 0;
  std::vector<long double> out;

  static Running of_key(long double score, const double* values, std::int64_t count) {
    return score == -infinity ? Running{} : Running{score, 1, {values, values + count}};
  }
};

Running merge(const Running& a, const Running& b) {
  if (a.max == -infinity) return b;
  if (b.max == -infinity) return a;
  Running merged{std::max(a.max, b.max), 0, std::vector<long double>(a.out.size())};
  for (const Running* part : {&a, &b}) {
    const long double share = std::exp(part->max - merged.max);
    merged.sum += share * part->sum;
    for (std::size_t d = 0; d < merged.out.size(); ++d) merged.out[d] += share * part->out[d];
  }
  return merged;
}

/// One row of an example, by merging the states of both halves of the keys recursively.
class MergedRow {
 public:
  MergedRow(const Example& example, std::int64_t batch, std::int64_t head, std::int64_t query)
      : example_(example),
        batch_(batch),
        head_(head),
        query_(query),
        kv_head_(head * example.shape.num_kv_heads / example.shape.num_q_heads) {
    const AttentionTensors& tensors = example.tensors;
    const std::int64_t length = tensors.kv_lens.absent()
                                    ? example.shape.kv_len
                                    : static_cast<const std::int32_t*>(tensors.kv_lens.data)[batch];
    const auto& causal = example.options.causal;
    position_ =
        query + example.options.query_position().offset.value_or(length - example.shape.q_len);
    last_ = length - 1;
    if (causal) last_ = std::min(last_, position_);
    if (const auto& window = example.options.window) {
      last_ = std::min(last_, position_ + window->right.value());
      if (window->left) first_ = position_ - *window->left;
    }
  }

  Running result() const {
    Running state = keys(0, example_.shape.kv_len);
    const TensorView& sinks = example_.tensors.sinks;
    if (!sinks.absent()) {
      const std::vector<double> nothing(static_cast<std::size_t>(example_.shape.v_head_dim), 0.0);
      state = merge(state, Running::of_key(static_cast<const float*>(sinks.data)[head_],
                                           nothing.data(), example_.shape.v_head_dim));
    }
    return state;
  }

 private:
  Running keys(std::int64_t begin, std::int64_t end) const {
    if (end - begin == 1) return key(begin);
    const std::int64_t middle = begin + (end - begin + 1) / 2;
    return merge(keys(middle, end), keys(begin, middle));
  }

  Running key(std::int64_t j) const {
    const Shape& shape = example_.shape;
    const double* q =
        example_.q.data<double>() +
        ((batch_ * shape.num_q_heads + head_) * shape.q_len + query_) * shape.head_dim;
    const std::int64_t kv_row = (batch_ * shape.num_kv_heads + kv_head_) * shape.kv_len + j;
    const double* k = example_.k.data<double>() + kv_row * shape.head_dim;
    long double score = 0;
    for (std::int64_t d = shape.head_dim - 1; d >= 0; --d)
      score += static_cast<long double>(q[d]) * k[d];
    score *= static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
    if (const auto& softcap = example_.options.softcap)
      score = *softcap * std::tanh(score / *softcap);
    const AttentionTensors& tensors = example_.tensors;
    if (!tensors.alibi_slopes.absent()) {
      const long double slope = static_cast<const float*>(tensors.alibi_slopes.data)[head_];
      score -= slope * static_cast<long double>(std::abs(j - position_));
    }
    if (!tensors.mask.absent()) {
      score += static_cast<const float*>(
          tensors.mask
              .data)[((batch_ * shape.num_q_heads + head_) * shape.q_len + query_) * shape.kv_len +
                     j];
    }
    if (j < first_ || j > last_) score = -infinity;
    return Running::of_key(score, example_.v.data<double>() + kv_row * shape.v_head_dim,
                           shape.v_head_dim);
  }

  const Example& example_;
  std::int64_t batch_, head_, query_, kv_head_;
  std::int64_t position_ = 0, first_ = 0, last_ = 0;
};

}  // namespace

TEST_CASE("The reference agrees with merged parts in long double") {
  for (const std::uint64_t seed : seeds(0, 300)) {
    RandomCall call(seed);
    Example& example = call.example;
    example.run();
    const Shape& shape = example.shape;
    std::int64_t wrong = 0;
    for (std::int64_t row = 0; row < shape.batch * shape.num_q_heads * shape.q_len; ++row) {
      const std::int64_t head = row / shape.q_len;
      const Running state =
          MergedRow(example, head / shape.num_q_heads, head % shape.num_q_heads, row % shape.q_len)
              .result();
      const auto lse = static_cast<float>(state.max + std::log(state.sum));
      const float got_lse = example.lse.data<float>()[row];
      wrong += !(lse == got_lse || std::abs(lse - got_lse) < 1e-6);
      for (std::int64_t d = 0; d < shape.v_head_dim; ++d) {
        const double wanted = state.sum > 0 ? static_cast<double>(state.out[d] / state.sum) : 0;
        wrong +=
            !(std::abs(example.out.data<double>()[row * shape.v_head_dim + d] - wanted) < 1e-12);
      }
    }
    INFO(repeat_command(seed));
    CHECK(wrong == 0);
  }
}
