// Norms of rows. A row is read three times, for its mean, its deviation and its result; one of less
// than some 100,000 elements comes from the cache after the first time.
#include <attn/functional.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <optional>

#include "functional/elements.hpp"
#include "softmax/arguments.hpp"
#include "softmax/slices.hpp"
#include "tensor/checks.hpp"
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

/// The same elements in more dims: a dim that is not there, or of one element, is repeated. Nothing
/// if that does not do.
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

/// scale or bias as a dense row, or null.
class RowOfFactors {
 public:
  RowOfFactors(const char* name, const TensorView& tensor, const TensorView& x, int dim) {
    if (tensor.absent()) return;
    require_float(name, tensor);
    require_data(name, tensor);
    row_ = broadcast_to(tensor, dims_from(x.shape, dim));
    if (row_) return;
    reject(fmt::format("{} has shape {}; it needs one that broadcasts to {} (x from dim {} on)",
                       name, tensor.shape.to_string(), dims_from(x.shape, dim).to_string(), dim));
  }

  /// Once, after all arguments were checked.
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

/// A number for each row.
class Statistic {
 public:
  Statistic(const char* name, const MutableTensorView& tensor, const TensorView& x, int dim)
      : given_(!tensor.absent()), numbers_(tensor) {
    if (!given_) return;
    Dims shape = x.shape;
    for (int n = dim; n < shape.rank(); ++n) shape[n] = 1;
    require_output_like(name, tensor, fmt::format("x with 1 from dim {} on", dim).c_str(),
                        TensorView(nullptr, DType::f32, shape));
  }

  void set(std::int64_t row, double value, const kernels::Kernels& kernels) const noexcept {
    const auto number = static_cast<float>(value);
    if (given_) numbers_.write(&number, row, 1, kernels);
  }

 private:
  bool given_;
  Elements numbers_;
};

/// The tensor with its dims from `dim` on as one, if they lie so.
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

/// Rows that lie in several pieces, through memory that is taken for the call.
template <class F>
void for_each_scattered_row(const TensorView& x, const MutableTensorView& y, int dim,
                            const ResolvedExecution& resources, const F& f) {
  const std::int64_t extent = dims_from(x.shape, dim).product();
  const std::int64_t rows = Dims(x.shape.begin(), dim).product();
  const InAndOut elements{Elements(x), Elements(y)};
  Tensor memory(DType::f32, {resources.num_threads, 2, extent});
  std::atomic<std::int64_t> next{0};
  parallel(resources.num_threads, [&](Team& team, int thread) {
    float* const x_staging = memory.data<float>() + thread * 2 * extent;
    const Staging staging{resources.kernels, x_staging, x_staging + extent};
    for (std::int64_t row = next++; row < rows && !team.failed(); row = next++) {
      team.attempt([&] {
        elements.apply(row * extent, extent, staging,
                       [&](const float* src, float* dst) { f(row, src, dst); });
      });
    }
  });
}

constexpr std::int64_t most_on_stack = 8192;  // elements of a row

/// Rows whose elements lie side by side.
class DenseRows {
 public:
  DenseRows(const TensorView& tensor, int dim) noexcept
      : data_(static_cast<std::byte*>(const_cast<void*>(tensor.data))),
        dtype_(tensor.dtype),
        positions_(Dims(tensor.shape.begin(), dim), Dims(tensor.strides.begin(), dim)) {}
  Row operator[](std::int64_t row) const noexcept {
    return {data_ + positions_.offset(row) * static_cast<std::int64_t>(size_of(dtype_)), dtype_, 1};
  }

 private:
  std::byte* data_;
  DType dtype_;
  ElementOffsets positions_;
};

/// Nothing is allocated.
template <class F>
void for_each_dense_row(const TensorView& x, const MutableTensorView& y, int dim,
                        const ResolvedExecution& resources, const F& f) {
  const std::int64_t extent = x.shape[dim], rows = Dims(x.shape.begin(), dim).product();
  const std::int64_t share = (rows + resources.num_threads - 1) / resources.num_threads;
  const std::int64_t at_once =
      std::max<std::int64_t>(1, std::min(share, most_on_stack / std::max<std::int64_t>(1, extent)));
  const DenseRows x_rows(x, dim), y_rows(y, dim);
  parallel_for(resources.num_threads, (rows + at_once - 1) / at_once, [&](std::int64_t piece) {
    std::array<float, most_on_stack> x_staging, y_staging;
    const std::int64_t first = piece * at_once, last = std::min(first + at_once, rows);
    for (std::int64_t row = first; row < last; ++row) {
      const Row to = y_rows[row];
      float* const dst = to.dense_f32() ? to.floats() : y_staging.data();
      f(row, as_floats(x_rows[row], extent, resources.kernels, x_staging.data()), dst);
      if (!to.dense_f32()) write_row(dst, extent, resources.kernels, to);
    }
  });
}

/// Calls f(row, src, dst) with dense floats.
template <class F>
void for_each_row(const TensorView& x, const MutableTensorView& y, int dim,
                  const ResolvedExecution& resources, const F& f) {
  constexpr std::int64_t lighter = 4;  // than an exponential is what is done with an element
  const ResolvedExecution worthwhile{resources.kernels,
                                     threads_for(x.size() / lighter, resources.num_threads)};
  const auto x_rows = with_row_as_one_dim(x, dim);
  const auto y_rows = with_row_as_one_dim(y, dim);
  if (!x_rows || !y_rows) return for_each_scattered_row(x, y, dim, worthwhile, f);
  const bool dense = x_rows->strides[dim] == 1 && y_rows->strides[dim] == 1;
  if (dense && x_rows->shape[dim] <= most_on_stack)
    return for_each_dense_row(*x_rows, *y_rows, dim, worthwhile, f);
  for_each_slice({.in = {*x_rows}, .out = {*y_rows}, .dim = dim}, worthwhile,
                 [&](const Slice& slice) { f(slice.index, slice.in[0], slice.out[0]); });
}

}  // namespace

void rms_norm(const TensorView& x, const TensorView& scale, const MutableTensorView& y,
              const NormOptions& options, const Execution& execution) {
  const int dim = checked_row_dim(x, y, options);
  RowOfFactors scales("scale", scale, x, dim);
  const ResolvedExecution resources = resolve(execution);
  const kernels::Kernels& kernels = resources.kernels;
  const std::int64_t extent = dims_from(x.shape, dim).product();
  const float* const scale_row = scales.floats(kernels);
  for_each_row(x, y, dim, resources, [&](std::int64_t, const float* src, float* dst) {
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
  RowOfFactors scales("scale", scale, x, dim), biases("bias", bias, x, dim);
  const Statistic means("statistics.mean", statistics.mean, x, dim);
  const Statistic inverse_deviations("statistics.inverse_deviation", statistics.inverse_deviation,
                                     x, dim);
  const ResolvedExecution resources = resolve(execution);
  const kernels::Kernels& kernels = resources.kernels;
  const std::int64_t extent = dims_from(x.shape, dim).product();
  const float* const scale_row = scales.floats(kernels);
  const float* const bias_row = biases.floats(kernels);
  for_each_row(x, y, dim, resources, [&](std::int64_t row, const float* src, float* dst) {
    const double mean = kernels.rows.sum(src, extent) / static_cast<double>(extent);
    // The second pass is about the mean, not the mean square less the squared mean: that would
    // cancel where the mean is large.
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
