// The unfused baseline: attention as one writes it first when a matmul and a softmax are at hand.
//
//     S = Q K^T                                  oneDNN matmul
//     S = scale, softcap, ALiBi, masks of S      unfused_scores.cpp: loops over S
//     P = softmax(S)                             oneDNN softmax, or normalize_row() for each row
//     O = P V                                    oneDNN matmul
//
// In a build without oneDNN, unfused_primitives.cpp has the library's own kernels for its matmul
// and softmax.
//
// S is a whole [batch, num_q_heads, q_len, kv_len] matrix in memory. It is written by the first
// matmul, read and written by the loops and by softmax, and read by the second matmul. The query
// heads that share a KV head are rows of one product, so that K and V are not repeated.
#include <attn/reference.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "attention/call_tensors.hpp"
#include "attention/probabilities.hpp"
#include "attention/problem.hpp"
#include "attention/workspace.hpp"
#include "kernels/select.hpp"
#include "onednn/isa.hpp"
#include "oracle/extremes.hpp"
#include "oracle/query_rows.hpp"
#include "oracle/sequence_calls.hpp"
#include "oracle/unfused_call.hpp"
#include "oracle/unfused_primitives.hpp"
#include "oracle/unfused_scores.hpp"
#include "oracle/unfused_values.hpp"
#include "tensor/checks.hpp"
#include "threads/openmp.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

bool dense_floats(const TensorView& tensor) {
  if (tensor.dtype != DType::f32) return false;
  const Dims dense = dense_strides(tensor.shape);
  for (int dim = 0; dim < tensor.rank(); ++dim) {
    if (tensor.shape[dim] > 1 && tensor.strides[dim] != dense[dim]) return false;
  }
  return true;
}

/// Throws if the score matrix has more elements than a tensor may have.
void require_scores_fit(const Sizes& sizes) {
  require_shape("the score matrix of the unfused baseline",
                {sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.kv_len});
}

/// The scratch memory: the score matrix, and copies of the tensors that are not dense floats.
struct Memory {
  float *q, *k, *v, *out, *mask;
  float* row_max;
  float* scores;
};

Memory carve(Arena& arena, const AttentionTensors& tensors, const Sizes& sizes) {
  const auto copy_of = [&arena](const TensorView& tensor) {
    return arena.take<float>(dense_floats(tensor) ? 0 : tensor.size());
  };
  return {.q = copy_of(tensors.q),
          .k = copy_of(tensors.k),
          .v = copy_of(tensors.v),
          .out = copy_of(tensors.out),
          .mask = copy_of(tensors.mask),
          .row_max = arena.take<float>(num_rows(sizes)),
          .scores = arena.take<float>(num_rows(sizes) * sizes.kv_len)};
}

/// Returns the tensor as dense floats: its own memory if it is so already, else `copy`, filled.
const float* as_dense_floats(const TensorView& tensor, float* copy, const Threads& threads) {
  if (dense_floats(tensor)) return static_cast<const float*>(tensor.data);
  const MutableTensorView copied(copy, tensor.shape);
  const int rows = std::max(0, tensor.rank() - 2);  // a mask may have rank 1
  const std::int64_t count = tensor.shape[rows];
  parallel_ranges(threads, count, tensor.size() / std::max<std::int64_t>(1, count),
                  [&](std::int64_t begin, std::int64_t end) {
                    copy_into(tensor.sliced(rows, begin, end), copied.sliced(rows, begin, end));
                  });
  return copy;
}

/// Returns the mask as numbers to add to the scores: true becomes 0, false becomes -inf.
DenseMask additive_mask(const AttentionTensors& tensors, const Problem& problem, float* copy,
                        const Threads& threads) {
  if (tensors.mask.absent()) return dense_mask(tensors, problem);
  const TensorView converted(as_dense_floats(tensors.mask, copy, threads), tensors.mask.shape);
  if (tensors.mask.dtype == DType::boolean) {
    parallel_ranges(threads, tensors.mask.size(), 1, [&](std::int64_t begin, std::int64_t end) {
      std::transform(copy + begin, copy + end, copy + begin,
                     [](float visible) { return visible != 0 ? 0 : -infinity; });
    });
  }
  return dense_mask(converted, {tensors, problem.sizes}, problem.mask_keys);
}

