#include "backward.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "apps/support/random.hpp"
#include "apps/support/timing.hpp"

namespace attn::apps::bench {
namespace {

using Values = std::vector<double>;

Values values_of(const TensorView& tensor) {
  const Tensor copy = copy_as(tensor, DType::f64);
  return {copy.data<double>(), copy.data<double>() + copy.size()};
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
  return sum;
}

/// Gradients of a case, and everything that they are made from.
struct Gradients {
  const Case& shape;
  const AttentionTensors& tensors;
  const AttentionGradients& gradients;
};

/// The bound only detects wrong results; attn_demo compare --backward measures accuracy.
void require_close(const Case& shape, const std::string& what, const Values& got,
                   const Values& expected) {
  const double share = shape.dtype == DType::f32 ? 1e-3 : 1e-1;
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t n = 0; n < got.size(); ++n) {
    const double difference = std::abs(got[n] - expected[n]);
    if (!(difference <= share * (largest + 1e-2))) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: wrong {}, dim {}: off by {}", shape.name, what, n, difference));
    }
  }
}

/// A row of dQ depends on one row of Q alone, so the reference computes it quickly.
void verify_row(const Gradients& all, std::int64_t batch, std::int64_t head, std::int64_t row) {
  const Case& shape = all.shape;
  const AttentionTensors& t = all.tensors;
  const std::int64_t kv_head = head / (shape.num_q_heads / shape.num_kv_heads);
  const auto keys = [&](const TensorView& tensor) {
    return tensor.sliced(0, batch, batch + 1).sliced(1, kv_head, kv_head + 1);
  };
  Tensor expected(DType::f64, {1, 1, 1, shape.head_dim});
  attention_backward_reference(
      {.q = row_of(t.q, batch, head, row), .k = keys(t.k), .v = keys(t.v)},
      {.dout = row_of(all.gradients.dout, batch, head, row), .dq = expected.view()},
      options_of_row(shape, batch, row, shape.kv_len));
  require_close(shape, fmt::format("dq at batch {}, head {}, row {}", batch, head, row),
                values_of(row_of(all.gradients.dq, batch, head, row)), values_of(expected.view()));
}

/// Of softmax, the gradients of one key are sums over rows, each from its lse.
void verify_key(const Gradients& all, std::int64_t batch, std::int64_t kv_head, std::int64_t key) {
  const Case& shape = all.shape;
  const AttentionTensors& t = all.tensors;
  const Values k = values_of(row_of(t.k, batch, kv_head, key)),
               v = values_of(row_of(t.v, batch, kv_head, key));
  Values dk(k.size()), dv(v.size());
  const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  const std::int64_t group_size = shape.num_q_heads / shape.num_kv_heads;
  for (std::int64_t head = kv_head * group_size; head < (kv_head + 1) * group_size; ++head) {
    const Values lse = values_of(t.lse.sliced(0, batch, batch + 1).sliced(1, head, head + 1));
    for (std::int64_t row = 0; row < shape.q_len; ++row) {
      const auto [begin, end] = shape.visible_keys(batch, row);
      if (key < begin || key >= end) continue;
      const Values q = values_of(row_of(t.q, batch, head, row)),
                   out = values_of(row_of(t.out, batch, head, row)),
                   dout = values_of(row_of(all.gradients.dout, batch, head, row));
      const double p = std::exp(scale * dot(q, k) - lse[static_cast<std::size_t>(row)]);
      const double ds = p * (dot(dout, v) - dot(dout, out));
      for (std::size_t n = 0; n < dk.size(); ++n) dk[n] += scale * ds * q[n];
      for (std::size_t n = 0; n < dv.size(); ++n) dv[n] += p * dout[n];
    }
  }
  const std::string where = fmt::format("at batch {}, KV head {}, key {}", batch, kv_head, key);
  require_close(shape, "dk " + where, values_of(row_of(all.gradients.dk, batch, kv_head, key)), dk);
  require_close(shape, "dv " + where, values_of(row_of(all.gradients.dv, batch, kv_head, key)), dv);
}

void verify(const Gradients& all) {
  const Case& shape = all.shape;
  std::mt19937 generator(7);
  const auto pick = [&](std::int64_t count) {
    return static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(count));
  };
  for (int sample = 0; sample < 12; ++sample) {
    const std::int64_t batch = pick(shape.batch);
    verify_row(all, batch, pick(shape.num_q_heads), pick(shape.q_len));
    if (shape.normalizer == Normalizer::softmax())
      verify_key(all, batch, pick(shape.num_kv_heads), pick(shape.kv_len));
  }
}

}  // namespace

Timed time_backward(const Case& shape, const Settings& settings, AttentionTensors tensors,
                    const AttentionOptions& options, const Execution& execution) {
  Tensor lse(DType::f32, {shape.batch, shape.num_q_heads, shape.q_len});
  if (shape.normalizer == Normalizer::softmax()) tensors.lse = lse.view();
  const Tensor dout = normal_tensor(tensors.out.shape, shape.dtype, 4);
  Tensor dq(shape.dtype, tensors.q.shape), dk(shape.dtype, tensors.k.shape),
      dv(shape.dtype, tensors.v.shape);
  const AttentionGradients gradients{
      .dout = dout.view(), .dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
  attention(tensors, options, execution);

  const AttentionBackwardPlan plan(tensors, gradients, options, execution);
  Workspace workspace(plan.workspace_size());
  const bool naive = shape.kernel == Kernel::naive;
  const std::function<void()> call = [&] {
    if (naive) return attention_backward_reference(tensors, gradients, options, execution);
    plan.run(tensors, gradients, workspace);
  };
  call();
  verify({shape, tensors, gradients});
  const std::vector<double> seconds = time_calls(call, settings.min_time);
  if (naive) return {seconds, 0, "reference"};
  return {seconds, plan.workspace_size(), plan.description()};
}

}  // namespace attn::apps::bench
