#include "tensor/memory.hpp"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>

#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;

}  // namespace

void* allocate(std::size_t size_in_bytes) {
  const std::size_t alignment = size_in_bytes > huge_page / 2 ? huge_page : memory_alignment;
  if (size_in_bytes > std::numeric_limits<std::size_t>::max() - alignment) throw std::bad_alloc();
  // The size is a multiple of the page size, since the rest of a huge page would be many small
  // pages.
  const std::size_t size = round_up(std::max<std::size_t>(size_in_bytes, 1), alignment);
  void* const memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == huge_page)
    madvise(memory, size, MADV_HUGEPAGE);  // best effort; normal pages are used if it fails
#endif
  return memory;
}

void release(void* memory) noexcept { std::free(memory); }

bool address_space_is_limited() noexcept {
  static const bool limited = [] {
    const auto is_set = [](int resource) {
      rlimit limit{};
      return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    };
    return is_set(RLIMIT_AS) || is_set(RLIMIT_DATA);
  }();
  return limited;
}

bool can_map(std::size_t size_in_bytes) noexcept {
  if (!address_space_is_limited()) return true;
  void* const memory = mmap(nullptr, size_in_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory != MAP_FAILED && munmap(memory, size_in_bytes) == 0;
}

}  // namespace attn::detail
