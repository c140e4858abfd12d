// The part of a call that a rank of attn_demo ring has.
#pragma once

#include <attn/io.hpp>
#include <attn/mpi.hpp>

#include <optional>
#include <string>

#include "apps/attn_demo/call/arguments.hpp"

namespace attn::apps::demo {

struct RingArguments {
  CallArguments call;
  std::optional<std::string> dout, dlse, out, lse, dq, dk, dv, dmask, dalibi, dsinks;  // files
  bool json = false;
};

inline const MPI_Comm ring_comm = MPI_COMM_WORLD;
int rank_of_ring();
int size_of_ring();

/// Inputs and outputs of this rank. Q, K and V are cut in the zigzag way where the call is causal.
struct RingCall {
  Tensor q, k, v, mask, alibi_slopes, sinks, kv_lens, dout, dlse;
  /// O is f32 whatever the type of the call, so that gradients do not inherit its rounding.
  Tensor out, lse, dq, dk, dv, dmask, dalibi, dsinks;
  std::optional<RingCut> cut;
  AttentionOptions options;
  Execution execution;
  DType dtype = DType::f32;
  Layout layout = Layout::bhsd;
  bool mask_has_rows = false;  // for each query, or one for all

  /// Checks the whole call, and reads this rank's part. The files are mapped, so that a rank reads
  /// no rows of others.
  void load(const RingArguments& arguments);

  AttentionTensors tensors();
  AttentionGradients gradients(const RingArguments& arguments);
};

}  // namespace attn::apps::demo
