// The angles of rotary position embedding, and their tables.
#include "functional/rope_angles.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>

#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

void require_factor(const std::string& name, double value, double least) {
  if (!(value >= least) || !std::isfinite(value))
    reject(fmt::format("rope.{} is {}; it needs to be finite and {} or more", name, value, least));
}

void require_greater(const std::string& name, double value, const std::string& than_name,
                     double than) {
  if (!(value > than) || !std::isfinite(value)) {
    reject(fmt::format("rope.scaling.{} is {}; it needs to be finite and greater than {} = {}",
                       name, value, than_name, than));
  }
}

void require_above_0(const std::string& name, double value) {
  if (!(value > 0) || !std::isfinite(value))
    reject(fmt::format("rope.{} is {}; it needs to be finite and greater than 0", name, value));
}

std::int64_t checked_rotary_dim(const RopeSettings& settings, std::int64_t head_dim) {
  const std::int64_t rotary_dim = settings.rotary_dim.value_or(head_dim);
  require_within("rope.rotary_dim", rotary_dim, 0, head_dim, "up to head_dim");
  if (rotary_dim % 2 != 0)
    reject(fmt::format("rope.rotary_dim is {}; it needs to be even", rotary_dim));
  return rotary_dim;
}

/// Throws for a scaling that gives no frequencies of so many pairs.
struct CheckScaling {
  std::int64_t pairs;

  void operator()(std::monostate) const {}
  void operator()(const LinearRopeScaling& linear) const {
    require_factor("scaling.factor", linear.factor, 1);
  }
  void operator()(const DynamicRopeScaling& dynamic) const {
    require_factor("scaling.factor", dynamic.factor, 1);
    require_positive("rope.scaling.original_max_positions", dynamic.original_max_positions);
  }
  void operator()(const Llama3RopeScaling& llama) const {
    require_factor("scaling.factor", llama.factor, 1);
    require_factor("scaling.low_freq_factor", llama.low_freq_factor, 0);
    require_positive("rope.scaling.original_max_positions", llama.original_max_positions);
    require_greater("high_freq_factor", llama.high_freq_factor, "low_freq_factor",
                    llama.low_freq_factor);
  }
  void operator()(const YarnRopeScaling& yarn) const {
    require_factor("scaling.factor", yarn.factor, 1);
    require_positive("rope.scaling.original_max_positions", yarn.original_max_positions);
    require_above_0("scaling.beta_slow", yarn.beta_slow);
    require_factor("scaling.beta_fast", yarn.beta_fast, yarn.beta_slow);
    if (yarn.attention_factor)
      require_factor("scaling.attention_factor", *yarn.attention_factor, 0);
  }
  void operator()(const LongRopeScaling& scaling) const {
    require_positive("rope.scaling.original_max_positions", scaling.original_max_positions);
    require_factor("scaling.attention_factor", scaling.attention_factor, 0);
    check_factors("short_factors", scaling.short_factors);
    check_factors("long_factors", scaling.long_factors);
  }
  void check_factors(const std::string& name, const std::vector<double>& factors) const {
    if (std::ssize(factors) != pairs) {
      reject(fmt::format("rope.scaling.{} has {} elements; it needs {} (rotary_dim / 2)", name,
                         factors.size(), pairs));
    }
    for (std::size_t n = 0; n < factors.size(); ++n)
      require_above_0(fmt::format("scaling.{}[{}]", name, n), factors[n]);
  }
};

double unscaled_frequency(double theta, std::size_t pair, double rotary_dim) {
  return std::pow(theta, -2.0 * static_cast<double>(pair) / rotary_dim);
}

double llama3_frequency(const Llama3RopeScaling& llama, double frequency) {
  // The number of full rotations of the pair within the context length of the original training.
  const double rotations =
      static_cast<double>(llama.original_max_positions) * frequency / (2 * std::numbers::pi);
  const double kept =
      (rotations - llama.low_freq_factor) / (llama.high_freq_factor - llama.low_freq_factor);
  if (rotations < llama.low_freq_factor) return frequency * (1 / llama.factor);
  if (rotations > llama.high_freq_factor) return frequency;
  return frequency * ((1 - kept) / llama.factor + kept);
}

/// The range of pairs over which YaRN goes from unchanged to divided.
struct YarnRamp {
  double begin, end;

  YarnRamp(const YarnRopeScaling& yarn, double theta, double rotary_dim) {
    // The pair, as a real number, that turns so many times within the original positions.
    const auto pair_of = [&](double rotations) {
      const double positions = static_cast<double>(yarn.original_max_positions);
      return rotary_dim * std::log(positions / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(theta));
    };
    begin = pair_of(yarn.beta_fast);
    end = pair_of(yarn.beta_slow);
    if (yarn.truncate) begin = std::floor(begin), end = std::ceil(end);
    begin = std::max(begin, 0.0);
    end = std::min(end, rotary_dim - 1);
    if (begin == end) end += 0.001;  // a step; the published program divides by this
  }
  /// 0 where a pair is unchanged, 1 where it is divided by the factor.
  double at(std::size_t pair) const {
    return std::clamp((static_cast<double>(pair) - begin) / (end - begin), 0.0, 1.0);
  }
};

