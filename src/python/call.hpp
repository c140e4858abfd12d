// A call of attention() or attention_backward(): its arrays, and the results that it makes.
#pragma once

#include <nanobind/nanobind.h>
#include <attn/attention.hpp>

#include "array.hpp"
#include "options.hpp"

namespace attn::python {

/// Throws attn.Error unless an array has four dims: shapes of results follow from them.
void require_rank_4(const Array& array, const char* layout);

/// The arrays that q, k, v, out and lse of a call lie in. Sequences that are packed, and pages, are
/// described by the last argument of the constructor: None, or a tuple (q_offsets, kv_offsets,
/// max_q_len, max_kv_len, page_table, starts) whose entries may be None.
class Call {
 public:
  Call(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options, nb::handle sequences);

  const CallOptions& options() const noexcept { return options_; }
  const Array& q() const noexcept { return q_; }
  const Array& k() const noexcept { return k_; }
  const Array& v() const noexcept { return v_; }
  /// The call, with outputs that have no memory.
  AttentionTensors shapes(DType out_type, bool with_lse) const;
  /// Throws attn.Error if an output lies in the memory of an input.
  void require_inputs_apart(const Array& output) const;

 private:
  Array q_, k_, v_, q_offsets_, kv_offsets_, page_table_, starts_;
  CallOptions options_;
  std::optional<std::int64_t> max_q_len_, max_kv_len_;
};

/// Makes the outputs of a call that was planned, unless `out` is given, and returns what
/// `run` makes of them: out, or (out, lse).
template <class Run>
nb::object with_outputs(const Array& like, AttentionTensors tensors, const Array& out,
                        const Run& run) {
  if (!out) require_kind_with_results(like);
  const Array made = out ? Array() : make_result("out", like, tensors.out.dtype, tensors.out.shape);
  const Array& result = out ? out : made;
  const bool with_lse = tensors.lse.rank() > 0;
  const Array& lse_like = like.kind() == Kind::other ? result : like;
  const Array lse =
      with_lse ? make_result("lse", lse_like, DType::f32, tensors.lse.shape) : Array();
  tensors.out = result.writable();
  if (with_lse) tensors.lse = lse.writable();
  {
    const nb::gil_scoped_release without_gil;
    run(tensors);
  }
  if (!with_lse) return nb::borrow(result.object());
  return nb::make_tuple(nb::borrow(result.object()), nb::borrow(lse.object()));
}

nb::object attention(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options,
                     nb::handle out, nb::handle return_lse, nb::handle sequences);

/// Throws what attention() would throw for the shapes and options of a call; computes nothing.
void check_attention(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options,
                     nb::handle sequences);

/// Returns (dq, dk, dv, dmask, dalibi, dsinks); each may be None. `wanted` has six bools.
nb::object attention_backward(nb::handle dout, const nb::tuple& qkv, nb::handle out, nb::handle lse,
                              nb::handle dlse, const nb::tuple& options, nb::handle sequences,
                              const nb::tuple& wanted);

void bind_call(nb::module_& module);
void bind_caches(nb::module_& module);
void bind_block_mask(nb::module_& module);
void bind_functions(nb::module_& module);

}  // namespace attn::python
