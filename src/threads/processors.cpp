#include "threads/processors.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "threads/omp.hpp"

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

/// The least quota of a control group and those above it. read(path) returns that of one.
template <class Read>
std::optional<int> least_quota(std::string path, Read read) {
  std::optional<int> quota = read("");
  for (; path.size() > 1; path.resize(path.rfind('/'))) quota = least(quota, read(path));
  return quota;
}

std::optional<int> read_quota() {
  const std::string root = "/sys/fs/cgroup", groups = read_text("/proc/self/cgroup");
  const std::optional<int> quota = least_quota(
      std::string(control_group_of(groups, "")),
      [&](const std::string& path) { return quota_of(read_text(root + path + "/cpu.max")); });
  if (quota) return quota;
  // Version 1.
  return least_quota(std::string(control_group_of(groups, "cpu")), [&](const std::string& path) {
    const std::string cfs = root + "/cpu" + path + "/cpu.cfs_";
    return quota_of(read_text(cfs + "quota_us") + " " + read_text(cfs + "period_us"));
  });
}

#if defined(__linux__)
/// The processors of OpenMP's place with this number.
cpu_set_t processors_of_place(int place) noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::array<int, CPU_SETSIZE> ids;
  const int count = omp_get_place_num_procs(place);
  if (count > CPU_SETSIZE) return set;
  omp_get_place_proc_ids(place, ids.data());
  std::for_each(ids.begin(), ids.begin() + std::max(count, 0), [&set](int id) {
    if (id >= 0 && id < CPU_SETSIZE) CPU_SET(static_cast<unsigned>(id), &set);
  });
  return set;
}

// Functions of their own call OpenMP here: compilers that know its functions move such calls to the
// beginning of a function.
[[gnu::noinline]] bool openmp_binds_threads() noexcept {
  return omp_get_proc_bind() != omp_proc_bind_false;
}

/// Asks for what makes LLVM's runtime register the thread.
[[gnu::noinline]] bool openmp_has_threads() noexcept { return omp_get_max_threads() > 0; }

/// OpenMP's places, if it binds threads to them.
[[gnu::noinline]] std::vector<cpu_set_t> places_of_bound_threads() {
  std::vector<cpu_set_t> places;
  if (!openmp_binds_threads()) return places;
  for (int place = 0; place < omp_get_num_places(); ++place)
    places.push_back(processors_of_place(place));
  return places;
}

/// The same, read once, since places do not change.
const std::vector<cpu_set_t>& openmp_places() noexcept {
  static const std::vector<cpu_set_t> all = []() noexcept -> std::vector<cpu_set_t> {
    enter_openmp();
    try {
      return places_of_bound_threads();
    } catch (...) {
      return {};  // memory ran out: as if nothing were bound
    }
  }();
  return all;
}

/// Where OpenMP binds threads, and `set` is one of its places: all of its places. OpenMP is not
/// asked for the place of the thread, as GCC's runtime would bind a thread that is not its own.
cpu_set_t without_binding(const cpu_set_t& set) noexcept {
  cpu_set_t all;
  CPU_ZERO(&all);
  bool bound = false;
  for (const cpu_set_t& processors : openmp_places()) {
    bound |= CPU_EQUAL(&processors, &set) != 0;
    CPU_OR(&all, &all, &processors);
  }
  return bound ? all : set;
}
#endif

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

std::string_view control_group_of(std::string_view cgroups, std::string_view controller) noexcept {
  for (std::size_t begin = 0; begin < cgroups.size();) {
    const std::size_t end = std::min(cgroups.find('\n', begin), cgroups.size());
    const std::string_view line = cgroups.substr(begin, end - begin);
    begin = end + 1;
    // number:controllers:path, with commas between controllers
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    std::string_view names = line.substr(first + 1, second - first - 1);
    if (controller.empty() && names.empty()) return line.substr(second + 1);
    while (!names.empty()) {
      const std::size_t comma = std::min(names.find(','), names.size());
      if (!controller.empty() && names.substr(0, comma) == controller)
        return line.substr(second + 1);
      names.remove_prefix(std::min(comma + 1, names.size()));
    }
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

#if defined(__linux__)
void enter_openmp() noexcept {
  thread_local bool entered = false;
  if (entered) return;
  entered = true;
  cpu_set_t before, now;
  const bool known = sched_getaffinity(0, sizeof before, &before) == 0;
  if (!openmp_has_threads() || openmp_binds_threads() || !known) return;
  if (sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&before, &now) == 0)
    sched_setaffinity(0, sizeof before, &before);
}

ProcessorSet ProcessorSet::of_this_thread() noexcept {
  ProcessorSet processors;
  processors.known_ = sched_getaffinity(0, sizeof processors.set_, &processors.set_) == 0;
  if (processors.known_) processors.set_ = without_binding(processors.set_);
  return processors;
}

bool ProcessorSet::move_to(const ProcessorSet& other) noexcept {
  if (!other.known_ || (known_ && CPU_EQUAL(&set_, &other.set_))) return false;
  if (sched_setaffinity(0, sizeof other.set_, &other.set_) != 0) return false;
  *this = other;
  return true;
}

int ProcessorSet::count() const noexcept { return known_ ? CPU_COUNT(&set_) : 0; }
#else
void enter_openmp() noexcept {}
ProcessorSet ProcessorSet::of_this_thread() noexcept { return {}; }
bool ProcessorSet::move_to(const ProcessorSet&) noexcept { return false; }
int ProcessorSet::count() const noexcept { return 0; }
#endif

int available_processors() noexcept {
  int processors = ProcessorSet::of_this_thread().count();
  if (processors == 0) processors = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(processors, processor_quota().value_or(processors)));
}

}  // namespace attn::detail
