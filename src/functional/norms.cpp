// Norms of rows. A row is read three times: for its mean, for its variance and for its result. A
// row of fewer than about 100,000 elements is in a cache after the first time.
#include <attn/functional.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "iterate/elements.hpp"
#include "iterate/slices.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

/// The dims from `dim` on.
Dims dims_from(const Dims& dims, int dim) { return Dims(dims.begin() + dim, dims.rank() - dim); }

int checked_row_dim(const TensorView& x, const MutableTensorView& y, const NormOptions& options) {
  require_input("x", x);
  require_output_like("y", y, "x", x);
  require_epsilon("options.epsilon", options.epsilon);
  return checked_dim("x", x, options.dim);
}

/// A view of the tensor in a broadcast shape, where dims that it lacks or whose extent is 1 repeat
/// its elements. No value if it does not broadcast to the shape.
std::optional<TensorView> broadcast_to(const TensorView& tensor, const Dims& shape) {
  const int missing = shape.rank() - tensor.rank();
  if (missing < 0) return std::nullopt;
  Dims strides = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    const bool given = dim >= missing;
    if (given && tensor.shape[dim - missing] != shape[dim] && tensor.shape[dim - missing] != 1)
      return std::nullopt;
    strides[dim] = given && tensor.shape[dim - missing] != 1 ? tensor.strides[dim - missing] : 0;
  }
  return TensorView(tensor.data, tensor.dtype, shape, strides);
}

/// The scale or bias of a norm as a dense row of floats, or null for an absent tensor.
class ParameterRow {
 public:
  ParameterRow(const char* name, const TensorView& tensor, const TensorView& x, int dim) {
    if (tensor.absent()) return;
    require_float(name, tensor);
    require_data(name, tensor);
    row_ = broadcast_to(tensor, dims_from(x.shape, dim));
    if (row_) return;
    reject(fmt::format("{} has shape {}; it needs one that broadcasts to {} (x from dim {} on)",
                       name, tensor.shape.to_string(), dims_from(x.shape, dim).to_string(), dim));
  }

  /// Called once, after all arguments were checked, as it may allocate.
  const float* floats(const kernels::Kernels& kernels) {
    if (!row_) return nullptr;
    const std::int64_t count = row_->size();
    const Elements elements(*row_);
    if (const float* const there = elements.in_place(0, count)) return there;
    copy_ = Tensor(DType::f32, {count});
    elements.read(0, count, kernels, copy_.data<float>());
    return copy_.data<float>();
  }

 private:
  std::optional<TensorView> row_;
  Tensor copy_;
};

/// An optional output with one number for each row.
class RowStatistic {
 public:
  RowStatistic(const char* name, const MutableTensorView& tensor, const TensorView& x, int dim) {
    if (tensor.absent()) return;
    Dims shape = x.shape;
    for (int n = dim; n < shape.rank(); ++n) shape[n] = 1;
    require_output_like(name, tensor, fmt::format("x with 1 from dim {} on", dim).c_str(),
                        TensorView(nullptr, DType::f32, shape));
    // Offsets are computed from strides that were checked, as others may overflow.
    numbers_.emplace(tensor);
  }

  void set(std::int64_t row, double value, const kernels::Kernels& kernels) const noexcept {
    if (numbers_) numbers_->write_one(static_cast<float>(value), row, kernels);
  }

 private:
  std::optional<Elements> numbers_;
};

/// A view of the tensor in which the dims from `dim` on are one dim. No value if no stride makes
/// them one.
template <class Void>
std::optional<BasicTensorView<Void>> with_row_as_one_dim(const BasicTensorView<Void>& tensor,
                                                         int dim) {
  std::int64_t extent = 1, stride = 1;
  for (int n = tensor.rank() - 1; n >= dim; --n) {
    if (tensor.shape[n] == 1) continue;
    if (extent != 1 && tensor.strides[n] != stride * extent) return std::nullopt;
    if (extent == 1) stride = tensor.strides[n];
    extent *= tensor.shape[n];
  }
  Dims shape(tensor.shape.begin(), dim + 1), strides(tensor.strides.begin(), dim + 1);
  shape[dim] = extent;
  strides[dim] = stride;
  return BasicTensorView<Void>(tensor.data, tensor.dtype, shape, strides);
}

/// For rows that are not evenly spaced elements. They are copied to memory allocated for the call.
template <class F>
void for_each_scattered_row(const TensorView& x, const MutableTensorView& y, int dim,
                            const ResolvedExecution& resolved, const F& f) {
  const std::int64_t extent = dims_from(x.shape, dim).product();
  const std::int64_t rows = Dims(x.shape.begin(), dim).product();
  const InputAndOutput elements{Elements(x), Elements(y)};
  Tensor memory(DType::f32, {resolved.threads.count, 2, extent});
  parallel_for(resolved.threads, rows, [&](std::int64_t row, int thread) {
    float* const x_staging = memory.data<float>() + thread * 2 * extent;
    elements.apply(row * extent, extent, {resolved.kernels, x_staging, x_staging + extent},
                   [&](const float* src, float* dst) { f(row, src, dst); });
  });
}

