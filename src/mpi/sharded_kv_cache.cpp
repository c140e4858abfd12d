#include <attn/mpi.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "mpi/agreement.hpp"
#include "tensor/checks.hpp"

namespace attn {

using detail::reject;

namespace {

/// Which rank has which keys, and whose turn it is.
struct Turns {
  std::int64_t keys_per_turn;
  SequenceCut cut;
  std::vector<std::int64_t> held;  // keys of each rank

  void give(int rank, std::int64_t count) {
    cut.append(rank, count);
    held[static_cast<std::size_t>(rank)] += count;
  }
  /// The rank of the newest keys, until its turn is full; then the one with the fewest keys.
  int next(std::int64_t& keys_left) const {
    for (int rank = 0; rank < cut.num_ranks(); ++rank) {
      const std::vector<TokenRange>& ranges = cut.ranges(rank);
      if (ranges.empty() || ranges.back().end != cut.length()) continue;
      keys_left = keys_per_turn - ranges.back().size();
      if (keys_left > 0) return rank;
    }
    keys_left = keys_per_turn;
    return static_cast<int>(std::min_element(held.begin(), held.end()) - held.begin());
  }
};

}  // namespace

struct ShardedKvCache::Memory {
  MPI_Comm comm;
  Settings settings;
  KvCache part;
  Turns turns;

  void append(Turns then, const std::vector<TokenRange>& rows, const TensorView& k,
              const TensorView& v);
};

namespace {

KvCache::Settings checked(const ShardedKvCache::Settings& settings) {
  detail::require_positive("keys_per_turn", settings.keys_per_turn);
  if (settings.part.rolling)
    throw Error(ErrorCode::unsupported,
                "part.rolling is true; the keys of a sharded cache are not overwritten");
  return settings.part;
}

std::int64_t keys_in(const char* name, const TensorView& tensor) {
  detail::require_form(name, tensor);
  detail::require_rank(name, tensor, 4, "[batch, num_kv_heads, count, dim]");
  return tensor.shape[2];
}

/// Throws Error unless v has as many keys as k.
std::int64_t checked_count(const TensorView& k, const TensorView& v) {
  const std::int64_t count = keys_in("k", k);
  keys_in("v", v);
  detail::require_extent("v", v, 2, count, "count of k");
  return count;
}

}  // namespace

/// Appends rows of k and v to this rank's part, after which the ranks hold what `then` says.
void ShardedKvCache::Memory::append(Turns then, const std::vector<TokenRange>& rows,
                                    const TensorView& k, const TensorView& v) {
  for (std::size_t rank = 0; rank < then.held.size(); ++rank) {
    if (then.held[rank] <= settings.part.capacity) continue;
    throw Error(ErrorCode::exhausted,
                fmt::format("the part of rank {} would hold {} keys; its capacity is {}", rank,
                            then.held[rank], settings.part.capacity));
  }
  part.append(k.sliced(2, 0, 0), v.sliced(2, 0, 0));  // checks both, whatever this rank keeps
  for (const TokenRange& range : rows)
    part.append(k.sliced(2, range.begin, range.end), v.sliced(2, range.begin, range.end));
  turns = std::move(then);
}

ShardedKvCache::ShardedKvCache(MPI_Comm comm, const Settings& settings)
    : memory_(new Memory{
          comm, settings, KvCache(checked(settings)),
          Turns{settings.keys_per_turn, SequenceCut::even(0, mpi::size_of(comm)),
                std::vector<std::int64_t>(static_cast<std::size_t>(mpi::size_of(comm)))}}) {}

ShardedKvCache::ShardedKvCache(ShardedKvCache&&) noexcept = default;
ShardedKvCache& ShardedKvCache::operator=(ShardedKvCache&&) noexcept = default;
ShardedKvCache::~ShardedKvCache() = default;

ShardedKvCache::Memory& ShardedKvCache::memory() const {
  return detail::not_moved_from("sharded cache", memory_);
}

std::int64_t ShardedKvCache::length() const { return memory().turns.cut.length(); }
const SequenceCut& ShardedKvCache::cut() const { return memory().turns.cut; }

void ShardedKvCache::append(const TensorView& k, const TensorView& v) {
  Memory& own = memory();
  const std::int64_t count = checked_count(k, v);
  const int own_rank = mpi::rank_of(own.comm);
  Turns then = own.turns;
  std::vector<TokenRange> rows;
  for (std::int64_t row = 0; row < count;) {
    std::int64_t keys_left = 0;
    const int rank = then.next(keys_left);
    const TokenRange taken{row, row + std::min(keys_left, count - row)};
    then.give(rank, taken.size());
    if (rank == own_rank) rows.push_back(taken);
    row = taken.end;
  }
  own.append(std::move(then), rows, k, v);
}

void ShardedKvCache::append_part(const SequenceCut& cut, const TensorView& k, const TensorView& v) {
  Memory& own = memory();
  const std::int64_t count = checked_count(k, v);
  if (cut.num_ranks() != own.turns.cut.num_ranks()) {
    reject(fmt::format("the cut of the new keys is for {} ranks; the communicator has {}",
                       cut.num_ranks(), own.turns.cut.num_ranks()));
  }
  const std::int64_t needed = cut.num_tokens(mpi::rank_of(own.comm));
  if (count != needed)
    reject(fmt::format("k has {} keys; the cut gives this rank {}", count, needed));
  std::vector<std::pair<TokenRange, int>> stretches;
  for (int rank = 0; rank < cut.num_ranks(); ++rank)
    for (const TokenRange& range : cut.ranges(rank)) stretches.emplace_back(range, rank);
  std::sort(stretches.begin(), stretches.end(),
            [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
  Turns then = own.turns;
  for (const auto& [range, rank] : stretches) then.give(rank, range.size());
  own.append(std::move(then), {{0, count}}, k, v);
}

void ShardedKvCache::truncate(std::int64_t position) {
  Memory& own = memory();
  Turns then = own.turns;
  then.cut.truncate(position);
  for (int rank = 0; rank < then.cut.num_ranks(); ++rank)
    then.held[static_cast<std::size_t>(rank)] = then.cut.num_tokens(rank);
  const std::int64_t left = then.held[static_cast<std::size_t>(mpi::rank_of(own.comm))];
  for (std::int64_t sequence = 0; sequence < own.settings.part.batch; ++sequence)
    own.part.truncate(sequence, left);
  own.turns = std::move(then);
}

void ShardedKvCache::clear() { truncate(0); }

void ShardedKvCache::attention(const AttentionTensors& tensors, const AttentionOptions& options,
                               const Execution& execution) {
  const Memory& own = memory();
  const AttentionTensors bound = own.part.bind({});
  const SequenceCut& cut = own.turns.cut;
  const std::int64_t held = cut.num_tokens(mpi::rank_of(own.comm));
  const auto filled = [&](const TensorView& all) {
    return all.absent() ? all : all.sliced(2, 0, held);
  };
  AttentionTensors call = tensors;
  call.k = filled(bound.k);
  call.v = filled(bound.v);
  call.storage = {.k_scales = filled(bound.storage.k_scales),
                  .v_scales = filled(bound.storage.v_scales)};
  tree_attention(own.comm, cut, call, options, execution);
}

}  // namespace attn
