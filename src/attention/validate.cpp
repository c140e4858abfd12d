// Checks every shape, type and option of a call, once. Nothing after it checks them again.
#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "attention/call_tensors.hpp"
#include "attention/problem.hpp"
#include "onednn/isa.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

bool given(const TensorView& tensor) { return !tensor.absent(); }

void refuse_together(const char* a, const TensorView& first, const char* b,
                     const TensorView& second, const char* why) {
  if (given(first) && given(second)) reject(fmt::format("{} and {} are both given: {}", a, b, why));
}

/// How sequences are joined and where keys lie: at most one of pages, rings and kv_offsets.
void check_layout(const AttentionTensors& t) {
  const bool paged = std::holds_alternative<Paged>(t.storage.layout);
  const bool ring = std::holds_alternative<Ring>(t.storage.layout);
  const Ragged& ragged = t.ragged;
  if (paged && !given(t.storage.page_table())) reject("storage is paged without a page_table");
  if (ring && !given(t.storage.starts())) reject("storage is a ring without starts");
  refuse_together("page_table", t.storage.page_table(), "kv_offsets", ragged.kv_offsets,
                  "keys lie either in pages or one sequence after another");
  refuse_together("kv_offsets", ragged.kv_offsets, "starts", t.storage.starts(),
                  "keys lie either one sequence after another or in rings");
  refuse_together("kv_offsets", ragged.kv_offsets, "kv_lens", t.kv_lens,
                  "the offsets already give the lengths");
  if (paged && !given(t.kv_lens))
    reject("page_table is given without kv_lens: pages need the lengths of their sequences");
  if (ring && !given(t.kv_lens))
    reject("starts is given without kv_lens: rings need the lengths of their sequences");
}

std::int64_t sequences_of(const char* name, const TensorView& offsets) {
  require_rank(name, offsets, 1, "[batch + 1]");
  require_integers(name, offsets);
  if (offsets.shape[0] == 0) reject(fmt::format("{} has shape [0]; it needs [batch + 1]", name));
  return offsets.shape[0] - 1;
}

std::int64_t longest(const char* name, const std::optional<std::int64_t>& bound,
                     std::int64_t tokens) {
  if (bound && *bound < 0) reject(fmt::format("{} is {}; it needs 0 or more", name, *bound));
  return std::min(bound.value_or(tokens), tokens);
}

void read_q_sizes(const AttentionTensors& tensors, Sizes& sizes) {
  const TensorView& q = tensors.q;
  if (given(tensors.ragged.q_offsets)) {
    require_rank("q", q, 3, "[tokens, num_q_heads, head_dim] with q_offsets");
    sizes.batch = sequences_of("q_offsets", tensors.ragged.q_offsets);
    sizes.q_len = longest("max_q_len", tensors.ragged.max_q_len, q.shape[0]);
  } else {
    require_rank("q", q, 4, "[batch, num_q_heads, q_len, head_dim]");
    sizes.batch = q.shape[0];
    sizes.q_len = q.shape[2];
  }
  sizes.num_q_heads = q.shape[1];
  sizes.head_dim = q.shape[q.rank() - 1];
  // The offsets may have a stride of 0, and so more sequences than there are tokens.
  if (!fits({sizes.batch, sizes.num_q_heads})) {
    reject(
        fmt::format("q_offsets has {} sequences for the {} heads of q; all heads of a batch "
                    "need to be 2^48 at most",
                    sizes.batch, sizes.num_q_heads));
  }
  if (sizes.head_dim == 0)
    reject(
        fmt::format("q has shape {}: head_dim is 0, but it needs at least 1", q.shape.to_string()));
}

/// The keys that a row of the page table has room for. Sequences may share pages, so a sequence may
/// have more keys than the pool.
std::int64_t paged_kv_len(const AttentionTensors& tensors) {
  const TensorView &k = tensors.k, table = tensors.storage.page_table();
  for (const TensorView* rows : {&tensors.k, &tensors.v}) {
    const std::int64_t dim = rows->rank() == 4 ? rows->shape[3] : 1;
    if (fits({table.shape[1], k.shape[2], dim})) continue;
    reject(
        fmt::format("page_table has shape {} for pages of {} keys of {} elements; those of a "
                    "sequence need to be 2^48 at most",
                    table.shape.to_string(), k.shape[2], dim));
  }
  return table.shape[1] * k.shape[2];
}

