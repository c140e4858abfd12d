// Scaled dot-product attention, backward: the gradients of
//
//   L = sum dout * O + sum dlse * lse
//
// with respect to everything that attention() reads, for every option that it has. With dP = dO
// V^T, P of the forward, and the notation of attention.hpp:
//
//   delta = sum_n dout_n O_n         of each row
//   dS = P * (dP - delta + dlse)     softmax
//   dS = P (1 - P) dP                sigmoid
//   dS = g * (dP - sum g dP / sum g) with g = P^(2 - alpha) where P > 0, else 0: sparsemax, entmax;
//                                    a sink takes part in sum g [1]
//   dV = P^T dout
//
// dS passes back through the transforms in reverse order:
//
//   score_mod        the user's derivative, ScoreModGradient
//   additive mask    dmask = dS
//   ALiBi            dalibi[h] = -sum |p - j| dS over the rows and keys of head h
//   softcap          dS = dS (1 - tanh^2)
//   scale            dQ = softmax_scale * dS K, dK = softmax_scale * dS^T Q
//
// and dsinks[h] = sum over the rows of head h of exp(sink - lse) (dlse - delta); for sparsemax and
// entmax of -g_sink * (sum g dP / sum g). Gradients of K and V are sums over the query heads that
// share a KV head.
//
// The probabilities are made again from lse, tile by tile, as in FlashAttention-2 (Dao 2023,
// arXiv:2307.08691); nothing of q_len x kv_len elements exists. Where lse is so large that its
// rounding would be seen, and is that of these keys alone, they are made from the scores.
//
// [1] Peters, Niculae and Martins 2019, arXiv:1905.05702
//
// Guarantees. Products may be of bf16 where Q, K, V and dout are, and then take subnormal numbers
// as 0; all sums are f32. A pair of a query and a key that it does not see, or whose score is -inf,
// adds nothing to any gradient: rows of dQ without visible keys, and rows of dK and dV that no
// query sees, are exactly 0, whatever Q, K, V, dout and dlse hold there, NaN included. (A row
// without visible keys still has its sink for lse, so dsinks contains its dlse.) Other NaN and
// infinities spread as IEEE 754 says. Each gradient has the same bits for any number of threads and
// any other content of the batch.
#pragma once

#include <attn/attention.hpp>
#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/isa.hpp>
#include <attn/tensor.hpp>

#include <cstddef>
#include <memory>
#include <string>

namespace attn {

/// The gradients of a call: those that come in, and those that are wanted. All outputs are
/// overwritten; they overlap neither an input nor each other.
struct AttentionGradients {
  /// The shape of O; f32, bf16 or f16.
  TensorView dout{};
  /// The shape of lse, f32. Absent: zeros. Only softmax has an lse.
  TensorView dlse{};

  /// The shapes of q, k and v; each f32, bf16 or f16, or absent if it is not wanted.
  MutableTensorView dq{}, dk{}, dv{};
  /// f32, the shape of an additive mask: sums over the dims that the mask broadcasts. 0 where the
  /// mask is -inf.
  MutableTensorView dmask{};
  /// f32 [num_q_heads].
  MutableTensorView dalibi{};
  /// f32 [num_q_heads].
  MutableTensorView dsinks{};
};

/// Computes the gradients. `tensors` and `options` are those of the forward; tensors.out and
/// tensors.lse are what it wrote, and are only read. Softmax needs both; the other normalizers do
/// not read tensors.out and have no lse. Keys lie contiguously or ragged; other storage, and i8,
/// have no gradients: Error(unsupported). Throws Error before anything is written: invalid_argument
/// for shapes, types or options that do not fit each other, or for a score_mod without a
/// score_mod_gradient.
ATTN_API void attention_backward(const AttentionTensors& tensors,
                                 const AttentionGradients& gradients,
                                 const AttentionOptions& options = {},
                                 const Execution& execution = {});

/// A backward call that is prepared once and run many times, as AttentionPlan is for the forward. A
/// run allocates nothing.
class ATTN_API AttentionBackwardPlan {
 public:
  /// Only shapes, types and presence of the tensors count; their data is not read and may be null.
  explicit AttentionBackwardPlan(const AttentionTensors& tensors,
                                 const AttentionGradients& gradients,
                                 const AttentionOptions& options = {},
                                 const Execution& execution = {});

  /// Bytes that a run needs: for each head in flight its Q and dout once more, and at most 8 copies
  /// of its dQ in f32.
  std::size_t workspace_size() const;
  int num_threads() const;
  Isa isa() const;
  /// How the call is computed, for people.
  std::string description() const;

  /// The data and strides of the tensors may differ from those that the plan was made from; shapes,
  /// types and presence must be the same. No tensor overlaps the workspace.
  void run(const AttentionTensors& tensors, const AttentionGradients& gradients,
           Workspace& workspace) const;

 private:
  struct ATTN_HIDDEN Prepared;
  std::shared_ptr<const Prepared> prepared_;
};

}  // namespace attn
