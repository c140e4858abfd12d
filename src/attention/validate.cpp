// The door: every shape, type and option of a call is checked here, once.
#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "attention/problem.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

bool given(const TensorView& tensor) { return !tensor.absent(); }

void require_together(const char* name, bool one, const char* other, bool both, const char* why) {
  if (one && !both) reject(fmt::format("{} is given without {}: {}", name, other, why));
}

void refuse_together(const char* a, const TensorView& first, const char* b,
                     const TensorView& second, const char* why) {
  if (given(first) && given(second)) reject(fmt::format("{} and {} are both given: {}", a, b, why));
}

void check_places(const AttentionTensors& t) {
  refuse_together("page_table", t.page_table, "kv_offsets", t.kv_offsets,
                  "keys lie either in pages or one sequence after another");
  refuse_together("page_table", t.page_table, "kv_starts", t.kv_starts,
                  "keys lie either in pages or in rings");
  refuse_together("kv_offsets", t.kv_offsets, "kv_starts", t.kv_starts,
                  "keys lie either one sequence after another or in rings");
  refuse_together("kv_offsets", t.kv_offsets, "kv_lens", t.kv_lens, "the offsets tell the lengths");
  require_together("page_table", given(t.page_table), "kv_lens", given(t.kv_lens),
                   "lengths are needed with pages");
  require_together("kv_starts", given(t.kv_starts), "kv_lens", given(t.kv_lens),
                   "lengths are needed with rings");
  if (given(t.q_offsets) && given(t.mask)) {
    throw Error(ErrorCode::unsupported,
                "mask is given with q_offsets: sequences of different lengths have no common mask "
                "(causal, window and mask_mod work)");
  }
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

void take_q(const AttentionTensors& tensors, const AttentionOptions& options, Sizes& sizes) {
  const TensorView& q = tensors.q;
  if (given(tensors.q_offsets)) {
    require_rank("q", q, 3, "[tokens, num_q_heads, head_dim] with q_offsets");
    sizes.batch = sequences_of("q_offsets", tensors.q_offsets);
    sizes.q_len = longest("max_q_len", options.max_q_len, q.shape[0]);
  } else {
    require_rank("q", q, 4, "[batch, num_q_heads, q_len, head_dim]");
    sizes.batch = q.shape[0];
    sizes.q_len = q.shape[2];
  }
  sizes.num_q_heads = q.shape[1];
  sizes.head_dim = q.shape[q.rank() - 1];
  if (sizes.head_dim == 0)
    reject(
        fmt::format("q has shape {}: head_dim is 0, but it needs at least 1", q.shape.to_string()));
}

/// Heads and lengths of k, however its keys lie.
void take_k(const AttentionTensors& tensors, const AttentionOptions& options, Sizes& sizes) {
  const TensorView& k = tensors.k;
  if (given(tensors.kv_offsets)) {
    require_rank("k", k, 3, "[tokens, num_kv_heads, head_dim] with kv_offsets");
    const std::int64_t sequences = sequences_of("kv_offsets", tensors.kv_offsets);
    if (sequences != sizes.batch) {
      reject(fmt::format("kv_offsets has {} elements; it needs {} (batch + 1)", sequences + 1,
                         sizes.batch + 1));
    }
    sizes.kv_len = longest("max_kv_len", options.max_kv_len, k.shape[0]);
  } else if (given(tensors.page_table)) {
    require_rank("k", k, 4, "[num_pages, num_kv_heads, page_size, head_dim] with page_table");
    require_rank("page_table", tensors.page_table, 2, "[batch, max_pages]");
    require_extent("page_table", tensors.page_table, 0, sizes.batch, "batch of q");
    require_type("page_table", tensors.page_table, DType::i32);
    if (k.shape[2] == 0)
      reject(fmt::format("k has shape {}: page_size is 0, but it needs at least 1",
                         k.shape.to_string()));
    sizes.kv_len = tensors.page_table.shape[1] * k.shape[2];
  } else {
    require_rank("k", k, 4, "[batch, num_kv_heads, kv_len, head_dim]");
    require_extent("k", k, 0, sizes.batch, "batch of q");
    sizes.kv_len = k.shape[2];
  }
  sizes.num_kv_heads = k.shape[1];
  require_extent("k", k, k.rank() - 1, sizes.head_dim, "head_dim of q");
}

void take_group_size(Sizes& sizes) {
  const bool no_heads = sizes.num_q_heads == 0 && sizes.num_kv_heads == 0;
  if (!no_heads && (sizes.num_kv_heads == 0 || sizes.num_q_heads % sizes.num_kv_heads != 0)) {
    reject(fmt::format(
        "q has {} heads and k has {}: num_q_heads needs to be a multiple of num_kv_heads",
        sizes.num_q_heads, sizes.num_kv_heads));
  }
  sizes.group_size = no_heads ? 1 : sizes.num_q_heads / sizes.num_kv_heads;
}

/// i8 with scales of its shape without the last dim, or a float without.
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

Sizes sizes_of_q_and_k(const AttentionTensors& tensors, const AttentionOptions& options) {
  check_places(tensors);
  Sizes sizes;
  take_q(tensors, options, sizes);
  take_k(tensors, options, sizes);
  take_group_size(sizes);
  require_float("q", tensors.q);
  check_kv_type("k", tensors.k, "k_scales", tensors.k_scales);
  return sizes;
}

/// v lies as k does.
void take_v(const AttentionTensors& tensors, Sizes& sizes) {
  const TensorView &k = tensors.k, &v = tensors.v;
  const bool ragged = given(tensors.kv_offsets), paged = given(tensors.page_table);
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
  check_kv_type("v", v, "v_scales", tensors.v_scales);
  require_type("v", v, k.dtype);
}

void check_out(const AttentionTensors& tensors, const Sizes& sizes) {
  const TensorView& out = tensors.out;
  const bool ragged = given(tensors.q_offsets);
  require_rank("out", out, tensors.q.rank(),
               ragged ? "[tokens, num_q_heads, v_head_dim] with q_offsets"
                      : "[batch, num_q_heads, q_len, v_head_dim]");
  require_extent("out", out, 0, tensors.q.shape[0], ragged ? "tokens of q" : "batch of q");
  require_extent("out", out, 1, sizes.num_q_heads, "num_q_heads of q");
  if (!ragged) require_extent("out", out, 2, sizes.q_len, "q_len of q");
  require_extent("out", out, out.rank() - 1, sizes.v_head_dim, "v_head_dim of v");
  require_float("out", out);
}

void check_mask(const TensorView& mask, const Sizes& sizes) {
  if (mask.absent()) return;
  if (mask.dtype != DType::boolean) {
    if (mask.dtype != DType::f32 && mask.dtype != DType::bf16 && mask.dtype != DType::f16) {
      reject(
          fmt::format("mask has type {}; it needs boolean (true = visible), or f32, bf16 or f16 "
                      "(added to the scores)",
                      name_of(mask.dtype)));
    }
  }
  const int rank = mask.rank();
  if (rank < 2 || rank > 4) {
    reject(fmt::format(
        "mask has shape {} of rank {}; it needs [q_len, kv_len], [num_q_heads, q_len, kv_len] or "
        "[batch, num_q_heads, q_len, kv_len]",
        mask.shape.to_string(), rank));
  }
  const std::int64_t full[] = {sizes.batch, sizes.num_q_heads, sizes.q_len};
  const char* meaning[] = {"batch, or 1", "num_q_heads, or 1", "q_len, or 1"};
  for (int dim = 0; dim < rank - 1; ++dim) {
    const int axis = 4 - rank + dim;
    if (mask.shape[dim] != 1) require_extent("mask", mask, dim, full[axis], meaning[axis]);
  }
  if (mask.shape[rank - 1] > std::max<std::int64_t>(sizes.kv_len, 1)) {
    reject(fmt::format("mask has shape {}: its last dim is {}, but kv_len is {}",
                       mask.shape.to_string(), mask.shape[rank - 1], sizes.kv_len));
  }
}

void check_vector(const char* name, const TensorView& tensor, std::int64_t extent,
                  const char* meaning) {
  require_rank(name, tensor, 1, meaning);
  require_extent(name, tensor, 0, extent, meaning);
}

void check_side_tensors(const AttentionTensors& tensors, const Sizes& sizes) {
  check_mask(tensors.mask, sizes);
  for (const auto& [name, tensor] :
       {std::pair{"alibi_slopes", &tensors.alibi_slopes}, std::pair{"sinks", &tensors.sinks}}) {
    if (tensor->absent()) continue;
    check_vector(name, *tensor, sizes.num_q_heads, "[num_q_heads]");
    require_type(name, *tensor, DType::f32);
  }
  for (const auto& [name, tensor] :
       {std::pair{"kv_lens", &tensors.kv_lens}, std::pair{"kv_starts", &tensors.kv_starts}}) {
    if (tensor->absent()) continue;
    check_vector(name, *tensor, sizes.batch, "[batch]");
    require_integers(name, *tensor);
  }
  if (tensors.lse.absent()) return;
  const bool ragged = given(tensors.q_offsets);
  require_rank("lse", tensors.lse, ragged ? 2 : 3,
               ragged ? "[tokens, num_q_heads] with q_offsets" : "[batch, num_q_heads, q_len]");
  require_extent("lse", tensors.lse, 0, tensors.q.shape[0], ragged ? "tokens of q" : "batch of q");
  require_extent("lse", tensors.lse, 1, sizes.num_q_heads, "num_q_heads of q");
  if (!ragged) require_extent("lse", tensors.lse, 2, sizes.q_len, "q_len of q");
  require_type("lse", tensors.lse, DType::f32);
}

/// A normalizer's own numbers, and what goes with it.
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

Problem with_options(const Sizes& sizes, const AttentionOptions& options) {
  Problem problem;
  problem.sizes = sizes;
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
  // Positions are sums of a few such values: bounded here, they cannot overflow later.
  constexpr std::int64_t limit = std::int64_t{1} << 48;
  problem.causal = options.causal;
  const std::int64_t offset = problem.causal ? problem.causal->offset.value_or(0) : 0;
  if (offset < -limit || offset > limit) {
    reject(fmt::format("causal offset is {}; it needs to lie within +-2^48", offset));
  }
  if (options.window) {
    problem.window = *options.window;
    for (auto [name, side] :
         {std::pair{"left", &problem.window.left}, std::pair{"right", &problem.window.right}}) {
      if (*side && **side < 0)
        reject(fmt::format("window {} is {}; it needs 0 or more (leave it empty for unlimited)",
                           name, **side));
      if (*side && **side > limit) side->reset();
    }
  }
  if (options.num_threads && *options.num_threads < 1)
    reject(fmt::format("num_threads is {}; it needs 1 or more", *options.num_threads));
  return problem;
}

void check_lengths(const Problem& problem, const AttentionTensors& tensors) {
  if (tensors.kv_lens.absent()) return;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t length = kv_length(tensors, problem.sizes, batch);
    if (length < 0 || length > problem.sizes.kv_len) {
      reject(fmt::format("kv_lens[{}] is {}; it needs to lie in 0..kv_len = {}", batch, length,
                         problem.sizes.kv_len));
    }
  }
}

