#include "iterate/slices.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "tensor/indexing.hpp"
#include "tensor/memory.hpp"
#include "tensor/rounding.hpp"
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

/// Whether neighboring elements of a slice are apart in memory, so that the elements of neighboring
/// slices may share cache lines.
bool crosses_memory(const TensorView& tensor, int dim) {
  return !tensor.absent() && tensor.strides[dim] != 1;
}

/// How many slices a thread processes in one piece: enough work for the piece to be worth the
/// scheduling, and whole cache lines of slices where these may lie side by side.
std::int64_t slices_per_piece(const SliceTensors& tensors, std::int64_t extent, std::int64_t count,
                              int num_threads) {
  constexpr std::int64_t elements = 8192;
  const std::int64_t enough = elements / std::max<std::int64_t>(extent, 1) + 1;
  const std::int64_t share = divide_up(count, num_threads);
  const auto crosses = [&](const TensorView& tensor) {
    return crosses_memory(tensor, tensors.dim);
  };
  if (std::ranges::any_of(tensors.in, crosses) || std::ranges::any_of(tensors.out, crosses)) {
    // Up to four neighboring cache lines are read together, as many as the L2 cache can hold for
    // all elements of a slice.
    constexpr std::int64_t most_lines = 4, cached_elements = 131072;
    const std::int64_t lines = std::clamp<std::int64_t>(
        cached_elements / (std::max<std::int64_t>(extent, 1) * line_floats), 1, most_lines);
    return round_up(std::min(std::max(enough, lines * line_floats), share), line_floats);
  }
  return std::min(enough, share);
}

/// One thread's buffers, and its work on one piece of the slices at a time: read the inputs, call
/// the function for groups of slices, write the outputs.
class Worker {
 public:
  Worker(const SliceTensors& tensors, const kernels::Kernels& kernels, std::int64_t piece_size)
      : kernels_(kernels),
        extent_(extent_of(tensors)),
        row_stride_(row_stride(extent_)),
        group_size_(group_size(extent_)) {
    for (const TensorView& tensor : tensors.in) add(tensor, tensors.dim, piece_size);
    for (const MutableTensorView& tensor : tensors.out) add(tensor, tensors.dim, piece_size);
    scratch_ = allocate_floats(tensors.scratch);
    lines_ = allocate_floats(line_floats * piece_size);
  }

  static std::int64_t extent_of(const SliceTensors& tensors) {
    for (const TensorView& tensor : tensors.in) {
      if (!tensor.absent()) return tensor.shape[tensors.dim];
    }
    return tensors.out[0].shape[tensors.dim];
  }

  void process(std::int64_t first, std::int64_t count,
               const std::function<void(const SliceGroup&)>& f) {
    for (std::size_t n = 0; n < inputs; ++n) read(operands_[n], first, count);
    for (std::int64_t n = 0; n < count;) {
      const SliceGroup group = group_at(first, n, count);
      f(group);
      n += group.count;
    }
    for (std::size_t n = 0; n < outputs; ++n) write(operands_[inputs + n], first, count);
  }

 private:
  static constexpr std::size_t inputs = std::tuple_size_v<decltype(SliceTensors::in)>;
  static constexpr std::size_t outputs = std::tuple_size_v<decltype(SliceTensors::out)>;

  struct Operand {
    SliceRows rows;
    float* staging;  // for the slices of a piece; null where the tensor's own memory is dense f32
  };

  /// An odd number of cache lines. Rows at distances of a power of two would compete for the same
  /// sets of a cache.
  static std::int64_t row_stride(std::int64_t extent) {
    const std::int64_t lines = divide_up(extent, line_floats);
    return (lines + 1 - lines % 2) * line_floats;
  }

  /// Few enough for the L1 cache to hold what is read and what is written.
  static std::int64_t group_size(std::int64_t extent) {
    constexpr std::int64_t elements = 4096;
    return std::clamp<std::int64_t>(elements / std::max<std::int64_t>(extent, 1), 1,
                                    kernels::rows_at_once);
  }

