#include <attn/info.hpp>

#include "kernels/select.hpp"
#include "onednn/isa.hpp"
#include "onednn/matmul.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

std::string compiler() {
#if defined(__clang__)
  return "Clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__) + "." +
         std::to_string(__clang_patchlevel__);
#elif defined(__GNUC__)
  return "GCC " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__) + "." +
         std::to_string(__GNUC_PATCHLEVEL__);
#else
  return "unknown compiler";
#endif
}

/// The shape of the scores of a query block and a key block, as prefill computes them on one
/// thread.
constexpr onednn::MatmulShape score_tile{.m = 96, .n = 512, .k = 128};

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.version = ATTN_VERSION;
  info.compiler = compiler();
  info.onednn_version = onednn::version();
  info.isas = kernels::built_isas();
  info.num_threads = default_num_threads();
  if (onednn::available()) {
    const auto matmul = onednn::Matmul::shared(score_tile);
    info.onednn_matmul = matmul->implementation();
    info.onednn_matmul_fast = matmul->fast();
  }
  return info;
}

}  // namespace attn
