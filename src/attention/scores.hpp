// What happens to the scores of one query row between Q K^T and softmax: scale, softcap, ALiBi,
// additive mask and score_mod, in this order, and the visibility that boolean masks, mask_mod and
// block masks give. Causal masks, windows and lengths are intervals of keys instead
// (visibility.hpp).
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "attention/problem.hpp"
#include "attention/visibility.hpp"
#include "iterate/row.hpp"
#include "kernels/kernels.hpp"
#include "threads/team_size.hpp"

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

/// The columns of a dense mask from the first to the last that a row leaves visible.
struct MaskRow {
  std::int64_t begin;
  std::int64_t end;  // exact if the row is plain
  bool plain;        // between them the mask changes nothing: all true, or all 0
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
  /// Scans each row of the dense mask once for all heads that share it. `rows` has an
  /// element for each row of the mask and outlives this object.
  void scan_mask(MaskRow* rows, const Threads& threads);
  bool additive() const noexcept { return mask_.present() && !mask_.boolean(); }
  bool boolean() const noexcept { return mask_.present() && mask_.boolean(); }
  bool dense_visibility() const noexcept {
    return boolean() || options_.mask_mod || options_.block_mask;
  }

  /// Whether nobody but a block mask is asked about single keys.
  bool block_mask_alone() const noexcept {
    return options_.block_mask && !options_.mask_mod && !mask_.present();
  }

  /// What the dense masks leave of a run of keys: the range from the first to the last key that
  /// they do not hide, and what they do between.
  struct Seen {
    KeyRange keys;
    bool hides = false;           // some keys between are hidden
    const float* mask = nullptr;  // to be added to the scores from keys.begin on; null for none
  };
  /// Reads the boolean mask, mask_mod and the block mask. If keys are hidden, `visible` gets a
  /// number for each key of the run, 0 for hidden ones.
  Seen visible_keys(const QueryRow& row, KeyRange keys, std::uint8_t* visible) const;
  /// Reads the additive mask, in place if it is dense f32, else into `staging`.
  Seen masked_keys(const QueryRow& row, KeyRange keys, float* staging) const noexcept;
  /// Applies scale, softcap, ALiBi, additive mask (null: none) and score_mod in place.
  void transform(const QueryRow& row, KeyRange keys, const float* additive_mask, float* scores,
                 const SavedScores& saved = {}) const;
  /// The gradient of what score_mod received, from that of its results, in place.
  void gradient_before_mod(const QueryRow& row, KeyRange keys, const float* before_mod,
                           float* gradient) const;
  /// The gradient of what softcap received, from that of its results, in place.
  void gradient_before_softcap(const float* capped, std::int64_t count, float* gradient) const;

 private:
  /// The masks that are asked about each key of a run.
  struct Asked {
    bool mask_mod;
    bool mask;
  };
  /// The same as masked_keys() for keys of which the mask has columns for the last ones alone.
  Seen read_last_keys(const QueryRow& row, KeyRange keys, float* staging) const noexcept;
  /// The element of a key that the mask has a column for.
  const std::byte* mask_element(const QueryRow& row, std::int64_t key) const noexcept {
    return mask_.element(row.batch, row.q_head, row.q_index, key);
  }
  Row mask_row(const QueryRow& row, std::int64_t key) const noexcept {
    return {const_cast<std::byte*>(mask_element(row, key)), mask_.dtype, mask_.strides[3]};
  }
  Seen read_visible(const QueryRow& row, KeyRange keys, bool plain_mask,
                    std::uint8_t* visible) const;
  Seen read_blocks(const QueryRow& row, KeyRange keys, std::uint8_t* visible) const;
  void ask(const QueryRow& row, KeyRange keys, Asked asked, std::uint8_t* visible) const;
  /// Whom a block mask leaves to be asked in blocks that are not empty.
  Asked asked_in(BlockKind kind) const noexcept;
  MaskRow scan_row(const std::byte* row) const noexcept;
  /// What is known of a row without reading it: it leaves no more than those of the keys. The keys
  /// that the mask has no columns for are visible.
  MaskRow known(const QueryRow& row, KeyRange keys) const noexcept;
  static KeyRun run_of(const QueryRow& row, KeyRange keys) noexcept;

  const Problem& problem_;
  const AttentionTensors& tensors_;
  const AttentionOptions& options_;
  const kernels::Kernels& kernels_;
  DenseMask mask_;
  const MaskRow* rows_ = nullptr;  // of the mask, after scan_mask()
  bool transforms_;
};

}  // namespace attn::detail
