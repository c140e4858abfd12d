#include "memory.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>

#include "quantities.hpp"

namespace attn::apps {
namespace {

/// The number that follows `key` in a text file, or the first number if `key` is empty.
std::optional<double> number_in(const char* file, const std::string& key) {
  std::ifstream stream(file);
  std::string token;
  while (token != key && stream >> token) {
  }
  double number = 0;
  if (stream >> number) return number;
  return std::nullopt;
}

}  // namespace

double available_memory() {
  double available =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  if (const auto kibibytes = number_in("/proc/meminfo", "MemAvailable:"))
    available = *kibibytes * 1024;
  if (const auto limit = number_in("/sys/fs/cgroup/memory.max", ""))
    available = std::min(available, *limit);
  return available;
}

double product_of(std::initializer_list<std::int64_t> extents) {
  double product = 1;
  for (const std::int64_t extent : extents) product *= static_cast<double>(extent);
  return product;
}

void require_memory(const std::string& what, double bytes) {
  const double available = available_memory();
  if (bytes <= available) return;
  throw Error(ErrorCode::invalid_argument,
              fmt::format("{} needs about {} of memory; {} are available", what,
                          format_bytes(bytes), format_bytes(available)));
}

}  // namespace attn::apps
