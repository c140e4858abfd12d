// The baseline: what one writes first with a matmul and a softmax at hand.
//
//   S = Q K^T (oneDNN) -> loops over S for scale, biases and masks -> P = softmax(S) (oneDNN) -> O
//   = P V (oneDNN)
//
// S is a whole [batch, num_q_heads, q_len, kv_len] matrix in memory: written, changed by the loops,
// changed by softmax, and read. The query heads of a KV head are folded into the rows of one
// product, so K and V are not repeated. A normalizer other than softmax is one more loop over S.
#include <attn/reference.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "attention/dense_call.hpp"
#include "attention/extremes.hpp"
#include "attention/probabilities.hpp"
#include "attention/problem.hpp"
#include "attention/textbook_rows.hpp"
#include "attention/workspace.hpp"
#include "kernels/select.hpp"
#include "onednn/matmul.hpp"
#include "onednn/softmax.hpp"
#include "threads/parallel.hpp"

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

/// The matrix, and room for dense floats of what is not so already.
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

/// A call with its inputs as dense floats.
struct Call {
  const Problem& problem;
  const AttentionTensors& tensors;
  const AttentionOptions& options;
  const kernels::Kernels& kernels;
  int num_threads;
  const float *q, *k, *v;
  float* out;
  DenseMask mask;  // what is added, -inf where hidden
  float* row_max;
  float* scores;

  float* scores_of(std::int64_t row) const { return scores + row * problem.sizes.kv_len; }
};

/// Runs f(begin, end) over parts of 0..count that are large enough to be worth a thread's while.
template <class F>
void parallel_ranges(int num_threads, std::int64_t count, std::int64_t cost_of_one, F&& f) {
  constexpr std::int64_t worthwhile = 1 << 14;
  const std::int64_t step =
      std::max<std::int64_t>(1, worthwhile / std::max<std::int64_t>(1, cost_of_one));
  parallel_for(num_threads, (count + step - 1) / step,
               [&](std::int64_t part) { f(part * step, std::min(count, (part + 1) * step)); });
}

/// The tensor as dense floats: in place, or copied to `copy`.
const float* as_dense_floats(const TensorView& tensor, float* copy, int num_threads) {
  if (dense_floats(tensor)) return static_cast<const float*>(tensor.data);
  const MutableTensorView copied(copy, tensor.shape);
  const int rows = tensor.rank() - 2;
  const std::int64_t count = tensor.shape[rows];
  parallel_ranges(num_threads, count, tensor.size() / std::max<std::int64_t>(1, count),
                  [&](std::int64_t begin, std::int64_t end) {
                    copy_into(tensor.sliced(rows, begin, end), copied.sliced(rows, begin, end));
                  });
  return copy;
}

/// The mask as something to add: true becomes 0, false -inf.
DenseMask additive_mask(const AttentionTensors& tensors, const Sizes& sizes, float* copy,
                        int num_threads) {
  if (tensors.mask.absent()) return dense_mask(tensors, sizes);
  AttentionTensors converted = tensors;
  converted.mask = TensorView(as_dense_floats(tensors.mask, copy, num_threads), tensors.mask.shape);
  if (tensors.mask.dtype == DType::boolean) {
    parallel_ranges(num_threads, tensors.mask.size(), 1, [&](std::int64_t begin, std::int64_t end) {
      std::transform(copy + begin, copy + end, copy + begin,
                     [](float visible) { return visible != 0 ? 0 : -infinity; });
    });
  }
  return dense_mask(converted, sizes);
}

/// The part of a row that causal, window and lengths leave.
KeyRun keys_in_sight(const Call& call, KeyRun row) {
  const auto& [left, right] = call.problem.window;
  std::int64_t begin = 0;
  std::int64_t end =
      std::min(kv_length(call.tensors, call.problem.sizes, row.batch), call.mask.kv_len);
  if (call.problem.causal) end = std::min(end, row.q_position + 1);
  if (right) end = std::min(end, row.q_position + *right + 1);
  if (left) begin = std::max(begin, row.q_position - *left);
  row.key_begin = std::min(begin, row.count);
  row.count = std::max<std::int64_t>(0, end - row.key_begin);
  return row;
}

