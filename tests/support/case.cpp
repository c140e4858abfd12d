#include "support/case.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "support/random.hpp"

namespace attn::test {
namespace {

StridedTensor normal_tensor(Random& random, DType dtype, const Dims& shape, Layout layout,
                            double deviation = 1) {
  StridedTensor tensor(dtype, shape, layout);
  std::vector<double> values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = deviation * random.normal();
  tensor.assign(values);
  return tensor;
}

StridedTensor uniform_i8(Random& random, const Dims& shape, Layout layout) {
  StridedTensor tensor(DType::i8, shape, layout);
  std::vector<double> values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = static_cast<double>(random.integer(-127, 127));
  tensor.assign(values);
  return tensor;
}

/// Of [batch, heads, rows, dim]: such that scale * uniform has a variance of order one.
StridedTensor scales_of(Random& random, const Dims& rows, Layout layout) {
  StridedTensor tensor(DType::f32, {rows[0], rows[1], rows[2]}, layout);
  std::vector<double> values(static_cast<std::size_t>(tensor.shape().product()));
  for (double& value : values)
    value = random.chance(0.03) ? 0 : (0.5 + random.uniform()) * std::sqrt(3.0) / 127;
  tensor.assign(values);
  return tensor;
}

StridedTensor mask_tensor(Random& random, const DenseMask& mask, Layout layout) {
  StridedTensor tensor(mask.dtype, mask.shape, layout);
  std::vector<double> values(static_cast<std::size_t>(mask.shape.product()));
  for (double& value : values) {
    const bool hidden = random.chance(mask.hidden);
    if (mask.dtype == DType::boolean)
      value = hidden ? 0 : 1;
    else
      value = hidden ? -std::numeric_limits<double>::infinity() : random.normal();
  }
  tensor.assign(values);
  return tensor;
}

template <class T>
std::string packed(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "unlimited";
}

std::string describe(const AttentionOptions& options) {
  std::string text;
  if (options.softmax_scale) text += fmt::format(" scale {}", *options.softmax_scale);
  if (options.softcap) text += fmt::format(" softcap {}", *options.softcap);
  if (options.causal) text += " causal";
  if (options.causal || options.q_position) {
    const QueryPosition position = options.query_position();
    text += position.offset ? fmt::format(" position {}", *position.offset) : " bottom-right";
  }
  if (options.window)
    text +=
        fmt::format(" window {},{}", packed(options.window->left), packed(options.window->right));
  if (options.score_mod) text += " score_mod";
  if (options.mask_mod) text += " mask_mod";
  if (options.mask_keys == MaskKeys::last) text += " mask of last keys";
  if (options.block_mask) {
    const BlockMask::Counts& counts = options.block_mask->counts();
    const BlockSize& block = options.block_mask->sizes().block;
    text += fmt::format(" {} block mask {}/{}/{} of {} x {}",
                        options.block_mask->exact() ? "exact" : "summary", counts.empty,
                        counts.partial, counts.full, block.q, block.kv);
  }
  if (options.normalizer != Normalizer::softmax())
    text += fmt::format(" {}", options.normalizer.to_string());
  if (options.score_matmul == ScoreMatmul::onednn) text += " scores by oneDNN";
  return text;
}

}  // namespace

std::string to_string(const Case& c) {
  std::string text =
      fmt::format("batch {} heads {}/{} q_len {} kv_len {} dims {}/{} types {},{},{}", c.batch,
                  c.num_q_heads, c.num_kv_heads, c.q_len, c.kv_len, c.head_dim, c.value_dim(),
                  name_of(c.q_type), name_of(c.kv_type), name_of(c.out_type));
  text += describe(c.options);
  if (c.execution.num_threads) text += fmt::format(" threads {}", *c.execution.num_threads);
  if (c.execution.isa) text += fmt::format(" isa {}", name_of(*c.execution.isa));
  if (c.mask)
    text += fmt::format(" mask {} {} hiding {}", name_of(c.mask->dtype), c.mask->shape.to_string(),
                        c.mask->hidden);
  if (c.alibi) text += " alibi";
  if (c.sinks) text += " sinks";
  if (!c.kv_lens.empty())
    text += fmt::format(" kv_lens {} {}", name_of(c.kv_lens_type), fmt::join(c.kv_lens, ","));
  if (!c.lse) text += " without lse";
  return text + fmt::format(" layout {} seed {}", name_of(c.layout), c.seed);
}

std::string repeat_line(const Case& c) { return to_string(c) + '\n' + repeat_command(c.seed); }

Inputs make_inputs(const Case& c) {
  Random random(c.seed);
  Inputs inputs;
  inputs.q =
      normal_tensor(random, c.q_type, {c.batch, c.num_q_heads, c.q_len, c.head_dim}, c.layout);
  const Dims k_shape{c.batch, c.num_kv_heads, c.kv_len, c.head_dim},
      v_shape{c.batch, c.num_kv_heads, c.kv_len, c.value_dim()};
  const bool quantized = c.kv_type == DType::i8;
  inputs.k = quantized ? uniform_i8(random, k_shape, c.layout)
                       : normal_tensor(random, c.kv_type, k_shape, c.layout);
  inputs.v = quantized ? uniform_i8(random, v_shape, c.layout)
                       : normal_tensor(random, c.kv_type, v_shape, c.layout);
  if (quantized) inputs.k_scales = scales_of(random, k_shape, c.layout);
  if (quantized) inputs.v_scales = scales_of(random, v_shape, c.layout);
  if (c.mask) inputs.mask = mask_tensor(random, *c.mask, c.layout);
  if (c.alibi) {
    const double score_of_order_one = 4.0 / static_cast<double>(c.kv_len + 4);
    inputs.alibi_slopes =
        normal_tensor(random, DType::f32, {c.num_q_heads}, c.layout, score_of_order_one);
  }
  if (c.sinks) inputs.sinks = normal_tensor(random, DType::f32, {c.num_q_heads}, c.layout);
  if (!c.kv_lens.empty()) {
    inputs.kv_lens = StridedTensor(c.kv_lens_type, {c.batch}, c.layout);
    inputs.kv_lens.assign({c.kv_lens.begin(), c.kv_lens.end()});
  }
  return inputs;
}

Outputs make_outputs(const Case& c) {
  Outputs outputs;
  outputs.out =
      StridedTensor(c.out_type, {c.batch, c.num_q_heads, c.q_len, c.value_dim()}, c.layout);
  if (c.lse) outputs.lse = StridedTensor(DType::f32, {c.batch, c.num_q_heads, c.q_len}, c.layout);
  return outputs;
}

AttentionTensors bind(const Inputs& inputs, Outputs& outputs) {
  return {.q = inputs.q.view(),
          .k = inputs.k.view(),
          .v = inputs.v.view(),
          .out = outputs.out.view(),
          .mask = inputs.mask.view_if_made(),
          .alibi_slopes = inputs.alibi_slopes.view_if_made(),
          .sinks = inputs.sinks.view_if_made(),
          .kv_lens = inputs.kv_lens.view_if_made(),
          .lse = outputs.lse.view_if_made(),
          .storage = {.k_scales = inputs.k_scales.view_if_made(),
                      .v_scales = inputs.v_scales.view_if_made()}};
}

Outputs run(const Inputs& inputs, const Case& c) {
  Outputs outputs = make_outputs(c);
  attention(bind(inputs, outputs), c.options, c.execution);
  return outputs;
}

Outputs run(const Inputs& inputs, const Case& c, Isa isa) {
  Case with_isa = c;
  with_isa.execution.isa = isa;
  return run(inputs, with_isa);
}

}  // namespace attn::test