  void add(const TensorView& tensor, int dim, std::int64_t piece_size) {
    const SliceRows rows(tensor, dim);
    if (tensor.absent() || rows.dense_f32()) return operands_.push_back({rows, nullptr});
    // The first output shares the staging memory of the first input, which is in the caches; the
    // functions allow an output to be the memory of an input.
    const bool shares = operands_.size() == inputs && operands_[0].staging != nullptr;
    operands_.push_back({rows, shares ? operands_[0].staging : allocate_staging(piece_size)});
  }

  float* allocate_staging(std::int64_t piece_size) {
    return staging_.emplace_back(allocate_floats(piece_size * row_stride_)).get();
  }

  /// The group that begins with slice n of the piece: as many slices as are evenly spaced in all
  /// tensors.
  SliceGroup group_at(std::int64_t first, std::int64_t n, std::int64_t count) const {
    SliceGroup group{.first = first + n,
                     .count = std::min(group_size_, count - n),
                     .in = {},
                     .out = {},
                     .scratch = scratch_.get()};
    std::array<EvenRows, inputs + outputs> even;
    for (std::size_t i = 0; i < even.size(); ++i) {
      even[i] = even_rows(operands_[i], first, n);
      group.count = std::min(group.count, even[i].count);
    }
    for (std::size_t i = 0; i < inputs; ++i)
      group.in[i] = {even[i].data, even[i].stride, group.count, extent_};
    for (std::size_t i = 0; i < outputs; ++i)
      group.out[i] = {even[inputs + i].data, even[inputs + i].stride};
    return group;
  }

  /// Dense rows of floats, and how many of them are evenly spaced.
  struct EvenRows {
    float* data = nullptr;
    std::int64_t stride = 0;
    std::int64_t count = std::numeric_limits<std::int64_t>::max();
  };
  EvenRows even_rows(const Operand& operand, std::int64_t first, std::int64_t n) const {
    if (operand.rows.absent()) return {};
    if (operand.staging) return {.data = operand.staging + n * row_stride_, .stride = row_stride_};
    const ElementOffsets::EvenRun run = operand.rows.even_run(first + n);
    return {.data = operand.rows[first + n].floats(), .stride = run.stride, .count = run.count};
  }

  void read(const Operand& operand, std::int64_t first, std::int64_t count) {
    for_each_part(
        operand, first, count,
        [&](std::int64_t slice, std::int64_t width, float* staging) {
          read_side_by_side(operand.rows, slice, width, staging);
        },
        [&](const Row& row, float* staging) { read_row(row, extent_, kernels_, staging); });
  }

  void write(const Operand& operand, std::int64_t first, std::int64_t count) {
    for_each_part(
        operand, first, count,
        [&](std::int64_t slice, std::int64_t width, const float* staging) {
          write_side_by_side(operand.rows, slice, width, staging);
        },
        [&](const Row& row, const float* staging) { write_row(staging, extent_, kernels_, row); });
  }

  /// Divides a piece of an operand that is staged: side_by_side(first, width, staging) is called
  /// for slices that fill cache lines side by side, single(row, staging) for each of the others.
  template <class SideBySide, class Single>
  void for_each_part(const Operand& operand, std::int64_t first, std::int64_t count,
                     const SideBySide& side_by_side, const Single& single) {
    if (operand.rows.absent() || !operand.staging) return;
    std::int64_t n = 0;
    for (std::int64_t width = 0; (width = lines_from(operand.rows, first + n, count - n)) > 0;
         n += width) {
      side_by_side(first + n, width, operand.staging + n * row_stride_);
    }
    for (; n < count; ++n) single(operand.rows[first + n], operand.staging + n * row_stride_);
  }

  /// How many slices from `first` on lie side by side: a multiple of line_floats, at most `count`.
  static std::int64_t lines_from(const SliceRows& rows, std::int64_t first, std::int64_t count) {
    const ElementOffsets::EvenRun run = rows.even_run(first);
    if (rows.stride() == 1 || run.stride != 1) return 0;
    return round_down(std::min(run.count, count), line_floats);
  }