/// From 0 to the number of tokens, never falling, and no sequence longer than the plan allows.
void check_offsets(const char* name, const TensorView& offsets, std::int64_t tokens,
                   std::int64_t most) {
  if (offsets.absent()) return;
  const std::int64_t sequences = offsets.shape[0] - 1;
  if (integer_at(offsets, 0) != 0)
    reject(fmt::format("{}[0] is {}; it needs 0", name, integer_at(offsets, 0)));
  for (std::int64_t b = 0; b < sequences; ++b) {
    const std::int64_t begin = integer_at(offsets, b), end = integer_at(offsets, b + 1);
    if (end < begin)
      reject(fmt::format("{}[{}] is {}, below {}[{}] = {}: offsets never fall", name, b + 1, end,
                         name, b, begin));
    if (end - begin > most) {
      reject(fmt::format("{} gives sequence {} a length of {}; the plan was made for {} at most",
                         name, b, end - begin, most));
    }
  }
  if (integer_at(offsets, sequences) != tokens) {
    reject(fmt::format("{}[{}] is {}; it needs {}, the number of tokens", name, sequences,
                       integer_at(offsets, sequences), tokens));
  }
}

void check_starts(const Problem& problem, const AttentionTensors& tensors) {
  if (tensors.kv_starts.absent()) return;
  const std::int64_t capacity = problem.sizes.kv_len;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t start = integer_at(tensors.kv_starts, batch);
    const bool empty = capacity == 0 && start == 0;
    if (!empty && (start < 0 || start >= capacity)) {
      reject(fmt::format("kv_starts[{}] is {}; it needs to lie in 0..{} (capacity - 1)", batch,
                         start, capacity - 1));
    }
  }
}

