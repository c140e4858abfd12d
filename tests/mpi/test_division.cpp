// How a cut call is divided: units without MPI.
#include "mpi/division.hpp"

#include <doctest/doctest.h>

#include "support/random.hpp"

using namespace attn;
using namespace attn::mpi;
using test::Random;

namespace {

/// What the definition of a call says of a pair, in numbers of the whole.
bool visible(const CallGeometry& call, std::int64_t b, std::int64_t i, std::int64_t j) {
  const std::int64_t length =
      call.kv_lens.empty() ? call.kv_len : call.kv_lens[static_cast<std::size_t>(b)];
  const std::int64_t p = i + call.position.offset.value_or(length - call.q_len);
  if (call.mask && call.mask->keys == MaskKeys::first && !call.mask->broadcast &&
      j >= call.mask->count)
    return false;
  return j < length && (!call.causal || j <= p) &&
         (!call.window.left || j >= p - *call.window.left) &&
         (!call.window.right || j <= p + *call.window.right);
}

/// What a unit says of a pair of its rows.
bool visible_in(const CallGeometry& call, const Unit& unit, std::int64_t row, std::int64_t key) {
  if (unit.full) return true;
  const std::int64_t p = row + unit.q_position;
  return (!call.causal || key <= p) && (!call.window.left || key >= p - *call.window.left) &&
         (!call.window.right || key <= p + *call.window.right);
}

CallGeometry random_geometry(Random& random) {
  CallGeometry call{.batch = random.integer(1, 3),
                    .q_len = random.integer(1, 20),
                    .kv_len = random.integer(1, 20)};
  if (random.chance(0.5))
    for (std::int64_t b = 0; b < call.batch; ++b)
      call.kv_lens.push_back(random.integer(0, call.kv_len));
  if (random.chance(0.5)) call.position = QueryPosition::at(random.integer(-9, 9));
  call.causal = random.chance(0.5);
  if (random.chance(0.4)) call.window.left = random.integer(0, 9);
  if (random.chance(0.4)) call.window.right = random.integer(0, 9);
  if (random.chance(0.4)) {
    const MaskKeys keys = random.pick({MaskKeys::first, MaskKeys::last});
    const std::int64_t count = random.integer(1, call.kv_len);
    call.mask = MaskColumns{count, keys, keys == MaskKeys::first && count == 1};
  }
  call.scores_have_positions = random.chance(0.3);
  return call;
}

std::vector<TokenRange> random_ranges(Random& random, std::int64_t length) {
  std::vector<TokenRange> ranges;
  for (std::int64_t at = random.integer(0, 3); at < length;) {
    const std::int64_t end = std::min(length, at + random.integer(1, 6));
    ranges.push_back({at, end});
    at = end + random.integer(1, 4);
  }
  return ranges;
}

std::int64_t whole_index(const std::vector<TokenRange>& ranges, std::int64_t row) {
  for (const TokenRange& range : ranges) {
    if (row < range.size()) return range.begin + row;
    row -= range.size();
  }
  return -1;
}

}  // namespace

TEST_CASE("Units have each visible pair once, and no other") {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const CallGeometry call = random_geometry(random);
    const auto queries = random_ranges(random, call.q_len),
               keys = random_ranges(random, call.kv_len);
    std::int64_t rows = 0, columns = 0;
    for (const TokenRange& range : queries) rows += range.size();
    for (const TokenRange& range : keys) columns += range.size();
    std::vector<int> counts(static_cast<std::size_t>(call.batch * rows * columns));
    const auto count_of = [&](std::int64_t b, std::int64_t row, std::int64_t key) -> int& {
      return counts[static_cast<std::size_t>((b * rows + row) * columns + key)];
    };
    bool columns_right = true;
    for (const Unit& unit : units_of(call, queries, keys)) {
      for (std::int64_t b = unit.batch.begin; b < unit.batch.end; ++b) {
        const std::int64_t length =
            call.kv_lens.empty() ? call.kv_len : call.kv_lens[static_cast<std::size_t>(b)];
        for (std::int64_t r = 0; r < unit.queries.size(); ++r) {
          for (std::int64_t k = 0; k < unit.keys.size(); ++k) {
            if (!visible_in(call, unit, r, k)) continue;
            ++count_of(b, unit.queries.begin + r, unit.keys.begin + k);
            if (!call.mask || call.mask->broadcast) continue;
            const std::int64_t first =
                call.mask->keys == MaskKeys::first ? 0 : length - call.mask->count;
            const std::int64_t column = whole_index(keys, unit.keys.begin + k) - first;
            columns_right &= unit.mask_column ? *unit.mask_column + k == column : column < 0;
          }
        }
      }
    }
    bool right = true;
    for (std::int64_t b = 0; b < call.batch; ++b)
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t k = 0; k < columns; ++k)
          right &= count_of(b, r, k) ==
                   (visible(call, b, whole_index(queries, r), whole_index(keys, k)) ? 1 : 0);
    CHECK(right);
    CHECK(columns_right);
  }
}

