#include "quantities.hpp"

#include <fmt/format.h>

#include <array>

namespace attn::apps {
namespace {

/// Three significant digits, without an exponent.
std::string three_digits(double value) {
  const int decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}", value, decimals);
}

}  // namespace

std::string format_seconds(double seconds) {
  if (seconds >= 0.9995) return three_digits(seconds) + " s";
  if (seconds >= 0.9995e-3) return three_digits(seconds * 1e3) + " ms";
  return three_digits(seconds * 1e6) + " us";
}

std::string format_bytes(double bytes) {
  constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  for (; bytes >= 999.5 && unit + 1 < units.size(); ++unit) bytes /= 1024;
  return fmt::format("{} {}", unit == 0 ? fmt::format("{:.0f}", bytes) : three_digits(bytes),
                     units[unit]);
}

std::string format_speedup(double factor) { return three_digits(factor) + " x"; }

std::string format_threads(int num_threads) {
  return fmt::format("{} thread{}", num_threads, num_threads == 1 ? "" : "s");
}

}  // namespace attn::apps
