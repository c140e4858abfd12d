#include "onednn/ukernel.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "onednn/packed_matmul.hpp"
#include "onednn/runtime.hpp"
#include "tensor/rounding.hpp"

namespace attn::onednn {

#if ATTN_HAS_UKERNEL

namespace {

using dnnl::ukernel::brgemm;

/// A kernel for a panel of `columns` columns; empty if there is none.
brgemm make_kernel(const MatmulShape& shape, std::int64_t columns, std::int64_t row_stride) {
  const auto type = type_of(shape.operands);
  brgemm kernel(shape.m, columns, shape.k, 1, shape.k, row_stride, shape.n, type, type,
                dnnl::memory::data_type::f32, true);
  if (!kernel) return {};
  kernel.set_add_C(shape.accumulate);
  if (!kernel.finalize()) return {};
  kernel.generate();
  return kernel;
}

/// Whether the kernel reads B as it lies: f32 as rows, bf16 as packed pairs of rows.
bool reads_layout(const MatmulShape& shape) {
  using dnnl::ukernel::pack_type;
  const auto type = type_of(shape.operands);
  const pack_type needed = brgemm::get_B_pack_type(type, type);
  return needed == (shape.operands == DType::bf16 ? pack_type::pack32 : pack_type::no_trans);
}

}  // namespace

Ukernel::Ukernel(const MatmulShape& shape)
    : shape_(shape), panel_width_(shape.b_in_panels ? weight_panel_width : shape.n) {
  row_stride_ = shape.b_in_panels ? weight_panel_width : std::max(shape.b_stride, shape.n);
  const bool one_tile = shape.batch == 1 && shape.num_threads == 1 && !shape.b_transposed;
  if (!one_tile || shape.m == 0 || shape.n == 0 || shape.k == 0 || !reads_layout(shape)) return;
  const std::int64_t last = shape.n % panel_width_;
  if (shape.n >= panel_width_) {
    panel_ = make_kernel(shape, panel_width_, row_stride_);
    if (!panel_) return;
  }
  if (last == 0) return;
  last_panel_ = make_kernel(shape, last, row_stride_);
  if (!last_panel_) panel_ = {};
}

std::size_t Ukernel::scratch_size() const {
  const auto size_of_one = [](const brgemm& kernel) {
    return kernel ? kernel.get_scratchpad_size() : 0;
  };
  return std::max(size_of_one(panel_), size_of_one(last_panel_));
}

void Ukernel::execute(const void* a, const void* b, float* c, std::byte* scratch) const {
  const std::int64_t panel_bytes =
      detail::round_up(shape_.k, shape_.b_in_panels ? panel_depth_step(shape_.operands) : 1) *
      panel_width_ * static_cast<std::int64_t>(size_of(shape_.operands));
  static const std::vector<std::pair<dnnl::memory::dim, dnnl::memory::dim>> offsets = {{0, 0}};
  (panel_ ? panel_ : last_panel_).set_hw_context();
  for (std::int64_t first = 0; first < shape_.n; first += panel_width_) {
    const brgemm& kernel = first + panel_width_ <= shape_.n ? panel_ : last_panel_;
    const auto* const panel = static_cast<const std::byte*>(b) + first / panel_width_ * panel_bytes;
    kernel.execute(a, panel, offsets, c + first, scratch);
  }
  brgemm::release_hw_context();
}

#else

Ukernel::Ukernel(const MatmulShape&) {}

#endif

}  // namespace attn::onednn