void softmax(const UnfusedCall& call, std::optional<SeparatedValues>& separated) {
  const Sizes& sizes = call.problem.sizes;
  parallel_ranges(call.threads, separated ? num_rows(sizes) : 0, sizes.kv_len,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t row = begin; row < end; ++row)
                      add_non_finite_values(call, row, call.scores_of(row), nullptr, *separated);
                  });
  softmax_rows(call);
}

/// Applies another normalizer to each row.
void normalize(const UnfusedCall& call, std::optional<SeparatedValues>& separated) {
  const Sizes& sizes = call.problem.sizes;
  const auto normalize_rows = [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> probabilities(static_cast<std::size_t>(sizes.kv_len + 1));
    std::vector<float> scratch(2 * probabilities.size());
    for (std::int64_t index = begin; index < end; ++index) {
      float* const scores = call.scores_of(index);
      const KeyRun row = all_keys_of_row(call.problem, call.tensors, index);
      std::copy_n(scores, sizes.kv_len, probabilities.data());
      normalize_row(call.kernels, call.problem.normalizer,
                    {.scores = probabilities.data(),
                     .count = sizes.kv_len,
                     .kv_len = kv_length(call.tensors, sizes, row.batch),
                     .sink = per_head(call.tensors.sinks, row.q_head, -infinity),
                     .scratch = scratch.data()});
      if (separated) add_non_finite_values(call, index, scores, probabilities.data(), *separated);
      std::copy_n(probabilities.data(), sizes.kv_len, scores);
    }
  };
  parallel_ranges(call.threads, num_rows(sizes), sizes.kv_len, normalize_rows);
}

/// Corrects what a softmax of rows does not provide for: rows without a visible key, rows whose
/// scores are not finite, and sinks. Writes lse.
void finish_row(const UnfusedCall& call, std::int64_t index) {
  const Sizes& sizes = call.problem.sizes;
  const KeyRun row = all_keys_of_row(call.problem, call.tensors, index);
  float* const out = call.out + index * sizes.v_head_dim;
  const float row_max = call.row_max[index];
  const float sink = per_head(call.tensors.sinks, row.q_head, -infinity);
  double lse = sink;
  if (row_max == -infinity) {
    std::fill_n(out, sizes.v_head_dim, 0.f);
  } else if (!call.uses_softmax()) {
    return;
  } else if (!(row_max < infinity && sink < infinity)) {
    lse = std::nan("");
    std::fill_n(out, sizes.v_head_dim, std::nanf(""));
  } else if (!call.tensors.sinks.absent() || !call.tensors.lse.absent()) {
    // The largest probability is 1 / (the sum of exp(score - row_max)).
    const double keys_lse = row_max - std::log(extremes(call.scores_of(index), sizes.kv_len).max);
    lse = std::max<double>(keys_lse, sink) + std::log1p(std::exp(-std::abs(keys_lse - sink)));
    const auto share = static_cast<float>(std::exp(keys_lse - lse));
    if (!call.tensors.sinks.absent())
      std::transform(out, out + sizes.v_head_dim, out,
                     [share](float value) { return value * share; });
  }
  write_lse(call.tensors.lse, row, lse);
}

/// Adds the columns of a row again, in double, whose sums are not finite: with probabilities that
/// add up to more than 1, a sum may be finite in the end and overflow before.
void add_overflowed(const UnfusedCall& call, std::int64_t index, const float* values) {
  const Sizes& sizes = call.problem.sizes;
  const std::int64_t width = sizes.v_head_dim;
  float* const out = call.out + index * width;
  const KeyRun row = all_keys_of_row(call.problem, call.tensors, index);
  const float* const probabilities = call.scores_of(index);
  const float* const of_head =
      values + (row.batch * sizes.num_kv_heads + row.kv_head) * sizes.kv_len * width;
  for (std::int64_t d = 0; d < width; ++d) {
    if (std::isfinite(out[d])) continue;
    double sum = 0;
    for (std::int64_t j = 0; j < sizes.kv_len; ++j)
      sum += double{probabilities[j]} * of_head[j * width + d];
    out[d] = static_cast<float>(sum);
  }
}

