// The gradients of attention as plain loops in float, from O and lse of the forward, as the engine
// computes them. What rounding costs this program is the measure of what it may cost the engine
// (backward_tolerance.hpp).
#pragma once

#include <attn/attention_backward.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "oracle/plain_scores.hpp"

namespace attn::detail {

struct PlainRow;  // a query with the keys that it sees

/// A sum in float of terms that rounding has moved already.
struct PlainSum {
  float value = 0;
  double variance = 0;   // the sum of the squares of independent movements
  double magnitude = 0;  // the sum of the terms' magnitudes
  double squares = 0;    // the sum of the squares of all partial sums

  /// How far rounding may move the sum: its terms, and the sum at each step (PlainDot).
  double spread() const {
    return std::sqrt(variance) +
           double{std::numeric_limits<float>::epsilon()} * std::max(magnitude, std::sqrt(squares));
  }
};

/// Computes the gradients of a dense call that attention_backward() accepts; the floating-point
/// tensors that come in may also be f64. All sums are sequential, in float. Where q, k, v and dout
/// are bf16, P and dS are rounded to bf16 before they are multiplied. The tensors must outlive this
/// object.
class PlainBackward {
 public:
  PlainBackward(const AttentionTensors& tensors, const AttentionGradients& gradients,
                const AttentionOptions& options);

  /// What a KV head and its query heads have for themselves.
  struct Head {
    std::vector<PlainSum> dq;  // [group_size, q_len, head_dim]
    std::vector<PlainSum> dk;  // [kv_len, head_dim]
    std::vector<PlainSum> dv;  // [kv_len, v_head_dim]
  };
  /// Also adds to what heads share.
  Head head(std::int64_t batch, std::int64_t kv_head);

  // Empty where the call has no additive mask, no slopes and no sinks.
  std::vector<PlainSum> dmask, dalibi, dsinks;

 private:
  PlainRow differentiated_row(const KeyRun& run) const;
  void set_probabilities(PlainRow& row) const;
  void set_mean(PlainRow& row) const;
  void pass_back(const PlainScores& scores, PlainRow& row) const;
  void add_row(const PlainRow& row, Head& head);
  void add_shared(const PlainRow& row);

  AttentionTensors tensors_;
  AttentionOptions options_;
  bool rounds_products_;
  Tensor q_, k_, v_, dout_, out_, lse_, dlse_;  // dense, f32; the last three may be empty
};

}  // namespace attn::detail
