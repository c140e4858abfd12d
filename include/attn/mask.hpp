// Which keys a query sees: causal alignment, sliding windows, and the user's own score and
// visibility functions.
//
// Query i of a batch entry stands at position p = i + causal_offset. Drawn for the bottom-right
// preset (1 = visible):
//
//   q_len 2, kv_len 5      q_len 5, kv_len 2      window left 1, right 0
//   1 1 1 1 0              0 0                    1 0 0 0
//   1 1 1 1 1              0 0                    1 1 0 0
//                          0 0                    0 1 1 0
//                          1 0                    0 0 1 1
//                          1 1
// A row of zeros is legal: its output is 0 and its lse is -inf.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

namespace attn {

/// Key j is visible to query i iff j <= i + offset.
struct Causal {
  /// Empty: bottom-right, kv_len - q_len, with kv_lens[b] in kv_len's place where lengths are
  /// given.
  std::optional<std::int64_t> offset{};

  static Causal bottom_right() { return {}; }
  static Causal top_left() { return {0}; }
  /// Any offset; the leading rows see nothing where it is negative.
  static Causal with_offset(std::int64_t offset) { return {offset}; }
};

/// Key j is visible iff p - left <= j <= p + right: inclusive distances, an empty side is
/// unlimited.
struct Window {
  std::optional<std::int64_t> left{};
  std::optional<std::int64_t> right{};
};

/// `count` consecutive keys key_begin, key_begin + 1, ... of one query row, as score_mod and
/// mask_mod get them.
struct KeyRun {
  std::int64_t batch;
  std::int64_t q_head;
  std::int64_t kv_head;
  std::int64_t q_index;     // row of Q, from 0
  std::int64_t q_position;  // p = q_index + causal_offset: key j is |q_position - j| away
  std::int64_t key_begin;
  std::int64_t count;
};

/// Changes `count` scores in place, after scale, softcap, ALiBi and additive mask, before
/// visibility. It is called once a run from several threads at once, may be called on hidden keys
/// (what it makes of those is discarded), and must treat each key alone: how keys are cut into runs
/// is not specified. An exception ends the call and reaches the caller of attention; outputs are
/// then unspecified.
using ScoreMod = std::function<void(const KeyRun& run, float* scores)>;
/// Fills `visible[0..count)`; joins the other masks by AND. Called as ScoreMod is.
using MaskMod = std::function<void(const KeyRun& run, bool* visible)>;

}  // namespace attn
