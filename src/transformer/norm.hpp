// A norm with its weights.
#pragma once

#include <attn/transformer.hpp>

#include <string>

namespace attn::detail {

class Norm {
 public:
  /// Copies the weights, each [width], as f32. Throws Error(invalid_argument), which calls settings
  /// and weights `name`, if they do not fit.
  Norm(const std::string& name, const NormSettings& settings, const NormWeights& weights,
       std::int64_t width);
  std::int64_t width() const noexcept { return scale_.size(); }
  /// y = norm(x), both [.., width]. y may be x.
  void apply(const TensorView& x, const MutableTensorView& y, const Execution& execution) const;

 private:
  NormSettings settings_;
  Tensor scale_;
  Tensor bias_;  // empty if the norm has none
};

/// Throws Error(invalid_argument) for settings that no norm has.
void check_norm(const std::string& name, const NormSettings& settings);

}  // namespace attn::detail
