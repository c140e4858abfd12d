#include "softmax/slices.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/select.hpp"
#include "tensor/checks.hpp"
#include "tensor/memory.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

struct Release {
  void operator()(void* memory) const noexcept { release(memory); }
};
using Floats = std::unique_ptr<float[], Release>;

Floats allocate_floats(std::int64_t count) {
  return Floats(static_cast<float*>(
      allocate(static_cast<std::size_t>(std::max<std::int64_t>(count, 1)) * sizeof(float))));
}

constexpr std::int64_t line_floats = 16;  // of a cache line
constexpr std::int64_t lines_at_once = 4;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// A tensor's slices, numbered; each is a row of elements `stride` apart.
class Rows {
 public:
  Rows(const TensorView& tensor, int dim)
      : data_(static_cast<std::byte*>(const_cast<void*>(tensor.data))),
        dtype_(tensor.dtype),
        stride_(tensor.strides[dim]),
        positions_(remove_dim(tensor.shape, dim), remove_dim(tensor.strides, dim)) {}

  bool absent() const { return data_ == nullptr; }
  DType dtype() const { return dtype_; }
  std::int64_t stride() const { return stride_; }
  Row row(std::int64_t index) const {
    return {data_ + positions_.offset(index) * static_cast<std::int64_t>(size_of(dtype_)), dtype_,
            stride_};
  }
  bool dense_f32() const { return dtype_ == DType::f32 && stride_ == 1; }
  /// How many rows from `first` on are evenly spaced for certain, and by how much.
  std::int64_t even_from(std::int64_t first, std::int64_t& stride) const {
    return positions_.even_from(first, stride);
  }

 private:
  std::byte* data_;
  DType dtype_;
  std::int64_t stride_;
  ElementOffsets positions_;
};

bool across_slices(const TensorView& tensor, int dim) {
  return !tensor.absent() && tensor.strides[dim] != 1;
}

/// How many slices a thread takes at a time: enough for its turn to be worth taking, and whole
/// cache lines of them where slices may lie side by side.
std::int64_t slices_at_once(const SliceTensors& tensors, std::int64_t extent, std::int64_t count,
                            int num_threads) {
  constexpr std::int64_t elements = 8192;
  const std::int64_t enough = elements / std::max<std::int64_t>(extent, 1) + 1;
  const std::int64_t share = (count + num_threads - 1) / num_threads;
  const auto across = [&](const TensorView& tensor) { return across_slices(tensor, tensors.dim); };
  if (std::ranges::any_of(tensors.in, across) || std::ranges::any_of(tensors.out, across)) {
    // Neighboring lines of memory are best read together, as long as a core's second-level cache
    // keeps what they hold.
    constexpr std::int64_t kept = 131072;
    const std::int64_t lines = std::clamp<std::int64_t>(
        kept / (std::max<std::int64_t>(extent, 1) * line_floats), 1, lines_at_once);
    return round_up(std::min(std::max(enough, lines * line_floats), share), line_floats);
  }
  return std::min(enough, share);
}

/// One thread's way through the loop.
class Worker {
 public:
  Worker(const SliceTensors& tensors, const kernels::Kernels& kernels, std::int64_t at_once)
      : kernels_(kernels),
        extent_(extent_of(tensors)),
        row_stride_(row_stride(extent_)),
        rows_at_once_(rows_at_once(extent_)) {
    for (const TensorView& tensor : tensors.in) add(tensor, tensors.dim, at_once);
    for (const MutableTensorView& tensor : tensors.out) add(tensor, tensors.dim, at_once);
    scratch_ = allocate_floats(tensors.scratch);
    line_ = allocate_floats(line_floats * at_once);
  }

  static std::int64_t extent_of(const SliceTensors& tensors) {
    for (const TensorView& tensor : tensors.in) {
      if (!tensor.absent()) return tensor.shape[tensors.dim];
    }
    return tensors.out[0].shape[tensors.dim];
  }

