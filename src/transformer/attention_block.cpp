#include "transformer/attention_block.hpp"

#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <variant>

#include "attention/problem.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "threads/openmp.hpp"
#include "transformer/rolling_cache.hpp"

namespace attn::detail {
namespace {

void check_settings(const AttentionSettings& settings) {
  require_positive("hidden", settings.hidden);
  require_positive("num_kv_heads", settings.num_kv_heads);
  require_positive("num_q_heads", settings.num_q_heads);
  require_positive("head_dim", settings.head_dim);
  require_positive("max_positions", settings.max_positions);
  require_epsilon("qk_norm_epsilon", settings.qk_norm_epsilon);
  require_shape("q.weight", {settings.num_q_heads, settings.head_dim, settings.hidden});
  if (settings.num_q_heads % settings.num_kv_heads != 0) {
    reject(fmt::format("num_q_heads is {}; it needs to be a multiple of num_kv_heads = {}",
                       settings.num_q_heads, settings.num_kv_heads));
  }
  if (settings.dtype != DType::f32 && settings.dtype != DType::bf16) {
    reject(fmt::format("dtype is {}; it needs to be f32 or bf16", name_of(settings.dtype)));
  }
}

/// A copy of a norm's scale as f32. It is empty if the norm is absent.
Tensor checked_scale(const char* name, const TensorView& scale, std::int64_t head_dim) {
  if (scale.absent()) return {};
  require_rank(name, scale, 1, "[head_dim]");
  require_float(name, scale);
  require_extent(name, scale, 0, head_dim, "head_dim");
  require_data(name, scale);
  return copy_as(scale, DType::f32);
}

/// Checks the options, the slopes and the sinks as attention() does. Their validity does not depend
/// on the number of tokens, so a call of one token without data is checked.
void check_options(const AttentionSettings& settings, const AttentionParameters& weights) {
  if (settings.options.block_mask) {
    throw Error(ErrorCode::unsupported,
                "block_mask is given in the options of a block: each forward has other numbers of "
                "queries and keys (the mask of a forward, window and mask_mod work)");
  }
  const Dims q{1, settings.num_q_heads, 1, settings.head_dim},
      kv{1, settings.num_kv_heads, 1, settings.head_dim};
  const auto shaped = [&](const Dims& shape) {
    return MutableTensorView(static_cast<void*>(nullptr), settings.dtype, shape);
  };
  validate({.q = shaped(q),
            .k = shaped(kv),
            .v = shaped(kv),
            .out = shaped(q),
            .alibi_slopes = weights.alibi_slopes,
            .sinks = weights.sinks},
           settings.options, {});
  if (!weights.alibi_slopes.absent()) require_data("alibi_slopes", weights.alibi_slopes);
  if (!weights.sinks.absent()) require_data("sinks", weights.sinks);
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
         same(a.storage.k_scales, b.storage.k_scales);
}

/// Whether a projection can read or write the tensor where it lies. User memory may be unaligned;
/// projections move pairs of bf16 as one float.
bool is_dense_and_aligned(const TensorView& tensor, DType dtype) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data) % alignof(float) == 0;
  return aligned && tensor.dtype == dtype && tensor.strides == dense_strides(tensor.shape);
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
  q_norm = checked_scale("q_norm", weights.q_norm, settings.head_dim);
  k_norm = checked_scale("k_norm", weights.k_norm, settings.head_dim);
  check_options(settings, weights);
  padded_options = aligned_to_first(settings.options);
  if (settings.rope)
    rope =
        scratch->memory().rope_tables({*settings.rope, settings.head_dim, settings.max_positions});
}

void AttentionBlock::Impl::check(const TokenShape& tokens, const CacheRef& cache,
                                 const ForwardOptions& options) const {
  require_enumerator("options.kernel", options.kernel, AttentionKernel::reference);
  check_cache(cache, {settings.num_kv_heads, settings.head_dim}, tokens);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t position = next_position(cache, entry);
    if (tokens.seq <= settings.max_positions - position) continue;
    const bool dynamic =
        settings.rope && std::holds_alternative<DynamicRopeScaling>(settings.rope->scaling);
    reject(
        fmt::format("x has {} tokens for batch entry {}, which is at position {}: there are {} "
                    "positions (max_positions){}",
                    tokens.seq, entry, position, settings.max_positions,
                    dynamic ? ", beyond which dynamic rope scaling is not supported" : ""));
  }
  check_rolling(cache, tokens, settings.options, !options.mask.absent());
  check_visibility(tokens, cache, options);
}

/// Checks the mask and kv_lens of this forward. attention() would refuse them as well, but by then
/// keys have been appended to the cache.
void AttentionBlock::Impl::check_visibility(const TokenShape& tokens, const CacheRef& cache,
                                            const ForwardOptions& options) const {
  if (options.mask.absent() && options.kv_lens.absent()) return;
  const Dims q{tokens.batch, settings.num_q_heads, tokens.seq, settings.head_dim};
  const Dims kv{tokens.batch, settings.num_kv_heads, kv_len_after(cache, tokens),
                settings.head_dim};
  const auto shaped = [&](const Dims& shape) {
    return MutableTensorView(static_cast<void*>(nullptr), settings.dtype, shape);
  };
  validate({.q = shaped(q),
            .k = shaped(kv),
            .v = shaped(kv),
            .out = shaped(q),
            .mask = options.mask,
            .kv_lens = options.kv_lens},
           settings.options, {});
  if (!options.mask.absent()) require_data("mask", options.mask);
  if (!options.kv_lens.absent()) check_padding(tokens, cache, options.kv_lens);
}