  /// Transposes f32 slices directly. Slices of other types are first converted in the direction of
  /// memory, line_floats elements of each slice at a time.
  void read_side_by_side(const SliceRows& rows, std::int64_t first, std::int64_t width, float* to) {
    const Row slice = rows[first];
    if (slice.dtype == DType::f32) {
      return kernels_.pack_transposed(slice.floats(), slice.stride, extent_, width, to,
                                      row_stride_);
    }
    for (std::int64_t begin = 0; begin < extent_; begin += line_floats) {
      const std::int64_t count = std::min(line_floats, extent_ - begin);
      for (std::int64_t i = 0; i < count; ++i)
        read_row({slice.at(begin + i), slice.dtype, 1}, width, kernels_, lines_.get() + i * width);
      kernels_.pack_transposed(lines_.get(), width, count, width, to + begin, row_stride_);
    }
  }

  void write_side_by_side(const SliceRows& rows, std::int64_t first, std::int64_t width,
                          const float* from) {
    const Row slice = rows[first];
    if (slice.dtype == DType::f32) {
      return kernels_.pack_transposed(from, row_stride_, width, extent_, slice.floats(),
                                      slice.stride);
    }
    for (std::int64_t begin = 0; begin < extent_; begin += line_floats) {
      const std::int64_t count = std::min(line_floats, extent_ - begin);
      kernels_.pack_transposed(from + begin, row_stride_, width, count, lines_.get(), width);
      for (std::int64_t i = 0; i < count; ++i)
        write_row(lines_.get() + i * width, width, kernels_, {slice.at(begin + i), slice.dtype, 1});
    }
  }

  const kernels::Kernels& kernels_;
  std::int64_t extent_;
  std::int64_t row_stride_;  // of staging
  std::int64_t group_size_;
  std::vector<Operand> operands_;
  std::vector<Floats> staging_;
  Floats scratch_;
  Floats lines_;  // [line_floats, piece size]
};

std::int64_t count_of(const SliceTensors& tensors) {
  for (const TensorView& tensor : tensors.in) {
    if (!tensor.absent()) return number_of_slices(tensor.shape, tensors.dim);
  }
  return number_of_slices(tensors.out[0].shape, tensors.dim);
}

}  // namespace

std::int64_t number_of_slices(const Dims& shape, int dim) noexcept {
  return remove_dim(shape, dim).product();
}

Slice SliceGroup::slice(std::int64_t n) const noexcept {
  Slice slice{.index = first + n, .extent = in[0].count, .in = {}, .out = {}, .scratch = scratch};
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].data != nullptr) slice.in[i] = in[i].data + n * in[i].stride;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i].data != nullptr) slice.out[i] = out[i].data + n * out[i].stride;
  }
  return slice;
}

void for_each_slice(const SliceTensors& tensors, const ResolvedExecution& execution,
                    const std::function<void(const Slice&)>& f) {
  for_each_slice_group(tensors, execution, [&](const SliceGroup& group) {
    for (std::int64_t n = 0; n < group.count; ++n) f(group.slice(n));
  });
}

void for_each_slice_group(const SliceTensors& tensors, const ResolvedExecution& execution,
                          const std::function<void(const SliceGroup&)>& f) {
  const std::int64_t count = count_of(tensors), extent = Worker::extent_of(tensors);
  if (count == 0) return;
  const Threads threads = threads_for(count * std::max<std::int64_t>(extent, 1), execution.threads);
  const std::int64_t piece_size = slices_per_piece(tensors, extent, count, threads.count);
  std::vector<Worker> workers;
  workers.reserve(static_cast<std::size_t>(threads.count));
  for (int thread = 0; thread < threads.count; ++thread)
    workers.emplace_back(tensors, execution.kernels, piece_size);
  parallel_for(threads, divide_up(count, piece_size), [&](std::int64_t piece, int thread) {
    const std::int64_t first = piece * piece_size;
    workers[static_cast<std::size_t>(thread)].process(first, std::min(piece_size, count - first),
                                                      f);
  });
}

}  // namespace attn::detail
