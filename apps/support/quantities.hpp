// Quantities for people to read: three digits and a unit.
#pragma once

#include <string>

namespace attn::apps {

/// "12.3 ms"
std::string format_seconds(double seconds);
/// "1.25 MiB"
std::string format_bytes(double bytes);
/// "12.3 x"
std::string format_speedup(double factor);

}  // namespace attn::apps
