#include "transformer/norm.hpp"

#include <cmath>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

void check_vector(const std::string& name, const TensorView& vector, std::int64_t width) {
  require_rank(name.c_str(), vector, 1, "[width]");
  require_float(name.c_str(), vector);
  require_extent(name.c_str(), vector, 0, width, "width");
  require_data(name.c_str(), vector);
}

}  // namespace

void check_norm(const std::string& name, const NormSettings& settings) {
  require_enumerator((name + ".kind").c_str(), settings.kind, NormKind::layer);
  require_epsilon((name + ".epsilon").c_str(), settings.epsilon);
  if (!std::isfinite(settings.scale_offset)) {
    reject(
        fmt::format("{}.scale_offset is {}; it needs to be finite", name, settings.scale_offset));
  }
}

Norm::Norm(const std::string& name, const NormSettings& settings, const NormWeights& weights,
           std::int64_t width)
    : settings_(settings) {
  check_vector(name + ".scale", weights.scale, width);
  scale_ = copy_as(weights.scale, DType::f32);
  if (settings.scale_offset != 0) {
    auto* const scale = scale_.data<float>();
    for (std::int64_t n = 0; n < width; ++n) scale[n] += settings.scale_offset;
  }
  if (weights.bias.absent()) return;
  if (settings.kind == NormKind::rms)
    reject(fmt::format("{}.bias is given; it needs to be absent: an RMS norm has none", name));
  check_vector(name + ".bias", weights.bias, width);
  bias_ = copy_as(weights.bias, DType::f32);
}

void Norm::apply(const TensorView& x, const MutableTensorView& y,
                 const Execution& execution) const {
  const NormOptions options{.dim = -1, .epsilon = settings_.epsilon};
  if (settings_.kind == NormKind::rms) return rms_norm(x, scale_.view(), y, options, execution);
  layer_norm(x, scale_.view(), bias_.size() > 0 ? bias_.view() : TensorView{}, y, options, {},
             execution);
}

}  // namespace attn::detail
