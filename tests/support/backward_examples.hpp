// Small backward calls in double, for tests of the reference.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/backward_case.hpp"

namespace attn::test {

/// A backward call in double that owns its inputs.
struct BackwardExample {
  explicit BackwardExample(const BackwardCase& backward)
      : c(backward), inputs(make_inputs(c.call)), gradients(make_gradient_inputs(c)) {
    // These are f32. Multiples of the steps below have a neighbor on either side at exactly a step.
    for (StridedTensor* tensor : {&inputs.mask, &inputs.alibi_slopes, &inputs.sinks}) {
      std::vector<double> values = tensor->values();
      for (double& value : values) value = std::round(value * 0x1p12) * 0x1p-12;
      tensor->assign(values);
    }
  }

  GradientOutputs run() const { return run_backward_reference(c, inputs, gradients); }
  StridedTensor& input_of(Gradient gradient) {
    StridedTensor* const all[] = {
        &inputs.q, &inputs.k, &inputs.v, &inputs.mask, &inputs.alibi_slopes, &inputs.sinks};
    return *all[static_cast<std::size_t>(gradient)];
  }

  BackwardCase c;
  Inputs inputs;
  GradientInputs gradients;
};

inline BackwardCase small_case(std::uint64_t seed = 1) {
  return with_gradients_in_double({.call = {.batch = 2,
                                            .num_q_heads = 4,
                                            .num_kv_heads = 2,
                                            .q_len = 2,
                                            .kv_len = 4,
                                            .head_dim = 2,
                                            .v_head_dim = 3,
                                            .q_type = DType::f64,
                                            .kv_type = DType::f64,
                                            .execution = {.num_threads = 1},
                                            .lse = false,
                                            .seed = seed},
                                   .dout_type = DType::f64});
}

inline const std::vector<Normalizer>& normalizers() {
  static const std::vector<Normalizer> all = {
      Normalizer::softmax(),    Normalizer::sigmoid(),    Normalizer::sigmoid(-0.5f),
      Normalizer::sparsemax(),  Normalizer::entmax(1.1f), Normalizer::entmax(1.5f),
      Normalizer::entmax(1.7f), Normalizer::entmax(2.5f), Normalizer::entmax(4.f)};
  return all;
}

inline bool takes_sinks(const Normalizer& normalizer) {
  return normalizer.kind() != Normalizer::Kind::sigmoid;
}

/// Random options for a small call.
inline BackwardCase random_small_case(std::uint64_t seed) {
  Random random(seed);
  BackwardCase c = small_case(seed);
  Case& call = c.call;
  call.batch = random.integer(1, 2);
  call.num_kv_heads = random.integer(1, 2);
  call.num_q_heads = call.num_kv_heads * random.integer(1, 3);
  call.q_len = random.integer(1, 4);
  call.kv_len = random.integer(1, 6);
  call.head_dim = random.integer(1, 3);
  call.v_head_dim = random.integer(1, 3);
  call.layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded, Layout::reversed});
  AttentionOptions& options = call.options;
  options.normalizer = normalizers()[random.chance(0.5) ? 0 : random.integer(1, 8)];
  if (random.chance(0.3)) options.softcap = 1.5f;
  if (random.chance(0.4)) options.causal = Causal::with_offset(random.integer(-2, 4));
  if (random.chance(0.3)) options.window = Window{random.integer(0, 3), {}};
  if (random.chance(0.2)) set_affine_score_mod(options);
  call.alibi = random.chance(0.4);
  call.sinks = takes_sinks(options.normalizer) && random.chance(0.4);
  if (random.chance(0.4)) {
    Dims shape{call.batch, call.num_q_heads, call.q_len, random.integer(1, call.kv_len)};
    for (int dim = 0; dim < 3; ++dim) shape[dim] = random.chance(0.5) ? 1 : shape[dim];
    call.mask = {.dtype = DType::f32, .shape = shape, .hidden = 0.3};
  }
  if (random.chance(0.3)) {
    for (std::int64_t b = 0; b < call.batch; ++b)
      call.kv_lens.push_back(random.integer(0, call.kv_len));
  }
  c.dlse = random.chance(0.7);
  return c;
}

}  // namespace attn::test
