#include "transformer/attention_block.hpp"

#include <attn/reference.hpp>

#include <algorithm>
#include <array>
#include <utility>

#include "attention/problem.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

void check_settings(const AttentionSettings& settings) {
  require_positive("hidden", settings.hidden);
  require_positive("num_kv_heads", settings.num_kv_heads);
  require_positive("num_q_heads", settings.num_q_heads);
  require_positive("head_dim", settings.head_dim);
  require_positive("max_positions", settings.max_positions);
  require_epsilon("qk_norm_epsilon", settings.qk_norm_epsilon);
  if (settings.num_q_heads % settings.num_kv_heads != 0) {
    reject(fmt::format("num_q_heads is {}; it needs to be a multiple of num_kv_heads = {}",
                       settings.num_q_heads, settings.num_kv_heads));
  }
  if (settings.dtype != DType::f32 && settings.dtype != DType::bf16) {
    reject(fmt::format("dtype is {}; it needs to be f32 or bf16", name_of(settings.dtype)));
  }
}

/// A norm's scale as f32; empty if there is none.
Tensor checked_scale(const char* name, const TensorView& scale, std::int64_t head_dim) {
  if (scale.absent()) return {};
  require_rank(name, scale, 1, "[head_dim]");
  require_float(name, scale);
  require_extent(name, scale, 0, head_dim, "head_dim");
  require_data(name, scale);
  return copy_as(scale, DType::f32);
}

/// The options, and tensors whose shapes no forward changes, as attention() checks them: of a call
/// of one token.
void check_options(const AttentionSettings& settings, const AttentionParameters& weights) {
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

/// Without a cache, token n stands at position n, however many tokens of the sequence are padding.
AttentionOptions aligned_to_first(AttentionOptions options) {
  const bool named =
      (options.q_position && options.q_position->offset) ||
      (options.causal && options.causal->position && options.causal->position->offset);
  if (named) return options;
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

/// Whether a plan for one call serves the other.
bool same_shapes(const AttentionTensors& a, const AttentionTensors& b) {
  return same(a.q, b.q) && same(a.k, b.k) && same(a.v, b.v) && same(a.out, b.out) &&
         same(a.mask, b.mask) && same(a.kv_lens, b.kv_lens) &&
         same(a.storage.page_table(), b.storage.page_table()) &&
         same(a.storage.starts(), b.storage.starts()) &&
         same(a.storage.k_scales, b.storage.k_scales);
}

/// The one sequence of a contiguous cache's binding.
AttentionTensors single_sequence(AttentionTensors tensors, std::int64_t sequence) {
  const auto cut = [&](TensorView& view) {
    if (!view.absent()) view = view.sliced(0, sequence, sequence + 1);
  };
  KvStorage& storage = tensors.storage;
  for (TensorView* view :
       {&tensors.k, &tensors.v, &tensors.kv_lens, &storage.k_scales, &storage.v_scales}) {
    cut(*view);
  }
  if (Ring* ring = std::get_if<Ring>(&storage.layout)) cut(ring->starts);
  return tensors;
}

/// One entry of [batch, heads, seq, dim].
TensorView entry_of(const TensorView& view, std::int64_t entry) {
  const TensorView one = view.sliced(0, entry, entry + 1);
  return {one.data,
          one.dtype,
          {one.shape[1], one.shape[2], one.shape[3]},
          {one.strides[1], one.strides[2], one.strides[3]}};
}

/// Drops the last keys of the first sequences.
void truncate_pages(PagedKvCache& cache, std::span<const PagedKvCache::Sequence> sequences,
                    std::int64_t count) {
  for (const auto sequence : sequences) cache.truncate(sequence, cache.length(sequence) - count);
}

/// To every sequence, or to none.
void append_pages(PagedKvCache& cache, std::span<const PagedKvCache::Sequence> sequences,
                  const AttentionTensors& keys, const std::optional<Rope>& rope) {
  std::size_t done = 0;
  try {
    for (; done < sequences.size(); ++done) {
      const auto entry = static_cast<std::int64_t>(done);
      cache.append(sequences[done], entry_of(keys.k, entry), entry_of(keys.v, entry), rope);
    }
  } catch (...) {
    truncate_pages(cache, sequences.first(done), keys.k.shape[2]);
    throw;
  }
}

void append(const CacheRef& cache, const AttentionTensors& keys, const std::optional<Rope>& rope) {
  if (cache.paged() != nullptr) return append_pages(*cache.paged(), cache.sequences(), keys, rope);
  if (cache.sequence())
    return cache.contiguous()->append_to(*cache.sequence(), entry_of(keys.k, 0),
                                         entry_of(keys.v, 0), rope);
  cache.contiguous()->append(keys.k, keys.v, rope);
}

/// Whether a projection can read or write the tensor where it lies: strangers' memory may be
/// aligned to nothing.
bool dense_words(const TensorView& tensor, DType dtype) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data) % alignof(float) == 0;
  return aligned && tensor.dtype == dtype && tensor.strides == dense_strides(tensor.shape);
}

