#include "oracle/backward_tolerance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "oracle/errors.hpp"
#include "oracle/magnitudes.hpp"
#include "oracle/plain_backward.hpp"

namespace attn::detail {
namespace {

void grow(double& largest, double value) {
  if (std::isfinite(value)) largest = std::max(largest, value);
}

/// Compares computed elements with the true ones, which lie side by side.
void compare(const std::vector<PlainSum>& plain, const double* truth,
             GradientTolerance& tolerance) {
  for (std::size_t n = 0; n < plain.size(); ++n) {
    grow(tolerance.plain_error, error_of(double{plain[n].value}, truth[n]));
    grow(tolerance.spread, plain[n].spread());
  }
}

/// A true gradient in f64, dense. Empty where it is not wanted.
struct Truth {
  explicit Truth(const TensorView& gradient)
      : tensor(gradient.absent() ? Tensor(DType::f64, {0}) : copy_as(gradient, DType::f64)),
        wanted(!gradient.absent()) {}
  const double* at(std::int64_t element) const { return tensor.data<double>() + element; }

  Tensor tensor;
  bool wanted;
};

/// How many KV heads of all batch entries are computed.
std::int64_t sample_size(const AttentionTensors& call) {
  constexpr std::int64_t quick = std::int64_t{1} << 27;
  const std::int64_t kv_heads = call.k.shape[0] * call.k.shape[1];
  if (kv_heads == 0) return 0;
  const std::int64_t rows = call.q.size() / call.q.shape[3] / kv_heads;
  const std::int64_t products = rows * call.k.shape[2] * (call.q.shape[3] + call.v.shape[3]);
  return std::clamp<std::int64_t>(quick / std::max<std::int64_t>(1, products), 1, kv_heads);
}

void finish(GradientTolerance& tolerance, const Truth& truth, const TensorView& stored,
            std::int64_t products) {
  if (!truth.wanted) return;
  tolerance.largest = largest_finite(truth.tensor);
  tolerance.allowed = 2 * tolerance.plain_error + tolerance.spread +
                      half_ulp(stored.dtype, tolerance.largest) + subnormal_rounding(products);
}

}  // namespace

BackwardTolerance derive_backward_tolerance(const AttentionTensors& call,
                                            const AttentionGradients& gradients,
                                            const AttentionGradients& reference,
                                            const AttentionOptions& options) {
  const Truth dq(reference.dq), dk(reference.dk), dv(reference.dv), dmask(reference.dmask),
      dalibi(reference.dalibi), dsinks(reference.dsinks);
  const bool shared = dmask.wanted || dalibi.wanted || dsinks.wanted;
  const std::int64_t num_kv_heads = call.k.shape[1], all = call.k.shape[0] * num_kv_heads;
  const std::int64_t count = shared ? all : sample_size(call);
  PlainBackward plain(call, gradients, options);
  BackwardTolerance tolerance;
  for (std::int64_t n = 0; n < count; ++n) {
    // Spread over all heads. A KV head and its query heads lie side by side in every tensor.
    const std::int64_t index = n * all / count;
    const PlainBackward::Head head = plain.head(index / num_kv_heads, index % num_kv_heads);
    const auto compare_part = [&](const std::vector<PlainSum>& part, const Truth& truth,
                                  GradientTolerance& of) {
      if (truth.wanted) compare(part, truth.at(index * static_cast<std::int64_t>(part.size())), of);
    };
    compare_part(head.dq, dq, tolerance.dq);
    compare_part(head.dk, dk, tolerance.dk);
    compare_part(head.dv, dv, tolerance.dv);
  }
  if (dmask.wanted) compare(plain.dmask, dmask.at(0), tolerance.dmask);
  if (dalibi.wanted) compare(plain.dalibi, dalibi.at(0), tolerance.dalibi);
  if (dsinks.wanted) compare(plain.dsinks, dsinks.at(0), tolerance.dsinks);

  const std::int64_t rows = call.q.size() / std::max<std::int64_t>(1, call.q.shape[3]);
  const std::int64_t keys = call.k.shape[2];
  finish(tolerance.dq, dq, gradients.dq, keys);
  finish(tolerance.dk, dk, gradients.dk, rows);
  finish(tolerance.dv, dv, gradients.dv, rows);
  finish(tolerance.dmask, dmask, gradients.dmask, rows * keys);
  finish(tolerance.dalibi, dalibi, gradients.dalibi, rows * keys);
  finish(tolerance.dsinks, dsinks, gradients.dsinks, rows);
  tolerance.derivation = fmt::format(
      "2 e + b + half an ulp of 16-bit gradients; a plain float program errs by e = {:.1e}, "
      "{:.1e}, "
      "{:.1e} in dq, dk, dv ({} of {} KV heads), rounding moves them by b = {:.1e}, {:.1e}, {:.1e}",
      tolerance.dq.plain_error, tolerance.dk.plain_error, tolerance.dv.plain_error, count, all,
      tolerance.dq.spread, tolerance.dk.spread, tolerance.dv.spread);
  return tolerance;
}

}  // namespace attn::detail
