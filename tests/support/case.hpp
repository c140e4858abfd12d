// A call as a value: sizes, types and options. The numbers in its tensors follow from its seed.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "support/seeds.hpp"
#include "support/strided_tensor.hpp"

namespace attn::test {

struct DenseMask {
  DType dtype = DType::boolean;
  Dims shape{};
  double hidden = 0.3;  // the fraction of elements that are false, or -inf
};

struct Case {
  std::int64_t batch = 1;
  std::int64_t num_q_heads = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t q_len = 1;
  std::int64_t kv_len = 1;
  std::int64_t head_dim = 8;
  std::optional<std::int64_t> v_head_dim{};  // default: head_dim
  DType q_type = DType::f32;
  DType kv_type = DType::f32;
  DType out_type = DType::f32;
  AttentionOptions options{};
  Execution execution{};
  std::optional<DenseMask> mask{};
  bool alibi = false;
  bool sinks = false;
  std::vector<std::int64_t> kv_lens{};  // empty: not given
  DType kv_lens_type = DType::i64;
  bool lse = true;
  Layout layout = Layout::bhsd;
  std::uint64_t seed = 1;

  std::int64_t value_dim() const { return v_head_dim.value_or(head_dim); }
};

/// All fields that are not at their defaults, on one line.
std::string to_string(const Case& c);
/// The same, and on a second line the command that runs the current test case again.
std::string repeat_line(const Case& c);

/// The tensors that a call reads.
struct Inputs {
  StridedTensor q, k, v, mask, alibi_slopes, sinks, kv_lens, k_scales, v_scales;
};
/// Q, K and V are normally distributed, so that scores are of order one with the default scale. K
/// and V of i8 are uniform with the same variance; each row has a scale, which is sometimes 0.
Inputs make_inputs(const Case& c);

/// The tensors that a call writes, poisoned at first.
struct Outputs {
  StridedTensor out, lse;
};
Outputs make_outputs(const Case& c);

AttentionTensors bind(const Inputs& inputs, Outputs& outputs);

/// Runs attention() into fresh memory.
Outputs run(const Inputs& inputs, const Case& c);
Outputs run(const Inputs& inputs, const Case& c, Isa isa);

}  // namespace attn::test
