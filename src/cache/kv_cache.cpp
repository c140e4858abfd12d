#include <attn/error.hpp>
#include <attn/kv_cache.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "cache/cache_rows.hpp"
#include "functional/rope.hpp"
#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

CacheShape shape_of(const KvCache::Settings& settings) {
  require_positive("batch", settings.batch);
  require_positive("capacity", settings.capacity);
  return {.slabs = settings.batch,
          .num_kv_heads = settings.num_kv_heads,
          .keys = settings.capacity,
          .head_dim = settings.head_dim,
          .v_head_dim = settings.v_head_dim.value_or(settings.head_dim),
          .dtype = settings.dtype,
          .layout = settings.layout};
}

}  // namespace

/// The key at position p of a sequence is stored in row p % capacity. That makes a rolling cache a
/// ring; in other caches, where p < capacity, it is row p.
struct KvCache::Memory {
  explicit Memory(const Settings& given)
      : settings(given),
        rows(shape_of(given)),
        lengths(size()),
        starts(size()),
        positions(size()) {}

  std::size_t size() const noexcept { return static_cast<std::size_t>(settings.batch); }
  std::int64_t oldest(std::size_t sequence) const noexcept {
    return positions[sequence] - lengths[sequence];
  }
  /// The sequence as an index. Throws if it is out of range.
  std::size_t checked(std::int64_t sequence) const {
    require_within("sequence", sequence, 0, settings.batch - 1, "batch of the cache");
    return static_cast<std::size_t>(sequence);
  }
  /// Makes the sequence hold the keys at positions first..end-1.
  void hold(std::size_t sequence, std::int64_t first, std::int64_t end) noexcept {
    lengths[sequence] = end - first;
    starts[sequence] = first % settings.capacity;
    positions[sequence] = end;
  }
  /// Throws Error(exhausted) if the sequence cannot take `count` more keys.
  void require_room(std::size_t sequence, std::int64_t count) const;
  /// Appends batch entry n to sequence first + n.
  void append(std::size_t first, const NewKeys& keys);
  void append_entry(std::size_t sequence, const NewKeys& keys, std::int64_t batch) noexcept;

  Settings settings;
  CacheMemory rows;
  // One number per sequence. bind() returns views of lengths and starts.
  std::vector<std::int64_t> lengths;    // keys held
  std::vector<std::int64_t> starts;     // row of the oldest key
  std::vector<std::int64_t> positions;  // position of the next key
};

void KvCache::Memory::require_room(std::size_t sequence, std::int64_t count) const {
  // A rolling cache is never full, but its positions have to fit into 64 bits.
  const std::int64_t room = settings.rolling
                                ? std::numeric_limits<std::int64_t>::max() - positions[sequence]
                                : settings.capacity - lengths[sequence];
  if (count > room) {
    throw Error(
        ErrorCode::exhausted,
        fmt::format(
            "k has {} keys for sequence {}, which holds {} and has room for {} (capacity {})",
            count, sequence, lengths[sequence], room, settings.capacity));
  }
}

void KvCache::Memory::append(std::size_t first, const NewKeys& keys) {
  const std::size_t end = first + static_cast<std::size_t>(keys.k.shape[0]);
  for (std::size_t sequence = first; sequence < end; ++sequence)
    require_room(sequence, keys.count());
  if (keys.count() == 0) return;
  if (keys.rope) {
    const std::int64_t furthest =
        *std::max_element(positions.data() + first, positions.data() + end);
    check_rope("rope", *keys.rope, settings.head_dim, furthest + keys.count());
  }
  for (std::size_t sequence = first; sequence < end; ++sequence) {
    append_entry(sequence, keys, static_cast<std::int64_t>(sequence - first));
  }
}

void KvCache::Memory::append_entry(std::size_t sequence, const NewKeys& keys,
                                   std::int64_t batch) noexcept {
  const std::int64_t begin = positions[sequence];
  const std::int64_t end = begin + keys.count();
  const std::int64_t kept = std::max(begin, end - settings.capacity);
  for (std::int64_t position = kept; position < end; ++position) {
    const KeyIndex at{.slab = static_cast<std::int64_t>(sequence),
                      .key = position % settings.capacity};
    rows.store(keys, batch, position - begin, position, at);
  }
  hold(sequence, std::max(oldest(sequence), end - settings.capacity), end);
}

KvCache::KvCache(const Settings& settings) : memory_(std::make_unique<Memory>(settings)) {}
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;
KvCache::~KvCache() = default;

KvCache::Memory& KvCache::memory() const { return not_moved_from("cache", memory_); }

const KvCache::Settings& KvCache::settings() const { return memory().settings; }

std::int64_t KvCache::length(std::int64_t sequence) const {
  return memory().lengths[memory().checked(sequence)];
}

std::int64_t KvCache::position(std::int64_t sequence) const {
  return memory().positions[memory().checked(sequence)];
}

std::size_t KvCache::size_in_bytes() const { return memory().rows.size_in_bytes(); }

void KvCache::append(const TensorView& k, const TensorView& v, const std::optional<Rope>& rope) {
  memory().append(0, memory().rows.checked(k, v, rope, memory().settings.batch));
}

void KvCache::append_to(std::int64_t sequence, const TensorView& k, const TensorView& v,
                        const std::optional<Rope>& rope) {
  memory().append(memory().checked(sequence), memory().rows.checked(k, v, rope, {}));
}

void KvCache::truncate(std::int64_t sequence, std::int64_t position) {
  const std::size_t at = memory().checked(sequence);
  const std::int64_t oldest = memory().oldest(at);
  require_within("position", position, oldest, memory().positions[at],
                 "the oldest key of the sequence, and its end");
  memory().hold(at, oldest, position);
}

void KvCache::clear() {
  for (std::size_t sequence = 0; sequence < memory().size(); ++sequence)
    memory().hold(sequence, 0, 0);
}

AttentionTensors KvCache::bind(AttentionTensors tensors) const {
  tensors = memory().rows.bind(std::move(tensors));
  tensors.kv_lens = {memory().lengths.data(), {memory().settings.batch}};
  if (memory().settings.rolling)
    tensors.storage.layout = Ring{TensorView(memory().starts.data(), {memory().settings.batch})};
  return tensors;
}

}  // namespace attn
