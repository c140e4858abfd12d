#include "transformer/layer.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"
#include "threads/openmp.hpp"
#include "threads/parallel.hpp"
#include "transformer/block_arguments.hpp"

namespace attn {
using namespace detail;
namespace {

const LayerSettings& checked(const LayerSettings& settings) {
  require_enumerator("norm_placement", settings.norm_placement, NormPlacement::after_sum);
  check_norm("norm", settings.norm);
  return settings;
}

bool normalizes_before(NormPlacement placement) noexcept {
  return placement == NormPlacement::before || placement == NormPlacement::both;
}

std::optional<Norm> make_norm(const std::string& name, const LayerSettings& settings,
                              const NormWeights& weights, bool wanted) {
  if (wanted) return Norm(name, settings.norm, weights, settings.attention.hidden);
  if (!weights.scale.absent() || !weights.bias.absent())
    reject(
        fmt::format("{} is given; it needs to be absent: norm_placement has no such norm", name));
  return std::nullopt;
}

BranchNorms make_norms(const std::string& part, const LayerSettings& settings,
                       const NormWeights& before, const NormWeights& behind) {
  const NormPlacement placement = settings.norm_placement;
  return {make_norm(part + "_norm", settings, before, normalizes_before(placement)),
          make_norm(part + "_post_norm", settings, behind, placement != NormPlacement::before)};
}

/// x += y, both dense and f32.
void add(const MutableTensorView& x, const TensorView& y, const ResolvedExecution& resources) {
  constexpr std::int64_t chunk_size = 4096;
  auto* const to = static_cast<float*>(x.data);
  const auto* const from = static_cast<const float*>(y.data);
  const std::int64_t size = x.size();
  parallel_for(threads_for(size / 4, resources.threads), divide_up(size, chunk_size),
               [&](std::int64_t chunk) {
                 const std::int64_t end = std::min(size, (chunk + 1) * chunk_size);
                 for (std::int64_t n = chunk * chunk_size; n < end; ++n) to[n] += from[n];
               });
}

}  // namespace

TransformerLayer::Impl::Impl(const LayerSettings& given, const LayerWeights& weights,
                             const Execution& execution, std::shared_ptr<ForwardScratch> scratch)
    : settings(checked(given)),
      attention_norms(
          make_norms("attention", settings, weights.attention_norm, weights.attention_post_norm)),
      mlp_norms(make_norms("mlp", settings, weights.mlp_norm, weights.mlp_post_norm)),
      attention(settings.attention, weights.attention, execution, std::move(scratch)),
      mlp(settings, weights.mlp, execution, attention.resources) {}

/// What a branch reads: x after the norm before it, in the type of the branch's products.
TensorView TransformerLayer::Impl::input_of(const Norms& norms, const TensorView& x, DType operands,
                                            const ForwardOptions& options) {
  if (!norms.before && operands == x.dtype) return x;
  const Timed timed(options.times, &ForwardTimes::norms);
  const MutableTensorView y = attention.scratch->memory().normed.view(operands, x.shape);
  if (norms.before) {
    norms.before->apply(x, y, attention.execution);
  } else {
    copy_into(x, y);
  }
  return y;
}

/// Adds the attention or the MLP to x, with the norms around it. branch(input, y, result) computes
/// it.
template <class Branch>
void TransformerLayer::Impl::add_branch(const Norms& norms, const MutableTensorView& x,
                                        DType operands, const ForwardOptions& options,
                                        Branch&& branch) {
  const TensorView input = input_of(norms, x, operands, options);
  const bool normalizes_sum = settings.norm_placement == NormPlacement::after_sum;
  if (!norms.behind || normalizes_sum) {
    branch(input, x, Linear::Result::add);
    if (!normalizes_sum) return;
    const Timed timed(options.times, &ForwardTimes::norms);
    return norms.behind->apply(x, x, attention.execution);
  }
  const MutableTensorView y = attention.scratch->memory().branch.view(DType::f32, x.shape);
  branch(input, y, Linear::Result::replace);
  const Timed timed(options.times, &ForwardTimes::norms);
  norms.behind->apply(y, y, attention.execution);
  add(x, y, attention.resources);
}

void TransformerLayer::Impl::run(const MutableTensorView& x, const TokenShape& tokens,
                                 const CacheRef& cache, const ForwardOptions& options) {
  const BetweenProducts between(attention.qkv.uses_onednn(tokens));
  bool appended = false;
  try {
    add_branch(attention_norms, x, attention.qkv.operands(), options,
               [&](const TensorView& input, const MutableTensorView& y, Linear::Result result) {
                 attention.run(input, tokens, cache, y, result, options);
                 appended = true;
               });
    add_branch(mlp_norms, x, mlp.operands(), options,
               [&](const TensorView& input, const MutableTensorView& y, Linear::Result result) {
                 const Timed timed(options.times, &ForwardTimes::mlp);
                 mlp.forward(input, tokens, y, result, attention.scratch->memory());
               });
    if (options.hooks != nullptr && options.hooks->layer) options.hooks->layer(x);
  } catch (...) {
    if (appended) rollback(cache, tokens);
    throw;
  }
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
  const TokenShape tokens =
      token_shape(x.shape[0], x.shape[1], options, impl().attention.scratch->memory());
  impl().attention.check(tokens, cache, options);
  if (x.size() == 0) return;
  impl().run({x.data, x.dtype, {tokens.count(), x.shape[2]}}, tokens, cache, options);
}

}  // namespace attn
