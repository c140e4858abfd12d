#include "transformer/layer.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "threads/openmp.hpp"

namespace attn::detail {
namespace {

void check_vector(const std::string& name, const TensorView& vector, std::int64_t width) {
  require_rank(name.c_str(), vector, 1, "[width]");
  require_float(name.c_str(), vector);
  require_extent(name.c_str(), vector, 0, width, "width");
  require_data(name.c_str(), vector);
}

std::vector<NamedWeights> up_parts(const LayerSettings& settings, const MlpWeights& weights) {
  std::vector<NamedWeights> parts;
  if (settings.mlp == MlpKind::swiglu) parts.push_back({"gate", weights.gate, settings.mlp_width});
  parts.push_back({"up", weights.up, settings.mlp_width});
  return parts;
}

Linear make_up(const LayerSettings& settings, const MlpWeights& weights,
               const ResolvedExecution& resources) {
  require_enumerator("mlp", settings.mlp, MlpKind::gelu_tanh);
  require_positive("mlp_width", settings.mlp_width);
  const std::vector<NamedWeights> parts = up_parts(settings, weights);
  for (const NamedWeights& part : parts) check_linear(part, settings.attention.hidden);
  if (settings.mlp != MlpKind::swiglu && !weights.gate.weight.absent()) {
    reject("gate.weight is given; it needs to be absent in an MLP without a gate");
  }
  return {parts, settings.attention.hidden, settings.attention.dtype, resources};
}

Linear make_down(const LayerSettings& settings, const MlpWeights& weights,
                 const ResolvedExecution& resources) {
  const NamedWeights down{"down", weights.down, settings.attention.hidden};
  check_linear(down, settings.mlp_width);
  return {{&down, 1}, settings.mlp_width, settings.attention.dtype, resources};
}

}  // namespace

Norm::Norm(const char* name, const NormSettings& settings, const NormWeights& weights,
           std::int64_t width)
    : settings_(settings) {
  require_enumerator("norm.kind", settings.kind, NormKind::layer);
  require_epsilon("norm.epsilon", settings.epsilon);
  check_vector(std::string(name) + ".scale", weights.scale, width);
  scale_ = copy_as(weights.scale, DType::f32);
  if (weights.bias.absent()) return;
  if (settings.kind == NormKind::rms)
    reject(fmt::format("{}.bias is given; it needs to be absent: an RMS norm has none", name));
  check_vector(std::string(name) + ".bias", weights.bias, width);
  bias_ = copy_as(weights.bias, DType::f32);
}

void Norm::apply(const TensorView& x, const MutableTensorView& y,
                 const Execution& execution) const {
  const NormOptions options{.dim = -1, .epsilon = settings_.epsilon};
  if (settings_.kind == NormKind::rms) return rms_norm(x, scale_.view(), y, options, execution);
  layer_norm(x, scale_.view(), bias_.size() > 0 ? bias_.view() : TensorView{}, y, options, {},
             execution);
}

Mlp::Mlp(const LayerSettings& settings, const MlpWeights& weights, const Execution& execution,
         const ResolvedExecution& resources)
    : kind_(settings.mlp),
      width_(settings.mlp_width),
      dtype_(settings.attention.dtype),
      execution_(execution),
      up_(make_up(settings, weights, resources)),
      down_(make_down(settings, weights, resources)) {}

void Mlp::activate(const TensorView& hidden, const MutableTensorView& active) const {
  switch (kind_) {
    case MlpKind::swiglu:
      return swiglu(hidden.sliced(1, 0, width_), hidden.sliced(1, width_, 2 * width_), active,
                    execution_);
    case MlpKind::gelu: return gelu(hidden, active, GeluForm::erf, execution_);
    case MlpKind::gelu_tanh: return gelu(hidden, active, GeluForm::tanh, execution_);
  }
}

void Mlp::add(const TensorView& x, const MutableTensorView& y,
              ForwardScratch::Memory& memory) const {
  // Memory for hidden values does not grow with the length of the prompt.
  constexpr std::int64_t tokens_at_once = 256;
  for (std::int64_t begin = 0; begin < x.shape[0]; begin += tokens_at_once) {
    const std::int64_t end = std::min(begin + tokens_at_once, x.shape[0]), tokens = end - begin;
    const MutableTensorView hidden = memory.mlp_hidden.view(dtype_, {tokens, up_.out_features()});
    const MutableTensorView active = memory.mlp_active.view(down_.operands(), {tokens, width_});
    up_.forward(x.sliced(0, begin, end), hidden, Linear::Result::replace, memory);
    activate(hidden, active);
    down_.forward(active, y.sliced(0, begin, end), Linear::Result::add, memory);
  }
}

}  // namespace attn::detail