/// Pages that hold keys.
void check_pages(const Problem& problem, const AttentionTensors& tensors) {
  if (tensors.page_table.absent()) return;
  const std::int64_t num_pages = tensors.k.shape[0], page_size = tensors.k.shape[2];
  const Dims& strides = tensors.page_table.strides;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t used =
        (kv_length(tensors, problem.sizes, batch) + page_size - 1) / page_size;
    for (std::int64_t n = 0; n < used; ++n) {
      const std::int32_t page = static_cast<const std::int32_t*>(
          tensors.page_table.data)[batch * strides[0] + n * strides[1]];
      if (page < 0 || page >= num_pages) {
        reject(fmt::format("page_table[{}, {}] is {}; it needs to lie in 0..{} (num_pages - 1)",
                           batch, n, page, num_pages - 1));
      }
    }
  }
}

}  // namespace

Problem validate(const AttentionTensors& tensors, const AttentionOptions& options) {
  Sizes sizes = sizes_of_q_and_k(tensors, options);
  take_v(tensors, sizes);
  check_out(tensors, sizes);
  check_side_tensors(tensors, sizes);
  check_normalizer(tensors, options.normalizer);
  return with_options(sizes, options);
}

Problem validate_scores(const AttentionTensors& tensors, const AttentionOptions& options) {
  const Sizes sizes = sizes_of_q_and_k(tensors, options);
  check_side_tensors(tensors, sizes);
  check_normalizer(tensors, options.normalizer);
  return with_options(sizes, options);
}

