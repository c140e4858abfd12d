// A visitor over the tensors of a call, and what it is mostly needed for.
#pragma once

#include <attn/attention.hpp>
#include <attn/error.hpp>

#include <fmt/format.h>

#include <string>

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

/// A visitor of planned and given tensors: throws where they differ in type, shape or presence.
struct RequireAsPlanned {
  void operator()(const char* name, const TensorView& planned, const TensorView& given) const {
    if (planned.dtype == given.dtype && planned.shape == given.shape) return;
    throw Error(ErrorCode::invalid_argument, fmt::format("{} is {}; the plan was made for {}", name,
                                                         describe(given), describe(planned)));
  }

 private:
  static std::string describe(const TensorView& view) {
    if (view.absent()) return "no tensor";
    return fmt::format("{} {}", name_of(view.dtype), view.shape.to_string());
  }
};

}  // namespace attn::detail
