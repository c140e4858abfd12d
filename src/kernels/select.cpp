// Which kernels this build has, and which of them a processor can run and a call uses.
#include "kernels/select.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "onednn/isa.hpp"

namespace attn {
namespace kernels {

// Expands its arguments for the instruction sets that this build has.
#define ATTN_BUILT_any(...) __VA_ARGS__
#if defined(ATTN_X86_KERNELS)
#define ATTN_BUILT_x86_64(...) __VA_ARGS__
#else
#define ATTN_BUILT_x86_64(...)
#endif

#define ATTN_ISA(name, processor, flags, condition, onednn_isa) \
  ATTN_BUILT_##processor(extern const Kernels name##_kernels;)
#include "kernels/isas.inc"
#undef ATTN_ISA

namespace {

constexpr std::string_view unknown_isa = "unknown";

struct Entry {
  Isa isa;
  const Kernels* kernels;
  bool (*supported)();
};

/// From the least to the most preferred.
constexpr Entry entries[] = {
#define ATTN_CPU_HAS(feature) (__builtin_cpu_supports(feature) != 0)
#define ATTN_ISA(name, processor, flags, condition, onednn_isa) \
  ATTN_BUILT_##processor({Isa::name, &name##_kernels, [] { return condition; }}, )
#include "kernels/isas.inc"
#undef ATTN_ISA
#undef ATTN_CPU_HAS
};

}  // namespace

const Kernels& kernels_for(Isa isa) {
  for (const Entry& entry : entries) {
    if (entry.isa == isa && entry.supported()) return *entry.kernels;
  }
  if (name_of(isa) == unknown_isa)
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("isa is {}, which is no enumerator of its type", static_cast<int>(isa)));
  throw Error(ErrorCode::unsupported,
              fmt::format("isa {} is not available in this build on this processor", name_of(isa)));
}

std::vector<Isa> built_isas() {
  std::vector<Isa> built;
  for (const Entry& entry : entries) built.push_back(entry.isa);
  return built;
}

}  // namespace kernels

namespace {

struct NamedIsa {
  Isa isa;
  std::string_view name;
};
constexpr NamedIsa named_isas[] = {
#define ATTN_ISA(name, processor, flags, condition, onednn_isa) {Isa::name, #name},
#include "kernels/isas.inc"
#undef ATTN_ISA
};

}  // namespace

std::string_view name_of(Isa isa) noexcept {
  for (const NamedIsa& named : named_isas) {
    if (named.isa == isa) return named.name;
  }
  return kernels::unknown_isa;
}

Isa isa_from_name(std::string_view name) {
  std::string known;
  for (const NamedIsa& named : named_isas) {
    if (named.name == name) return named.isa;
    known += (known.empty() ? "" : ", ") + std::string(named.name);
  }
  throw Error(ErrorCode::invalid_argument,
              fmt::format("isa \"{}\" is not known; known are {}", name, known));
}

std::vector<Isa> available_isas() {
  std::vector<Isa> available;
  for (const auto& entry : kernels::entries) {
    if (entry.supported()) available.push_back(entry.isa);
  }
  return available;
}

Isa default_isa() {
  Isa preferred = Isa::baseline;
  for (const auto& entry : kernels::entries) {
    if (entry.supported() && onednn::may_use(entry.isa)) preferred = entry.isa;
  }
  return preferred;
}

}  // namespace attn