  void take(std::int64_t first, std::int64_t count, const std::function<void(const Slices&)>& f) {
    for (std::size_t n = 0; n < inputs; ++n) read(operands_[n], first, count);
    for (std::int64_t n = 0; n < count;) {
      Slices slices{.first = first + n,
                    .count = std::min(rows_at_once_, count - n),
                    .in = {},
                    .out = {},
                    .scratch = scratch_.get()};
      std::array<EvenFloats, inputs + outputs> even;
      for (std::size_t i = 0; i < even.size(); ++i) {
        even[i] = floats(operands_[i], first, n);
        slices.count = std::min(slices.count, even[i].count);
      }
      for (std::size_t i = 0; i < inputs; ++i)
        slices.in[i] = {even[i].data, even[i].stride, slices.count, extent_};
      for (std::size_t i = 0; i < outputs; ++i)
        slices.out[i] = {even[inputs + i].data, even[inputs + i].stride};
      f(slices);
      n += slices.count;
    }
    for (std::size_t n = 0; n < outputs; ++n) write(operands_[inputs + n], first, count);
  }

 private:
  static constexpr std::size_t inputs = std::tuple_size_v<decltype(SliceTensors::in)>;
  static constexpr std::size_t outputs = std::tuple_size_v<decltype(SliceTensors::out)>;

  struct Operand {
    Rows rows;
    float* staging;  // of the slices that are not floats side by side
  };

  /// An odd number of cache lines: rows a power of two apart would share the same places of a
  /// cache.
  static std::int64_t row_stride(std::int64_t extent) {
    const std::int64_t lines = (extent + line_floats - 1) / line_floats;
    return (lines + 1 - lines % 2) * line_floats;
  }

  /// Few enough for L1 to keep what is read and what is written.
  static std::int64_t rows_at_once(std::int64_t extent) {
    constexpr std::int64_t elements = 4096;
    return std::clamp<std::int64_t>(elements / std::max<std::int64_t>(extent, 1), 1,
                                    kernels::rows_at_once);
  }

  void add(const TensorView& tensor, int dim, std::int64_t at_once) {
    if (tensor.absent())
      return operands_.push_back({Rows(TensorView(nullptr, DType::f32, {0}), 0), nullptr});
    const Rows rows(tensor, dim);
    // The first output may be the memory of the first input, and so takes its place: it is in the
    // caches.
    const bool takes_place = operands_.size() == inputs && operands_[0].staging != nullptr;
    float* const staging = rows.dense_f32() ? nullptr
                           : takes_place    ? operands_[0].staging
                                            : allocate_staging(at_once);
    operands_.push_back({rows, staging});
  }

  float* allocate_staging(std::int64_t at_once) {
    return staging_.emplace_back(allocate_floats(at_once * row_stride_)).get();
  }

  /// Rows of floats, and how many are evenly spaced for certain.
  struct EvenFloats {
    float* data = nullptr;
    std::int64_t stride = 0;
    std::int64_t count = std::numeric_limits<std::int64_t>::max();
  };
  EvenFloats floats(const Operand& operand, std::int64_t first, std::int64_t n) const {
    if (operand.rows.absent()) return {};
    if (operand.staging) return {.data = operand.staging + n * row_stride_, .stride = row_stride_};
    EvenFloats even{.data = operand.rows.row(first + n).floats()};
    even.count = operand.rows.even_from(first + n, even.stride);
    return even;
  }

  /// How many of these slices lie side by side, in whole cache lines.
  static std::int64_t side_by_side(const Operand& operand, std::int64_t first, std::int64_t count) {
    std::int64_t between = 0;
    const std::int64_t even = std::min(operand.rows.even_from(first, between), count);
    return operand.rows.stride() != 1 && between == 1 ? even / line_floats * line_floats : 0;
  }