void AttentionBlock::Impl::check_padding(const TokenShape& tokens, const CacheRef& cache,
                                         const TensorView& kv_lens) const {
  if (!cache.absent()) {
    reject("kv_lens is given; it needs to be absent where a cache knows its lengths");
  }
  require_data("kv_lens", kv_lens);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t length = integer_at(kv_lens, entry);
    if (length < 0 || length > tokens.seq) {
      reject(fmt::format("kv_lens[{}] is {}; it needs to lie in 0..{} (seq of the tokens)", entry,
                         length, tokens.seq));
    }
  }
}

AttentionBlock::Impl::Heads AttentionBlock::Impl::heads_of(const MutableTensorView& qkv_rows,
                                                           const TokenShape& tokens) const {
  const std::int64_t width = qkv.out_features(), dim = settings.head_dim;
  const MutableTensorView all(qkv_rows.data, qkv_rows.dtype,
                              {tokens.batch, width / dim, tokens.seq, dim},
                              {tokens.seq * width, dim, width, 1});
  const std::int64_t k_begin = settings.num_q_heads, v_begin = k_begin + settings.num_kv_heads;
  return {all.sliced(1, 0, k_begin), all.sliced(1, k_begin, v_begin),
          all.sliced(1, v_begin, v_begin + settings.num_kv_heads)};
}

TensorView AttentionBlock::Impl::position_ids(const TokenShape& tokens, const CacheRef& cache) {
  auto& positions = scratch->memory().positions;
  positions.resize(static_cast<std::size_t>(tokens.count()));
  auto* next = positions.data();
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t first = next_position(cache, entry);
    for (std::int64_t n = 0; n < tokens.seq; ++n) *next++ = first + n;
  }
  return {positions.data(), {tokens.batch, tokens.seq}};
}

/// Applies norms and RoPE to q and k in place. With a cache, k is not rotated here: append()
/// rotates it, so that a cache of a narrower type rounds only once.
void AttentionBlock::Impl::normalize_and_rotate(const Heads& heads, const TokenShape& tokens,
                                                const CacheRef& cache) {
  const NormOptions norm{.dim = -1, .epsilon = settings.qk_norm_epsilon};
  if (q_norm.size() > 0) rms_norm(heads.q, q_norm.view(), heads.q, norm, execution);
  if (k_norm.size() > 0) rms_norm(heads.k, k_norm.view(), heads.k, norm, execution);
  if (!rope) return;
  const TensorView ids = position_ids(tokens, cache);
  attn::rope(heads.q, rope->rope(), ids, heads.q, execution);
  if (cache.absent()) attn::rope(heads.k, rope->rope(), ids, heads.k, execution);
}

/// The call without its output. The cache holds the new keys already.
AttentionTensors AttentionBlock::Impl::call_of(const Heads& heads, const CacheRef& cache,
                                               const ForwardOptions& options) {
  AttentionTensors tensors{.q = heads.q,
                           .k = heads.k,
                           .v = heads.v,
                           .mask = options.mask,
                           .alibi_slopes = alibi_slopes,
                           .sinks = sinks};
  tensors.kv_lens = options.kv_lens;
  return bind(cache, std::move(tensors));
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
  const BetweenProducts between(qkv.uses_onednn(tokens.count()));
  ForwardScratch::Memory& memory = scratch->memory();
  const MutableTensorView rows =
      memory.qkv.view(settings.dtype, {tokens.count(), qkv.out_features()});
  const Heads heads = heads_of(rows, tokens);
  {
    const Timed timed(options.times, &ForwardTimes::projections);
    qkv.forward(x, rows, Linear::Result::replace, memory);
  }
  {
    const Timed timed(options.times, &ForwardTimes::cache);
    normalize_and_rotate(heads, tokens, cache);
  }
  TokenShape appended{tokens.batch, 0};
  with_rollback(cache, appended, [&] {
    const TensorView attended = append_and_attend(heads, tokens, cache, options, appended);
    const Timed timed(options.times, &ForwardTimes::projections);
    out.forward(attended, y, result, memory);
  });
}

/// Appends the keys and attends to them, in parts where a rolling cache is too small for all at
/// once. Counts in `appended` what the cache has got. Returns the rows of the output projection.
TensorView AttentionBlock::Impl::append_and_attend(const Heads& heads, const TokenShape& tokens,
                                                   const CacheRef& cache,
                                                   const ForwardOptions& options,
                                                   TokenShape& appended) {
  const MutableTensorView attended =
      scratch->memory().attended.view(out.operands(), {tokens.count(), out.in_features()});
  const MutableTensorView by_token(
      attended.data, attended.dtype,
      {tokens.batch, tokens.seq, settings.num_q_heads, settings.head_dim});
  const MutableTensorView by_head = by_token.permuted({0, 2, 1, 3});
  while (appended.seq < tokens.seq) {
    const std::int64_t begin = appended.seq;
    const std::int64_t end = begin + tokens_at_once(cache, {tokens.batch, tokens.seq - begin},
                                                    settings.options, !options.mask.absent());
    const Heads part{heads.q.sliced(2, begin, end), heads.k.sliced(2, begin, end),
                     heads.v.sliced(2, begin, end)};
    if (!cache.absent()) {
      const Timed timed(options.times, &ForwardTimes::cache);
      append(cache, part.k, part.v, rope ? std::optional<Rope>(rope->rope()) : std::nullopt);
    }
    appended.seq = end;
    const Timed timed(options.times, &ForwardTimes::attention);
    AttentionTensors tensors = call_of(part, cache, options);
    tensors.out = by_head.sliced(2, begin, end);
    attend(tensors, options);
  }
  return attended;
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
  const TokenShape tokens{x.shape[0], x.shape[1]};
  impl().check(tokens, cache, options);
  if (x.size() == 0) return;
  ForwardScratch::Memory& memory = impl().scratch->memory();
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
