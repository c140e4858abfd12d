#include "mpi/division.hpp"

#include <algorithm>
#include <limits>

namespace attn::mpi {
namespace {

constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();

/// The entries of the batch that have the same units.
struct Entries {
  TokenRange batch;
  std::int64_t kv_len;
  std::int64_t q_position;  // of query 0
};

std::vector<Entries> entries_of(const CallGeometry& call) {
  const auto position = [&](std::int64_t kv_len) {
    return call.position.offset.value_or(kv_len - call.q_len);
  };
  if (call.kv_lens.empty()) return {{{0, call.batch}, call.kv_len, position(call.kv_len)}};
  std::vector<Entries> entries;
  for (std::int64_t b = 0; b < call.batch; ++b) {
    const std::int64_t length = call.kv_lens[static_cast<std::size_t>(b)];
    entries.push_back({{b, b + 1}, length, position(length)});
  }
  return entries;
}

/// Makes the units of one stretch of queries.
class UnitMaker {
 public:
  UnitMaker(const CallGeometry& call, const Entries& entries, std::vector<Unit>& units)
      : call_(call), entries_(entries), units_(units) {
    if (!call.mask || call.mask->broadcast) return;
    const std::int64_t columns = call.mask->count;
    mask_begin_ = call.mask->keys == MaskKeys::first ? 0 : entries.kv_len - columns;
    mask_end_ = mask_begin_ + columns;
  }

  /// `row` and `key_row` are where the stretches begin among the rows of Q and of the block.
  void add(const TokenRange& queries, std::int64_t row, const std::vector<TokenRange>& keys) {
    queries_ = queries;
    row_ = row;
    first_position_ = queries.begin + entries_.q_position;
    last_position_ = first_position_ + queries.size() - 1;
    std::int64_t key_row = 0;
    for (const TokenRange& stretch : keys) {
      add_stretch(stretch, key_row);
      key_row += stretch.size();
    }
    finish_joined();
  }

 private:
  void add_stretch(const TokenRange& stretch, std::int64_t key_row) {
    const bool mask_ends = call_.mask && !call_.mask->broadcast;
    const TokenRange keys{
        stretch.begin, std::min({stretch.end, entries_.kv_len, mask_ends ? mask_end_ : unlimited})};
    if (keys.size() <= 0 || !visible(keys)) return;
    if (!call_.mask && !call_.scores_have_positions && full(keys)) {
      if (joined_.size() == 0) joined_ = {key_row, key_row};
      if (joined_.end == key_row) {
        joined_.end = key_row + keys.size();
        return;
      }
      finish_joined();
      joined_ = {key_row, key_row + keys.size()};
      return;
    }
    finish_joined();
    // Before its first column a mask of the last keys says nothing.
    const std::int64_t cut = std::clamp(mask_begin_, keys.begin, keys.end);
    add_measured({keys.begin, cut}, key_row, false);
    add_measured({cut, keys.end}, key_row + cut - keys.begin, true);
  }

  void add_measured(const TokenRange& keys, std::int64_t key_row, bool masked) {
    if (keys.size() == 0 || !visible(keys)) return;
    Unit unit = unit_of({key_row, key_row + keys.size()});
    unit.first_key = keys.begin;
    unit.q_position = first_position_ - keys.begin;
    if (call_.mask && masked)
      unit.mask_column = call_.mask->broadcast ? 0 : keys.begin - mask_begin_;
    units_.push_back(unit);
  }

  void finish_joined() {
    if (joined_.size() > 0) units_.push_back(unit_of(joined_));
    if (joined_.size() > 0) units_.back().full = true;
    joined_ = {};
  }

  Unit unit_of(const TokenRange& key_rows) const {
    return {.batch = entries_.batch,
            .queries = {row_, row_ + queries_.size()},
            .first_query = queries_.begin,
            .keys = key_rows};
  }

  /// Whether a query sees a key.
  bool visible(const TokenRange& keys) const {
    return (!call_.causal || keys.begin <= last_position_) &&
           (!call_.window.left || keys.end - 1 >= first_position_ - *call_.window.left) &&
           (!call_.window.right || keys.begin <= last_position_ + *call_.window.right);
  }
  /// Whether all queries see all keys.
  bool full(const TokenRange& keys) const {
    return (!call_.causal || keys.end - 1 <= first_position_) &&
           (!call_.window.left || keys.begin >= last_position_ - *call_.window.left) &&
           (!call_.window.right || keys.end - 1 <= first_position_ + *call_.window.right);
  }

  const CallGeometry& call_;
  const Entries& entries_;
  std::vector<Unit>& units_;
  std::int64_t mask_begin_ = 0, mask_end_ = 0;  // the keys that its columns are
  TokenRange queries_{};
  std::int64_t row_ = 0, first_position_ = 0, last_position_ = 0;
  TokenRange joined_{};  // rows of the block that wait to become one unit
};

}  // namespace

std::vector<Unit> units_of(const CallGeometry& call, const std::vector<TokenRange>& queries,
                           const std::vector<TokenRange>& keys) {
  std::vector<Unit> units;
  for (const Entries& entries : entries_of(call)) {
    UnitMaker maker(call, entries, units);
    std::int64_t row = 0;
    for (const TokenRange& stretch : queries) {
      maker.add(stretch, row, keys);
      row += stretch.size();
    }
  }
  return units;
}

namespace {

void add_pieces(const Unit& unit, const HeadSizes& sizes, std::int64_t least,
                std::vector<Piece>& pieces) {
  constexpr double flops_of_piece = 0x1p34;
  const double head_flops = 2.0 * static_cast<double>(unit.queries.size() * sizes.group_size) *
                            static_cast<double>(unit.keys.size()) *
                            static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  const std::int64_t all_heads = unit.batch.size() * sizes.num_kv_heads;
  const auto heads = static_cast<std::int64_t>(
      std::clamp(flops_of_piece / head_flops, 1.0,
                 static_cast<double>(std::max<std::int64_t>(1, all_heads / least))));
  const std::int64_t heads_at_once = std::min(heads, sizes.num_kv_heads);
  const std::int64_t entries_at_once = heads_at_once < sizes.num_kv_heads
                                           ? 1
                                           : std::max<std::int64_t>(1, heads / sizes.num_kv_heads);
  for (std::int64_t b = unit.batch.begin; b < unit.batch.end; b += entries_at_once) {
    for (std::int64_t h = 0; h < sizes.num_kv_heads; h += heads_at_once) {
      pieces.push_back({unit,
                        {b, std::min(unit.batch.end, b + entries_at_once)},
                        {h, std::min(sizes.num_kv_heads, h + heads_at_once)}});
    }
  }
}

}  // namespace

std::vector<Piece> pieces_of(const std::vector<Unit>& units, const HeadSizes& sizes,
                             std::int64_t least) {
  std::vector<Piece> pieces;
  for (const Unit& unit : units) add_pieces(unit, sizes, least, pieces);
  return pieces;
}

std::vector<int> last_steps(const CallGeometry& call, const RingCut& cut) {
  const int size = cut.keys.num_ranks();
  std::vector<int> last(static_cast<std::size_t>(size), 0);
  for (int owner = 0; owner < size; ++owner) {
    for (int step = size - 1; step > 0; --step) {
      const int rank = (owner + step) % size;
      if (units_of(call, cut.queries.ranges(rank), cut.keys.ranges(owner)).empty()) continue;
      last[static_cast<std::size_t>(owner)] = step;
      break;
    }
  }
  return last;
}

}  // namespace attn::mpi