  void read(const Operand& operand, std::int64_t first, std::int64_t count) {
    if (operand.rows.absent() || !operand.staging) return;
    std::int64_t n = 0;
    for (std::int64_t width = 0; (width = side_by_side(operand, first + n, count - n)) > 0;
         n += width) {
      read_side_by_side(operand, first + n, width, operand.staging + n * row_stride_);
    }
    for (; n < count; ++n)
      read_row(operand.rows.row(first + n), extent_, kernels_, operand.staging + n * row_stride_);
  }

  void write(const Operand& operand, std::int64_t first, std::int64_t count) {
    if (operand.rows.absent() || !operand.staging) return;
    std::int64_t n = 0;
    for (std::int64_t width = 0; (width = side_by_side(operand, first + n, count - n)) > 0;
         n += width) {
      write_side_by_side(operand, first + n, width, operand.staging + n * row_stride_);
    }
    for (; n < count; ++n)
      write_row(operand.staging + n * row_stride_, extent_, kernels_, operand.rows.row(first + n));
  }

  /// Through a transposition; of 16-bit types, 16 elements of all slices at a time.
  void read_side_by_side(const Operand& operand, std::int64_t first, std::int64_t width,
                         float* to) {
    Row across = operand.rows.row(first);
    const std::int64_t step =
        operand.rows.stride() * static_cast<std::int64_t>(size_of(across.dtype));
    if (across.dtype == DType::f32) {
      return kernels_.pack_transposed(across.floats(), across.stride, extent_, width, to,
                                      row_stride_);
    }
    across.stride = 1;
    for (std::int64_t begin = 0; begin < extent_; begin += line_floats) {
      const std::int64_t count = std::min(line_floats, extent_ - begin);
      for (std::int64_t i = 0; i < count; ++i, across.data += step)
        read_row(across, width, kernels_, line_.get() + i * width);
      kernels_.pack_transposed(line_.get(), width, count, width, to + begin, row_stride_);
    }
  }

  void write_side_by_side(const Operand& operand, std::int64_t first, std::int64_t width,
                          const float* from) {
    Row across = operand.rows.row(first);
    const std::int64_t step =
        operand.rows.stride() * static_cast<std::int64_t>(size_of(across.dtype));
    if (across.dtype == DType::f32) {
      return kernels_.pack_transposed(from, row_stride_, width, extent_, across.floats(),
                                      across.stride);
    }
    across.stride = 1;
    for (std::int64_t begin = 0; begin < extent_; begin += line_floats) {
      const std::int64_t count = std::min(line_floats, extent_ - begin);
      kernels_.pack_transposed(from + begin, row_stride_, width, count, line_.get(), width);
      for (std::int64_t i = 0; i < count; ++i, across.data += step)
        write_row(line_.get() + i * width, width, kernels_, across);
    }
  }

  const kernels::Kernels& kernels_;
  std::int64_t extent_;
  std::int64_t row_stride_;
  std::int64_t rows_at_once_;
  std::vector<Operand> operands_;
  std::vector<Floats> staging_;
  Floats scratch_, line_;
};

std::int64_t count_of(const SliceTensors& tensors) {
  for (const TensorView& tensor : tensors.in) {
    if (!tensor.absent()) return number_of_slices(tensor.shape, tensors.dim);
  }
  return number_of_slices(tensors.out[0].shape, tensors.dim);
}

}  // namespace

ElementOffsets::ElementOffsets(const Dims& shape, const Dims& strides) noexcept {
  std::array<std::int64_t, Dims::max_rank> extents{}, steps{};
  int rank = 0;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    if (shape[dim] == 1) continue;
    if (rank > 0 && steps[static_cast<std::size_t>(rank - 1)] == strides[dim] * shape[dim]) {
      extents[static_cast<std::size_t>(rank - 1)] *= shape[dim];
      steps[static_cast<std::size_t>(rank - 1)] = strides[dim];
    } else {
      extents[static_cast<std::size_t>(rank)] = shape[dim];
      steps[static_cast<std::size_t>(rank++)] = strides[dim];
    }
  }
  shape_ = Dims(extents.data(), rank);
  strides_ = Dims(steps.data(), rank);
}