void require_cache_extent(const char* name, std::int64_t value, const char* block_name,
                          std::int64_t needed) {
  if (value != needed)
    reject(fmt::format("cache has {} {}; it needs {} ({} of the block)", name, value, needed,
                       block_name));
}

template <class CacheSettings>
void check_geometry(const CacheSettings& cache, const AttentionSettings& block) {
  require_cache_extent("num_kv_heads", cache.num_kv_heads, "num_kv_heads", block.num_kv_heads);
  require_cache_extent("head_dim", cache.head_dim, "head_dim", block.head_dim);
  require_cache_extent("v_head_dim", cache.v_head_dim.value_or(cache.head_dim), "head_dim",
                       block.head_dim);
}

void check_sequences(std::span<const PagedKvCache::Sequence> sequences, const PagedKvCache& cache,
                     const TokenShape& tokens) {
  require_cache_extent("a batch of", std::ssize(sequences), "batch of x, of the tokens",
                       tokens.batch);
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    static_cast<void>(cache.length(sequences[n]));  // throws if there is no such sequence
    if (std::find(sequences.begin(), sequences.begin() + static_cast<std::ptrdiff_t>(n),
                  sequences[n]) != sequences.begin() + static_cast<std::ptrdiff_t>(n)) {
      reject(fmt::format("sequence {} stands twice in the batch; its keys can be appended once",
                         sequences[n]));
    }
  }
}

/// Throws Error(exhausted) if a sequence cannot take so many keys.
void check_room(const KvCache& cache, std::int64_t sequence, std::int64_t count) {
  const std::int64_t room = cache.settings().capacity - cache.length(sequence);
  if (cache.settings().rolling || count <= room) return;
  throw Error(
      ErrorCode::exhausted,
      fmt::format(
          "x has {} tokens for sequence {}, which holds {} and has room for {} (capacity {})",
          count, sequence, cache.length(sequence), room, cache.settings().capacity));
}

}  // namespace

void take_back(const CacheRef& cache, const TokenShape& tokens) {
  if (cache.paged() != nullptr)
    return truncate_pages(*cache.paged(), cache.sequences(), tokens.seq);
  if (cache.contiguous() == nullptr) return;
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    KvCache& contiguous = *cache.contiguous();
    const std::int64_t sequence = cache.sequence().value_or(entry),
                       end = contiguous.position(sequence);
    contiguous.truncate(sequence, end - std::min(tokens.seq, contiguous.length(sequence)));
  }
}

std::int64_t next_position(const CacheRef& cache, std::int64_t entry) {
  if (cache.paged() != nullptr)
    return cache.paged()->length(cache.sequences()[static_cast<std::size_t>(entry)]);
  if (cache.contiguous() != nullptr)
    return cache.contiguous()->position(cache.sequence().value_or(entry));
  return 0;
}

}  // namespace attn::detail

namespace attn {
using namespace detail;

AttentionBlock::Parts::Parts(const AttentionSettings& given, const AttentionParameters& weights,
                             const Execution& given_execution,
                             std::shared_ptr<ForwardScratch> given_activations)
    : settings(given),
      alibi_slopes(weights.alibi_slopes),
      sinks(weights.sinks),
      execution(given_execution),
      resources(resolve(execution)),
      activations(given_activations ? std::move(given_activations)
                                    : std::make_shared<ForwardScratch>()),
      qkv(make_qkv(settings, weights, resources)),
      out(make_out(settings, weights, resources)) {
  q_norm = checked_scale("q_norm", weights.q_norm, settings.head_dim);
  k_norm = checked_scale("k_norm", weights.k_norm, settings.head_dim);
  check_options(settings, weights);
  padded_options = aligned_to_first(settings.options);
  if (settings.rope)
    rope = activations->memory().rope_tables(
        {*settings.rope, settings.head_dim, settings.max_positions});
}

void AttentionBlock::Parts::check(const TokenShape& tokens, const CacheRef& cache,
                                  const ForwardOptions& options) const {
  if (const KvCache* contiguous = cache.contiguous()) {
    check_geometry(contiguous->settings(), settings);
    require_cache_extent("a batch of", cache.sequence() ? 1 : contiguous->settings().batch,
                         "batch of x, of the tokens", tokens.batch);
    for (std::int64_t entry = 0; entry < tokens.batch; ++entry)
      check_room(*contiguous, cache.sequence().value_or(entry), tokens.seq);
  } else if (const PagedKvCache* paged = cache.paged()) {
    check_geometry(paged->settings(), settings);
    check_sequences(cache.sequences(), *paged, tokens);
  }
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t position = next_position(cache, entry);
    if (tokens.seq <= settings.max_positions - position) continue;
    reject(
        fmt::format("x has {} tokens for batch entry {}, which is at position {}: there are {} "
                    "positions (max_positions)",
                    tokens.seq, entry, position, settings.max_positions));
  }
  check_visibility(tokens, cache, options);
}

