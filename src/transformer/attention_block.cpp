#include "transformer/attention_block.hpp"

#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "threads/openmp.hpp"
#include "transformer/block_arguments.hpp"
#include "transformer/rolling_cache.hpp"

namespace attn::detail {
namespace {

/// A norm of each head of q or k, or of all heads together, as the number of scales says. Empty if
/// there is none.
std::optional<Norm> make_qk_norm(const char* name, const AttentionSettings& settings,
                                 const TensorView& scale, std::int64_t num_heads) {
  if (scale.absent()) return std::nullopt;
  const std::int64_t head_dim = settings.head_dim, all = num_heads * head_dim;
  require_rank(name, scale, 1, "[head_dim], or one scale for each element of all heads");
  if (scale.shape[0] != head_dim && scale.shape[0] != all) {
    reject(
        fmt::format("{} has shape {}: dim 0 is {}, but it needs {} (head_dim) or {} (of all {} "
                    "heads)",
                    name, scale.shape.to_string(), scale.shape[0], head_dim, all, num_heads));
  }
  return Norm(name, settings.qk_norm, {.scale = scale}, scale.shape[0]);
}

/// The options of a forward with kv_lens: query n stands at position n, however many tokens of its
/// sequence are padding. A position that the options name explicitly stays.
AttentionOptions aligned_to_first(AttentionOptions options) {
  if (names_position(options)) return options;
  options.q_position = QueryPosition::top_left();
  if (options.causal) options.causal->position.reset();
  return options;
}

struct ProjectionWidths {
  explicit ProjectionWidths(const AttentionSettings& s)
      : q(s.num_q_heads * s.head_dim), kv(s.num_kv_heads * s.head_dim) {}
  std::int64_t q, kv;
};

std::array<NamedWeights, 3> qkv_parts(const AttentionSettings& settings,
                                      const AttentionParameters& weights) {
  const ProjectionWidths widths(settings);
  return {{{"q", weights.q, widths.q}, {"k", weights.k, widths.kv}, {"v", weights.v, widths.kv}}};
}

Linear make_qkv(const AttentionSettings& settings, const AttentionParameters& weights,
                const ResolvedExecution& resources) {
  check_settings(settings);
  const auto parts = qkv_parts(settings, weights);
  for (const NamedWeights& part : parts) check_linear(part, settings.hidden);
  return {parts, settings.hidden, settings.dtype, resources};
}

Linear make_out(const AttentionSettings& settings, const AttentionParameters& weights,
                const ResolvedExecution& resources) {
  const std::int64_t in_features = settings.num_q_heads * settings.head_dim;
  const NamedWeights out{"out", weights.out, settings.hidden};
  check_linear(out, in_features);
  return {{&out, 1}, in_features, settings.dtype, resources};
}

bool same(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.absent() == b.absent();
}

/// Whether a plan that was made for one call can run the other.
bool same_shapes(const AttentionTensors& a, const AttentionTensors& b) {
  return same(a.q, b.q) && same(a.k, b.k) && same(a.v, b.v) && same(a.out, b.out) &&
         same(a.mask, b.mask) && same(a.kv_lens, b.kv_lens) &&
         same(a.storage.page_table(), b.storage.page_table()) &&
         same(a.storage.starts(), b.storage.starts()) &&
         same(a.storage.k_scales, b.storage.k_scales) &&
         same(a.ragged.q_offsets, b.ragged.q_offsets) &&
         same(a.ragged.kv_offsets, b.ragged.kv_offsets) &&
         a.ragged.max_q_len == b.ragged.max_q_len && a.ragged.max_kv_len == b.ragged.max_kv_len;
}

/// Whether a projection can read or write the tensor where it lies. User memory may be unaligned;
/// projections move pairs of bf16 as one float.
bool is_dense_and_aligned(const TensorView& tensor, DType dtype) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data) % alignof(float) == 0;
  return aligned && tensor.dtype == dtype && tensor.strides == dense_strides(tensor.shape);
}

/// The sequences that are multiplied one by one; empty if all tokens are multiplied at once.
std::span<const std::int64_t> offsets_of(const TokenShape& tokens) {
  if (!tokens.ragged() || tokens.joined) return {};
  return {tokens.offsets, static_cast<std::size_t>(tokens.batch + 1)};
}

}  // namespace

}  // namespace attn::detail