/// The longest row that is staged on the stack, in elements.
constexpr std::int64_t most_on_stack = 8192;

/// For rows without gaps of at most most_on_stack elements. Nothing is allocated.
template <class F>
void for_each_dense_row(const TensorView& x, const MutableTensorView& y, int dim,
                        const ResolvedExecution& resolved, const F& f) {
  const std::int64_t extent = x.shape[dim], rows = number_of_slices(x.shape, dim);
  const std::int64_t share = divide_up(rows, resolved.threads.count);
  const std::int64_t piece_size =
      std::max<std::int64_t>(1, std::min(share, most_on_stack / std::max<std::int64_t>(1, extent)));
  const SliceRows x_rows(x, dim), y_rows(y, dim);
  parallel_for(resolved.threads, divide_up(rows, piece_size), [&](std::int64_t piece) {
    std::array<float, most_on_stack> x_staging, y_staging;
    const std::int64_t first = piece * piece_size, last = std::min(first + piece_size, rows);
    for (std::int64_t row = first; row < last; ++row) {
      const Row to = y_rows[row];
      float* const dst = to.dense_f32() ? to.floats() : y_staging.data();
      f(row, as_floats(x_rows[row], extent, resolved.kernels, x_staging.data()), dst);
      if (!to.dense_f32()) write_row(dst, extent, resolved.kernels, to);
    }
  });
}

/// Calls f(row, src, dst) for each row, with src and dst as dense floats.
template <class F>
void for_each_row(const TensorView& x, const MutableTensorView& y, int dim,
                  const ResolvedExecution& resolved, const F& f) {
  constexpr std::int64_t elements_per_exponential = 4;  // that cost the same
  const ResolvedExecution fitting{
      resolved.kernels, threads_for(x.size() / elements_per_exponential, resolved.threads)};
  const auto x_rows = with_row_as_one_dim(x, dim);
  const auto y_rows = with_row_as_one_dim(y, dim);
  if (!x_rows || !y_rows) return for_each_scattered_row(x, y, dim, fitting, f);
  const bool dense = x_rows->strides[dim] == 1 && y_rows->strides[dim] == 1;
  if (dense && x_rows->shape[dim] <= most_on_stack)
    return for_each_dense_row(*x_rows, *y_rows, dim, fitting, f);
  for_each_slice({.in = {*x_rows}, .out = {*y_rows}, .dim = dim}, fitting,
                 [&](const Slice& slice) { f(slice.index, slice.in[0], slice.out[0]); });
}

}  // namespace

void rms_norm(const TensorView& x, const TensorView& scale, const MutableTensorView& y,
              const NormOptions& options, const Execution& execution) {
  const int dim = checked_row_dim(x, y, options);
  ParameterRow scales("scale", scale, x, dim);
  const ResolvedExecution resolved = resolve(execution);
  const kernels::Kernels& kernels = resolved.kernels;
  const std::int64_t extent = dims_from(x.shape, dim).product();
  const float* const scale_row = scales.floats(kernels);
  for_each_row(x, y, dim, resolved, [&](std::int64_t, const float* src, float* dst) {
    const double mean_square = kernels.row_squares(src, extent, 0) / static_cast<double>(extent);
    const double factor = 1 / std::sqrt(mean_square + options.epsilon);
    kernels.normalize({.src = src,
                       .count = extent,
                       .center = 0,
                       .factor = factor,
                       .scale = scale_row,
                       .bias = nullptr,
                       .dst = dst});
  });
}

void layer_norm(const TensorView& x, const TensorView& scale, const TensorView& bias,
                const MutableTensorView& y, const NormOptions& options,
                const LayerNormStatistics& statistics, const Execution& execution) {
  const int dim = checked_row_dim(x, y, options);
  ParameterRow scales("scale", scale, x, dim), biases("bias", bias, x, dim);
  const RowStatistic means("statistics.mean", statistics.mean, x, dim);
  const RowStatistic inverse_deviations("statistics.inverse_deviation",
                                        statistics.inverse_deviation, x, dim);
  const ResolvedExecution resolved = resolve(execution);
  const kernels::Kernels& kernels = resolved.kernels;
  const std::int64_t extent = dims_from(x.shape, dim).product();
  const float* const scale_row = scales.floats(kernels);
  const float* const bias_row = biases.floats(kernels);
  for_each_row(x, y, dim, resolved, [&](std::int64_t row, const float* src, float* dst) {
    const double mean = kernels.rows.sum(src, extent) / static_cast<double>(extent);
    // The mean square less the squared mean would need no second pass, but it cancels if the mean
    // is large.
    const double variance = kernels.row_squares(src, extent, mean) / static_cast<double>(extent);
    const double factor = 1 / std::sqrt(variance + options.epsilon);
    kernels.normalize({.src = src,
                       .count = extent,
                       .center = mean,
                       .factor = factor,
                       .scale = scale_row,
                       .bias = bias_row,
                       .dst = dst});
    means.set(row, mean, kernels);
    inverse_deviations.set(row, factor, kernels);
  });
}

}  // namespace attn
