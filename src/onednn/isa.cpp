#include "onednn/isa.hpp"

#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.h>

namespace attn::onednn {

bool available() noexcept { return true; }

bool may_use(Isa isa) {
  const auto allowed = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  // A dnnl_cpu_isa_t is a set of features, and a newer one contains the older ones. So containment
  // is right for values, too, that this version of oneDNN does not name yet.
  const auto contains = [allowed](unsigned needed) { return (allowed & needed) == needed; };
  switch (isa) {
#define ATTN_ISA(name, processor, flags, condition, onednn_isa) \
  case Isa::name:                                               \
    return contains(static_cast<unsigned>(onednn_isa));
#include "kernels/isas.inc"
#undef ATTN_ISA
  }
  return false;
}

std::string version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace attn::onednn