std::int64_t ElementOffsets::even_from(std::int64_t first, std::int64_t& stride) const noexcept {
  const int last = shape_.rank() - 1;
  stride = last < 0 ? 1 : strides_[last];
  return last < 0 ? 1 : shape_[last] - (last == 0 ? first : first % shape_[last]);
}

Row PerSliceFloat::row(std::int64_t index) const noexcept {
  auto* const data = static_cast<std::byte*>(const_cast<void*>(tensor_.data));
  return {data + positions_.offset(index) * static_cast<std::int64_t>(size_of(tensor_.dtype)),
          tensor_.dtype, 1};
}

float PerSliceFloat::read(std::int64_t index, const kernels::Kernels& kernels) const noexcept {
  float value = 0;
  read_row(row(index), 1, kernels, &value);
  return value;
}

void PerSliceFloat::write(std::int64_t index, float value,
                          const kernels::Kernels& kernels) const noexcept {
  write_row(&value, 1, kernels, row(index));
}

ResolvedExecution resolve(const Execution& execution) {
  if (execution.num_threads) require_positive("num_threads", *execution.num_threads);
  const int threads = default_num_threads();
  return {kernels::kernels_for(execution.isa.value_or(default_isa())),
          execution.num_threads.value_or(threads)};
}

int threads_for(std::int64_t elements, int num_threads) noexcept {
  constexpr std::int64_t worth_waking_for = 16384;
  return static_cast<int>(std::clamp<std::int64_t>(elements / worth_waking_for, 1, num_threads));
}

Slice Slices::slice(std::int64_t n) const noexcept {
  Slice slice{.index = first + n, .extent = in[0].count, .in = {}, .out = {}, .scratch = scratch};
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].data != nullptr) slice.in[i] = in[i].data + n * in[i].stride;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i].data != nullptr) slice.out[i] = out[i].data + n * out[i].stride;
  }
  return slice;
}

void for_each_slice(const SliceTensors& tensors, const ResolvedExecution& resources,
                    const std::function<void(const Slice&)>& f) {
  for_each_slices(tensors, resources, [&](const Slices& slices) {
    for (std::int64_t n = 0; n < slices.count; ++n) f(slices.slice(n));
  });
}

void for_each_slices(const SliceTensors& tensors, const ResolvedExecution& resources,
                     const std::function<void(const Slices&)>& f) {
  const std::int64_t count = count_of(tensors), extent = Worker::extent_of(tensors);
  if (count == 0) return;
  const int num_threads =
      threads_for(count * std::max<std::int64_t>(extent, 1), resources.num_threads);
  const std::int64_t at_once = slices_at_once(tensors, extent, count, num_threads);
  std::vector<Worker> workers;
  workers.reserve(static_cast<std::size_t>(num_threads));
  for (int thread = 0; thread < num_threads; ++thread)
    workers.emplace_back(tensors, resources.kernels, at_once);
  WorkStealingRange pieces((count + at_once - 1) / at_once, num_threads);
  parallel(num_threads, [&](Team& team, int thread) {
    Worker& worker = workers[static_cast<std::size_t>(thread)];
    pieces.for_each(thread, [&](std::int64_t piece) {
      const std::int64_t first = piece * at_once;
      team.attempt([&] { worker.take(first, std::min(at_once, count - first), f); });
    });
  });
}

std::int64_t number_of_slices(const Dims& shape, int dim) noexcept {
  return remove_dim(shape, dim).product();
}

Dims remove_dim(const Dims& dims, int dim) noexcept {
  std::array<std::int64_t, Dims::max_rank> kept{};
  int rank = 0;
  for (int n = 0; n < dims.rank(); ++n) {
    if (n != dim) kept[static_cast<std::size_t>(rank++)] = dims[n];
  }
  return Dims(kept.data(), rank);
}

}  // namespace attn::detail
