#include "toy_weights.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <utility>

#include "apps/support/options.hpp"
#include "apps/support/random.hpp"
#include "apps/support/threads.hpp"

namespace attn::apps::demo {
namespace {

/// Values are center + deviation * (a standard normal value).
struct Draw {
  Dims shape;
  float center;
  float deviation;
};

Tensor drawn(const Draw& draw, DType dtype, std::uint64_t seed) {
  Tensor tensor = normal_tensor(draw.shape, DType::f32, seed);
  float* const values = tensor.data<float>();
  std::transform(values, values + tensor.size(), values,
                 [&](float x) { return draw.center + draw.deviation * x; });
  return dtype == DType::f32 ? std::move(tensor) : copy_as(tensor.view(), dtype);
}

/// Collects all tensors first and then draws their values together in parallel, because drawing is
/// the slowest part of making a toy.
class Drawing {
 public:
  explicit Drawing(const ToyShape& shape) : shape_(shape) {}

  /// Plans a tensor. finish() makes it and sets the view.
  void plan(TensorView& view, const Draw& draw) {
    draws_.push_back(draw);
    views_.push_back(&view);
  }
  void linear(LinearWeights& weights, std::int64_t out, std::int64_t in, float gain = 1) {
    plan(weights.weight, {{out, in}, 0, gain / std::sqrt(static_cast<float>(in))});
    if (biased()) plan(weights.bias, {{out}, 0, 0.1f});
  }
  void norm(NormWeights& weights) {
    plan(weights.scale, {{shape_.hidden}, 1, 0.1f});
    if (biased()) plan(weights.bias, {{shape_.hidden}, 0, 0.1f});
  }
  std::vector<Tensor> finish();

 private:
  bool biased() const { return shape_.family == Family::gpt2; }

  const ToyShape& shape_;
  std::vector<Draw> draws_;
  std::vector<TensorView*> views_;
};

std::vector<Tensor> Drawing::finish() {
  std::vector<Tensor> tensors(draws_.size());
  std::atomic<std::size_t> next{0};
  const auto draw_some = [&](int, int) {
    for (std::size_t n = next++; n < draws_.size(); n = next++)
      tensors[n] = drawn(draws_[n], shape_.dtype, shape_.seed * 1'000'003 + n);
  };
  run_on_threads(static_cast<int>(std::thread::hardware_concurrency()), draw_some);
  for (std::size_t n = 0; n < tensors.size(); ++n) *views_[n] = std::as_const(tensors[n]).view();
  return tensors;
}

std::int64_t mlp_width(const ToyShape& shape) {
  if (shape.family == Family::gpt2) return 4 * shape.hidden;
  constexpr std::int64_t step = 256;
  return (8 * shape.hidden / 3 + step - 1) / step * step;
}

LayerSettings layer_settings(const ToyShape& shape) {
  const bool llama = shape.family == Family::llama;
  LayerSettings layer;
  layer.attention = {.hidden = shape.hidden,
                     .num_q_heads = shape.num_q_heads,
                     .num_kv_heads = shape.num_kv_heads,
                     .head_dim = shape.hidden / shape.num_q_heads,
                     .rope = llama ? std::optional<RopeSettings>(RopeSettings{}) : std::nullopt,
                     .max_positions = shape.max_positions,
                     .dtype = shape.dtype};
  layer.norm.kind = llama ? NormKind::rms : NormKind::layer;
  layer.mlp = llama ? MlpKind::swiglu : MlpKind::gelu_tanh;
  layer.mlp_width = mlp_width(shape);
  return layer;
}

void plan_layer(Drawing& drawing, const ToyShape& shape, LayerWeights& layer) {
  const LayerSettings settings = layer_settings(shape);
  const std::int64_t hidden = shape.hidden, head_dim = settings.attention.head_dim;
  const std::int64_t q = shape.num_q_heads * head_dim, kv = shape.num_kv_heads * head_dim;
  // The sum of what all layers add to the residual stream stays of order 1, as in GPT-2.
  const float gain = 1 / std::sqrt(2 * static_cast<float>(shape.num_layers));
  drawing.norm(layer.attention_norm);
  drawing.linear(layer.attention.q, q, hidden);
  drawing.linear(layer.attention.k, kv, hidden);
  drawing.linear(layer.attention.v, kv, hidden);
  drawing.linear(layer.attention.out, hidden, q, gain);
  drawing.norm(layer.mlp_norm);
  if (settings.mlp == MlpKind::swiglu) drawing.linear(layer.mlp.gate, settings.mlp_width, hidden);
  drawing.linear(layer.mlp.up, settings.mlp_width, hidden);
  drawing.linear(layer.mlp.down, hidden, settings.mlp_width, gain);
}

void check_heads(const ToyShape& shape) {
  const std::int64_t head_dim = shape.hidden / shape.num_q_heads;
  if (shape.hidden % shape.num_q_heads != 0 ||
      (shape.family == Family::llama && head_dim % 2 != 0)) {
    reject("--hidden {} does not make {} heads of {} dim; --heads sets their number", shape.hidden,
           shape.num_q_heads, shape.family == Family::llama ? "an even" : "a whole");
  }
  if (shape.num_q_heads % shape.num_kv_heads != 0)
    reject("--heads is {}; it needs to be a multiple of --kv-heads, which is {}", shape.num_q_heads,
           shape.num_kv_heads);
}

}  // namespace

DecoderSettings toy_settings(const ToyShape& shape) {
  check_heads(shape);
  return {.layers = std::vector<LayerSettings>(static_cast<std::size_t>(shape.num_layers),
                                               layer_settings(shape)),
          .vocab_size = shape.vocab_size};
}

ToyWeights make_toy_weights(const ToyShape& shape) {
  ToyWeights toy;
  toy.settings = toy_settings(shape);
  toy.weights.layers.resize(static_cast<std::size_t>(shape.num_layers));
  Drawing drawing(shape);
  drawing.plan(toy.weights.embedding, {{shape.vocab_size, shape.hidden}, 0, 1});
  if (shape.family == Family::gpt2)
    drawing.plan(toy.weights.positions, {{shape.max_positions, shape.hidden}, 0, 0.1f});
  for (LayerWeights& layer : toy.weights.layers) plan_layer(drawing, shape, layer);
  drawing.norm(toy.weights.final_norm);
  drawing.plan(
      toy.weights.output,
      {{shape.vocab_size, shape.hidden}, 0, 2 / std::sqrt(static_cast<float>(shape.hidden))});
  toy.tensors = drawing.finish();
  return toy;
}

}  // namespace attn::apps::demo
