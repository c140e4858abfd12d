// The tensors of an attention call, from files or random, as views in the layout of the library.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/support/cache.hpp"
#include "arguments.hpp"

namespace attn::apps::demo {

/// Throws Error unless a tensor of this type in a file has floating-point numbers.
void require_floats(const char* option, const std::string& file, DType dtype);
/// The same for a mask that is not boolean.
void require_mask_floats(const std::string& file, DType dtype);
/// Reads floating-point numbers and converts them to a type. By default f64 becomes f32, and other
/// types stay as they are.
Tensor read_floats(const char* option, const std::string& file, std::optional<DType> dtype = {});

/// A view of a tensor in any layout as [batch, heads, seq, dim]. Nothing is copied.
template <class Void>
BasicTensorView<Void> heads_first(const BasicTensorView<Void>& tensor, Layout layout,
                                  std::int64_t heads) {
  if (layout == Layout::bhsd) return tensor;
  if (layout == Layout::bshd) return tensor.permuted({0, 2, 1, 3});
  const Dims& merged = tensor.shape;
  const BasicTensorView<Void> separate(tensor.data, tensor.dtype,
                                       {merged[0], merged[1], heads, merged[2] / heads});
  return separate.permuted({0, 2, 1, 3});
}
/// The layout of an input of a call, from its rank and the options. Throws Error where these do not
/// fit. `name` is the option that names the input.
Layout layout_of(const char* name, const Tensor& tensor, const CallArguments& arguments,
                 std::int64_t heads);
/// Throws Error unless the last dim of [batch, seq, heads * dim] is a multiple of the heads.
void require_multiple(const char* name, const Dims& shape, std::int64_t heads);

/// A call without its outputs. The views point into the tensors and caches that it owns.
struct Call {
  Tensor q, k, v, mask, alibi_slopes, sinks, kv_lens;
  std::unique_ptr<AnyCache> joined;  // past and new K and V, if there is a past
  std::unique_ptr<AnyCache> cache;   // all K and V in the type and pages that the options ask for
  AttentionTensors tensors;          // with plain K and V, in dtype
  AttentionOptions options;
  Execution execution;
  DType dtype = DType::f32;       // of q, k, v and out
  std::optional<DType> kv_dtype;  // of the cache, if the options ask for one
  std::int64_t page_size = 0;     // of the cache
  Layout layout = Layout::bhsd;   // of q and out
};

/// Reads the files, converts them to --dtype, and appends K and V to a cache that holds the past.
/// Throws Error for what is missing or does not fit.
Call load_call(const CallArguments& arguments);

/// Like load_call, with random normal values instead of the files of q, k and v.
Call random_call(const CallArguments& arguments, const CallSizes& sizes, std::uint64_t seed);

/// The tensors with K and V as the engine reads them: from the call's cache if it has one. The
/// result is valid until the next bind.
AttentionTensors bind_cache(const Call& call, const AttentionTensors& tensors);

/// A call with K and V as its cache holds them, for kernels that take plain tensors.
struct PlainCall {
  Tensor k, v;  // copies; empty if the tensors are views of the cache
  AttentionTensors tensors;
};
PlainCall plain_call(const Call& call);

/// The shape of O, [batch, num_q_heads, q_len, v_head_dim].
Dims output_shape(const AttentionTensors& tensors);
/// The same in the layout of Q.
Dims output_shape(const Call& call);

}  // namespace attn::apps::demo