/// Reads the heads and the length of k in every layout.
void read_k_sizes(const AttentionTensors& tensors, Sizes& sizes) {
  const TensorView& k = tensors.k;
  if (given(tensors.ragged.kv_offsets)) {
    require_rank("k", k, 3, "[tokens, num_kv_heads, head_dim] with kv_offsets");
    const std::int64_t sequences = sequences_of("kv_offsets", tensors.ragged.kv_offsets);
    if (sequences != sizes.batch) {
      reject(fmt::format("kv_offsets has {} elements; it needs {} (batch + 1)", sequences + 1,
                         sizes.batch + 1));
    }
    sizes.kv_len = longest("max_kv_len", tensors.ragged.max_kv_len, k.shape[0]);
  } else if (given(tensors.storage.page_table())) {
    require_rank("k", k, 4, "[num_pages, num_kv_heads, page_size, head_dim] with page_table");
    require_rank("page_table", tensors.storage.page_table(), 2, "[batch, max_pages]");
    require_extent("page_table", tensors.storage.page_table(), 0, sizes.batch, "batch of q");
    require_type("page_table", tensors.storage.page_table(), DType::i32);
    if (k.shape[2] == 0)
      reject(fmt::format("k has shape {}: page_size is 0, but it needs at least 1",
                         k.shape.to_string()));
    sizes.kv_len = paged_kv_len(tensors);
  } else {
    require_rank("k", k, 4, "[batch, num_kv_heads, kv_len, head_dim]");
    require_extent("k", k, 0, sizes.batch, "batch of q");
    sizes.kv_len = k.shape[2];
  }
  sizes.num_kv_heads = k.shape[1];
  require_extent("k", k, k.rank() - 1, sizes.head_dim, "head_dim of q");
}

void set_group_size(Sizes& sizes) {
  const bool no_heads = sizes.num_q_heads == 0 && sizes.num_kv_heads == 0;
  if (!no_heads && (sizes.num_kv_heads == 0 || sizes.num_q_heads % sizes.num_kv_heads != 0)) {
    reject(fmt::format(
        "q has {} heads and k has {}: num_q_heads needs to be a multiple of num_kv_heads",
        sizes.num_q_heads, sizes.num_kv_heads));
  }
  sizes.group_size = no_heads ? 1 : sizes.num_q_heads / sizes.num_kv_heads;
}

/// Keys and values are floats, or i8 with scales of their shape without the last dim.
void check_kv_type(const char* name, const TensorView& tensor, const char* scales_name,
                   const TensorView& scales) {
  if (tensor.dtype != DType::i8) {
    if (given(scales))
      reject(fmt::format("{} is given, but {} has type {}: scales belong to i8", scales_name, name,
                         name_of(tensor.dtype)));
    return require_float(name, tensor);
  }
  if (!given(scales)) reject(fmt::format("{} has type i8 and no {}", name, scales_name));
  require_rank(scales_name, scales, tensor.rank() - 1, "as its tensor, without the last dim");
  for (int dim = 0; dim < scales.rank(); ++dim)
    require_extent(scales_name, scales, dim, tensor.shape[dim], "as its tensor");
  require_type(scales_name, scales, DType::f32);
}

/// Later checks take the sizes of tensors for granted: no extent is negative, and each tensor by
/// itself has a size that fits.
void check_forms(const AttentionTensors& tensors) {
  for_each_tensor(
      [](const char* name, const auto& tensor) {
        if (!tensor.absent()) require_form(name, tensor);
      },
      tensors);
}

Sizes sizes_of_q_and_k(const AttentionTensors& tensors) {
  check_forms(tensors);
  check_layout(tensors);
  Sizes sizes;
  read_q_sizes(tensors, sizes);
  read_k_sizes(tensors, sizes);
  set_group_size(sizes);
  require_float("q", tensors.q);
  check_kv_type("k", tensors.k, "k_scales", tensors.storage.k_scales);
  return sizes;
}

/// v has the layout of k.
void read_v_sizes(const AttentionTensors& tensors, Sizes& sizes) {
  const TensorView &k = tensors.k, &v = tensors.v;
  const bool ragged = given(tensors.ragged.kv_offsets), paged = given(tensors.storage.page_table());
  require_rank("v", v, k.rank(),
               ragged  ? "[tokens, num_kv_heads, v_head_dim] with kv_offsets"
               : paged ? "[num_pages, num_kv_heads, page_size, v_head_dim] with page_table"
                       : "[batch, num_kv_heads, kv_len, v_head_dim]");
  sizes.v_head_dim = v.shape[v.rank() - 1];
  if (sizes.v_head_dim == 0)
    reject(fmt::format("v has shape {}: v_head_dim is 0, but it needs at least 1",
                       v.shape.to_string()));
  require_extent("v", v, 0, k.shape[0],
                 ragged  ? "tokens of k"
                 : paged ? "num_pages of k"
                         : "batch of q");
  require_extent("v", v, 1, sizes.num_kv_heads, "num_kv_heads of k");
  if (!ragged) require_extent("v", v, 2, k.shape[2], paged ? "page_size of k" : "kv_len of k");
  check_kv_type("v", v, "v_scales", tensors.storage.v_scales);
  require_type("v", v, k.dtype);
}

