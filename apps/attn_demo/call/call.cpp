#include "call.hpp"

#include <attn/io.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "apps/support/memory.hpp"
#include "apps/support/options.hpp"
#include "apps/support/random.hpp"

namespace attn::apps::demo {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}

Tensor converted(Tensor tensor, DType dtype) {
  return tensor.dtype() == dtype ? std::move(tensor) : copy_as(tensor.view(), dtype);
}

Tensor read_mask(const std::string& file) {
  Tensor mask = read_tensor(file);
  if (mask.dtype() == DType::boolean) return mask;
  require_mask_floats(file, mask.dtype());
  return converted(std::move(mask), DType::f32);
}

/// The shape of past and new keys (or values) together. `name` is k or v.
Dims joined_shape(const char* name, const TensorView& past, const TensorView& added) {
  const auto reject_shapes = [&](const char* why) {
    reject(
        "--past-{} has shape {}: {} [batch, kv_heads, past_len, dim], and {} is {} in that order",
        name, past.shape.to_string(), why, name, added.shape.to_string());
  };
  if (past.rank() != 4) reject_shapes("it needs rank 4");
  for (const int dim : {0, 1, 3}) {
    if (past.shape[dim] != added.shape[dim]) reject_shapes("all but past_len needs to fit");
  }
  Dims shape = added.shape;
  shape[2] += past.shape[2];
  return shape;
}

CacheSettings cache_settings(const Dims& k, const Dims& v, DType dtype) {
  return {.batch = k[0],
          .num_kv_heads = k[1],
          .capacity = k[2],
          .head_dim = k[3],
          .v_head_dim = v[3],
          .dtype = dtype};
}

void prepend_past(Call& call, const CallArguments& arguments) {
  const Tensor past_k = read_floats("--past-k", *arguments.past_k, call.dtype);
  const Tensor past_v = read_floats("--past-v", *arguments.past_v, call.dtype);
  AttentionTensors& tensors = call.tensors;
  const Dims k = joined_shape("k", past_k.view(), tensors.k),
             v = joined_shape("v", past_v.view(), tensors.v);
  if (past_k.shape()[2] != past_v.shape()[2]) {
    reject("--past-k has shape {} and --past-v {}: past_len needs to be the same",
           past_k.shape().to_string(), past_v.shape().to_string());
  }
  if (k.product() == 0 || v.product() == 0) {  // a cache has room for one key at least
    call.k = Tensor(call.dtype, k);
    call.v = Tensor(call.dtype, v);
    tensors.k = call.k.view();
    tensors.v = call.v.view();
    return;
  }
  call.joined = std::make_unique<AnyCache>(cache_settings(k, v, call.dtype));
  call.joined->append(past_k.view(), past_v.view());
  call.joined->append(tensors.k, tensors.v);
  const AttentionTensors bound = call.joined->bind({});
  tensors.k = bound.k;
  tensors.v = bound.v;
}

/// Checks the call as if it had no cache. A cache with pages has room for more keys than there are,
/// so a mask or kv_lens that is too long would pass the library's own check.
void check_without_cache(const Call& call) {
  AttentionTensors tensors = call.tensors;
  tensors.out = {nullptr, call.dtype, output_shape(tensors)};
  const AttentionPlan checks_shapes(tensors, call.options);
  if (tensors.kv_lens.absent()) return;
  const Tensor lengths = copy_as(tensors.kv_lens, DType::i64);
  const std::int64_t kv_len = tensors.k.shape[2];
  for (std::int64_t b = 0; b < lengths.size(); ++b) {
    const std::int64_t length = lengths.data<std::int64_t>()[b];
    if (length > kv_len) {
      reject("--kv-lens[{}] is {}; it needs to lie in 0..kv_len = {}", b, length, kv_len);
    }
  }
}

