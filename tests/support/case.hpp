// A call written down as a value: sizes, types and options. The numbers in its tensors follow from
// its seed.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "support/strided_tensor.hpp"

namespace attn::test {

struct DenseMask {
  DType dtype = DType::boolean;
  Dims shape{};
  double hidden = 0.3;  // share of elements that are false, or -inf
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
/// The same, and under it the command that runs the test case in hand again.
std::string repeat_line(const Case& c);
/// first, first + 1, ..., or every n-th of them with n in the environment variable ATTN_TEST_EVERY;
/// the one in ATTN_TEST_SEED alone where that is set.
std::vector<std::uint64_t> seeds(std::uint64_t first, std::uint64_t count);

/// What a call reads.
struct Inputs {
  StridedTensor q, k, v, mask, alibi_slopes, sinks, kv_lens, k_scales, v_scales;
};
/// Q, K and V are normal, so that with the default scale scores are of order one; K and V of i8 are
/// uniform, of the same variance, with a scale for each row, which now and then is 0.
Inputs make_inputs(const Case& c);

/// What a call writes; poisoned before.
struct Outputs {
  StridedTensor out, lse;
};
Outputs make_outputs(const Case& c);

AttentionTensors bind(const Inputs& inputs, Outputs& outputs);

/// Runs attention() into fresh memory.
Outputs run(const Inputs& inputs, const Case& c);
Outputs run(const Inputs& inputs, const Case& c, Isa isa);

}  // namespace attn::test
