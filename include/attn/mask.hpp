// Which keys a query may see: causal masks, sliding windows, and the user's own functions of scores
// and visibility.
//
// Query i of a sequence stands at position p = i + q_position on the axis of its keys. Causal
// masks, windows and ALiBi measure from there. The default is bottom-right: q_position = kv_len -
// q_len, so that the last query stands at the last key. Drawn for that default (1 = visible):
//
//   causal,               causal,               window, left 1, right 0,
//   q_len 2, kv_len 5     q_len 5, kv_len 2     q_len 4, kv_len 4
//
//   1 1 1 1 0             0 0                   1 0 0 0
//   1 1 1 1 1             0 0                   1 1 0 0
//                         0 0                   0 1 1 0
//                         1 0                   0 0 1 1
//                         1 1
//
// A row of zeros is legal: its output is 0 and its lse is -inf.
//
// A dense mask (AttentionTensors::mask) may be about the newest keys alone, as the drafts of
// speculative decoding need it (MaskKeys::last). Here a sequence has 3 keys, and 4 drafted tokens
// that form a tree: b and c are two guesses of what follows a, and d follows b. The mask is [4, 4],
// and the keys before its columns are visible:
//
//          earlier   a b c d
//     a     1 1 1    1 0 0 0
//     b     1 1 1    1 1 0 0
//     c     1 1 1    1 0 1 0
//     d     1 1 1    1 1 0 1
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

namespace attn {

/// Where the queries of a sequence stand on the axis of its keys.
struct QueryPosition {
  /// The position of query 0. Empty: bottom-right, kv_len - q_len, where kv_lens[b] takes the place
  /// of kv_len if lengths are given. A negative offset is kept.
  std::optional<std::int64_t> offset{};

  static QueryPosition bottom_right() { return {}; }
  static QueryPosition top_left() { return {0}; }
  static QueryPosition at(std::int64_t offset) { return {offset}; }

  friend bool operator==(const QueryPosition&, const QueryPosition&) = default;
};

/// A query sees no key after its own position: key j is visible to query i iff j <= i + offset.
struct Causal {
  /// Where the queries stand. Empty: as AttentionOptions::q_position says, else bottom-right.
  std::optional<QueryPosition> position{};

  static Causal bottom_right() { return {QueryPosition::bottom_right()}; }
  static Causal top_left() { return {QueryPosition::top_left()}; }
  /// Any offset. Where it is negative, the first queries see nothing.
  static Causal with_offset(std::int64_t offset) { return {QueryPosition::at(offset)}; }
};

/// Key j is visible iff p - left <= j <= p + right. Both distances are inclusive; an empty side is
/// unlimited.
struct Window {
  std::optional<std::int64_t> left{};
  std::optional<std::int64_t> right{};
};

/// Which keys of a sequence the columns of a dense mask stand for. All other masks apply besides.
enum class MaskKeys {
  /// Column c is key c. A single column stands for all keys. Fewer columns than keys hide the keys
  /// beyond them.
  first,
  /// The n columns are the last n keys of each sequence: column c is key kv_len - n + c, where
  /// kv_lens[b], or the length by kv_offsets, takes the place of kv_len if lengths are given. The
  /// mask says nothing about the keys before: it neither hides them nor adds to their scores.
  /// Columns that a shorter sequence has no keys for are not read. A single column is the last key.
  last,
};

/// Consecutive keys key_begin, ..., key_begin + count - 1 of one query row, as score_mod and
/// mask_mod receive them.
struct KeyRun {
  std::int64_t batch;
  std::int64_t q_head;
  std::int64_t kv_head;
  std::int64_t q_index;     // row of Q, from 0
  std::int64_t q_position;  // p: key j is |q_position - j| away
  std::int64_t key_begin;
  std::int64_t count;
};

/// Changes `count` scores in place, after scale, softcap, ALiBi and additive mask, and before
/// visibility. It is called from several threads at once. It may be called for hidden keys, whose
/// scores are then discarded, and it must treat each key by itself: how keys are divided into runs
/// is not specified. An exception ends the call and reaches the caller of attention(); the outputs
/// are unspecified then.
using ScoreMod = std::function<void(const KeyRun& run, float* scores)>;
/// The derivative of a ScoreMod. `scores` are what the ScoreMod received; `gradient` holds the
/// gradient of its results and is to become the gradient of `scores`, in place. It may be called
/// for hidden keys, whose gradient is 0 and stays 0. It is called in the same way as ScoreMod.
using ScoreModGradient =
    std::function<void(const KeyRun& run, const float* scores, float* gradient)>;
/// Fills `visible[0..count)`. A key is visible if this function and all other masks say so. It is
/// called in the same way as ScoreMod.
using MaskMod = std::function<void(const KeyRun& run, bool* visible)>;

}  // namespace attn