/// Scales the frequencies of a sequence of `length` tokens in place.
struct Scale {
  const RopeSettings& settings;
  std::int64_t length;
  std::span<double> frequencies;

  double rotary_dim() const { return 2 * static_cast<double>(frequencies.size()); }

  void operator()(std::monostate) const {}
  void operator()(const LinearRopeScaling& linear) const {
    for (double& frequency : frequencies) frequency *= 1 / linear.factor;
  }
  void operator()(const DynamicRopeScaling& dynamic) const {
    if (length <= dynamic.original_max_positions) return;
    const double ratio =
        static_cast<double>(length) / static_cast<double>(dynamic.original_max_positions);
    const double theta = settings.theta * std::pow(dynamic.factor * ratio - (dynamic.factor - 1),
                                                   rotary_dim() / (rotary_dim() - 2));
    for (std::size_t n = 0; n < frequencies.size(); ++n)
      frequencies[n] = unscaled_frequency(theta, n, rotary_dim());
  }
  void operator()(const Llama3RopeScaling& llama) const {
    for (double& frequency : frequencies) frequency = llama3_frequency(llama, frequency);
  }
  void operator()(const YarnRopeScaling& yarn) const {
    const YarnRamp ramp(yarn, settings.theta, rotary_dim());
    for (std::size_t n = 0; n < frequencies.size(); ++n) {
      const double divided = ramp.at(n);
      frequencies[n] *= divided / yarn.factor + (1 - divided);
    }
  }
  void operator()(const LongRopeScaling& scaling) const {
    const std::vector<double>& factors =
        length > scaling.original_max_positions ? scaling.long_factors : scaling.short_factors;
    for (std::size_t n = 0; n < frequencies.size(); ++n) frequencies[n] /= factors[n];
  }
};

}  // namespace

bool depends_on_length(const RopeSettings& settings) noexcept {
  return std::holds_alternative<DynamicRopeScaling>(settings.scaling) ||
         std::holds_alternative<LongRopeScaling>(settings.scaling);
}

std::int64_t rope_pairs(const RopeSettings& settings, std::int64_t head_dim) {
  require_within("head_dim", head_dim, 0, most_elements, "2^48");
  const std::int64_t pairs = checked_rotary_dim(settings, head_dim) / 2;
  require_above_0("theta", settings.theta);
  if (std::holds_alternative<YarnRopeScaling>(settings.scaling) && !(settings.theta > 1))
    reject(fmt::format("rope.theta is {}; YaRN needs more than 1", settings.theta));
  std::visit(CheckScaling{pairs}, settings.scaling);
  return pairs;
}

void fill_rope_frequencies(const RopeSettings& settings, std::int64_t length,
                           std::span<double> frequencies) {
  const Scale scale{settings, length, frequencies};
  for (std::size_t n = 0; n < frequencies.size(); ++n)
    frequencies[n] = unscaled_frequency(settings.theta, n, scale.rotary_dim());
  std::visit(scale, settings.scaling);
}

void fill_rope_row(std::span<const double> frequencies, double attention_factor,
                   std::int64_t position, const RopeRow& row) {
  for (std::size_t n = 0; n < frequencies.size(); ++n) {
    const double angle = static_cast<double>(position) * frequencies[n];
    row.cos[n] = static_cast<float>(attention_factor * std::cos(angle));
    row.sin[n] = static_cast<float>(attention_factor * std::sin(angle));
  }
}

}  // namespace attn::detail

namespace attn {
using namespace detail;

std::vector<double> rope_frequencies(const RopeSettings& settings, std::int64_t head_dim,
                                     std::int64_t length) {
  std::vector<double> frequencies(static_cast<std::size_t>(rope_pairs(settings, head_dim)));
  fill_rope_frequencies(settings, length, frequencies);
  return frequencies;
}

double rope_attention_factor(const RopeSettings& settings) {
  if (const auto* const scaling = std::get_if<LongRopeScaling>(&settings.scaling))
    return scaling->attention_factor;
  const auto* const yarn = std::get_if<YarnRopeScaling>(&settings.scaling);
  if (yarn == nullptr) return 1;
  return yarn->attention_factor.value_or(0.1 * std::log(yarn->factor) + 1);
}

RopeTables::RopeTables(const RopeSettings& settings, std::int64_t head_dim, std::int64_t positions)
    : interleaved_(settings.interleaved) {
  require_within("positions", positions, 0, most_elements, "2^48");
  const std::vector<double> frequencies = rope_frequencies(settings, head_dim, positions);
  const double attention_factor = rope_attention_factor(settings);
  const auto pairs = std::ssize(frequencies);
  cos_ = Tensor(DType::f32, {positions, pairs});
  sin_ = Tensor(DType::f32, {positions, pairs});
  for (std::int64_t position = 0; position < positions; ++position) {
    fill_rope_row(frequencies, attention_factor, position,
                  {cos_.data<float>() + position * pairs, sin_.data<float>() + position * pairs});
  }
}

}  // namespace attn