namespace attn {
using namespace detail;

AttentionBlock::Impl::Impl(const AttentionSettings& given, const AttentionParameters& weights,
                           const Execution& given_execution,
                           std::shared_ptr<ForwardScratch> given_scratch)
    : settings(given),
      alibi_slopes(weights.alibi_slopes),
      sinks(weights.sinks),
      execution(given_execution),
      resources(resolve(execution)),
      scratch(given_scratch ? std::move(given_scratch) : std::make_shared<ForwardScratch>()),
      qkv(make_qkv(settings, weights, resources)),
      out(make_out(settings, weights, resources)) {
  q_norm = make_qk_norm("q_norm", settings, weights.q_norm, settings.num_q_heads);
  k_norm = make_qk_norm("k_norm", settings, weights.k_norm, settings.num_kv_heads);
  check_options(settings, weights);
  padded_options = aligned_to_first(settings.options);
  if (settings.rope)
    rotation.emplace(*settings.rope, settings.head_dim, settings.max_positions, scratch->memory());
}

void AttentionBlock::Impl::check(const TokenShape& tokens, const CacheRef& cache,
                                 const ForwardOptions& options) const {
  require_enumerator("options.kernel", options.kernel, AttentionKernel::reference);
  check_cache(cache, {settings.num_kv_heads, settings.head_dim}, tokens);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t position = next_position(cache, entry);
    if (tokens.length(entry) <= settings.max_positions - position) continue;
    reject(
        fmt::format("x has {} tokens for batch entry {}, which is at position {}: there are {} "
                    "positions (max_positions)",
                    tokens.length(entry), entry, position, settings.max_positions));
  }
  check_rolling(cache, tokens, settings.options, !options.mask.absent());
  check_visibility(settings, tokens, cache, options);
}

AttentionBlock::Impl::Heads AttentionBlock::Impl::Heads::tokens(std::int64_t begin,
                                                                std::int64_t end) const {
  return {q.sliced(2, begin, end), k.sliced(2, begin, end), v.sliced(2, begin, end),
          out.sliced(2, begin, end)};
}

AttentionBlock::Impl::Heads AttentionBlock::Impl::heads_of(const MutableTensorView& qkv_rows,
                                                           const MutableTensorView& attended,
                                                           const TokenShape& tokens) const {
  const std::int64_t batch = tokens.ragged() ? 1 : tokens.batch,
                     seq = tokens.ragged() ? tokens.count() : tokens.seq;
  const std::int64_t width = qkv.out_features(), dim = settings.head_dim;
  const MutableTensorView all(qkv_rows.data, qkv_rows.dtype, {batch, width / dim, seq, dim},
                              {seq * width, dim, width, 1});
  const MutableTensorView by_token(attended.data, attended.dtype,
                                   {batch, seq, settings.num_q_heads, dim});
  const std::int64_t k_begin = settings.num_q_heads, v_begin = k_begin + settings.num_kv_heads;
  return {all.sliced(1, 0, k_begin), all.sliced(1, k_begin, v_begin),
          all.sliced(1, v_begin, v_begin + settings.num_kv_heads), by_token.permuted({0, 2, 1, 3})};
}

/// Applies the norms of q and k in place: to each head, or to all heads of a token.
void AttentionBlock::Impl::normalize(const MutableTensorView& qkv_rows, const Heads& heads) const {
  const std::int64_t k_begin = settings.num_q_heads * settings.head_dim,
                     v_begin = k_begin + settings.num_kv_heads * settings.head_dim;
  const auto apply = [&](const Norm& norm, const MutableTensorView& by_head,
                         const MutableTensorView& by_token) {
    const MutableTensorView& x = norm.width() == settings.head_dim ? by_head : by_token;
    norm.apply(x, x, execution);
  };
  if (q_norm) apply(*q_norm, heads.q, qkv_rows.sliced(1, 0, k_begin));
  if (k_norm) apply(*k_norm, heads.k, qkv_rows.sliced(1, k_begin, v_begin));
}

