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
/// "1 thread", "2 threads"
std::string format_threads(int num_threads);

}  // namespace attn::apps