TEST_CASE("Stretches of keys that are visible as a whole join") {
  CallGeometry call{.batch = 1, .q_len = 1, .kv_len = 100, .causal = true};
  const std::vector<TokenRange> striped{{0, 10}, {20, 30}, {40, 50}, {90, 100}};
  CHECK(units_of(call, {{0, 1}}, striped).size() == 1);
  call.window.left = 55;
  CHECK(units_of(call, {{0, 1}}, striped).size() == 2);
  call.scores_have_positions = true;
  CHECK(units_of(call, {{0, 1}}, striped).size() == 2);
}

TEST_CASE("Pieces of a unit have each entry and head once") {
  const HeadSizes sizes{.num_kv_heads = 6, .group_size = 4, .head_dim = 128, .v_head_dim = 128};
  for (const std::int64_t length : {1, 1000, 4000, 100000}) {
    const Unit unit{.batch = {2, 7}, .queries = {0, length}, .keys = {0, length}};
    std::vector<int> counts(5 * 6);
    for (const Piece& piece : pieces_of({unit}, sizes))
      for (std::int64_t b = piece.batch.begin; b < piece.batch.end; ++b)
        for (std::int64_t h = piece.kv_heads.begin; h < piece.kv_heads.end; ++h)
          ++counts[static_cast<std::size_t>((b - 2) * 6 + h)];
    CHECK(counts == std::vector<int>(5 * 6, 1));
  }
  const Unit small{.batch = {0, 5}, .queries = {0, 1}, .keys = {0, 9}};
  CHECK(pieces_of({small}, sizes).size() == 1);
  CHECK(pieces_of({small}, sizes, 2).size() == 3);  // 2, 2 and 1 entries
  const HeadSizes one_head{.num_kv_heads = 1, .group_size = 4, .head_dim = 8, .v_head_dim = 8};
  CHECK(pieces_of({{.batch = {0, 1}, .queries = {0, 1}, .keys = {0, 9}}}, one_head, 2).size() == 1);
}

TEST_CASE("The last step at which a block is needed") {
  CallGeometry call{.batch = 1, .q_len = 16, .kv_len = 16, .causal = true};
  const RingCut even{SequenceCut::even(16, 4), SequenceCut::even(16, 4)};
  CHECK(last_steps(call, even) == std::vector<int>{3, 2, 1, 0});
  call.window.left = 2;
  CHECK(last_steps(call, even) == std::vector<int>{1, 1, 1, 0});
  call.window = {};
  const RingCut zigzag{SequenceCut::zigzag(16, 4), SequenceCut::zigzag(16, 4)};
  CHECK(last_steps(call, zigzag) == std::vector<int>{3, 3, 3, 3});
}

TEST_CASE("Cuts") {
  const SequenceCut zigzag = SequenceCut::zigzag(16, 4);
  CHECK(zigzag.ranges(1) == std::vector<TokenRange>{{2, 4}, {12, 14}});
  CHECK(zigzag.ranges(3) == std::vector<TokenRange>{{6, 10}});
  const SequenceCut uneven = SequenceCut::even(10, 4);
  CHECK(uneven.num_tokens(0) == 3);
  CHECK(uneven.num_tokens(3) == 2);
  SequenceCut cut = SequenceCut::even(0, 2);
  cut.append(1, 3);
  cut.append(1, 2);
  cut.append(0, 4);
  CHECK(cut.length() == 9);
  CHECK(cut.ranges(1) == std::vector<TokenRange>{{0, 5}});
  cut.truncate(4);
  CHECK(cut.ranges(0).empty());
  CHECK(cut.ranges(1) == std::vector<TokenRange>{{0, 4}});
}