/// Scale, or softcap * (tanh that has been taken already), and ALiBi.
void scale_and_bias(const Call& call, const KeyRun& keys, float* scores) {
  const float factor = call.problem.softcap.value_or(call.problem.softmax_scale);
  for (std::int64_t n = 0; n < keys.count; ++n) scores[n] *= factor;
  if (!call.tensors.alibi_slopes.absent()) {
    const float slope = per_head(call.tensors.alibi_slopes, keys.q_head, 0);
    const std::int64_t distance = keys.q_position - keys.key_begin;
    for (std::int64_t n = 0; n < keys.count; ++n)
      scores[n] -= slope * static_cast<float>(std::abs(distance - n));
  }
}

/// Additive mask, score_mod, and what the dense masks hide.
void mask_scores(const Call& call, const KeyRun& keys, float* scores) {
  const std::int64_t stride = call.mask.strides[3];
  const float* mask = nullptr;
  if (call.mask.present()) {
    mask = reinterpret_cast<const float*>(call.mask.row(keys.batch, keys.q_head, keys.q_index)) +
           keys.key_begin * stride;
    for (std::int64_t n = 0; n < keys.count; ++n) scores[n] += mask[n * stride];
  }
  if (call.options.score_mod) call.options.score_mod(keys, scores);
  if (mask != nullptr) {
    for (std::int64_t n = 0; n < keys.count; ++n)
      scores[n] = mask[n * stride] == -infinity ? -infinity : scores[n];
  }
  if (call.options.mask_mod) {
    const auto visible = std::make_unique<bool[]>(static_cast<std::size_t>(keys.count));
    call.options.mask_mod(keys, visible.get());
    for (std::int64_t n = 0; n < keys.count; ++n) scores[n] = visible[n] ? scores[n] : -infinity;
  }
}

/// tanh(softmax_scale * S / softcap). Over the whole matrix, since oneDNN's tanh is many times
/// faster than a loop over libm's.
void take_tanh(const Call& call, const onednn::Matrix& scores) {
  const float factor = call.problem.softmax_scale / *call.problem.softcap;
  parallel_ranges(call.num_threads, scores.rows * scores.columns, 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t n = begin; n < end; ++n) scores.data[n] *= factor;
                  });
  onednn::tanh_elements(scores, call.num_threads);
}

/// All else between Q K^T and softmax. Returns whether any weight will be 0 because its key is
/// hidden or its score -inf.
bool transform_scores(const Call& call) {
  const Sizes& sizes = call.problem.sizes;
  std::atomic<bool> hides = false;
  parallel_ranges(call.num_threads, num_rows(sizes), sizes.kv_len,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t index = begin; index < end; ++index) {
                      float* const scores = call.scores_of(index);
                      const KeyRun keys =
                          keys_in_sight(call, all_keys_of_row(call.problem, call.tensors, index));
                      float* const first = scores + keys.key_begin;
                      if (keys.count > 0) {
                        scale_and_bias(call, keys, first);
                        mask_scores(call, keys, first);
                      }
                      std::fill(scores, first, -infinity);
                      std::fill(first + keys.count, scores + sizes.kv_len, -infinity);
                      const Extremes seen = extremes(first, keys.count);
                      call.row_max[index] = seen.max;
                      if (keys.count < sizes.kv_len || seen.min == -infinity)
                        hides.store(true, std::memory_order_relaxed);
                    }
                  });
  return hides;
}

/// The keys, counted through all KV heads, with a value that is not finite.
std::vector<std::int64_t> keys_not_finite(const Call& call) {
  const std::int64_t width = call.problem.sizes.v_head_dim;
  const std::int64_t num_keys =
      call.problem.sizes.batch * call.problem.sizes.num_kv_heads * call.problem.sizes.kv_len;
  std::atomic<bool> finite = true;
  parallel_ranges(call.num_threads, num_keys, width, [&](std::int64_t begin, std::int64_t end) {
    if (!call.kernels.all_finite(call.v + begin * width, (end - begin) * width))
      finite.store(false, std::memory_order_relaxed);
  });
  std::vector<std::int64_t> keys;
  for (std::int64_t key = 0; !finite && key < num_keys; ++key) {
    if (!call.kernels.all_finite(call.v + key * width, width)) keys.push_back(key);
  }
  return keys;
}

