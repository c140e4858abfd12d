#include "memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

namespace attn::demo {
namespace {

/// The number behind `key` in a file of words, or at its beginning if key is empty.
std::optional<double> number_in(const char* file, const std::string& key) {
  std::ifstream words(file);
  std::string word;
  while (word != key && words >> word) {
  }
  double number = 0;
  if (words >> number) return number;
  return std::nullopt;
}

}  // namespace

double available_memory() {
  double available =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  if (const auto kibibytes = number_in("/proc/meminfo", "MemAvailable:"))
    available = *kibibytes * 1024;
  // A container's share.
  if (const auto limit = number_in("/sys/fs/cgroup/memory.max", ""))
    available = std::min(available, *limit);
  return available;
}

}  // namespace attn::demo
