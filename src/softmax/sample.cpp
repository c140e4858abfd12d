#include <attn/sample.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "softmax/arguments.hpp"
#include "softmax/categorical.hpp"
#include "softmax/philox.hpp"
#include "softmax/slices.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

void check_options(const SampleOptions& options) {
  if (!(std::isfinite(options.temperature) && options.temperature >= 0)) {
    reject(fmt::format("temperature is {}; it needs a finite number of at least 0",
                       options.temperature));
  }
  if (options.top_k) require_positive("top_k", *options.top_k);
  if (options.top_p && !(*options.top_p > 0 && *options.top_p <= 1)) {
    reject(fmt::format("top_p is {}; it needs a number above 0 and up to 1", *options.top_p));
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

/// "logits[2, 0]", or "logits" if it has one row alone.
std::string name_of_row(const Dims& shape, std::int64_t row) {
  const Dims outer = remove_dim(shape, shape.rank() - 1);
  if (outer.rank() == 0) return "logits";
  Dims place = outer;
  for (int dim = outer.rank() - 1; dim >= 0; --dim) {
    place[dim] = row % outer[dim];
    row /= outer[dim];
  }
  return "logits" + place.to_string();
}

/// The first row that nothing can be drawn from, if there is one.
void check_rows(const TensorView& logits, const ResolvedExecution& resources) {
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> first = none;
  for_each_slice({.in = {logits}, .dim = logits.rank() - 1}, resources, [&](const Slice& slice) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    float greatest = -infinity;
    bool all_below_infinity = true;
    for (std::int64_t n = 0; n < slice.extent; ++n) {
      all_below_infinity &= slice.in[0][n] < infinity;
      greatest = slice.in[0][n] > greatest ? slice.in[0][n] : greatest;
    }
    if (all_below_infinity && greatest > -infinity) return;
    for (std::int64_t known = first;
         slice.index < known && !first.compare_exchange_weak(known, slice.index);) {
    }
  });
  if (first == none) return;
  reject(fmt::format(
      "{} holds NaN, +inf or nothing but -inf; a row needs a finite greatest logit, and no NaN",
      name_of_row(logits.shape, first)));
}

/// One thread's way through the rows.
class Sampler {
 public:
  Sampler(const TensorView& logits, const SampleOptions& options, const kernels::Kernels& kernels)
      : logits_(logits),
        options_(options),
        kernels_(kernels),
        classes_(logits.shape[logits.rank() - 1]),
        rows_(remove_dim(logits.shape, logits.rank() - 1),
              remove_dim(logits.strides, logits.rank() - 1)),
        staging_(static_cast<std::size_t>(classes_)),
        distribution_(classes_) {}

  void draw(std::int64_t row, std::int64_t count, const PerSlice<std::int64_t, void>& indices) {
    distribution_.assign(as_floats(at(row), classes_, kernels_, staging_.data()), options_);
    for (std::int64_t n = 0; n < count; ++n) {
      const std::uint64_t number = options_.first_draw + static_cast<std::uint64_t>(n);
      indices[row * count + n] =
          distribution_.at(philox_uniform(options_.seed, number, static_cast<std::uint64_t>(row)));
    }
  }

 private:
  Row at(std::int64_t row) const {
    auto* const data = static_cast<std::byte*>(const_cast<void*>(logits_.data));
    const std::int64_t offset =
        rows_.offset(row) * static_cast<std::int64_t>(size_of(logits_.dtype));
    return {data + offset, logits_.dtype, logits_.strides[logits_.rank() - 1]};
  }

  TensorView logits_;
  SampleOptions options_;
  const kernels::Kernels& kernels_;
  std::int64_t classes_;
  ElementOffsets rows_;
  std::vector<float> staging_;  // of a row that is not dense f32
  Categorical distribution_;
};

}  // namespace

void sample(const TensorView& logits, const MutableTensorView& indices,
            const SampleOptions& options, const Execution& execution) {
  check_tensors(logits, indices);
  check_options(options);
  const ResolvedExecution resources = resolve(execution);
  check_rows(logits, resources);
  const int last = logits.rank() - 1;
  const std::int64_t rows = number_of_slices(logits.shape, last), count = indices.shape[last];
  if (rows == 0 || count == 0) return;
  const PerSlice<std::int64_t, void> values(indices);
  const auto num_threads = static_cast<int>(std::min<std::int64_t>(
      rows, threads_for(logits.size() + indices.size(), resources.num_threads)));
  std::vector<Sampler> samplers;
  for (int thread = 0; thread < num_threads; ++thread)
    samplers.emplace_back(logits, options, resources.kernels);
  std::atomic<std::int64_t> next{0};
  parallel(num_threads, [&](Team& team, int thread) {
    for (std::int64_t row = next++; row < rows && !team.failed(); row = next++) {
      team.attempt([&] { samplers[static_cast<std::size_t>(thread)].draw(row, count, values); });
    }
  });
}

}  // namespace attn
