// oneDNN's micro-kernel for one tile of a product (brgemm). Versions from 3.6 on have it if they
// were built with ONEDNN_EXPERIMENTAL_UKERNEL. It costs less per execution than a primitive, and
// knows nothing of threads.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include <cstddef>
#include <cstdint>

#include "onednn/matmul.hpp"

#if defined(DNNL_EXPERIMENTAL_UKERNEL) && \
    (DNNL_VERSION_MAJOR > 3 || DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 6)
#define ATTN_HAS_UKERNEL 1
#include <oneapi/dnnl/dnnl_ukernel.hpp>
#else
#define ATTN_HAS_UKERNEL 0
#endif

namespace attn::onednn {

/// Kernels for the full panels of B, and for a narrower last one. Empty if this oneDNN has none for
/// the shape. Immutable; several threads may execute it, each with its own scratch memory.
class Ukernel {
 public:
  static constexpr const char* name = "brgemm ukernel";

  Ukernel() = default;
  explicit Ukernel(const MatmulShape& shape);

#if ATTN_HAS_UKERNEL
  explicit operator bool() const noexcept { return static_cast<bool>(panel_) || bool(last_panel_); }
  std::size_t scratch_size() const;
  void execute(const void* a, const void* b, float* c, std::byte* scratch) const;

 private:
  MatmulShape shape_;
  std::int64_t panel_width_ = 0;  // in columns
  std::int64_t row_stride_ = 0;   // of B
  dnnl::ukernel::brgemm panel_, last_panel_;
#else
  explicit operator bool() const noexcept { return false; }
  std::size_t scratch_size() const { return 0; }
  void execute(const void*, const void*, float*, std::byte*) const {}
#endif
};

}  // namespace attn::onednn
