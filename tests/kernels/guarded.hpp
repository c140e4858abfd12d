// Buffers whose surroundings are watched, and loops over the instruction sets of this machine.
#pragma once

#include <attn/isa.hpp>

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/select.hpp"
#include "support/random.hpp"

namespace attn::test {

/// `count` elements that end at an inaccessible page, so that a read or write past the end stops
/// the program. Everything before them, down to another such page, is a canary. All bytes begin as
/// 0xff: NaN in each float type.
template <class T>
class Guarded {
 public:
  explicit Guarded(std::int64_t count) : count_(count) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    inner_ = (bytes / page + 1) * page;
    size_ = inner_ + 2 * page;
    void* const memory =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    memory_ = static_cast<unsigned char*>(memory);
    start_ = memory_ + page;
    mprotect(memory_, page, PROT_NONE);
    mprotect(start_ + inner_, page, PROT_NONE);
    std::memset(start_, 0xff, inner_);
    data_ = reinterpret_cast<T*>(start_ + inner_ - bytes);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(memory_, size_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::int64_t size() const { return count_; }
  T& operator[](std::int64_t n) { return data_[n]; }
  const T& operator[](std::int64_t n) const { return data_[n]; }

  /// Remembers all bytes for `only_changed`.
  void remember() { before_.assign(start_, start_ + inner_); }
  /// Whether nothing but the elements [r * stride, r * stride + width) of `rows` rows has changed.
  bool only_changed(std::int64_t rows, std::int64_t stride, std::int64_t width) const {
    std::vector<unsigned char> now(start_, start_ + inner_), before = before_;
    const std::size_t lead = reinterpret_cast<const unsigned char*>(data_) - start_;
    for (std::int64_t r = 0; r < rows && width > 0; ++r) {
      const std::size_t at = lead + static_cast<std::size_t>(r * stride) * sizeof(T);
      std::memset(&now[at], 0, static_cast<std::size_t>(width) * sizeof(T));
      std::memset(&before[at], 0, static_cast<std::size_t>(width) * sizeof(T));
    }
    return now == before;
  }

 private:
  std::int64_t count_;
  std::size_t inner_ = 0, size_ = 0;
  unsigned char* memory_ = nullptr;
  unsigned char* start_ = nullptr;
  T* data_ = nullptr;
  std::vector<unsigned char> before_;
};

/// Calls test(kernels) for each instruction set that runs here.
template <class Test>
void for_each_isa(Test test) {
  for (const Isa isa : available_isas()) {
    INFO("isa ", std::string(name_of(isa)));
    test(kernels::kernels_for(isa));
  }
}

inline std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Small integers: sums of a few hundred products of them are exact in f32, and each is exact in
/// bf16, f16 and i8.
inline float small_integer(Random& random) { return static_cast<float>(random.integer(-8, 8)); }

/// The bits of a small integer in bf16 and f16.
inline std::uint16_t bf16_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}
inline std::uint16_t f16_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x == 0) return static_cast<std::uint16_t>(bits >> 16);
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000u) |
                                    ((bits & 0x7fffffffu) - 0x38000000u) >> 13);
}
inline float packed_pair(float low, float high) {
  const std::uint32_t bits = bf16_of(low) | static_cast<std::uint32_t>(bf16_of(high)) << 16;
  float pair;
  std::memcpy(&pair, &bits, sizeof pair);
  return pair;
}

}  // namespace attn::test