/// The call of new tokens whose keys the cache holds already.
AttentionTensors AttentionBlock::Impl::call_of(const Heads& heads, const TokenShape& tokens,
                                               const CacheRef& cache,
                                               const ForwardOptions& options) const {
  AttentionTensors tensors{.q = heads.q,
                           .k = heads.k,
                           .v = heads.v,
                           .out = heads.out,
                           .mask = options.mask,
                           .alibi_slopes = alibi_slopes,
                           .sinks = sinks};
  tensors.kv_lens = options.kv_lens;
  if (!tokens.ragged()) return bind(cache, std::move(tensors));
  // [1, heads, tokens, dim] becomes [tokens, heads, dim].
  const auto by_token = [](const MutableTensorView& view) -> MutableTensorView {
    return {view.data,
            view.dtype,
            {view.shape[2], view.shape[1], view.shape[3]},
            {view.strides[2], view.strides[1], view.strides[3]}};
  };
  tensors.q = by_token(heads.q);
  tensors.out = by_token(heads.out);
  tensors.ragged = {.q_offsets = offsets_view(tokens), .max_q_len = tokens.seq};
  if (!cache.absent()) return bind(cache, std::move(tensors));
  tensors.k = by_token(heads.k);
  tensors.v = by_token(heads.v);
  tensors.ragged.kv_offsets = tensors.ragged.q_offsets;
  tensors.ragged.max_kv_len = tokens.seq;
  return tensors;
}

void AttentionBlock::Impl::attend(const AttentionTensors& tensors, const ForwardOptions& options) {
  const bool padded = !options.kv_lens.absent();
  const AttentionOptions& call = padded ? padded_options : settings.options;
  if (options.hooks != nullptr && options.hooks->attention) options.hooks->attention(tensors, call);
  if (options.kernel == AttentionKernel::unfused)
    return attention_unfused(tensors, call, execution);
  if (options.kernel == AttentionKernel::reference)
    return attention_reference(tensors, call, execution);
  if (!planned_ || planned_->padded != padded || !same_shapes(planned_->shapes, tensors)) {
    planned_.emplace(Planned{padded, tensors, AttentionPlan(tensors, call, execution)});
  }
  planned_->plan.run(tensors, scratch->memory().workspace_of(planned_->plan.workspace_size()));
}

void AttentionBlock::Impl::run(const TensorView& x, const TokenShape& tokens, const CacheRef& cache,
                               const MutableTensorView& y, Linear::Result result,
                               const ForwardOptions& options) {
  const BetweenProducts between(qkv.uses_onednn(tokens));
  ForwardScratch::Memory& memory = scratch->memory();
  const MutableTensorView rows =
      memory.qkv.view(settings.dtype, {tokens.count(), qkv.out_features()});
  const MutableTensorView attended =
      memory.attended.view(out.operands(), {tokens.count(), out.in_features()});
  const Heads heads = heads_of(rows, attended, tokens);
  const std::span<const std::int64_t> offsets = offsets_of(tokens);
  {
    const Timed timed(options.times, &ForwardTimes::projections);
    qkv.forward(x, rows, Linear::Result::replace, memory, offsets);
  }
  {
    const Timed timed(options.times, &ForwardTimes::cache);
    normalize(rows, heads);
    if (rotation) {
      rotation->apply(heads.q, heads.k, {tokens, cache, options.kv_lens}, memory, execution);
    }
  }
  memory.appended.assign(static_cast<std::size_t>(tokens.batch), 0);
  try {
    append_and_attend(heads, tokens, cache, options);
    const Timed timed(options.times, &ForwardTimes::projections);
    out.forward(attended, y, result, memory, offsets);
  } catch (...) {
    for (std::int64_t entry = 0; entry < tokens.batch; ++entry)
      rollback_entry(cache, entry, memory.appended[static_cast<std::size_t>(entry)]);
    throw;
  }
}

/// Appends the keys and attends to them. Counts in the scratch memory what the cache has got.
void AttentionBlock::Impl::append_and_attend(const Heads& heads, const TokenShape& tokens,
                                             const CacheRef& cache, const ForwardOptions& options) {
  std::vector<std::int64_t>& appended = scratch->memory().appended;
  const bool has_mask = !options.mask.absent();
  if (!tokens.ragged()) return append_in_parts(heads, tokens, cache, options, appended.data());
  if (tokens_at_once(cache, tokens, settings.options, has_mask) >= tokens.seq) {
    append_part(heads, tokens, cache, options);
    for (std::int64_t entry = 0; entry < tokens.batch; ++entry)
      appended[static_cast<std::size_t>(entry)] = tokens.length(entry);
    return;
  }
  // Rolling caches that are too small for all at once get one sequence after another.
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    append_in_parts(heads.tokens(tokens.first(entry), tokens.first(entry + 1)),
                    {1, tokens.length(entry)}, entry_of(cache, entry), options,
                    &appended[static_cast<std::size_t>(entry)]);
  }
}

