#include "random.hpp"

#include <cmath>
#include <numbers>

namespace attn::apps {
namespace {

constexpr std::uint64_t golden_gamma = 0x9e3779b97f4a7c15;

constexpr std::uint64_t mix(std::uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 31);
}

/// A value in (0, 1]. It is never 0, because its logarithm is taken.
double uniform(std::uint64_t key, std::uint64_t counter) {
  return static_cast<double>((mix(key + counter * golden_gamma) >> 11) + 1) * 0x1p-53;
}

}  // namespace

Tensor normal_tensor(const Dims& shape, DType dtype, std::uint64_t seed) {
  Tensor values(DType::f32, shape);
  float* const data = values.data<float>();
  const std::int64_t size = values.size();
  const std::uint64_t key = mix(seed + golden_gamma);
  for (std::int64_t n = 0; n < size; n += 2) {
    const double radius = std::sqrt(-2 * std::log(uniform(key, static_cast<std::uint64_t>(n))));
    const double angle = 2 * std::numbers::pi * uniform(key, static_cast<std::uint64_t>(n) + 1);
    data[n] = static_cast<float>(radius * std::cos(angle));
    if (n + 1 < size) data[n + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return dtype == DType::f32 ? std::move(values) : copy_as(values.view(), dtype);
}

}  // namespace attn::apps
