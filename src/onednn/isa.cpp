#include "onednn/isa.hpp"

#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.h>

namespace attn::onednn {

bool available() noexcept { return true; }

namespace {

// A dnnl_cpu_isa_t is a set of features, and a newer one contains the older ones. So containment is
// right for values, too, that this version of oneDNN does not name yet.
bool contains(unsigned features, unsigned needed) noexcept { return (features & needed) == needed; }

unsigned allowed_features() { return static_cast<unsigned>(dnnl_get_effective_cpu_isa()); }

}  // namespace

bool may_use(Isa isa) {
  const unsigned allowed = allowed_features();
  switch (isa) {
#define ATTN_ISA(name, processor, flags, condition, onednn_isa) \
  case Isa::name:                                               \
    return contains(allowed, static_cast<unsigned>(onednn_isa));
#include "kernels/isas.inc"
#undef ATTN_ISA
  }
  return false;
}

bool contains_amx(unsigned features) noexcept {
  return contains(features, static_cast<unsigned>(dnnl_cpu_isa_avx512_core_amx));
}

bool has_amx() { return contains_amx(allowed_features()); }

std::string version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace attn::onednn
