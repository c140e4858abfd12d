// What compare says about the call that it runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/attn_demo/call/call.hpp"

namespace attn::apps::demo {

/// Sizes, types, masks and cache, on lines that each end with a line break.
std::string describe_call(const Call& call);

/// B, H, HKV, SQ, SKV, D, DV.
std::vector<std::int64_t> sizes_of(const Call& call);

}  // namespace attn::apps::demo