/// What only this forward's options say, as attention() will check it: that is when the cache has
/// changed already.
void AttentionBlock::Parts::check_visibility(const TokenShape& tokens, const CacheRef& cache,
                                             const ForwardOptions& options) const {
  if (options.mask.absent() && options.kv_lens.absent()) return;
  std::int64_t kv_len = tokens.seq;
  if (const KvCache* contiguous = cache.contiguous()) {
    kv_len = contiguous->settings().capacity;
  } else if (const PagedKvCache* paged = cache.paged()) {
    const std::int64_t page_size = paged->settings().page_size;
    kv_len = page_size;
    for (const auto sequence : cache.sequences()) {
      const std::int64_t pages = (paged->length(sequence) + tokens.seq + page_size - 1) / page_size;
      kv_len = std::max(kv_len, pages * page_size);
    }
  }
  const Dims q{tokens.batch, settings.num_q_heads, tokens.seq, settings.head_dim};
  const Dims kv{tokens.batch, settings.num_kv_heads, kv_len, settings.head_dim};
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

void AttentionBlock::Parts::check_padding(const TokenShape& tokens, const CacheRef& cache,
                                          const TensorView& kv_lens) const {
  if (cache.contiguous() != nullptr || cache.paged() != nullptr) {
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

AttentionBlock::Parts::Heads AttentionBlock::Parts::heads_of(const MutableTensorView& qkv_rows,
                                                             const TokenShape& tokens) const {
  const std::int64_t width = qkv.out_features(), dim = settings.head_dim;
  const MutableTensorView all(qkv_rows.data, qkv_rows.dtype,
                              {tokens.batch, width / dim, tokens.seq, dim},
                              {tokens.seq * width, dim, width, 1});
  const std::int64_t k_begin = settings.num_q_heads, v_begin = k_begin + settings.num_kv_heads;
  return {all.sliced(1, 0, k_begin), all.sliced(1, k_begin, v_begin),
          all.sliced(1, v_begin, v_begin + settings.num_kv_heads)};
}

TensorView AttentionBlock::Parts::position_ids(const TokenShape& tokens, const CacheRef& cache) {
  auto& positions = activations->memory().positions;
  positions.resize(static_cast<std::size_t>(tokens.count()));
  auto* next = positions.data();
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t first = next_position(cache, entry);
    for (std::int64_t n = 0; n < tokens.seq; ++n) *next++ = first + n;
  }
  return {positions.data(), {tokens.batch, tokens.seq}};
}

/// q and k become what the scores are made of, k but for its rotation where the cache does that.
void AttentionBlock::Parts::normalize_and_turn(const Heads& heads, const TokenShape& tokens,
                                               const CacheRef& cache) {
  const NormOptions norm{.dim = -1, .epsilon = settings.qk_norm_epsilon};
  if (q_norm.size() > 0) rms_norm(heads.q, q_norm.view(), heads.q, norm, execution);
  if (k_norm.size() > 0) rms_norm(heads.k, k_norm.view(), heads.k, norm, execution);
  if (!rope) return;
  const TensorView ids = position_ids(tokens, cache);
  attn::rope(heads.q, rope->rope(), ids, heads.q, execution);
  if (cache.contiguous() == nullptr && cache.paged() == nullptr)
    attn::rope(heads.k, rope->rope(), ids, heads.k, execution);
}

/// The call, without its output. New keys are in the cache by then.
AttentionTensors AttentionBlock::Parts::bind(const Heads& heads, const CacheRef& cache,
                                             const ForwardOptions& options) {
  AttentionTensors tensors{.q = heads.q,
                           .k = heads.k,
                           .v = heads.v,
                           .mask = options.mask,
                           .alibi_slopes = alibi_slopes,
                           .sinks = sinks};
  tensors.kv_lens = options.kv_lens;
  if (cache.paged() != nullptr) return cache.paged()->bind(std::move(tensors), cache.sequences());
  if (cache.contiguous() == nullptr) return tensors;
  tensors = cache.contiguous()->bind(std::move(tensors));
  return cache.sequence() ? single_sequence(std::move(tensors), *cache.sequence()) : tensors;
}

void AttentionBlock::Parts::attend(const AttentionTensors& tensors, const ForwardOptions& options) {
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
  planned_->plan.run(tensors, activations->memory().workspace_of(planned_->plan.workspace_size()));
}

void AttentionBlock::Parts::run(const TensorView& x, const TokenShape& tokens,
                                const CacheRef& cache, const MutableTensorView& y,
                                Linear::Result result, const ForwardOptions& options) {
  ForwardScratch::Memory& memory = activations->memory();
  const MutableTensorView rows =
      memory.qkv.view(settings.dtype, {tokens.count(), qkv.out_features()});
  const Heads heads = heads_of(rows, tokens);
  {
    const Timed timed(options.times, &ForwardTimes::projections);
    qkv.forward(x, rows, Linear::Result::replace, memory);
  }
  {
    const Timed timed(options.times, &ForwardTimes::cache);
    normalize_and_turn(heads, tokens, cache);
    if (cache.contiguous() != nullptr || cache.paged() != nullptr) {
      append(cache, {.k = heads.k, .v = heads.v},
             rope ? std::optional<Rope>(rope->rope()) : std::nullopt);
    }
  }
  with_rollback(cache, tokens,
                [&] { attend_and_project(heads, tokens, cache, y, result, options); });
}

/// New keys are in the cache.
void AttentionBlock::Parts::attend_and_project(const Heads& heads, const TokenShape& tokens,
                                               const CacheRef& cache, const MutableTensorView& y,
                                               Linear::Result result,
                                               const ForwardOptions& options) {
  ForwardScratch::Memory& memory = activations->memory();
  const MutableTensorView attended =
      memory.attended.view(out.operands(), {tokens.count(), out.in_features()});
  {
    const Timed timed(options.times, &ForwardTimes::attention);
    AttentionTensors tensors = bind(heads, cache, options);
    const MutableTensorView by_token(
        attended.data, attended.dtype,
        {tokens.batch, tokens.seq, settings.num_q_heads, settings.head_dim});
    tensors.out = by_token.permuted({0, 2, 1, 3});
    attend(tensors, options);
  }
  const Timed timed(options.times, &ForwardTimes::projections);
  out.forward(attended, y, result, memory);
}

AttentionBlock::AttentionBlock(const AttentionSettings& settings,
                               const AttentionParameters& weights, const Execution& execution,
                               std::shared_ptr<ForwardScratch> activations)
    : parts_(std::make_unique<Parts>(settings, weights, execution, std::move(activations))) {}
AttentionBlock::AttentionBlock(AttentionBlock&&) noexcept = default;
AttentionBlock& AttentionBlock::operator=(AttentionBlock&&) noexcept = default;
AttentionBlock::~AttentionBlock() = default;

const AttentionSettings& AttentionBlock::settings() const noexcept { return parts_->settings; }

std::size_t AttentionBlock::size_in_bytes() const noexcept {
  return parts_->qkv.size_in_bytes() + parts_->out.size_in_bytes();
}

void AttentionBlock::forward(const TensorView& x, const CacheRef& cache, const MutableTensorView& y,
                             const ForwardOptions& options) {
  require_rank("x", x, 3, "[batch, seq, hidden]");
  require_input("x", x);
  require_extent("x", x, 2, parts_->settings.hidden, "hidden");
  require_output_like("y", y, "x", x);
  const TokenShape tokens{x.shape[0], x.shape[1]};
  parts_->check(tokens, cache, options);
  if (x.size() == 0) return;
  ForwardScratch::Memory& memory = parts_->activations->memory();
  const Dims rows{tokens.count(), parts_->settings.hidden};
  TensorView input(x.data, x.dtype, rows);
  if (!dense_words(x, parts_->qkv.operands())) {
    const MutableTensorView copy = memory.input.view(parts_->qkv.operands(), rows);
    copy_into(x, {copy.data, copy.dtype, x.shape});
    input = copy;
  }
  if (dense_words(y, DType::f32)) {
    return parts_->run(input, tokens, cache, {y.data, y.dtype, rows}, Linear::Result::replace,
                       options);
  }
  const MutableTensorView output = memory.projected.view(DType::f32, rows);
  parts_->run(input, tokens, cache, output, Linear::Result::replace, options);
  copy_into({output.data, output.dtype, y.shape}, y);
}

}  // namespace attn
