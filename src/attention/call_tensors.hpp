// A visitor over the tensors of a call.
#pragma once

#include <attn/attention.hpp>

namespace attn::detail {

/// Calls f(name, tensor of each call...) for every tensor that a call may have.
template <class F, class... Tensors>
void for_each_tensor(F f, const Tensors&... calls) {
  f("q", calls.q...);
  f("k", calls.k...);
  f("v", calls.v...);
  f("out", calls.out...);
  f("mask", calls.mask...);
  f("alibi_slopes", calls.alibi_slopes...);
  f("sinks", calls.sinks...);
  f("kv_lens", calls.kv_lens...);
  f("lse", calls.lse...);
  f("q_offsets", calls.ragged.q_offsets...);
  f("kv_offsets", calls.ragged.kv_offsets...);
  f("page_table", calls.storage.page_table()...);
  f("starts", calls.storage.starts()...);
  f("k_scales", calls.storage.k_scales...);
  f("v_scales", calls.storage.v_scales...);
}

}  // namespace attn::detail
