#include "attention/softmax_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::detail {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr float log2e = 1.44269504088896341f;

}  // namespace

void set_identity(const SoftmaxStates& states, std::int64_t rows, std::int64_t width) noexcept {
  std::fill_n(states.out, rows * width, 0.f);
  std::fill_n(states.row_max, rows, minus_infinity);
  std::fill_n(states.row_sum, rows, 0.f);
}

void copy_states(const SoftmaxStates& from, std::int64_t rows, std::int64_t width,
                 const SoftmaxStates& to) noexcept {
  std::copy_n(from.out, rows * width, to.out);
  std::copy_n(from.row_max, rows, to.row_max);
  std::copy_n(from.row_sum, rows, to.row_sum);
}

void merge_states(const SoftmaxStates& part, std::int64_t rows, std::int64_t width, float scale,
                  const SoftmaxStates& into) noexcept {
  const float log2_scale = scale * log2e;
  for (std::int64_t r = 0; r < rows; ++r) {
    if (part.row_sum[r] == 0) continue;
    const float greatest = std::max(into.row_max[r], part.row_max[r]);
    const auto factor = [&](float row_max) {
      return row_max == greatest ? 1.f : std::exp2((row_max - greatest) * log2_scale);
    };
    const float kept = factor(into.row_max[r]), added = factor(part.row_max[r]);
    into.row_max[r] = greatest;
    into.row_sum[r] = into.row_sum[r] * kept + part.row_sum[r] * added;
    float* const out = into.out + r * width;
    const float* const part_out = part.out + r * width;
    for (std::int64_t n = 0; n < width; ++n) out[n] = out[n] * kept + part_out[n] * added;
  }
}

FinishedRow::FinishedRow(double row_max, double row_sum, double sink) noexcept
    : row_max_(row_max), sink_(sink), sum_(1), no_key_(row_sum == 0) {
  // A sink of +inf is like a score of +inf: its own probability would be inf / inf.
  if (!no_key_)
    sum_ = std::isinf(sink) ? (sink > 0 ? std::numeric_limits<double>::quiet_NaN() : row_sum)
                            : row_sum + std::exp(sink - row_max);
}

float FinishedRow::lse() const noexcept {
  return static_cast<float>(no_key_ || std::isinf(sum_) ? sink_ : row_max_ + std::log(sum_));
}

}  // namespace attn::detail
