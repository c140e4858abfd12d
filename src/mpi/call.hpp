// A call of which a rank has a part: checked against the cut, with what all ranks have to agree on.
#pragma once

#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/mpi.hpp>

#include <cstdint>
#include <vector>

#include "mpi/agreement.hpp"
#include "mpi/division.hpp"

namespace attn::mpi {

/// Shapes, types and options of a call, and what follows from them.
struct CutCall {
  AttentionTensors tensors;  // their data does not count
  AttentionOptions options;
  Execution execution;  // with the number of threads of the thread that planned
  HeadSizes heads{};
  std::int64_t num_q_heads = 0;
  CallGeometry geometry{};  // without kv_lens, which are data

  Dims out_shape() const {
    const Dims& q = tensors.q.shape;
    return {q[0], q[1], q[2], heads.v_head_dim};
  }
};

/// Which keys a call may have: RingAttention sends them, and has no scales.
enum class KeyTypes { floats, any };

/// A rank's part of a cut. In tree_attention() all ranks have the queries of rank 0.
struct PartOfCut {
  const RingCut& cut;
  int queries_of;  // rank
  int keys_of;

  std::int64_t queries() const { return cut.queries.num_tokens(queries_of); }
  std::int64_t keys() const { return cut.keys.num_tokens(keys_of); }
};

/// Checks the call as attention() checks the whole, and a rank's part of it. Throws Error.
CutCall checked_call(const AttentionTensors& tensors, const AttentionOptions& options,
                     const Execution& execution, const PartOfCut& part, KeyTypes key_types);
/// Checks the gradients of a call as attention_backward() checks those of the whole.
void check_gradients(const CutCall& call, const AttentionGradients& gradients,
                     const PartOfCut& part);
/// What has to be the same on all ranks, shapes and options; and as a fact which of these the rank
/// sees of its mask. One row beside one query may be either.
enum MaskFacts : std::uint64_t { mask_has_own_rows = 1, mask_has_one_row = 2 };
Terms terms_of(const char* function, const CutCall& call, const PartOfCut& part);

/// Throws Error unless shapes and types are those of the plan, and the data can be read and
/// written. Overlaps of outputs are left to the calls that write them.
void check_data(const CutCall& call, const AttentionTensors& tensors);
void check_data(const AttentionGradients& gradients);
/// The lengths of the batch's entries, in 0..kv_len; empty without kv_lens. Throws Error.
std::vector<std::int64_t> lengths_of(const CutCall& call, const AttentionTensors& tensors);
/// The data that has to be the same on all ranks: kv_lens, slopes and sinks.
void add_data_terms(const AttentionTensors& tensors, Terms& terms);

}  // namespace attn::mpi
