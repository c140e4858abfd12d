#include "oracle/unfused_primitives.hpp"

#include <algorithm>
#include <array>

#include "matmul/multiply_rows.hpp"
#include "onednn/isa.hpp"
#include "onednn/softmax.hpp"
#include "oracle/query_rows.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

using onednn::MatmulShape;

onednn::Matrix score_matrix(const UnfusedCall& call) {
  const Sizes& sizes = call.problem.sizes;
  return {call.scores, num_rows(sizes), sizes.kv_len};
}

/// Packs `count` columns of one matrix B, from `first` on, into panel[k, width].
void pack_panel(const kernels::Kernels& kernels, const MatmulShape& shape, const float* b,
                std::int64_t first, float* panel) {
  const std::int64_t width = kernels.panel_width, count = std::min(width, shape.n - first);
  if (shape.b_transposed)
    return kernels.pack_transposed(b + first * shape.k, shape.k, count, shape.k, panel, width);
  for (std::int64_t k = 0; k < shape.k; ++k, panel += width)
    std::fill(std::copy_n(b + k * shape.n + first, count, panel), panel + width, 0.f);
}

/// Writes `rows` rows and the columns of one panel of C.
void multiply_piece(const kernels::Kernels& kernels, const MatmulShape& shape, const float* a,
                    std::int64_t rows, const kernels::Panels& panel, std::int64_t columns,
                    float* c) {
  // The micro-kernel writes whole vectors, and C has no room for them at the end of a row.
  alignas(64) std::array<float, rows_of_piece * widest_panel> product;
  const std::int64_t width = kernels.panel_width;
  multiply_rows(kernels.f32, {.a = a,
                              .a_stride = shape.k,
                              .b = panel,
                              .c = product.data(),
                              .c_stride = width,
                              .rows = rows,
                              .columns = columns,
                              .depth = shape.k,
                              .accumulate = false});
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(product.data() + r * width, columns, c + r * shape.n);
}

}  // namespace

void multiply_by_panels(const ResolvedExecution& execution, const MatmulShape& shape,
                        const float* a, const float* b, float* c) {
  const kernels::Kernels& kernels = execution.kernels;
  const std::int64_t width = kernels.panel_width, panels = divide_up(shape.n, width),
                     pieces = divide_up(shape.m, rows_of_piece), panel_size = shape.k * width;
  const Threads threads = threads_for(shape.m * shape.n * shape.k * shape.batch, execution.threads);
  Tensor packed(DType::f32, {shape.batch * panels, shape.k, width});
  auto* const packed_data = packed.data<float>();
  parallel_for(threads, shape.batch * panels, [&](std::int64_t index) {
    pack_panel(kernels, shape, b + index / panels * shape.k * shape.n, index % panels * width,
               packed_data + index * panel_size);
  });
  parallel_for(threads, shape.batch * panels * pieces, [&](std::int64_t index) {
    const std::int64_t panel = index / pieces, matrix = panel / panels;
    const std::int64_t row = index % pieces * rows_of_piece, column = panel % panels * width;
    multiply_piece(kernels, shape, a + (matrix * shape.m + row) * shape.k,
                   std::min(rows_of_piece, shape.m - row),
                   {packed_data + panel * panel_size, {width, panel_size, width}},
                   std::min(width, shape.n - column),
                   c + (matrix * shape.m + row) * shape.n + column);
  });
}

void multiply(const UnfusedCall& call, MatmulShape shape, const float* a, const float* b,
              float* c) {
  shape.num_threads = call.threads.count;
  if (onednn::available()) return onednn::multiply(shape, a, b, c);
  multiply_by_panels({call.kernels, call.threads}, shape, a, b, c);
}

void softmax_rows(const UnfusedCall& call) {
  const onednn::Matrix scores = score_matrix(call);
  if (onednn::available()) return onednn::softmax_rows(scores, scores.data, call.threads.count);
  const auto rows_from = [&](std::int64_t first, std::int64_t count) {
    float* const data = scores.data + first * scores.columns;
    softmax_rows(call.kernels, {data, scores.columns, count, scores.columns}, 1,
                 {data, scores.columns});
  };
  parallel_ranges(call.threads, scores.rows, scores.columns,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (; begin < end; begin += kernels::rows_at_once)
                      rows_from(begin, std::min(kernels::rows_at_once, end - begin));
                  });
}

void tanh_elements(const UnfusedCall& call) {
  const onednn::Matrix scores = score_matrix(call);
  if (onednn::available()) return onednn::tanh_elements(scores, call.threads.count);
  parallel_ranges(call.threads, scores.rows * scores.columns, 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    call.kernels.softcap(scores.data + begin, end - begin, 1.f);
                  });
}

}  // namespace attn::detail