namespace attn {
using namespace detail;

TransformerLayer::Impl::Impl(const LayerSettings& given, const LayerWeights& weights,
                             const Execution& execution, std::shared_ptr<ForwardScratch> scratch)
    : settings(given),
      attention_norm("attention_norm", settings.norm, weights.attention_norm,
                     settings.attention.hidden),
      mlp_norm("mlp_norm", settings.norm, weights.mlp_norm, settings.attention.hidden),
      attention(settings.attention, weights.attention, execution, std::move(scratch)),
      mlp(settings, weights.mlp, execution, attention.resources) {}

TensorView TransformerLayer::Impl::normed(const Norm& norm, const TensorView& x, DType dtype,
                                          const ForwardOptions& options) {
  const Timed timed(options.times, &ForwardTimes::norms);
  const MutableTensorView y = attention.scratch->memory().normed.view(dtype, x.shape);
  norm.apply(x, y, attention.execution);
  return y;
}

void TransformerLayer::Impl::run(const MutableTensorView& x, const TokenShape& tokens,
                                 const CacheRef& cache, const ForwardOptions& options) {
  const BetweenProducts between(attention.qkv.uses_onednn(tokens.count()));
  attention.run(normed(attention_norm, x, attention.qkv.operands(), options), tokens, cache, x,
                Linear::Result::add, options);
  with_rollback(cache, tokens, [&] {
    const TensorView mlp_input = normed(mlp_norm, x, mlp.operands(), options);
    {
      const Timed timed(options.times, &ForwardTimes::mlp);
      mlp.add(mlp_input, x, attention.scratch->memory());
    }
    if (options.hooks != nullptr && options.hooks->layer) options.hooks->layer(x);
  });
}

TransformerLayer::TransformerLayer(const LayerSettings& settings, const LayerWeights& weights,
                                   const Execution& execution,
                                   std::shared_ptr<ForwardScratch> scratch)
    : impl_(std::make_unique<Impl>(settings, weights, execution, std::move(scratch))) {}
TransformerLayer::TransformerLayer(TransformerLayer&&) noexcept = default;
TransformerLayer& TransformerLayer::operator=(TransformerLayer&&) noexcept = default;
TransformerLayer::~TransformerLayer() = default;

TransformerLayer::Impl& TransformerLayer::impl() const { return not_moved_from("layer", impl_); }

const LayerSettings& TransformerLayer::settings() const { return impl().settings; }

std::size_t TransformerLayer::size_in_bytes() const {
  return impl().attention.qkv.size_in_bytes() + impl().attention.out.size_in_bytes() +
         impl().mlp.size_in_bytes();
}

void TransformerLayer::forward(const MutableTensorView& x, const CacheRef& cache,
                               const ForwardOptions& options) {
  require_rank("x", x, 3, "[batch, seq, hidden]");
  require_type("x", x, DType::f32);
  require_extent("x", x, 2, impl().settings.attention.hidden, "hidden");
  require_data("x", x);
  if (x.strides != dense_strides(x.shape)) {
    reject(fmt::format("x has strides {} for shape {}; it needs to be dense", x.strides.to_string(),
                       x.shape.to_string()));
  }
  const TokenShape tokens{x.shape[0], x.shape[1]};
  impl().attention.check(tokens, cache, options);
  if (x.size() == 0) return;
  impl().run({x.data, x.dtype, {tokens.count(), x.shape[2]}}, tokens, cache, options);
}

}  // namespace attn
