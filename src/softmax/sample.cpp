#include <attn/sample.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "iterate/slices.hpp"
#include "softmax/categorical.hpp"
#include "softmax/philox.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

void check_options(const SampleOptions& options) {
  if (!(std::isfinite(options.temperature) && options.temperature >= 0)) {
    reject(fmt::format("temperature is {}; it needs a finite number of at least 0",
                       options.temperature));
  }
  if (options.top_k && *options.top_k < 0)
    reject(fmt::format("top_k is {}; it needs 0 (off) or more", *options.top_k));
  if (options.top_p && !(*options.top_p >= 0 && *options.top_p <= 1)) {
    reject(fmt::format("top_p is {}; it needs a number in 0..1", *options.top_p));
  }
  if (options.min_p && !(*options.min_p >= 0 && *options.min_p <= 1)) {
    reject(fmt::format("min_p is {}; it needs a number in 0..1", *options.min_p));
  }
}

void check_tensors(const TensorView& logits, const MutableTensorView& indices) {
  require_input("logits", logits);
  require_rank("indices", indices, logits.rank(),
               "that of logits, with draws in the place of classes");
  const int last = logits.rank() - 1;
  for (int dim = 0; dim < last; ++dim)
    require_extent("indices", indices, dim, logits.shape[dim], "that of logits");
  require_type("indices", indices, DType::i64);
  require_data("indices", indices);
  require_elements_apart("indices", indices);
  if (logits.shape[last] == 0 && number_of_slices(logits.shape, last) > 0) {
    reject(fmt::format("logits has shape {}: dim {} is 0, but it needs 1 or more (classes)",
                       logits.shape.to_string(), last));
  }
}

/// "logits[2, 0]", or "logits" if there is only one row.
std::string name_of_row(const Dims& shape, std::int64_t row) {
  const Dims rows = remove_dim(shape, -1);
  return rows.rank() == 0 ? "logits" : "logits" + index_of(rows, row).to_string();
}

/// Throws if nothing can be drawn from a row, and names the first such row.
void check_rows(const TensorView& logits, const ResolvedExecution& resolved) {
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> first_wrong = none;
  for_each_slice({.in = {logits}, .dim = logits.rank() - 1}, resolved, [&](const Slice& slice) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    float greatest = -infinity;
    bool all_below_infinity = true;
    for (std::int64_t n = 0; n < slice.extent; ++n) {
      all_below_infinity &= slice.in[0][n] < infinity;
      greatest = slice.in[0][n] > greatest ? slice.in[0][n] : greatest;
    }
    if (!(all_below_infinity && greatest > -infinity)) atomic_min(first_wrong, slice.index);
  });
  if (first_wrong == none) return;
  reject(fmt::format(
      "{} holds NaN, +inf or nothing but -inf; a row needs a finite greatest logit, and no NaN",
      name_of_row(logits.shape, first_wrong)));
}

/// One thread's memory, and its draws from one row at a time.
class Sampler {
 public:
  Sampler(const TensorView& logits, const SampleOptions& options, const kernels::Kernels& kernels)
      : options_(options),
        kernels_(kernels),
        classes_(logits.shape[logits.rank() - 1]),
        rows_(logits, logits.rank() - 1),
        staging_(static_cast<std::size_t>(classes_)),
        distribution_(classes_) {}

  void draw(std::int64_t row, std::int64_t count, const PerSlice<std::int64_t>& indices) {
    distribution_.assign(as_floats(rows_[row], classes_, kernels_, staging_.data()), options_);
    for (std::int64_t n = 0; n < count; ++n) {
      const std::uint64_t number = options_.first_draw + static_cast<std::uint64_t>(n);
      indices[row * count + n] =
          distribution_.at(philox_uniform(options_.seed, number, static_cast<std::uint64_t>(row)));
    }
  }

 private:
  SampleOptions options_;
  const kernels::Kernels& kernels_;
  std::int64_t classes_;
  SliceRows rows_;
  std::vector<float> staging_;  // a row, if it is not dense f32
  Categorical distribution_;
};

}  // namespace

void sample(const TensorView& logits, const MutableTensorView& indices,
            const SampleOptions& options, const Execution& execution) {
  check_tensors(logits, indices);
  check_options(options);
  const ResolvedExecution resolved = resolve(execution);
  check_rows(logits, resolved);
  const int last = logits.rank() - 1;
  const std::int64_t rows = number_of_slices(logits.shape, last), count = indices.shape[last];
  if (rows == 0 || count == 0) return;
  const PerSlice<std::int64_t> draws(indices);
  const Threads threads =
      threads_for(logits.size() + indices.size(), resolved.threads).at_most(rows);
  std::vector<Sampler> samplers;
  for (int thread = 0; thread < threads.count; ++thread)
    samplers.emplace_back(logits, options, resolved.kernels);
  parallel_for(threads, rows, [&](std::int64_t row, int thread) {
    samplers[static_cast<std::size_t>(thread)].draw(row, count, draws);
  });
}

}  // namespace attn