/// Appends tokens that are not ragged, in parts where a rolling cache is too small for all at once.
/// Adds what the cache has got to appended [batch].
void AttentionBlock::Impl::append_in_parts(const Heads& heads, const TokenShape& tokens,
                                           const CacheRef& cache, const ForwardOptions& options,
                                           std::int64_t* appended) {
  for (std::int64_t begin = 0, end = 0; begin < tokens.seq; begin = end) {
    end = begin + tokens_at_once(cache, {tokens.batch, tokens.seq - begin}, settings.options,
                                 !options.mask.absent());
    const TokenShape part{tokens.batch, end - begin};
    append_part(heads.tokens(begin, end), part, cache, options);
    std::for_each_n(appended, tokens.batch, [&](std::int64_t& count) { count += part.seq; });
  }
}

void AttentionBlock::Impl::append_part(const Heads& heads, const TokenShape& tokens,
                                       const CacheRef& cache, const ForwardOptions& options) {
  if (!cache.absent()) {
    const Timed timed(options.times, &ForwardTimes::cache);
    append(cache, tokens, heads.k, heads.v,
           rotation ? rotation->append_rope() : std::optional<Rope>());
  }
  try {
    const Timed timed(options.times, &ForwardTimes::attention);
    attend(call_of(heads, tokens, cache, options), options);
  } catch (...) {
    rollback(cache, tokens);
    throw;
  }
}

AttentionBlock::AttentionBlock(const AttentionSettings& settings,
                               const AttentionParameters& weights, const Execution& execution,
                               std::shared_ptr<ForwardScratch> scratch)
    : impl_(std::make_unique<Impl>(settings, weights, execution, std::move(scratch))) {}
AttentionBlock::AttentionBlock(AttentionBlock&&) noexcept = default;
AttentionBlock& AttentionBlock::operator=(AttentionBlock&&) noexcept = default;
AttentionBlock::~AttentionBlock() = default;

AttentionBlock::Impl& AttentionBlock::impl() const {
  return not_moved_from("attention block", impl_);
}

const AttentionSettings& AttentionBlock::settings() const { return impl().settings; }

std::size_t AttentionBlock::size_in_bytes() const {
  return impl().qkv.size_in_bytes() + impl().out.size_in_bytes();
}

namespace {

/// x and y may lie at any address: projections read and write copies of what is unaligned.
void check_tokens(const TensorView& x, const MutableTensorView& y, std::int64_t hidden) {
  for (const auto& [name, tensor] : {std::pair{"x", x}, std::pair{"y", TensorView(y)}}) {
    require_rank(name, tensor, 3, "[batch, seq, hidden]");
    require_float(name, tensor);
    require_unaligned_data(name, tensor);
  }
  require_extent("x", x, 2, hidden, "hidden");
  for (int dim = 0; dim < 3; ++dim) require_extent("y", y, dim, x.shape[dim], "the shape of x");
  require_elements_apart("y", y);
}

}  // namespace

void AttentionBlock::forward(const TensorView& x, const CacheRef& cache, const MutableTensorView& y,
                             const ForwardOptions& options) {
  check_tokens(x, y, impl().settings.hidden);
  ForwardScratch::Memory& memory = impl().scratch->memory();
  const TokenShape tokens = token_shape(x.shape[0], x.shape[1], options, memory);
  impl().check(tokens, cache, options);
  if (x.size() == 0) return;
  const Dims rows{tokens.count(), impl().settings.hidden};
  TensorView input(x.data, x.dtype, rows);
  if (!is_dense_and_aligned(x, impl().qkv.operands())) {
    const MutableTensorView copy = memory.input.view(impl().qkv.operands(), rows);
    copy_into(x, {copy.data, copy.dtype, x.shape});
    input = copy;
  }
  if (is_dense_and_aligned(y, DType::f32)) {
    return impl().run(input, tokens, cache, {y.data, y.dtype, rows}, Linear::Result::replace,
                      options);
  }
  const MutableTensorView output = memory.projected.view(DType::f32, rows);
  impl().run(input, tokens, cache, output, Linear::Result::replace, options);
  copy_into({output.data, output.dtype, y.shape}, y);
}

}  // namespace attn
