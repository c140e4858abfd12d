#include "tensor/memory.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <limits>
#include <new>

namespace attn::detail {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;

}  // namespace

void* allocate(std::size_t size_in_bytes) {
  const std::size_t alignment = size_in_bytes > huge_page / 2 ? huge_page : memory_alignment;
  if (size_in_bytes > std::numeric_limits<std::size_t>::max() - alignment) throw std::bad_alloc();
  // Up to the end of the last page, or that would be many small ones.
  const std::size_t size =
      (size_in_bytes + (size_in_bytes == 0) + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == huge_page)
    madvise(memory, size, MADV_HUGEPAGE);  // a wish: if it fails, pages are small
#endif
  return memory;
}

void release(void* memory) noexcept { std::free(memory); }

}  // namespace attn::detail