void check_out(const AttentionTensors& tensors, const Sizes& sizes) {
  const TensorView& out = tensors.out;
  const bool ragged = given(tensors.ragged.q_offsets);
  require_rank("out", out, tensors.q.rank(),
               ragged ? "[tokens, num_q_heads, v_head_dim] with q_offsets"
                      : "[batch, num_q_heads, q_len, v_head_dim]");
  require_extent("out", out, 0, tensors.q.shape[0], ragged ? "tokens of q" : "batch of q");
  require_extent("out", out, 1, sizes.num_q_heads, "num_q_heads of q");
  if (!ragged) require_extent("out", out, 2, sizes.q_len, "q_len of q");
  require_extent("out", out, out.rank() - 1, sizes.v_head_dim, "v_head_dim of v");
  require_float("out", out);
}

void check_vector(const char* name, const TensorView& tensor, std::int64_t extent,
                  const char* meaning) {
  require_rank(name, tensor, 1, meaning);
  require_extent(name, tensor, 0, extent, meaning);
}

void check_side_tensors(const AttentionTensors& tensors, const Sizes& sizes) {
  const bool ragged = given(tensors.ragged.q_offsets);
  if (given(tensors.mask)) {
    require_mask_fits(tensors.mask, sizes,
                      ragged ? std::optional(tensors.q.shape[0]) : std::nullopt);
  }
  for (const auto& [name, tensor] :
       {std::pair{"alibi_slopes", &tensors.alibi_slopes}, std::pair{"sinks", &tensors.sinks}}) {
    if (tensor->absent()) continue;
    check_vector(name, *tensor, sizes.num_q_heads, "[num_q_heads]");
    require_type(name, *tensor, DType::f32);
  }
  for (const auto& [name, tensor] :
       {std::pair{"kv_lens", tensors.kv_lens}, std::pair{"starts", tensors.storage.starts()}}) {
    if (tensor.absent()) continue;
    check_vector(name, tensor, sizes.batch, "[batch]");
    require_integers(name, tensor);
  }
  if (tensors.lse.absent()) return;
  require_rank("lse", tensors.lse, ragged ? 2 : 3,
               ragged ? "[tokens, num_q_heads] with q_offsets" : "[batch, num_q_heads, q_len]");
  require_extent("lse", tensors.lse, 0, tensors.q.shape[0], ragged ? "tokens of q" : "batch of q");
  require_extent("lse", tensors.lse, 1, sizes.num_q_heads, "num_q_heads of q");
  if (!ragged) require_extent("lse", tensors.lse, 2, sizes.q_len, "q_len of q");
  require_type("lse", tensors.lse, DType::f32);
}

/// Checks the parameters of a normalizer, and that the call has no tensors that it lacks a use for.
void check_normalizer(const AttentionTensors& tensors, const Normalizer& normalizer) {
  if (normalizer.kind() == Normalizer::Kind::softmax) return;
  const float alpha = normalizer.alpha();
  if (!(std::isfinite(alpha) && alpha >= 1))
    reject(fmt::format("normalizer: alpha is {}; it needs a finite value of at least 1", alpha));
  const float bias = normalizer.bias().value_or(0);
  if (!std::isfinite(bias))
    reject(fmt::format(
        "normalizer: bias is {}; it needs a finite value (leave it empty for -log(kv_len))", bias));
  const std::string name = normalizer.to_string();
  if (given(tensors.lse))
    reject(fmt::format("lse is given with {}: only softmax has a log of the sum of exp", name));
  if (given(tensors.sinks) && normalizer.kind() == Normalizer::Kind::sigmoid) {
    reject(
        fmt::format("sinks is given with {}: it has no denominator that a sink could join", name));
  }
}

/// Positions are sums of a few values within this limit, so they cannot overflow.
constexpr std::int64_t position_limit = std::int64_t{1} << 48;

std::string to_string(const QueryPosition& position) {
  return position.offset ? fmt::format("{}", *position.offset) : "bottom-right";
}

