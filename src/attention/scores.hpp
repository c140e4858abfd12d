// What happens to the scores of one query row between Q K^T and softmax: the transforms, in the
// contract's order, and dense visibility. Interval masks are not here: they are ranges
// (key_range.hpp).
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "attention/problem.hpp"
#include "attention/visibility.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// A query row as the user counts.
struct QueryRow {
  std::int64_t batch;
  std::int64_t q_head;
  std::int64_t kv_head;
  std::int64_t q_index;
  std::int64_t q_position;
};

class RowScores {
 public:
  RowScores(const Problem& problem, const AttentionTensors& tensors,
            const AttentionOptions& options, const kernels::Kernels& kernels) noexcept;

  /// Whether transform() has anything to do. If not, the softmax folds the scale into its exponent;
  /// other normalizers do not.
  bool transforms() const noexcept { return transforms_; }
  /// What the softmax still has to multiply the scores with.
  float remaining_scale() const noexcept { return transforms_ ? 1.f : problem_.softmax_scale; }
  bool additive() const noexcept { return mask_.present() && !mask_.boolean(); }
  bool dense_visibility() const noexcept {
    return (mask_.present() && mask_.boolean()) || options_.mask_mod;
  }

  /// The additive mask of a run of keys: in place, or read into `staging`.
  const float* additive_mask(const QueryRow& row, KeyRange keys, float* staging) const noexcept;
  /// Fills visible[0..keys.size()) from boolean mask and mask_mod; returns how many are.
  std::int64_t visibility(const QueryRow& row, KeyRange keys, std::uint8_t* visible) const;
  /// Scale, softcap, ALiBi, additive mask (null: none), score_mod, in place.
  void transform(const QueryRow& row, KeyRange keys, const float* additive_mask,
                 float* scores) const;

 private:
  static KeyRun run_of(const QueryRow& row, KeyRange keys) noexcept;

  const Problem& problem_;
  const AttentionTensors& tensors_;
  const AttentionOptions& options_;
  const kernels::Kernels& kernels_;
  DenseMask mask_;
  bool transforms_;
};

}  // namespace attn::detail
