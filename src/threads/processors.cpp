#include "threads/processors.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace attn::detail {
namespace {

/// The beginning of a small file of the system; empty if it cannot be read.
std::string read_text(const std::string& path) {
  std::array<char, 4096> text;
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return {};
  const std::size_t size = std::fread(text.data(), 1, text.size(), file);
  std::fclose(file);
  return {text.data(), size};
}

std::optional<int> least(const std::optional<int>& a, const std::optional<int>& b) noexcept {
  if (!a || !b) return a ? a : b;
  return std::min(*a, *b);
}

std::optional<int> read_quota() {
  const std::string root = "/sys/fs/cgroup";
  const std::string groups = read_text("/proc/self/cgroup");
  std::string path(control_group_of(groups));
  std::optional<int> quota = quota_of(read_text(root + "/cpu.max"));
  for (; path.size() > 1; path.resize(path.rfind('/')))
    quota = least(quota, quota_of(read_text(root + path + "/cpu.max")));
  if (quota) return quota;
  // Version 1, as containers see it.
  const std::string v1 = root + "/cpu/cpu.cfs_";
  return quota_of(read_text(v1 + "quota_us") + " " + read_text(v1 + "period_us"));
}

}  // namespace

std::optional<int> quota_of(std::string_view cpu_max) noexcept {
  std::int64_t time = 0, period = 0;
  const char *from = cpu_max.data(), *const end = from + cpu_max.size();
  for (std::int64_t* const number : {&time, &period}) {
    while (from != end && (*from == ' ' || *from == '\n')) ++from;
    const auto [next, error] = std::from_chars(from, end, *number);
    if (error != std::errc() || *number <= 0) return std::nullopt;
    from = next;
  }
  constexpr std::int64_t most = std::numeric_limits<int>::max();
  return static_cast<int>(std::clamp<std::int64_t>(time / period, 1, most));
}

std::string_view control_group_of(std::string_view cgroups) noexcept {
  constexpr std::string_view start = "0::/";
  for (std::size_t begin = 0; begin < cgroups.size();) {
    const std::size_t end = std::min(cgroups.find('\n', begin), cgroups.size());
    const std::string_view line = cgroups.substr(begin, end - begin);
    if (line.starts_with(start)) return line.substr(start.size() - 1);
    begin = end + 1;
  }
  return {};
}

std::optional<int> processor_quota() noexcept {
  static const std::optional<int> quota = []() noexcept -> std::optional<int> {
    try {
      return read_quota();
    } catch (...) {
      return std::nullopt;  // memory ran out; calls go on without knowing
    }
  }();
  return quota;
}

int available_processors() noexcept {
  int processors = 0;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) processors = CPU_COUNT(&set);
#endif
  if (processors == 0) processors = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(processors, processor_quota().value_or(processors)));
}

}  // namespace attn::detail
