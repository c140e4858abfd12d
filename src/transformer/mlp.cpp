#include "transformer/mlp.hpp"

#include <algorithm>
#include <span>
#include <vector>

#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

bool has_gate(MlpKind kind) noexcept { return kind != MlpKind::gelu && kind != MlpKind::gelu_tanh; }

std::vector<NamedWeights> up_parts(const LayerSettings& settings, const MlpWeights& weights) {
  std::vector<NamedWeights> parts;
  if (has_gate(settings.mlp)) parts.push_back({"gate", weights.gate, settings.mlp_width});
  parts.push_back({"up", weights.up, settings.mlp_width});
  return parts;
}

Linear make_up(const LayerSettings& settings, const MlpWeights& weights,
               const ResolvedExecution& resources) {
  require_enumerator("mlp", settings.mlp, MlpKind::geglu_tanh);
  require_positive("mlp_width", settings.mlp_width);
  const std::vector<NamedWeights> parts = up_parts(settings, weights);
  for (const NamedWeights& part : parts) check_linear(part, settings.attention.hidden);
  if (!has_gate(settings.mlp) && !weights.gate.weight.absent()) {
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

// Memory for hidden values does not grow with the length of the prompt.
constexpr std::int64_t tokens_at_once = 256;

/// Calls f(begin, end, offsets) for chunks of the tokens. The chunks of ragged tokens are cut where
/// those of each sequence alone would be; short sequences share one, and the offsets say where they
/// begin in it.
template <class F>
void for_each_chunk(const TokenShape& tokens, std::vector<std::int64_t>& offsets, F&& f) {
  if (!tokens.ragged() || tokens.joined) {
    for (std::int64_t begin = 0; begin < tokens.count(); begin += tokens_at_once)
      f(begin, std::min(begin + tokens_at_once, tokens.count()), std::span<const std::int64_t>{});
    return;
  }
  std::int64_t begin = 0;
  offsets.assign(1, 0);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t end = tokens.first(entry + 1);
    for (std::int64_t at = tokens.first(entry), next = at; at < end; at = next) {
      next = std::min(at + tokens_at_once, end);
      if (next - begin > tokens_at_once) {
        f(begin, at, std::span<const std::int64_t>(offsets));
        begin = at;
        offsets.assign(1, 0);
      }
      offsets.push_back(next - begin);
    }
  }
  if (begin < tokens.count()) f(begin, tokens.count(), std::span<const std::int64_t>(offsets));
}

}  // namespace

Mlp::Mlp(const LayerSettings& settings, const MlpWeights& weights, const Execution& execution,
         const ResolvedExecution& resources)
    : kind_(settings.mlp),
      width_(settings.mlp_width),
      dtype_(settings.attention.dtype),
      execution_(execution),
      up_(make_up(settings, weights, resources)),
      down_(make_down(settings, weights, resources)) {}

void Mlp::activate(const TensorView& hidden, const MutableTensorView& active) const {
  const auto gate = [&] { return hidden.sliced(1, 0, width_); };
  const auto up = [&] { return hidden.sliced(1, width_, 2 * width_); };
  switch (kind_) {
    case MlpKind::swiglu: return swiglu(gate(), up(), active, execution_);
    case MlpKind::gelu: return gelu(hidden, active, GeluForm::erf, execution_);
    case MlpKind::gelu_tanh: return gelu(hidden, active, GeluForm::tanh, execution_);
    case MlpKind::geglu: return geglu(gate(), up(), active, GeluForm::erf, execution_);
    case MlpKind::geglu_tanh: return geglu(gate(), up(), active, GeluForm::tanh, execution_);
  }
}

void Mlp::forward(const TensorView& x, const TokenShape& tokens, const MutableTensorView& y,
                  Linear::Result result, ForwardScratch::Memory& memory) const {
  for_each_chunk(tokens, memory.chunk_offsets,
                 [&](std::int64_t begin, std::int64_t end, std::span<const std::int64_t> offsets) {
                   const MutableTensorView hidden =
                       memory.mlp_hidden.view(dtype_, {end - begin, up_.out_features()});
                   const MutableTensorView active =
                       memory.mlp_active.view(down_.operands(), {end - begin, width_});
                   up_.forward(x.sliced(0, begin, end), hidden, Linear::Result::replace, memory,
                               offsets);
                   activate(hidden, active);
                   down_.forward(active, y.sliced(0, begin, end), result, memory, offsets);
                 });
}

}  // namespace attn::detail
