// How many processors a thread may use.
#pragma once

#include <optional>
#include <string_view>

namespace attn::detail {

/// The whole processors of a quota, at least 1, from the text of a control group's cpu.max:
/// "150000 100000" (time and period in microseconds) are 1, "max 100000" is no quota. Empty if
/// there is none or the text is something else.
std::optional<int> quota_of(std::string_view cpu_max) noexcept;

/// The path of the control group (version 2) in the text of /proc/self/cgroup; empty without one.
std::string_view control_group_of(std::string_view cgroups) noexcept;

/// The least quota of the process's control group and those above it. It is read once.
std::optional<int> processor_quota() noexcept;

/// The processors that the calling thread may run on, or the quota, if that is less. At least 1.
int available_processors() noexcept;

}  // namespace attn::detail
