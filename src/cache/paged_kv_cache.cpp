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

CacheShape shape_of(const PagedKvCache::Settings& settings) {
  require_within("num_pages", settings.num_pages, 1, std::numeric_limits<std::int32_t>::max(),
                 "page tables are i32");
  require_positive("page_size", settings.page_size);
  return {.slabs = settings.num_pages,
          .num_kv_heads = settings.num_kv_heads,
          .keys = settings.page_size,
          .head_dim = settings.head_dim,
          .v_head_dim = settings.v_head_dim.value_or(settings.head_dim),
          .dtype = settings.dtype,
          .layout = settings.layout};
}

/// The free pages, and for each other page the number of sequences that hold it.
class PagePool {
 public:
  explicit PagePool(std::int64_t num_pages) : holders_(static_cast<std::size_t>(num_pages)) {
    free_.resize(holders_.size());
    for (std::size_t n = 0; n < free_.size(); ++n)
      free_[n] = static_cast<std::int32_t>(free_.size() - 1 - n);
  }

  std::int64_t free() const noexcept { return static_cast<std::int64_t>(free_.size()); }
  bool shared(std::int32_t page) const noexcept {
    return holders_[static_cast<std::size_t>(page)] > 1;
  }
  /// Takes a free page, which has to exist.
  std::int32_t take() noexcept {
    const std::int32_t page = free_.back();
    free_.pop_back();
    hold(page);
    return page;
  }
  void hold(std::int32_t page) noexcept { ++holders_[static_cast<std::size_t>(page)]; }
  /// Drops one holder of the page; without holders it is free. This does not allocate: the list has
  /// had all pages in it, and keeps its memory.
  void release(std::int32_t page) noexcept {
    if (--holders_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
  }

 private:
  std::vector<std::int64_t> holders_;
  std::vector<std::int32_t> free_;  // the last element is taken next
};

struct SequencePages {
  bool exists = false;
  std::int64_t length = 0;
  std::vector<std::int32_t> pages;  // exactly those that `length` keys need
};

/// Reserves memory for `count` pages. It grows at least twofold, as push_back() does, so that
/// appending pages one by one does not copy the list each time.
void make_room(std::vector<std::int32_t>& pages, std::size_t count) {
  if (count > pages.capacity()) pages.reserve(std::max(count, 2 * pages.capacity()));
}

}  // namespace

struct PagedKvCache::Memory {
  explicit Memory(const Settings& given)
      : settings(given), rows(shape_of(given)), pool(given.num_pages) {}

  /// Throws if there is no such sequence.
  SequencePages& checked(Sequence sequence) {
    if (sequence < 0 || sequence >= std::ssize(sequences) ||
        !sequences[static_cast<std::size_t>(sequence)].exists) {
      reject(fmt::format("sequence {} does not exist", sequence));
    }
    return sequences[static_cast<std::size_t>(sequence)];
  }
  /// The lowest number that is not in use. Its entry in `sequences` is empty.
  std::size_t unused_number();
  /// The number of pages of `length` keys. Unlike divide_up(), it cannot overflow.
  std::int64_t pages_for(std::int64_t length) const noexcept {
    return length / settings.page_size + (length % settings.page_size != 0 ? 1 : 0);
  }
  bool last_page_is_shared(const SequencePages& sequence) const noexcept {
    return sequence.length % settings.page_size != 0 && pool.shared(sequence.pages.back());
  }
  /// The number of free pages that the sequence needs before `count` keys can be written.
  std::int64_t pages_needed(const SequencePages& sequence, std::int64_t count) const noexcept;
  /// Lengthens the sequence by `count` keys, and makes it the only holder of the pages that these
  /// are written to: a shared last page is copied. pages_needed() pages have to be free.
  void extend(SequencePages& sequence, std::int64_t count) noexcept;
  /// Shortens the sequence and releases the pages that are empty then.
  void shrink(SequencePages& sequence, std::int64_t length) noexcept;

  Settings settings;
  CacheMemory rows;
  PagePool pool;
  std::vector<SequencePages> sequences;
  // bind() returns views of these.
  std::vector<std::int32_t> page_table;
  std::vector<std::int64_t> lengths;
};

std::size_t PagedKvCache::Memory::unused_number() {
  const auto unused = std::find_if(sequences.begin(), sequences.end(),
                                   [](const SequencePages& sequence) { return !sequence.exists; });
  if (unused == sequences.end()) {
    sequences.emplace_back();
    return sequences.size() - 1;
  }
  return static_cast<std::size_t>(unused - sequences.begin());
}

std::int64_t PagedKvCache::Memory::pages_needed(const SequencePages& sequence,
                                                std::int64_t count) const noexcept {
  if (count == 0) return 0;
  const std::int64_t room = std::ssize(sequence.pages) * settings.page_size - sequence.length;
  return pages_for(std::max<std::int64_t>(0, count - room)) +
         (last_page_is_shared(sequence) ? 1 : 0);
}