/// Refuses a cache that does not fit into memory. A page takes --page-size keys, however few are
/// used.
void require_room(const CacheSettings& settings) {
  const std::int64_t keys = std::max(settings.capacity, settings.page_size) + settings.page_size;
  const double elements = product_of(
      {settings.batch, settings.num_kv_heads, keys, settings.head_dim + settings.v_head_dim});
  require_memory("a cache of K and V", elements * static_cast<double>(size_of(settings.dtype)));
}

/// Appends K and V to a cache of the type and pages that the options ask for.
void fill_cache(Call& call, const CallArguments& arguments) {
  const TypeChoice& types = arguments.types;
  if (!types.kv_dtype && !types.page_size) return;
  call.kv_dtype = types.kv_dtype.value_or(call.dtype);
  call.page_size = types.page_size.value_or(0);
  const AttentionTensors& tensors = call.tensors;
  check_without_cache(call);
  if (tensors.k.size() == 0 || tensors.v.size() == 0) return;
  CacheSettings settings = cache_settings(tensors.k.shape, tensors.v.shape, *call.kv_dtype);
  settings.page_size = call.page_size;
  require_room(settings);
  call.cache = std::make_unique<AnyCache>(settings);
  call.cache->append(tensors.k, tensors.v);
}

/// Everything except q, k and v.
Call call_without_inputs(const CallArguments& arguments) {
  Call call;
  call.options = arguments.options;
  call.execution = arguments.execution;
  call.options.normalizer = arguments.normalizer.value();
  call.dtype = arguments.types.dtype;
  const auto set = [](Tensor& tensor, TensorView& view, Tensor value) {
    tensor = std::move(value);
    view = std::as_const(tensor).view();
  };
  if (arguments.mask) set(call.mask, call.tensors.mask, read_mask(*arguments.mask));
  if (arguments.alibi)
    set(call.alibi_slopes, call.tensors.alibi_slopes,
        read_floats("--alibi", *arguments.alibi, DType::f32));
  if (arguments.sinks)
    set(call.sinks, call.tensors.sinks, read_floats("--sinks", *arguments.sinks, DType::f32));
  if (arguments.kv_lens) set(call.kv_lens, call.tensors.kv_lens, read_tensor(*arguments.kv_lens));
  return call;
}

}  // namespace

void require_floats(const char* option, const std::string& file, DType dtype) {
  if (is_float(dtype)) return;
  reject("{}: {} has type {}; it needs floating-point numbers", option, file, name_of(dtype));
}

void require_mask_floats(const std::string& file, DType dtype) {
  if (is_float(dtype)) return;
  reject(
      "--mask: {} has type {}; it needs booleans (true is visible) or floating-point "
      "numbers (added to the scores)",
      file, name_of(dtype));
}

Tensor read_floats(const char* option, const std::string& file, std::optional<DType> dtype) {
  Tensor tensor = read_tensor(file);
  require_floats(option, file, tensor.dtype());
  const DType own = tensor.dtype() == DType::f64 ? DType::f32 : tensor.dtype();
  return converted(std::move(tensor), dtype.value_or(own));
}

Layout layout_of(const char* name, const Tensor& tensor, const CallArguments& arguments,
                 std::int64_t heads) {
  const Dims& shape = tensor.shape();
  const std::string has_shape = fmt::format("{} has shape {}", name, shape.to_string());
  if (shape.rank() == 4) {
    if (arguments.heads) reject("--heads is for rank-3 inputs, but {}", has_shape);
    return arguments.layout.value_or(Layout::bhsd);
  }
  if (shape.rank() != 3) {
    reject("{} of rank {}; it needs rank 4, or rank 3 [batch, seq, heads * dim]", has_shape,
           shape.rank());
  }
  if (!arguments.heads) reject("{} of rank 3, which needs --heads", has_shape);
  if (arguments.layout) reject("--layout is for rank-4 inputs, but {}", has_shape);
  require_multiple(name, shape, heads);
  return Layout::merged_heads;
}

void require_multiple(const char* name, const Dims& shape, std::int64_t heads) {
  if (shape[2] % heads == 0) return;
  reject("{} has shape {}: dim 2 is {}, which is no multiple of its {} heads", name,
         shape.to_string(), shape[2], heads);
}

