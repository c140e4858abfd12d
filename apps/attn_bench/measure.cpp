#include "measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "apps/support/random.hpp"
#include "apps/support/timing.hpp"
#include "attention/simulate.hpp"
#include "backward.hpp"
#include "onednn/isa.hpp"

namespace attn::apps::bench {
namespace {

/// Compares a few rows with the reference. It reads keys and values as they are stored, because the
/// rounding of a cache's type is not an error here. The bound only detects wrong results; attn_demo
/// compare measures accuracy.
void verify(const Case& shape, const AttentionTensors& tensors) {
  const double tolerance = shape.dtype == DType::f32   ? 2e-5
                           : shape.dtype == DType::f16 ? 1e-2
                                                       : 5e-2;
  std::mt19937 generator(7);
  const auto pick = [&](std::int64_t count) {
    return static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(count));
  };
  for (int sample = 0; sample < 12; ++sample) {
    const std::int64_t batch = pick(shape.batch), head = pick(shape.num_q_heads),
                       row = pick(shape.q_len);
    const std::int64_t kv_head = head / (shape.num_q_heads / shape.num_kv_heads);
    const Tensor k = plain_keys(tensors, batch, kv_head), v = plain_values(tensors, batch, kv_head);
    Tensor expected(DType::f64, {1, 1, 1, shape.v_head_dim});
    attention_reference({.q = row_of(tensors.q, batch, head, row),
                         .k = k.view(),
                         .v = v.view(),
                         .out = expected.view()},
                        options_of_row(shape, batch, row, k.shape()[2]));
    const Tensor got = copy_as(row_of(tensors.out, batch, head, row), DType::f64);
    for (std::int64_t n = 0; n < shape.v_head_dim; ++n) {
      const double difference = std::abs(got.data<double>()[n] - expected.data<double>()[n]);
      if (!(difference <= tolerance)) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("{}: wrong result at batch {}, head {}, row {}, dim {}: off by {}",
                                shape.name, batch, head, row, n, difference));
      }
    }
  }
}

double visible_pairs(const Case& shape) {
  double pairs = 0;
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    for (std::int64_t row = 0; row < shape.q_len; ++row) {
      const auto [begin, end] = shape.visible_keys(batch, row);
      pairs += static_cast<double>(end - begin);
    }
  }
  return pairs * static_cast<double>(shape.num_q_heads);
}

/// Of Q, K, V and O; with the gradients, of O's once, and of the others' as well.
double traffic_in_bytes(const Case& shape) {
  const std::int64_t q_rows = shape.batch * shape.num_q_heads * shape.q_len;
  const double of_rows = static_cast<double>(q_rows * (shape.head_dim + shape.v_head_dim)) *
                         static_cast<double>(size_of(shape.dtype));
  return (shape.backward ? 2 : 1) * (of_rows + shape.bytes_of_keys(shape.total_length()));
}

/// 4 operations for each element of head_dim and visible pair: a multiplication and an addition in
/// Q K^T, and in P V. The gradients have five such products.
double operations(const Case& shape) {
  const double forward =
      2 * static_cast<double>(shape.head_dim + shape.v_head_dim) * visible_pairs(shape);
  return shape.backward ? 2.5 * forward : forward;
}

Timed time_forward(const Case& shape, const Settings& settings, const AttentionTensors& tensors,
                   const AttentionOptions& options, const Execution& execution) {
  const AttentionPlan plan(tensors, options, execution);
  Workspace workspace(plan.workspace_size());
  const std::function<void()> call = [&] {
    switch (shape.kernel) {
      case Kernel::tiled: return plan.run(tensors, workspace);
      case Kernel::unfused: return attention_unfused(tensors, options, execution);
      case Kernel::naive: return attention_reference(tensors, options, execution);
    }
  };
  call();
  verify(shape, tensors);
  const std::vector<double> seconds = time_calls(call, settings.min_time);
  switch (shape.kernel) {
    case Kernel::tiled: return {seconds, plan.workspace_size(), plan.description()};
    case Kernel::unfused:
      return {seconds, unfused_scratch_size(tensors),
              onednn::available() ? "unfused, oneDNN" : "unfused, micro-kernel"};
    case Kernel::naive: break;
  }
  return {seconds, 0, "reference"};
}

}  // namespace

Result measure(const Case& shape, const Settings& settings, const Peak& peak) {
  const Tensor q =
      normal_tensor({shape.batch, shape.num_q_heads, shape.q_len, shape.head_dim}, shape.dtype, 1);
  Tensor out(shape.dtype, {shape.batch, shape.num_q_heads, shape.q_len, shape.v_head_dim});
  KeysAndValues keys_and_values(shape);
  const AttentionTensors tensors = keys_and_values.bind({.q = q.view(), .out = out.view()});
  const AttentionOptions options = options_of(shape, tensors);
  const Execution execution{
      .num_threads = settings.num_threads, .isa = settings.isa, .executor = settings.executor};

  const Timed timed = shape.backward ? time_backward(shape, settings, tensors, options, execution)
                                     : time_forward(shape, settings, tensors, options, execution);
  Result result;
  const double median = median_of(timed.seconds);
  result.median_ms = median * 1e3;
  result.min_ms = timed.seconds.front() * 1e3;
  result.mean_ms = mean_of(timed.seconds) * 1e3;
  result.p99_ms = timed.seconds[(timed.seconds.size() * 99 - 1) / 100] * 1e3;
  result.gflops = operations(shape) / median / 1e9;
  result.gbps = traffic_in_bytes(shape) / median / 1e9;
  const bool bf16 = shape.dtype == DType::bf16 &&
                    (shape.kv_dtype() == DType::bf16 || shape.kv_dtype() == DType::i8);
  result.peak_gflops = bf16 ? peak.bf16_gflops : peak.multiply_add_gflops;
  result.fraction_of_peak =
      std::max(result.gflops / result.peak_gflops, result.gbps / peak.read_gbps);
  result.scratch_bytes = timed.scratch_bytes;
  result.path = timed.path;
  for (const int threads : settings.simulated_threads) {
    const detail::SimulatedCall call =
        detail::simulate(tensors, options, settings.isa, threads, settings.min_time);
    result.simulated.push_back({threads, call.seconds * 1e3, call.share_of_ideal});
  }
  return result;
}

}  // namespace attn::apps::bench
