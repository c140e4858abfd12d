// The tensors of a call: from files to views in the order that the library takes.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/support/cache.hpp"
#include "call_arguments.hpp"

namespace attn::apps::demo {

/// Floating-point numbers, converted to a type; by default f64 becomes f32 and others stay as they
/// are.
Tensor read_floats(const char* option, const std::string& file, std::optional<DType> dtype = {});

/// [batch, heads, seq, dim] of a tensor in any layout. The strides do the work; nothing is moved.
template <class Void>
BasicTensorView<Void> heads_first(const BasicTensorView<Void>& tensor, Layout layout,
                                  std::int64_t heads) {
  if (layout == Layout::bhsd) return tensor;
  if (layout == Layout::bshd) return tensor.permuted({0, 2, 1, 3});
  const Dims& merged = tensor.shape;
  const BasicTensorView<Void> split(tensor.data, tensor.dtype,
                                    {merged[0], merged[1], heads, merged[2] / heads});
  return split.permuted({0, 2, 1, 3});
}

/// A call without its outputs. The views look into the owned tensors and caches.
struct Call {
  Tensor q, k, v, mask, alibi_slopes, sinks, kv_lens;
  std::unique_ptr<AnyCache> joined;  // K and V behind the past, if there is one
  std::unique_ptr<AnyCache>
      cache;                 // the same in the type and pages that the options ask for, if they do
  AttentionTensors tensors;  // K and V plain, in dtype
  AttentionOptions options;
  Execution execution;
  DType dtype = DType::f32;       // of q, k, v and out
  std::optional<DType> kv_dtype;  // of the cache, if the options ask for one
  std::int64_t page_size = 0;
  Layout layout = Layout::bhsd;  // of q and out
};

/// Reads the files, converts them to --dtype, and appends K and V to a cache that holds the past.
/// Throws Error for what is missing or does not fit.
Call load_call(const CallArguments& arguments);

struct RandomInputs {
  std::int64_t batch, num_q_heads, num_kv_heads, q_len, kv_len, head_dim, v_head_dim;
  std::uint64_t seed = 0;
};
/// The same with normal values in place of the files of q, k and v.
Call random_call(const CallArguments& arguments, const RandomInputs& inputs);

/// These tensors with K and V where the engine reads them: in a cache if the call has one. Lasts
/// until the next bind.
AttentionTensors bind_cache(const Call& call, const AttentionTensors& tensors);

/// A call with K and V as its cache holds them, for kernels that take plain tensors.
struct PlainCall {
  Tensor k, v;  // what is no view of the cache
  AttentionTensors tensors;
};
PlainCall plain_call(const Call& call);

/// An output with a view in the library's order.
struct Output {
  Tensor tensor;
  MutableTensorView view;
};
/// For O, in the layout of Q.
Output make_output(const Call& call);
/// For lse, [batch, num_q_heads, q_len].
Tensor make_lse(const Call& call);

}  // namespace attn::apps::demo