Call load_call(const CallArguments& arguments) {
  for (const auto& [option, file] : {std::pair{"--q", &arguments.q}, std::pair{"--k", &arguments.k},
                                     std::pair{"--v", &arguments.v}}) {
    if (!*file) reject("{} is required", option);
  }
  Call call = call_without_inputs(arguments);
  call.q = read_floats("--q", *arguments.q, call.dtype);
  call.k = read_floats("--k", *arguments.k, call.dtype);
  call.v = read_floats("--v", *arguments.v, call.dtype);
  const std::int64_t heads = arguments.heads.value_or(1);
  const std::int64_t kv_heads = arguments.kv_heads.value_or(heads);
  call.layout = layout_of("--q", call.q, arguments, heads);
  call.tensors.q = heads_first(std::as_const(call.q).view(), call.layout, heads);
  const auto view_of = [&](const char* name, const Tensor& tensor) {
    return heads_first(tensor.view(), layout_of(name, tensor, arguments, kv_heads), kv_heads);
  };
  call.tensors.k = view_of("--k", call.k);
  call.tensors.v = view_of("--v", call.v);
  if (arguments.past_k) prepend_past(call, arguments);
  fill_cache(call, arguments);
  return call;
}

Call random_call(const CallArguments& arguments, const CallSizes& sizes, std::uint64_t seed) {
  Call call = call_without_inputs(arguments);
  const auto draw = [&](std::int64_t heads, std::int64_t seq, std::int64_t dim,
                        std::uint64_t stream) {
    return normal_tensor({sizes.batch, heads, seq, dim}, call.dtype, 3 * seed + stream);
  };
  call.q = draw(sizes.num_q_heads, sizes.q_len, sizes.head_dim, 0);
  call.k = draw(sizes.num_kv_heads, sizes.kv_len, sizes.head_dim, 1);
  call.v = draw(sizes.num_kv_heads, sizes.kv_len, sizes.v_head_dim, 2);
  call.tensors.q = call.q.view();
  call.tensors.k = call.k.view();
  call.tensors.v = call.v.view();
  fill_cache(call, arguments);
  return call;
}

AttentionTensors bind_cache(const Call& call, const AttentionTensors& tensors) {
  AnyCache* const cache = call.cache ? call.cache.get() : call.joined.get();
  if (cache == nullptr) return tensors;
  AttentionTensors bound = cache->bind(tensors);
  // The lengths of the call, if there are any, hide keys that the cache holds.
  if (!tensors.kv_lens.absent()) bound.kv_lens = tensors.kv_lens;
  return bound;
}

PlainCall plain_call(const Call& call) {
  PlainCall plain{{}, {}, call.tensors};
  if (!call.cache) return plain;
  const AttentionTensors bound = call.cache->bind({});
  plain.tensors.k = bound.k;
  plain.tensors.v = bound.v;
  if (bound.storage.page_table().absent() && bound.storage.k_scales.absent()) return plain;
  const DType dtype = bound.k.dtype == DType::i8 ? DType::f32 : bound.k.dtype;
  plain.k = converted(plain_keys(bound), dtype);
  plain.v = converted(plain_values(bound), dtype);
  plain.tensors.k = std::as_const(plain.k).view();
  plain.tensors.v = std::as_const(plain.v).view();
  return plain;
}

Dims output_shape(const AttentionTensors& tensors) {
  Dims shape = tensors.q.shape;
  shape[3] = tensors.v.shape[3];
  return shape;
}

Dims output_shape(const Call& call) {
  const Dims out = output_shape(call.tensors);
  switch (call.layout) {
    case Layout::bhsd: return out;
    case Layout::bshd: return {out[0], out[2], out[1], out[3]};
    case Layout::merged_heads: return {out[0], out[2], out[1] * out[3]};
  }
  return {};
}

}  // namespace attn::apps::demo
