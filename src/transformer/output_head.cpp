#include "transformer/output_head.hpp"

#include <algorithm>
#include <cstring>

#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

const kernels::StoredArithmetic& arithmetic_of(const kernels::Kernels& kernels, DType dtype) {
  switch (dtype) {
    case DType::bf16: return kernels.stored_bf16;
    case DType::f16: return kernels.stored_f16;
    default: return kernels.stored_f32;
  }
}

}  // namespace

OutputHead::OutputHead(const TensorView& weight, const ResolvedExecution& resources)
    : resources_(resources), weight_(weight) {
  if (weight.strides[1] == 1 || weight.shape[1] == 1) return;
  copy_ = copy_as(weight, weight.dtype);
  weight_ = copy_.view();
}

void OutputHead::forward(const TensorView& x, const MutableTensorView& logits,
                         Buffer& padded) const {
  constexpr std::int64_t rows_at_once = 256;  // rows of the weight that a thread takes at a time
  const std::int64_t hidden = x.shape[1], vocab = weight_.shape[0];
  const std::int64_t width = round_up(hidden, kernels::max_vector_width);
  const MutableTensorView queries = padded.view(DType::f32, {x.shape[0], width});
  auto* const q = static_cast<float*>(queries.data);
  std::fill_n(q, queries.size(), 0.f);
  for (std::int64_t r = 0; r < x.shape[0]; ++r) {
    std::memcpy(q + r * width, static_cast<const float*>(x.data) + r * hidden,
                static_cast<std::size_t>(hidden) * sizeof(float));
  }
  const std::int64_t row_bytes =
      weight_.strides[0] * static_cast<std::int64_t>(size_of(weight_.dtype));
  const auto scores = arithmetic_of(resources_.kernels, weight_.dtype).scores;
  parallel_for(
      threads_for(vocab * hidden / 16, resources_.threads), divide_up(vocab, rows_at_once),
      [&](std::int64_t n) {
        const std::int64_t begin = n * rows_at_once, count = std::min(rows_at_once, vocab - begin);
        for (std::int64_t r = 0; r < x.shape[0]; r += kernels::tile_rows) {
          scores({.q = q + r * width,
                  .q_stride = width,
                  .rows = std::min(kernels::tile_rows, x.shape[0] - r),
                  .keys = {.data = static_cast<const std::byte*>(weight_.data) + begin * row_bytes,
                           .stride = row_bytes,
                           .count = count,
                           .width = hidden},
                  .scores = static_cast<float*>(logits.data) + r * logits.strides[0] + begin,
                  .stride = logits.strides[0],
                  .prefetch = {}});
        }
      });
}

}  // namespace attn::detail
