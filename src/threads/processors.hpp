// How many processors a thread may use.
#pragma once

#include <optional>
#include <string_view>

#if defined(__linux__)
#include <sched.h>
#endif

namespace attn::detail {

/// The whole processors of a quota, at least 1, from the text of a control group's cpu.max:
/// "150000 100000" (time and period in microseconds) are 1, "max 100000" is no quota. Empty if
/// there is none or the text is something else.
std::optional<int> quota_of(std::string_view cpu_max) noexcept;

/// The path of the control group in the text of /proc/self/cgroup; empty without one. `controller`
/// is that of version 1, such as "cpu"; empty for version 2, which has one group for all.
std::string_view control_group_of(std::string_view cgroups, std::string_view controller) noexcept;

/// The least quota of the process's control group and those above it. It is read once.
std::optional<int> processor_quota() noexcept;

/// The processors that a thread's calls may run on.
class ProcessorSet {
 public:
  /// Those of the calling thread. Where OpenMP has bound it to one of its places (OMP_PROC_BIND),
  /// those of all places that it has.
  static ProcessorSet of_this_thread() noexcept;
  /// Moves the calling thread, which runs on this set, to another one. Returns whether it did.
  bool move_to(const ProcessorSet& other) noexcept;
  /// 0 if the system does not say.
  int count() const noexcept;

 private:
#if defined(__linux__)
  bool known_ = false;
  cpu_set_t set_{};
#endif
};

/// Makes the calling thread known to OpenMP, whose functions may be called then. LLVM's runtime
/// lets a thread run on all processors when it first calls one; here it keeps those that it had,
/// unless OMP_PROC_BIND says where threads run.
void enter_openmp() noexcept;

/// The processors of the calling thread, or the quota, if that is less. At least 1.
int available_processors() noexcept;

}  // namespace attn::detail
