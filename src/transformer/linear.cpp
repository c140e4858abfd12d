#include "transformer/linear.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <string>

#include "iterate/row.hpp"
#include "matmul/multiply_rows.hpp"
#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn {

LinearWeights part_of(const LinearWeights& fused, std::int64_t begin, std::int64_t end) {
  return {.weight = fused.weight.sliced(0, begin, end),
          .bias = fused.bias.absent() ? TensorView{} : fused.bias.sliced(0, begin, end)};
}

}  // namespace attn

namespace attn::detail {
namespace {

constexpr std::int64_t least_onednn_rows = 8;
constexpr std::int64_t most_onednn_rows = 256;  // larger pieces were not faster

std::byte* at(const MutableTensorView& matrix, std::int64_t row, std::int64_t column = 0) {
  const std::int64_t offset = row * matrix.strides[0] + column;
  return static_cast<std::byte*>(matrix.data) +
         offset * static_cast<std::int64_t>(size_of(matrix.dtype));
}
const std::byte* at(const TensorView& matrix, std::int64_t row) {
  return static_cast<const std::byte*>(matrix.data) +
         row * matrix.strides[0] * static_cast<std::int64_t>(size_of(matrix.dtype));
}

/// The kernels for weights of a compute type: those for pairs of bf16 where the instruction set
/// multiplies them, or those for f32.
const kernels::Arithmetic& arithmetic_for(DType dtype, std::int64_t in_features,
                                          const kernels::Kernels& kernels) {
  const bool pairs = dtype == DType::bf16 && kernels.bf16.matmul != nullptr && in_features % 2 == 0;
  return pairs ? kernels.bf16 : kernels.f32;
}

}  // namespace

void check_linear(const NamedWeights& linear, std::int64_t in_features) {
  const auto& [weight, bias] = linear.weights;
  const std::string name = std::string(linear.name) + ".weight";
  require_rank(name.c_str(), weight, 2, "[out, in]");
  require_float(name.c_str(), weight);
  require_extent(name.c_str(), weight, 0, linear.out_features, "outputs");
  require_extent(name.c_str(), weight, 1, in_features, "inputs");
  require_data(name.c_str(), weight);
  if (bias.absent()) return;
  const std::string bias_name = std::string(linear.name) + ".bias";
  require_rank(bias_name.c_str(), bias, 1, "[out]");
  require_float(bias_name.c_str(), bias);
  require_extent(bias_name.c_str(), bias, 0, linear.out_features, "outputs");
  require_data(bias_name.c_str(), bias);
}

Linear::Linear(std::span<const NamedWeights> parts, std::int64_t in_features, DType dtype,
               const ResolvedExecution& resources)
    : in_features_(in_features),
      out_features_(0),
      resources_(resources),
      arithmetic_(arithmetic_for(dtype, in_features, resources.kernels)),
      operands_(arithmetic_.vnni_factor == 2 ? DType::bf16 : DType::f32) {
  bool biased = false;
  for (const NamedWeights& part : parts) {
    out_features_ += part.out_features;
    biased = biased || !part.weights.bias.absent();
  }
  const std::int64_t width = resources.kernels.panel_width;
  const std::int64_t depth =
      round_up(divide_up(in_features, arithmetic_.vnni_factor), onednn::weight_depth_step);
  const std::int64_t panels = divide_up(out_features_, width);
  layout_ = {.row_stride = width, .panel_stride = depth * width, .panel_width = width};
  panels_ = Tensor(DType::f32, {panels, depth, width});
  if (width == onednn::weight_panel_width) {
    onednn_to_f32_ =
        onednn::PackedMatmul::fast(shape(least_onednn_rows, DType::f32, Result::replace));
    onednn_to_bf16_ =
        onednn::PackedMatmul::fast(shape(least_onednn_rows, DType::bf16, Result::replace));
  }

  const Threads threads = resources.threads.at_most(panels);
  WorkStealingRange shares(panels, threads.count);
  parallel(threads, [&](Team& team, int thread) {
    team.attempt([&] {
      Tensor staging(DType::f32, {width, depth});
      shares.for_each(thread,
                      [&](std::int64_t panel) { pack_panel(parts, panel, staging.data<float>()); });
    });
  });
  if (!biased) return;
  bias_ = Tensor(DType::f32, {panels * width});
  std::int64_t first = 0;
  for (const NamedWeights& part : parts) {
    if (!part.weights.bias.absent())
      copy_into(part.weights.bias, bias_.view().sliced(0, first, first + part.out_features));
    first += part.out_features;
  }
}

/// Packs one panel. `staging` has room for the panel's outputs before they are transposed,
/// [panel_width, depth] elements of 4 bytes: floats, or pairs of bf16 (the VNNI layout).
void Linear::pack_panel(std::span<const NamedWeights> parts, std::int64_t panel, float* staging) {
  const std::int64_t width = layout_.panel_width, depth = panels_.shape()[1],
                     vnni_factor = arithmetic_.vnni_factor;
  const std::int64_t begin = panel * width, count = std::min(width, out_features_ - begin);
  const MutableTensorView rows(staging, operands_, {count, in_features_}, {depth * vnni_factor, 1});
  std::int64_t first = 0;  // the number of the part's first output among all
  for (const NamedWeights& part : parts) {
    const std::int64_t from = std::max(begin, first),
                       to = std::min(begin + count, first + part.out_features);
    if (from < to)
      copy_into(part.weights.weight.sliced(0, from - first, to - first),
                rows.sliced(0, from - begin, to - begin));
    first += part.out_features;
  }
  float* const to = panels_.data<float>() + panel * layout_.panel_stride;
  resources_.kernels.pack_transposed(staging, depth, count, divide_up(in_features_, vnni_factor),
                                     to, layout_.row_stride);
}

onednn::PackedMatmulShape Linear::shape(std::int64_t rows, DType result_type, Result result) const {
  return {.m = rows,
          .n = out_features_,
          .k = in_features_,
          .operands = operands_,
          .result = result_type,
          .bias = bias_.size() > 0,
          .accumulate = result == Result::add,
          .num_threads = resources_.threads.count};
}

/// The number of rows that oneDNN multiplies next: a power of two, or 0 if the micro-kernel
/// multiplies all of them.
std::int64_t Linear::onednn_rows(std::int64_t rows, DType result_type) const noexcept {
  const bool fast = result_type == DType::bf16 ? onednn_to_bf16_ : onednn_to_f32_;
  if (!fast || rows < least_onednn_rows) return 0;
  std::int64_t piece = most_onednn_rows;
  while (piece > rows) piece /= 2;
  return piece;
}

bool Linear::uses_onednn(const TokenShape& tokens) const noexcept {
  const std::int64_t rows = tokens.ragged() && !tokens.joined ? tokens.seq : tokens.count();
  return onednn_rows(rows, DType::f32) > 0 || onednn_rows(rows, DType::bf16) > 0;
}

void Linear::forward(const TensorView& x, const MutableTensorView& y, Result result,
                     ForwardScratch::Memory& memory, std::span<const std::int64_t> offsets) const {
  const std::int64_t whole[] = {0, x.shape[0]};
  if (offsets.empty()) offsets = whole;
  // The rows that oneDNN leaves of neighboring sequences are multiplied together: the micro-kernel
  // gives a row the same bits whatever its neighbors are, and reads the weights once for all.
  std::int64_t begin = 0, end = 0;
  const auto multiply_left = [&] {
    if (begin < end)
      forward_by_micro_kernel(x.sliced(0, begin, end), y.sliced(0, begin, end), result);
  };
  for (std::size_t n = 0; n + 1 < offsets.size(); ++n) {
    const std::int64_t first = offsets[n], last = offsets[n + 1];
    const std::int64_t done =
        forward_by_onednn(x.sliced(0, first, last), y.sliced(0, first, last), result, memory);
    if (done > 0) {
      multiply_left();
      begin = first + done;
    }
    end = last;
  }
  multiply_left();
}

/// Multiplies the first rows, as many as oneDNN takes, and returns their number.
std::int64_t Linear::forward_by_onednn(const TensorView& x, const MutableTensorView& y,
                                       Result result, ForwardScratch::Memory& memory) const {
  std::int64_t done = 0;
  while (const std::int64_t piece = onednn_rows(x.shape[0] - done, y.dtype)) {
    const float* bias = bias_.size() > 0 ? bias_.data<float>() : nullptr;
    memory.matmul(shape(piece, y.dtype, result))
        .execute(at(x, done), panels_.data<float>(), bias, at(y, done));
    done += piece;
  }
  return done;
}

void Linear::forward_by_micro_kernel(const TensorView& x, const MutableTensorView& y,
                                     Result result) const {
  const std::int64_t rows = x.shape[0];
  const std::int64_t panels = panels_.shape()[0], pieces = divide_up(rows, rows_of_piece);
  const Threads threads = threads_for(rows * in_features_ * out_features_ / 16, resources_.threads);
  parallel_for(threads, panels * pieces, [&](std::int64_t index) {
    const std::int64_t begin = index % pieces * rows_of_piece,
                       end = std::min(rows, begin + rows_of_piece);
    multiply_panel(x.sliced(0, begin, end), y.sliced(0, begin, end), result, index / pieces);
  });
}

/// Multiplies at most rows_of_piece rows by one panel.
void Linear::multiply_panel(const TensorView& x, const MutableTensorView& y, Result result,
                            std::int64_t panel) const {
  alignas(64) std::array<float, rows_of_piece * widest_panel> product;
  const std::int64_t width = layout_.panel_width, vnni_factor = arithmetic_.vnni_factor;
  const std::int64_t begin = panel * width, count = std::min(width, out_features_ - begin);
  const float* const bias = bias_.size() > 0 ? bias_.data<float>() + begin : nullptr;
  multiply_rows(arithmetic_, {.a = reinterpret_cast<const float*>(at(x, 0)),
                              .a_stride = in_features_ / vnni_factor,
                              .b = {panels_.data<float>() + panel * layout_.panel_stride, layout_},
                              .c = product.data(),
                              .c_stride = width,
                              .rows = x.shape[0],
                              .columns = count,
                              .depth = in_features_ / vnni_factor,
                              .accumulate = false});
  for (std::int64_t r = 0; r < x.shape[0]; ++r) {
    float* const row = product.data() + r * width;
    if (bias != nullptr) std::transform(row, row + count, bias, row, std::plus<>());
    auto* const to = at(y, r, begin);
    if (result == Result::add)
      std::transform(row, row + count, reinterpret_cast<const float*>(to), row, std::plus<>());
    write_row(row, count, resources_.kernels, {to, y.dtype, 1});
  }
}

}  // namespace attn::detail
