// The tensors of a call: from files to views in the order that the library takes.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <string>

#include "call_options.hpp"

namespace attn::demo {

/// A call without its outputs. The views look into the owned tensors.
struct Call {
  Tensor q, k, v, mask, alibi_slopes, sinks, kv_lens;
  Tensors tensors;
  Options options;
  DType dtype = DType::f32;      // of q, k, v and out
  Layout layout = Layout::bhsd;  // of q and out
};

/// Reads the files, converts them to --dtype, and puts K and V behind the past. Throws Error for what is missing or does not fit.
Call load_call(const CallArguments& arguments);

struct RandomInputs {
  std::int64_t batch, num_q_heads, num_kv_heads, q_len, kv_len, head_dim, v_head_dim;
  std::uint64_t seed = 0;
};
/// The same with normal values in place of the files of q, k and v.
Call random_call(const CallArguments& arguments, const RandomInputs& inputs);

/// An output with a view in the library's order.
struct Output {
  Tensor tensor;
  MutableTensorView view;
};
/// For O, in the layout of Q.
Output make_output(const Call& call);
/// For lse, [batch, num_q_heads, q_len].
Tensor make_lse(const Call& call);

}  // namespace attn::demo