void PagedKvCache::Memory::extend(SequencePages& sequence, std::int64_t count) noexcept {
  if (last_page_is_shared(sequence)) {
    const std::int32_t copy = pool.take();
    rows.copy_slab(sequence.pages.back(), copy);
    pool.release(std::exchange(sequence.pages.back(), copy));
  }
  sequence.length += count;
  while (std::ssize(sequence.pages) < pages_for(sequence.length))
    sequence.pages.push_back(pool.take());
}

void PagedKvCache::Memory::shrink(SequencePages& sequence, std::int64_t length) noexcept {
  sequence.length = length;
  for (; std::ssize(sequence.pages) > pages_for(length); sequence.pages.pop_back())
    pool.release(sequence.pages.back());
}

PagedKvCache::PagedKvCache(const Settings& settings)
    : memory_(std::make_unique<Memory>(settings)) {}
PagedKvCache::PagedKvCache(PagedKvCache&&) noexcept = default;
PagedKvCache& PagedKvCache::operator=(PagedKvCache&&) noexcept = default;
PagedKvCache::~PagedKvCache() = default;

PagedKvCache::Memory& PagedKvCache::memory() const { return not_moved_from("cache", memory_); }

const PagedKvCache::Settings& PagedKvCache::settings() const { return memory().settings; }

std::int64_t PagedKvCache::free_pages() const { return memory().pool.free(); }

std::int64_t PagedKvCache::length(Sequence sequence) const {
  return memory().checked(sequence).length;
}

std::span<const std::int32_t> PagedKvCache::pages(Sequence sequence) const {
  return memory().checked(sequence).pages;
}

std::size_t PagedKvCache::size_in_bytes() const { return memory().rows.size_in_bytes(); }

PagedKvCache::Sequence PagedKvCache::create() {
  const std::size_t number = memory().unused_number();
  memory().sequences[number].exists = true;
  return static_cast<Sequence>(number);
}

PagedKvCache::Sequence PagedKvCache::fork(Sequence parent) {
  memory().checked(parent);
  const std::size_t number = memory().unused_number();
  const SequencePages& from = memory().checked(parent);  // unused_number() may have moved it
  SequencePages& to = memory().sequences[number];
  to.pages = from.pages;
  to.length = from.length;
  to.exists = true;
  for (const std::int32_t page : to.pages) memory().pool.hold(page);
  return static_cast<Sequence>(number);
}

void PagedKvCache::remove(Sequence sequence) {
  SequencePages& removed = memory().checked(sequence);
  memory().shrink(removed, 0);
  removed.exists = false;
}

void PagedKvCache::append(Sequence sequence, const TensorView& k, const TensorView& v,
                          const std::optional<Rope>& rope) {
  SequencePages& to = memory().checked(sequence);
  const NewKeys keys = memory().rows.checked(k, v, rope, {});
  const std::int64_t count = keys.count();
  if (count == 0) return;
  const std::int64_t needed = memory().pages_needed(to, count);
  if (needed > free_pages()) {
    throw Error(ErrorCode::exhausted,
                fmt::format("k has {} keys for sequence {}, which holds {}: they need {} more "
                            "pages of {} keys, but "
                            "{} of {} are free",
                            count, sequence, to.length, needed, settings().page_size, free_pages(),
                            settings().num_pages));
  }
  if (rope) check_rope("rope", *rope, settings().head_dim, to.length + count);
  make_room(to.pages, to.pages.size() + static_cast<std::size_t>(needed));
  const std::int64_t begin = to.length;
  memory().extend(to, count);
  for (std::int64_t position = begin; position < to.length; ++position) {
    const std::int32_t page = to.pages[static_cast<std::size_t>(position / settings().page_size)];
    memory().rows.store(keys, 0, position - begin, position,
                        {.slab = page, .key = position % settings().page_size});
  }
}

void PagedKvCache::truncate(Sequence sequence, std::int64_t length) {
  SequencePages& kept = memory().checked(sequence);
  require_within("length", length, 0, kept.length, "keys of the sequence");
  memory().shrink(kept, length);
}

AttentionTensors PagedKvCache::bind(AttentionTensors tensors, std::span<const Sequence> sequences) {
  std::size_t max_pages = 1;
  for (const Sequence sequence : sequences)
    max_pages = std::max(max_pages, memory().checked(sequence).pages.size());
  memory().page_table.assign(sequences.size() * max_pages, 0);
  memory().lengths.resize(sequences.size());
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const SequencePages& sequence = memory().checked(sequences[n]);
    std::copy(sequence.pages.begin(), sequence.pages.end(),
              memory().page_table.data() + n * max_pages);
    memory().lengths[n] = sequence.length;
  }
  const auto batch = static_cast<std::int64_t>(sequences.size());
  tensors = memory().rows.bind(std::move(tensors));
  tensors.kv_lens = {memory().lengths.data(), {batch}};
  tensors.storage.layout =
      Paged{TensorView(memory().page_table.data(), {batch, static_cast<std::int64_t>(max_pages)})};
  return tensors;
}

}  // namespace attn
