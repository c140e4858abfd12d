#include "onednn/isa.hpp"

#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.h>

namespace attn::onednn {

Isa effective_isa() {
  const auto bits = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  // The values are sets of features, and a later set holds the earlier ones: containment also
  // places the sets that this version of oneDNN does not name yet.
  const auto contains = [bits](dnnl_cpu_isa_t isa) {
    return (bits & static_cast<unsigned>(isa)) == static_cast<unsigned>(isa);
  };
  if (contains(dnnl_cpu_isa_avx512_core_bf16)) return Isa::avx512_bf16;
  if (contains(dnnl_cpu_isa_avx512_core)) return Isa::avx512;
  if (contains(dnnl_cpu_isa_avx2)) return Isa::avx2;
  return Isa::baseline;
}

std::string version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace attn::onednn
