// Which kernels there are, and which a processor takes.
#include "kernels/select.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

#include "onednn/isa.hpp"

namespace attn {
namespace kernels {

extern const Kernels baseline_kernels;
#if defined(ATTN_X86_KERNELS)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512_bf16_kernels;
#endif

namespace {

struct Entry {
  Isa isa;
  const Kernels* kernels;
  bool (*supported)();
};

/// Weakest first. The conditions are those of the flags in kernels.cmake.
const auto& entries() {
  static const std::array list = {
    Entry{Isa::baseline, &baseline_kernels, [] { return true; }},
#if defined(ATTN_X86_KERNELS)
    Entry{Isa::avx2, &avx2_kernels,
          [] {
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
          }},
    Entry{Isa::avx512, &avx512_kernels,
          [] {
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl");
          }},
    Entry{
        Isa::avx512_bf16, &avx512_bf16_kernels,
        [] { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl"); }},
#endif
  };
  return list;
}

}  // namespace

const Kernels& kernels_for(Isa isa) {
  for (const Entry& entry : entries()) {
    if (entry.isa == isa && entry.supported()) return *entry.kernels;
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("isa {} is not available in this build on this processor", name_of(isa)));
}

std::vector<Isa> built_isas() {
  std::vector<Isa> built;
  for (const Entry& entry : entries()) built.push_back(entry.isa);
  return built;
}

}  // namespace kernels

namespace {

constexpr std::array<std::pair<Isa, std::string_view>, 4> names = {{
    {Isa::baseline, "baseline"},
    {Isa::avx2, "avx2"},
    {Isa::avx512, "avx512"},
    {Isa::avx512_bf16, "avx512_bf16"},
}};

}  // namespace

std::string_view name_of(Isa isa) noexcept { return names[static_cast<std::size_t>(isa)].second; }

Isa isa_from_name(std::string_view name) {
  std::string known;
  for (const auto& [isa, its_name] : names) {
    if (its_name == name) return isa;
    known += (known.empty() ? "" : ", ") + std::string(its_name);
  }
  throw Error(ErrorCode::invalid_argument,
              fmt::format("isa \"{}\" is not known; known are {}", name, known));
}

std::vector<Isa> available_isas() {
  std::vector<Isa> available;
  for (const auto& entry : kernels::entries()) {
    if (entry.supported()) available.push_back(entry.isa);
  }
  return available;
}

Isa default_isa() {
  const Isa bound = onednn::effective_isa();
  Isa strongest = Isa::baseline;
  for (const auto& entry : kernels::entries()) {
    if (entry.isa <= bound && entry.supported()) strongest = entry.isa;
  }
  return strongest;
}

}  // namespace attn