/// V in two parts. In the product a hidden value meets a weight of 0, and 0 * NaN is NaN: the
/// product takes the finite part, and each row adds the sum of those others that it sees.
struct SeparatedValues {
  std::vector<std::int64_t> keys;  // that have others
  std::vector<float> finite;       // V with 0 for what is not
  std::vector<float> other_sum;    // like O
};

/// Adds to the sum of a row. Weights may be null: those of softmax are positive, and leave what is
/// not finite as it is.
void add_seen(const Call& call, std::int64_t row, const float* scores, const float* weights,
              SeparatedValues& separated) {
  const std::vector<std::int64_t>& keys = separated.keys;
  float* const sum = separated.other_sum.data() + row * call.problem.sizes.v_head_dim;
  const Sizes& sizes = call.problem.sizes;
  const std::int64_t first = row / (sizes.q_len * sizes.group_size) * sizes.kv_len;
  for (auto key = std::lower_bound(keys.begin(), keys.end(), first);
       key != keys.end() && *key < first + sizes.kv_len; ++key) {
    if (scores[*key - first] == -infinity) continue;
    const float* values = call.v + *key * sizes.v_head_dim;
    const float weight = weights == nullptr ? 1 : weights[*key - first];
    for (std::int64_t d = 0; d < sizes.v_head_dim; ++d)
      sum[d] += std::isfinite(values[d]) ? 0 : weight * values[d];
  }
}

/// Empty if all of V is finite.
std::optional<SeparatedValues> separate_values(const Call& call) {
  std::vector<std::int64_t> keys = keys_not_finite(call);
  if (keys.empty()) return std::nullopt;
  const std::int64_t out_size = num_rows(call.problem.sizes) * call.problem.sizes.v_head_dim;
  SeparatedValues separated{std::move(keys),
                            {call.v, call.v + call.tensors.v.size()},
                            std::vector<float>(static_cast<std::size_t>(out_size))};
  const auto not_finite = [](float value) { return !std::isfinite(value); };
  std::replace_if(separated.finite.begin(), separated.finite.end(), not_finite, 0.f);
  return separated;
}

void softmax(const Call& call, std::optional<SeparatedValues>& separated) {
  const Sizes& sizes = call.problem.sizes;
  parallel_ranges(call.num_threads, separated ? num_rows(sizes) : 0, sizes.kv_len,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t row = begin; row < end; ++row)
                      add_seen(call, row, call.scores_of(row), nullptr, *separated);
                  });
  onednn::softmax_rows({call.scores, num_rows(sizes), sizes.kv_len}, call.scores, call.num_threads);
}

/// Any other normalizer, row by row.
void normalize(const Call& call, std::optional<SeparatedValues>& separated) {
  const Sizes& sizes = call.problem.sizes;
  parallel_ranges(call.num_threads, num_rows(sizes), sizes.kv_len,
                  [&](std::int64_t begin, std::int64_t end) {
                    std::vector<float> weights(static_cast<std::size_t>(sizes.kv_len + 1)),
                        scratch(2 * weights.size());
                    for (std::int64_t index = begin; index < end; ++index) {
                      float* const scores = call.scores_of(index);
                      const KeyRun row = all_keys_of_row(call.problem, call.tensors, index);
                      std::copy_n(scores, sizes.kv_len, weights.data());
                      normalize_row(call.kernels, call.problem.normalizer,
                                    {.scores = weights.data(),
                                     .count = sizes.kv_len,
                                     .kv_len = kv_length(call.tensors, sizes, row.batch),
                                     .sink = per_head(call.tensors.sinks, row.q_head, -infinity),
                                     .scratch = scratch.data()});
                      if (separated) add_seen(call, index, scores, weights.data(), *separated);
                      std::copy_n(weights.data(), sizes.kv_len, scores);
                    }
                  });
}

bool by_softmax(const Call& call) {
  return call.problem.normalizer.kind() == Normalizer::Kind::softmax;
}