void finish_rows(const UnfusedCall& call, const std::optional<SeparatedValues>& separated) {
  const Sizes& sizes = call.problem.sizes;
  const float* const values = separated ? separated->finite.data() : call.v;
  const auto finish = [&](std::int64_t index) {
    if (!call.uses_softmax() && sizes.kv_len > 0) add_overflowed(call, index, values);
    for (std::int64_t n = index * sizes.v_head_dim; separated && n < (index + 1) * sizes.v_head_dim;
         ++n)
      call.out[n] += separated->non_finite_sums[n];
    finish_row(call, index);
  };
  parallel_ranges(call.threads, num_rows(sizes), sizes.kv_len + sizes.v_head_dim,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t index = begin; index < end; ++index) finish(index);
                  });
}

/// Computes all heads of a call with at least one row and one key.
void attend(const UnfusedCall& call) {
  const Sizes& sizes = call.problem.sizes;
  const std::int64_t kv_heads = sizes.batch * sizes.num_kv_heads;
  const std::int64_t rows = sizes.group_size * sizes.q_len;
  const onednn::MatmulShape scores_shape{
      .m = rows, .n = sizes.kv_len, .k = sizes.head_dim, .batch = kv_heads, .b_transposed = true};
  const onednn::MatmulShape out_shape{
      .m = rows, .n = sizes.v_head_dim, .k = sizes.kv_len, .batch = kv_heads};

  multiply(call, scores_shape, call.q, call.k, call.scores);
  if (call.problem.softcap) apply_tanh(call);
  const bool any_hidden = transform_scores(call);
  auto separated = any_hidden ? separate_values(call) : std::nullopt;
  call.uses_softmax() ? softmax(call, separated) : normalize(call, separated);
  multiply(call, out_shape, call.scores, separated ? separated->finite.data() : call.v, call.out);
  finish_rows(call, separated);
}

}  // namespace

void attention_unfused(const AttentionTensors& tensors, const AttentionOptions& options,
                       const Execution& execution) {
  const Problem problem = validate(tensors, options, execution);
  validate_data(problem, tensors);
  if (!is_dense(tensors)) {
    return for_each_sequence(problem, tensors, options, DType::f32, [&](const SequenceCall& call) {
      attention_unfused(call.tensors, call.options, execution);
    });
  }
  const Sizes& sizes = problem.sizes;
  require_scores_fit(sizes);
  if (num_rows(sizes) == 0) return;
  const Workspace workspace(unfused_scratch_size(tensors));
  Arena arena(workspace.data());
  const Memory memory = carve(arena, tensors, sizes);
  const Threads threads = resolved_threads(execution);
  const BetweenProducts between(onednn::available());
  const UnfusedCall call{
      problem,
      tensors,
      options,
      kernels::kernels_for(execution.isa.value_or(default_isa())),
      threads,
      as_dense_floats(tensors.q, memory.q, threads),
      as_dense_floats(tensors.k, memory.k, threads),
      as_dense_floats(tensors.v, memory.v, threads),
      dense_floats(tensors.out) ? static_cast<float*>(tensors.out.data) : memory.out,
      additive_mask(tensors, problem, memory.mask, threads),
      memory.row_max,
      memory.scores};
  if (sizes.kv_len > 0) {
    attend(call);
  } else {
    std::fill_n(call.row_max, num_rows(sizes), -infinity);
    finish_rows(call, std::nullopt);
  }
  if (call.out == memory.out) {
    const TensorView out(call.out, tensors.out.shape);
    parallel_ranges(threads, sizes.q_len, out.size() / sizes.q_len,
                    [&](std::int64_t begin, std::int64_t end) {
                      copy_into(out.sliced(2, begin, end), tensors.out.sliced(2, begin, end));
                    });
  }
}

std::size_t unfused_scratch_size(const AttentionTensors& tensors) {
  const Problem problem = validate(tensors, {}, {});
  for_each_tensor(
      [](const char* name, const TensorView& tensor) {
        if (!tensor.absent()) require_strides(name, tensor);
      },
      tensors);
  if (is_dense(tensors)) {
    require_scores_fit(problem.sizes);
    Arena arena(nullptr);
    carve(arena, tensors, problem.sizes);
    return arena.used();
  }
  validate_lengths(problem, tensors);
  std::size_t most = 0;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const AttentionTensors sequence =
        sequence_call(problem, tensors, {}, batch, DType::f32).tensors;
    const std::size_t scratch = unfused_scratch_size(sequence);
    const auto gathered =
        static_cast<std::size_t>(sequence.k.size() + sequence.v.size()) * sizeof(float);
    most = std::max(most, gathered + scratch);
  }
  return most;
}

}  // namespace attn
