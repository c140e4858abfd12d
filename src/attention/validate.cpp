// The door: every shape, type and option of a call is checked here, once.
#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "attention/problem.hpp"

namespace attn {
namespace {

[[noreturn]] void reject(const std::string& message) { throw Error(ErrorCode::invalid_argument, message); }

void require_rank(const char* name, const TensorView& tensor, int rank, const char* layout) {
  if (tensor.rank() != rank) {
    reject(fmt::format("{} has shape {} of rank {}; it needs rank {}: {}", name, tensor.shape.to_string(), tensor.rank(), rank, layout));
  }
}

void require_extent(const char* name, const TensorView& tensor, int dim, std::int64_t needed, const char* meaning) {
  if (tensor.shape[dim] != needed) {
    reject(fmt::format("{} has shape {}: dim {} is {}, but it needs {} ({})", name, tensor.shape.to_string(), dim, tensor.shape[dim],
                       needed, meaning));
  }
}

void require_float(const char* name, const TensorView& tensor) {
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::bf16 && tensor.dtype != DType::f16) {
    reject(fmt::format("{} has type {}; it needs f32, bf16 or f16", name, name_of(tensor.dtype)));
  }
}

void require_type(const char* name, const TensorView& tensor, DType dtype) {
  if (tensor.dtype != dtype) reject(fmt::format("{} has type {}; it needs {}", name, name_of(tensor.dtype), name_of(dtype)));
}

Sizes sizes_of_q_and_k(const TensorView& q, const TensorView& k) {
  require_rank("q", q, 4, "[batch, num_q_heads, q_len, head_dim]");
  require_rank("k", k, 4, "[batch, num_kv_heads, kv_len, head_dim]");
  Sizes sizes;
  sizes.batch = q.shape[0];
  sizes.num_q_heads = q.shape[1];
  sizes.q_len = q.shape[2];
  sizes.head_dim = q.shape[3];
  sizes.num_kv_heads = k.shape[1];
  sizes.kv_len = k.shape[2];
  require_extent("k", k, 0, sizes.batch, "batch of q");
  require_extent("k", k, 3, sizes.head_dim, "head_dim of q");
  if (sizes.head_dim == 0) reject(fmt::format("q has shape {}: head_dim is 0, but it needs at least 1", q.shape.to_string()));
  const bool no_heads = sizes.num_q_heads == 0 && sizes.num_kv_heads == 0;
  if (!no_heads && (sizes.num_kv_heads == 0 || sizes.num_q_heads % sizes.num_kv_heads != 0)) {
    reject(fmt::format("q has {} heads and k has {}: num_q_heads needs to be a multiple of num_kv_heads", sizes.num_q_heads,
                       sizes.num_kv_heads));
  }
  sizes.group_size = no_heads ? 1 : sizes.num_q_heads / sizes.num_kv_heads;
  require_float("q", q);
  require_float("k", k);
  return sizes;
}

void check_v_and_out(const Tensors& tensors, Sizes& sizes) {
  const TensorView& v = tensors.v;
  const MutableTensorView& out = tensors.out;
  require_rank("v", v, 4, "[batch, num_kv_heads, kv_len, v_head_dim]");
  require_rank("out", out, 4, "[batch, num_q_heads, q_len, v_head_dim]");
  sizes.v_head_dim = v.shape[3];
  if (sizes.v_head_dim == 0) reject(fmt::format("v has shape {}: v_head_dim is 0, but it needs at least 1", v.shape.to_string()));
  require_extent("v", v, 0, sizes.batch, "batch of q");
  require_extent("v", v, 1, sizes.num_kv_heads, "num_kv_heads of k");
  require_extent("v", v, 2, sizes.kv_len, "kv_len of k");
  require_extent("out", out, 0, sizes.batch, "batch of q");
  require_extent("out", out, 1, sizes.num_q_heads, "num_q_heads of q");
  require_extent("out", out, 2, sizes.q_len, "q_len of q");
  require_extent("out", out, 3, sizes.v_head_dim, "v_head_dim of v");
  require_float("v", v);
  require_float("out", out);
  require_type("v", v, tensors.k.dtype);
}

void check_mask(const TensorView& mask, const Sizes& sizes) {
  if (mask.absent()) return;
  if (mask.dtype != DType::boolean) {
    if (mask.dtype != DType::f32 && mask.dtype != DType::bf16 && mask.dtype != DType::f16) {
      reject(fmt::format("mask has type {}; it needs boolean (true = visible), or f32, bf16 or f16 (added to the scores)",
                         name_of(mask.dtype)));
    }
  }
  const int rank = mask.rank();
  if (rank < 2 || rank > 4) {
    reject(fmt::format("mask has shape {} of rank {}; it needs [q_len, kv_len], [num_q_heads, q_len, kv_len] or "
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
    reject(fmt::format("mask has shape {}: its last dim is {}, but kv_len is {}", mask.shape.to_string(), mask.shape[rank - 1],
                       sizes.kv_len));
  }
}

void check_vector(const char* name, const TensorView& tensor, std::int64_t extent, const char* meaning) {
  require_rank(name, tensor, 1, meaning);
  require_extent(name, tensor, 0, extent, meaning);
}

void check_side_tensors(const Tensors& tensors, const Sizes& sizes) {
  check_mask(tensors.mask, sizes);
  for (const auto& [name, tensor] : {std::pair{"alibi_slopes", &tensors.alibi_slopes}, std::pair{"sinks", &tensors.sinks}}) {
    if (tensor->absent()) continue;
    check_vector(name, *tensor, sizes.num_q_heads, "[num_q_heads]");
    require_type(name, *tensor, DType::f32);
  }
  if (!tensors.kv_lens.absent()) {
    check_vector("kv_lens", tensors.kv_lens, sizes.batch, "[batch]");
    if (tensors.kv_lens.dtype != DType::i32 && tensors.kv_lens.dtype != DType::i64) {
      reject(fmt::format("kv_lens has type {}; it needs i32 or i64", name_of(tensors.kv_lens.dtype)));
    }
  }
  if (!tensors.lse.absent()) {
    require_rank("lse", tensors.lse, 3, "[batch, num_q_heads, q_len]");
    require_extent("lse", tensors.lse, 0, sizes.batch, "batch of q");
    require_extent("lse", tensors.lse, 1, sizes.num_q_heads, "num_q_heads of q");
    require_extent("lse", tensors.lse, 2, sizes.q_len, "q_len of q");
    require_type("lse", tensors.lse, DType::f32);
  }
}

Problem with_options(const Sizes& sizes, const Options& options) {
  Problem problem;
  problem.sizes = sizes;
  problem.softmax_scale = options.softmax_scale.value_or(static_cast<float>(1.0 / std::sqrt(static_cast<double>(sizes.head_dim))));
  if (!std::isfinite(problem.softmax_scale)) reject(fmt::format("softmax_scale is {}; it needs a finite value", problem.softmax_scale));
  problem.softcap = options.softcap;
  if (problem.softcap && !(std::isfinite(*problem.softcap) && *problem.softcap > 0)) {
    reject(fmt::format("softcap is {}; it needs a finite value above 0 (leave it empty for none)", *problem.softcap));
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
    for (auto [name, side] : {std::pair{"left", &problem.window.left}, std::pair{"right", &problem.window.right}}) {
      if (*side && **side < 0) reject(fmt::format("window {} is {}; it needs 0 or more (leave it empty for unlimited)", name, **side));
      if (*side && **side > limit) side->reset();
    }
  }
  if (options.num_threads && *options.num_threads < 1) reject(fmt::format("num_threads is {}; it needs 1 or more", *options.num_threads));
  return problem;
}

void require_data(const char* name, const TensorView& tensor) {
  if (tensor.data == nullptr && !tensor.absent() && tensor.size() > 0) {
    reject(fmt::format("{} of shape {} has no data (null pointer)", name, tensor.shape.to_string()));
  }
}

}  // namespace

Problem validate(const Tensors& tensors, const Options& options) {
  Sizes sizes = sizes_of_q_and_k(tensors.q, tensors.k);
  check_v_and_out(tensors, sizes);
  check_side_tensors(tensors, sizes);
  return with_options(sizes, options);
}

Problem validate_scores(const Tensors& tensors, const Options& options) {
  const Sizes sizes = sizes_of_q_and_k(tensors.q, tensors.k);
  check_side_tensors(tensors, sizes);
  return with_options(sizes, options);
}

void validate_data(const Problem& problem, const Tensors& tensors) {
  require_data("q", tensors.q);
  require_data("k", tensors.k);
  require_data("v", tensors.v);
  require_data("out", tensors.out);
  require_data("mask", tensors.mask);
  require_data("alibi_slopes", tensors.alibi_slopes);
  require_data("sinks", tensors.sinks);
  require_data("kv_lens", tensors.kv_lens);
  require_data("lse", tensors.lse);
  if (tensors.kv_lens.absent()) return;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t length = kv_length(tensors, problem.sizes, batch);
    if (length < 0 || length > problem.sizes.kv_len) {
      reject(fmt::format("kv_lens[{}] is {}; it needs to lie in 0..kv_len = {}", batch, length, problem.sizes.kv_len));
    }
  }
}

DenseMask dense_mask(const Tensors& tensors, const Sizes& sizes) {
  DenseMask mask;
  mask.kv_len = sizes.kv_len;
  if (tensors.mask.absent()) return mask;
  mask.data = tensors.mask.data;
  mask.dtype = tensors.mask.dtype;
  const int rank = tensors.mask.rank();
  for (int dim = 0; dim < rank; ++dim) {
    const bool broadcast = tensors.mask.shape[dim] == 1;
    mask.strides[static_cast<std::size_t>(4 - rank + dim)] = broadcast ? 0 : tensors.mask.strides[dim];
  }
  const std::int64_t last = tensors.mask.shape[rank - 1];
  if (last != 1) mask.kv_len = std::min(last, sizes.kv_len);
  return mask;
}

std::int64_t kv_length(const Tensors& tensors, const Sizes& sizes, std::int64_t batch) {
  const TensorView& lens = tensors.kv_lens;
  if (lens.absent()) return sizes.kv_len;
  const std::int64_t at = batch * lens.strides[0];
  return lens.dtype == DType::i32 ? static_cast<const std::int32_t*>(lens.data)[at] : static_cast<const std::int64_t*>(lens.data)[at];
}

std::int64_t causal_offset(const Problem& problem, std::int64_t kv_length) {
  return problem.causal && problem.causal->offset ? *problem.causal->offset : kv_length - problem.sizes.q_len;
}

}  // namespace attn