/// q_position and the causal mask may both name a position, but then they must agree. Where all
/// sequences have the same lengths, bottom-right is a number like any other.
void check_positions_agree(const QueryPosition& q_position, const QueryPosition& causal,
                           const AttentionTensors& tensors, const Sizes& sizes) {
  const bool one_length = !given(tensors.kv_lens) && !given(tensors.ragged.q_offsets) &&
                          !given(tensors.ragged.kv_offsets);
  const std::int64_t bottom_right = sizes.kv_len - sizes.q_len;
  const bool agree =
      one_length ? q_position.offset.value_or(bottom_right) == causal.offset.value_or(bottom_right)
                 : q_position == causal;
  if (agree) return;
  reject(fmt::format("q_position is {}, but causal says {}; leave one of them empty",
                     to_string(q_position), to_string(causal)));
}

QueryPosition checked_position(const AttentionTensors& tensors, const Sizes& sizes,
                               const AttentionOptions& options) {
  const QueryPosition position = options.query_position();
  const std::int64_t offset = position.offset.value_or(0);
  if (offset < -position_limit || offset > position_limit) {
    reject(fmt::format("{} is {}; it needs to lie within +-2^48",
                       options.q_position ? "q_position" : "causal offset", offset));
  }
  if (options.q_position && options.causal && options.causal->position)
    check_positions_agree(*options.q_position, *options.causal->position, tensors, sizes);
  return position;
}

Window checked_window(Window window) {
  for (auto [name, side] : {std::pair{"left", &window.left}, std::pair{"right", &window.right}}) {
    if (*side && **side < 0) {
      reject(fmt::format("window {} is {}; it needs 0 or more (leave it empty for unlimited)", name,
                         **side));
    }
    if (*side && **side > position_limit) side->reset();
  }
  return window;
}

Problem with_options(const AttentionTensors& tensors, const Sizes& sizes,
                     const AttentionOptions& options, const Execution& execution) {
  Problem problem;
  problem.sizes = sizes;
  check_block_mask(tensors, sizes, options);
  problem.normalizer = options.normalizer;
  problem.softmax_scale = options.softmax_scale.value_or(
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(sizes.head_dim))));
  if (!std::isfinite(problem.softmax_scale))
    reject(fmt::format("softmax_scale is {}; it needs a finite value", problem.softmax_scale));
  problem.softcap = options.softcap;
  if (problem.softcap && !(std::isfinite(*problem.softcap) && *problem.softcap > 0)) {
    reject(fmt::format("softcap is {}; it needs a finite value above 0 (leave it empty for none)",
                       *problem.softcap));
  }
  problem.causal = options.causal.has_value();
  problem.position = checked_position(tensors, sizes, options);
  problem.window = checked_window(options.window.value_or(Window{}));
  require_enumerator("mask_keys", options.mask_keys, MaskKeys::last);
  problem.mask_keys = options.mask_keys;
  require_enumerator("score_matmul", options.score_matmul, ScoreMatmul::onednn);
  if (options.score_matmul == ScoreMatmul::onednn && !onednn::available()) {
    throw Error(ErrorCode::unsupported,
                "score_matmul is onednn; this build of attn has no oneDNN: it was configured with "
                "ATTN_WITH_ONEDNN=OFF");
  }
  if (execution.num_threads && *execution.num_threads < 1)
    reject(fmt::format("num_threads is {}; it needs 1 or more", *execution.num_threads));
  return problem;
}

Problem validate_call(const AttentionTensors& tensors, const AttentionOptions& options,
                      const Execution& execution, bool with_out) {
  Sizes sizes = sizes_of_q_and_k(tensors);
  read_v_sizes(tensors, sizes);
  if (with_out) check_out(tensors, sizes);
  check_side_tensors(tensors, sizes);
  check_normalizer(tensors, options.normalizer);
  return with_options(tensors, sizes, options, execution);
}

}  // namespace

Problem validate(const AttentionTensors& tensors, const AttentionOptions& options,
                 const Execution& execution) {
  return validate_call(tensors, options, execution, true);
}

Problem validate_inputs(const AttentionTensors& tensors, const AttentionOptions& options,
                        const Execution& execution) {
  return validate_call(tensors, options, execution, given(tensors.out));
}

Problem validate_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                        const Execution& execution) {
  const Sizes sizes = sizes_of_q_and_k(tensors);
  check_side_tensors(tensors, sizes);
  check_normalizer(tensors, options.normalizer);
  return with_options(tensors, sizes, options, execution);
}

}  // namespace attn::detail