/// What a plain softmax does not know: rows that see nothing, rows that are undefined, and sinks.
/// Also lse.
void finish_row(const Call& call, std::int64_t index) {
  const Sizes& sizes = call.problem.sizes;
  const KeyRun row = all_keys_of_row(call.problem, call.tensors, index);
  float* const out = call.out + index * sizes.v_head_dim;
  const float row_max = call.row_max[index];
  const float sink = per_head(call.tensors.sinks, row.q_head, -infinity);
  double lse = sink;
  if (row_max == -infinity) {
    std::fill_n(out, sizes.v_head_dim, 0.f);
  } else if (!by_softmax(call)) {
    return;
  } else if (!(row_max < infinity && sink < infinity)) {
    lse = std::nan("");
    std::fill_n(out, sizes.v_head_dim, std::nanf(""));
  } else if (!call.tensors.sinks.absent() || !call.tensors.lse.absent()) {
    // The largest weight is 1 / sum of exp(score - row_max).
    const double keys_lse = row_max - std::log(extremes(call.scores_of(index), sizes.kv_len).max);
    lse = std::max<double>(keys_lse, sink) + std::log1p(std::exp(-std::abs(keys_lse - sink)));
    const auto share = static_cast<float>(std::exp(keys_lse - lse));
    if (!call.tensors.sinks.absent())
      std::transform(out, out + sizes.v_head_dim, out,
                     [share](float value) { return value * share; });
  }
  write_lse(call.tensors.lse, row, lse);
}

void finish_rows(const Call& call, const std::optional<SeparatedValues>& separated) {
  const Sizes& sizes = call.problem.sizes;
  parallel_ranges(call.num_threads, num_rows(sizes), sizes.kv_len + sizes.v_head_dim,
                  [&](std::int64_t begin, std::int64_t end) {
                    if (separated) {
                      for (std::int64_t n = begin * sizes.v_head_dim; n < end * sizes.v_head_dim;
                           ++n)
                        call.out[n] += separated->other_sum[n];
                    }
                    for (std::int64_t index = begin; index < end; ++index) finish_row(call, index);
                  });
}

/// A matmul, softmax, matmul over all heads, and loops between them.
void attend(const Call& call) {
  const Sizes& sizes = call.problem.sizes;
  const std::int64_t kv_heads = sizes.batch * sizes.num_kv_heads;
  const std::int64_t rows = sizes.group_size * sizes.q_len;
  const onednn::MatmulShape scores_shape{.m = rows,
                                         .n = sizes.kv_len,
                                         .k = sizes.head_dim,
                                         .batch = kv_heads,
                                         .b_transposed = true,
                                         .num_threads = call.num_threads};
  const onednn::MatmulShape out_shape{.m = rows,
                                      .n = sizes.v_head_dim,
                                      .k = sizes.kv_len,
                                      .batch = kv_heads,
                                      .num_threads = call.num_threads};
  onednn::MatmulCall q_times_k(onednn::Matmul::shared(scores_shape));
  onednn::MatmulCall p_times_v(onednn::Matmul::shared(out_shape));

  const onednn::Matrix scores{call.scores, num_rows(sizes), sizes.kv_len};
  q_times_k.execute(call.q, call.k, call.scores);
  if (call.problem.softcap) take_tanh(call, scores);
  const bool hides = transform_scores(call);
  auto separated = hides ? separate_values(call) : std::nullopt;
  by_softmax(call) ? softmax(call, separated) : normalize(call, separated);
  p_times_v.execute(call.scores, separated ? separated->finite.data() : call.v, call.out);
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
  if (num_rows(sizes) == 0) return;
  const Workspace workspace(unfused_scratch_size(tensors));
  Arena arena(workspace.data());
  const Memory memory = carve(arena, tensors, sizes);
  const int threads = num_threads(execution);
  const Call call{problem,
                  tensors,
                  options,
                  kernels::kernels_for(execution.isa.value_or(default_isa())),
                  threads,
                  as_dense_floats(tensors.q, memory.q, threads),
                  as_dense_floats(tensors.k, memory.k, threads),
                  as_dense_floats(tensors.v, memory.v, threads),
                  dense_floats(tensors.out) ? static_cast<float*>(tensors.out.data) : memory.out,
                  additive_mask(tensors, sizes, memory.mask, threads),
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
  if (is_dense(tensors)) {
    Arena arena(nullptr);
    carve(arena, tensors, problem.sizes);
    return arena.used();
  }
  std::size_t most = 0;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const AttentionTensors sequence =
        sequence_call(problem, tensors, {}, batch, DType::f32).tensors;
    const auto gathered =
        static_cast<std::size_t>(sequence.k.size() + sequence.v.size()) * sizeof(float);
    most = std::max(most, gathered + unfused_scratch_size(sequence));
  }
  return most;
}

}  // namespace attn