void validate_data(const Problem& problem, const AttentionTensors& tensors) {
  const auto require_if_given = [](const char* name, const auto& tensor) {
    if (!tensor.absent()) require_data(name, tensor);
  };
  require_if_given("q", tensors.q);
  require_if_given("k", tensors.k);
  require_if_given("v", tensors.v);
  require_if_given("out", tensors.out);
  require_if_given("mask", tensors.mask);
  require_if_given("alibi_slopes", tensors.alibi_slopes);
  require_if_given("sinks", tensors.sinks);
  require_if_given("kv_lens", tensors.kv_lens);
  require_if_given("lse", tensors.lse);
  require_if_given("q_offsets", tensors.q_offsets);
  require_if_given("kv_offsets", tensors.kv_offsets);
  require_if_given("page_table", tensors.page_table);
  require_if_given("kv_starts", tensors.kv_starts);
  require_if_given("k_scales", tensors.k_scales);
  require_if_given("v_scales", tensors.v_scales);
  check_offsets("q_offsets", tensors.q_offsets, tensors.q.shape[0], problem.sizes.q_len);
  check_offsets("kv_offsets", tensors.kv_offsets, tensors.k.shape[0], problem.sizes.kv_len);
  check_lengths(problem, tensors);
  check_starts(problem, tensors);
  check_pages(problem, tensors);
}

AttentionOptions with_lengths(const AttentionTensors& tensors, const AttentionOptions& options) {
  AttentionOptions filled = options;
  const auto fill = [](const TensorView& offsets, std::optional<std::int64_t>& most) {
    const bool readable = offsets.rank() == 1 && offsets.data != nullptr &&
                          (offsets.dtype == DType::i32 || offsets.dtype == DType::i64);
    if (most || !readable) return;
    most = 0;
    for (std::int64_t b = 0; b + 1 < offsets.shape[0]; ++b) {
      const std::int64_t begin = integer_at(offsets, b), end = integer_at(offsets, b + 1);
      if (begin >= 0 && end > begin)
        most = std::max(*most, end - begin);  // others are refused later
    }
  };
  fill(tensors.q_offsets, filled.max_q_len);
  fill(tensors.kv_offsets, filled.max_kv_len);
  return filled;
}

DenseMask dense_mask(const AttentionTensors& tensors, const Sizes& sizes) {
  DenseMask mask;
  mask.kv_len = sizes.kv_len;
  if (tensors.mask.absent()) return mask;
  mask.data = tensors.mask.data;
  mask.dtype = tensors.mask.dtype;
  const int rank = tensors.mask.rank();
  for (int dim = 0; dim < rank; ++dim) {
    const bool broadcast = tensors.mask.shape[dim] == 1;
    mask.strides[static_cast<std::size_t>(4 - rank + dim)] =
        broadcast ? 0 : tensors.mask.strides[dim];
  }
  const std::int64_t last = tensors.mask.shape[rank - 1];
  if (last != 1) mask.kv_len = std::min(last, sizes.kv_len);
  return mask;
}

std::int64_t kv_length(const AttentionTensors& tensors, const Sizes& sizes, std::int64_t batch) {
  return tensors.kv_lens.absent() ? sizes.kv_len : integer_at(tensors.kv_lens, batch);
}

std::int64_t causal_offset(const Problem& problem, std::int64_t q_len, std::int64_t kv_length) {
  return problem.causal && problem.causal->offset ? *problem.causal->offset : kv_length - q_len;
}

}  // namespace attn::detail
