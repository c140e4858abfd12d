// What happens to the scores of one query row between Q K^T and softmax: scale, softcap, ALiBi,
// additive mask and score_mod, in this order, and the visibility that boolean masks and mask_mod
// give. Causal masks, windows and lengths are intervals of keys instead (visibility.hpp).
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "attention/problem.hpp"
#include "attention/visibility.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// A query row in the numbers of the public API.
struct QueryRow {
  std::int64_t batch;
  std::int64_t q_head;
  std::int64_t kv_head;
  std::int64_t q_index;
  std::int64_t q_position;
};

/// Scores on their way that the backward pass needs, written where the pointers are not null.
struct SavedScores {
  float* capped = nullptr;      // after softcap
  float* before_mod = nullptr;  // before score_mod
  std::int64_t stride = 0;      // from row to row

  /// Those of row r of a tile, from a key on.
  SavedScores of_row(std::int64_t r, std::int64_t key) const noexcept {
    const std::int64_t offset = r * stride + key;
    return {capped == nullptr ? nullptr : capped + offset,
            before_mod == nullptr ? nullptr : before_mod + offset, stride};
  }
};

class RowScores {
 public:
  RowScores(const Problem& problem, const AttentionTensors& tensors,
            const AttentionOptions& options, const kernels::Kernels& kernels) noexcept;

  /// Whether transform() has anything to do. With softmax, a scale alone is no transform: it is
  /// folded into the exponent.
  bool transforms() const noexcept { return transforms_; }
  /// The factor that the softmax still has to multiply the scores with.
  float remaining_scale() const noexcept { return transforms_ ? 1.f : problem_.softmax_scale; }
  bool additive() const noexcept { return mask_.present() && !mask_.boolean(); }
  bool dense_visibility() const noexcept {
    return (mask_.present() && mask_.boolean()) || options_.mask_mod;
  }

  /// The additive mask of a run of keys, in place if it is dense f32, else read into `staging`.
  const float* additive_mask(const QueryRow& row, KeyRange keys, float* staging) const noexcept;
  /// Fills visible[0..keys.size()) from the boolean mask and mask_mod. Returns the number of
  /// visible keys.
  std::int64_t visibility(const QueryRow& row, KeyRange keys, std::uint8_t* visible) const;
  /// Applies scale, softcap, ALiBi, additive mask (null: none) and score_mod in place.
  void transform(const QueryRow& row, KeyRange keys, const float* additive_mask, float* scores,
                 const SavedScores& saved = {}) const;
  /// The gradient of what score_mod received, from that of its results, in place.
  void gradient_before_mod(const QueryRow& row, KeyRange keys, const float* before_mod,
                           float* gradient) const;
  /// The gradient of what softcap received, from that of its results, in place.
  void gradient_before_softcap(const float* capped, std::int64_t count, float* gradient) const;

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
