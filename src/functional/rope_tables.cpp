// The angles of rotary position embedding, and their tables.
#include <attn/rope.hpp>

#include <cmath>
#include <numbers>

#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

void require_factor(const char* name, double value, double least) {
  if (!(value >= least) || !std::isfinite(value))
    reject(fmt::format("{} is {}; it needs to be finite and {} or more", name, value, least));
}

std::int64_t checked_rotary_dim(const RopeSettings& settings, std::int64_t head_dim) {
  const std::int64_t rotary_dim = settings.rotary_dim.value_or(head_dim);
  require_within("rope.rotary_dim", rotary_dim, 0, head_dim, "up to head_dim");
  if (rotary_dim % 2 != 0)
    reject(fmt::format("rope.rotary_dim is {}; it needs to be even", rotary_dim));
  return rotary_dim;
}

/// The factor by which a scaling multiplies the frequency of a pair.
struct Scaling {
  double frequency;

  double operator()(std::monostate) const { return 1; }
  double operator()(const LinearRopeScaling& linear) const {
    require_factor("rope.scaling.factor", linear.factor, 1);
    return 1 / linear.factor;
  }
  double operator()(const DynamicRopeScaling& dynamic) const {
    require_factor("rope.scaling.factor", dynamic.factor, 1);
    return 1;
  }
  double operator()(const Llama3RopeScaling& llama) const {
    require_factor("rope.scaling.factor", llama.factor, 1);
    require_factor("rope.scaling.low_freq_factor", llama.low_freq_factor, 0);
    require_positive("rope.scaling.original_max_positions", llama.original_max_positions);
    if (!(llama.high_freq_factor > llama.low_freq_factor) ||
        !std::isfinite(llama.high_freq_factor)) {
      reject(
          fmt::format("rope.scaling.high_freq_factor is {}; it needs to be finite and greater than "
                      "low_freq_factor = {}",
                      llama.high_freq_factor, llama.low_freq_factor));
    }
    // The number of full rotations of the pair within the context length of the original training.
    const double rotations =
        static_cast<double>(llama.original_max_positions) * frequency / (2 * std::numbers::pi);
    if (rotations < llama.low_freq_factor) return 1 / llama.factor;
    if (rotations > llama.high_freq_factor) return 1;
    const double kept =
        (rotations - llama.low_freq_factor) / (llama.high_freq_factor - llama.low_freq_factor);
    return (1 - kept) / llama.factor + kept;
  }
};

}  // namespace

std::vector<double> rope_frequencies(const RopeSettings& settings, std::int64_t head_dim) {
  require_within("head_dim", head_dim, 0, most_elements, "2^48");
  const std::int64_t rotary_dim = checked_rotary_dim(settings, head_dim);
  if (!(settings.theta > 0) || !std::isfinite(settings.theta)) {
    reject(
        fmt::format("rope.theta is {}; it needs to be finite and greater than 0", settings.theta));
  }
  std::vector<double> frequencies(static_cast<std::size_t>(rotary_dim / 2));
  for (std::size_t n = 0; n < frequencies.size(); ++n) {
    const double frequency =
        std::pow(settings.theta, -2.0 * static_cast<double>(n) / static_cast<double>(rotary_dim));
    frequencies[n] = frequency * std::visit(Scaling{frequency}, settings.scaling);
  }
  return frequencies;
}

RopeTables::RopeTables(const RopeSettings& settings, std::int64_t head_dim, std::int64_t positions)
    : interleaved_(settings.interleaved) {
  require_within("positions", positions, 0, most_elements, "2^48");
  const std::vector<double> frequencies = rope_frequencies(settings, head_dim);
  const auto pairs = std::ssize(frequencies);
  cos_ = Tensor(DType::f32, {positions, pairs});
  sin_ = Tensor(DType::f32, {positions, pairs});
  auto* cos = cos_.data<float>();
  auto* sin = sin_.data<float>();
  for (std::int64_t position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      *cos++ = static_cast<float>(std::cos(angle));
      *sin++ = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace attn
