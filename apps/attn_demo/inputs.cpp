#include "inputs.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "random.hpp"

namespace attn::demo {
namespace {

[[noreturn]] void reject(const std::string& message) { throw Error(ErrorCode::invalid_argument, message); }

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64; }

Tensor converted(Tensor tensor, DType dtype) { return tensor.dtype() == dtype ? std::move(tensor) : copy_as(tensor.view(), dtype); }

Tensor read_floats(const char* option, const std::string& file, DType dtype) {
  Tensor tensor = read_tensor(file);
  if (!is_float(tensor.dtype())) {
    reject(fmt::format("{}: {} has type {}; it needs floating-point numbers", option, file, name_of(tensor.dtype())));
  }
  return converted(std::move(tensor), dtype);
}

Tensor read_mask(const std::string& file) {
  Tensor mask = read_tensor(file);
  if (mask.dtype() == DType::boolean) return mask;
  if (!is_float(mask.dtype())) {
    reject(fmt::format("--mask: {} has type {}; it needs booleans (true is visible) or floating-point numbers (added to the scores)", file,
                       name_of(mask.dtype())));
  }
  return converted(std::move(mask), DType::f32);
}

/// [batch, heads, seq, dim] of a tensor in any layout. The strides do the work; nothing is moved.
template <class Void>
BasicTensorView<Void> heads_first(const BasicTensorView<Void>& tensor, Layout layout, std::int64_t heads) {
  if (layout == Layout::bhsd) return tensor;
  if (layout == Layout::bshd) return tensor.permuted({0, 2, 1, 3});
  const Dims& merged = tensor.shape;
  const BasicTensorView<Void> split(tensor.data, tensor.dtype, {merged[0], merged[1], heads, merged[2] / heads});
  return split.permuted({0, 2, 1, 3});
}

/// Checks what the options say of a tensor's layout before it is looked at that way.
Layout layout_of(const char* name, const Tensor& tensor, const CallArguments& arguments, std::int64_t heads) {
  const Dims& shape = tensor.shape();
  if (shape.rank() == 4) {
    if (arguments.heads) reject(fmt::format("--heads is for rank-3 inputs, but {} has shape {}", name, shape.to_string()));
    return arguments.layout.value_or(Layout::bhsd);
  }
  if (shape.rank() != 3) {
    reject(fmt::format("{} has shape {} of rank {}; it needs rank 4, or rank 3 [batch, seq, heads * dim]", name, shape.to_string(),
                       shape.rank()));
  }
  if (!arguments.heads) reject(fmt::format("{} has shape {} of rank 3, which needs --heads", name, shape.to_string()));
  if (arguments.layout) reject(fmt::format("--layout is for rank-4 inputs, but {} has shape {}", name, shape.to_string()));
  if (shape[2] % heads != 0) {
    reject(fmt::format("{} has shape {}: dim 2 is {}, which is no multiple of its {} heads", name, shape.to_string(), shape[2], heads));
  }
  return Layout::merged_heads;
}

/// Past and new keys (or values) in one tensor. `name` is k or v.
Tensor appended(const char* name, const TensorView& past, const TensorView& added) {
  const auto reject_shapes = [&](const char* why) {
    reject(fmt::format("--past-{} has shape {}: {} [batch, kv_heads, past_len, dim], and {} is {} in that order", name,
                       past.shape.to_string(), why, name, added.shape.to_string()));
  };
  if (past.rank() != 4) reject_shapes("it needs rank 4");
  for (const int dim : {0, 1, 3}) {
    if (past.shape[dim] != added.shape[dim]) reject_shapes("all but past_len needs to fit");
  }
  Dims shape = added.shape;
  shape[2] += past.shape[2];
  Tensor all(added.dtype, shape);
  copy_into(past, all.view().sliced(2, 0, past.shape[2]));
  copy_into(added, all.view().sliced(2, past.shape[2], shape[2]));
  return all;
}

void prepend_past(Call& call, const CallArguments& arguments) {
  const Tensor past_k = read_floats("--past-k", *arguments.past_k, call.dtype);
  const Tensor past_v = read_floats("--past-v", *arguments.past_v, call.dtype);
  call.k = appended("k", past_k.view(), call.tensors.k);
  call.v = appended("v", past_v.view(), call.tensors.v);
  call.tensors.k = call.k.view();
  call.tensors.v = call.v.view();
}

/// Everything but q, k and v.
Call call_without_inputs(const CallArguments& arguments) {
  Call call;
  call.options = arguments.options;
  call.dtype = arguments.dtype;
  if (arguments.mask) {
    call.mask = read_mask(*arguments.mask);
    call.tensors.mask = call.mask.view();
  }
  if (arguments.alibi) {
    call.alibi_slopes = read_floats("--alibi", *arguments.alibi, DType::f32);
    call.tensors.alibi_slopes = call.alibi_slopes.view();
  }
  if (arguments.sinks) {
    call.sinks = read_floats("--sinks", *arguments.sinks, DType::f32);
    call.tensors.sinks = call.sinks.view();
  }
  if (arguments.kv_lens) {
    call.kv_lens = read_tensor(*arguments.kv_lens);
    call.tensors.kv_lens = call.kv_lens.view();
  }
  return call;
}

}  // namespace

Call load_call(const CallArguments& arguments) {
  for (const auto& [option, file] : {std::pair{"--q", &arguments.q}, std::pair{"--k", &arguments.k}, std::pair{"--v", &arguments.v}}) {
    if (!*file) reject(fmt::format("{} is required", option));
  }
  Call call = call_without_inputs(arguments);
  call.q = read_floats("--q", *arguments.q, call.dtype);
  call.k = read_floats("--k", *arguments.k, call.dtype);
  call.v = read_floats("--v", *arguments.v, call.dtype);
  const std::int64_t heads = arguments.heads.value_or(1);
  const std::int64_t kv_heads = arguments.kv_heads.value_or(heads);
  call.layout = layout_of("q", call.q, arguments, heads);
  call.tensors.q = heads_first(std::as_const(call.q).view(), call.layout, heads);
  const auto view_of = [&](const char* name, const Tensor& tensor) {
    return heads_first(tensor.view(), layout_of(name, tensor, arguments, kv_heads), kv_heads);
  };
  call.tensors.k = view_of("k", call.k);
  call.tensors.v = view_of("v", call.v);
  if (arguments.past_k) prepend_past(call, arguments);
  return call;
}

Call random_call(const CallArguments& arguments, const RandomInputs& inputs) {
  Call call = call_without_inputs(arguments);
  const auto draw = [&](std::int64_t heads, std::int64_t seq, std::int64_t dim, std::uint64_t stream) {
    return normal_tensor({inputs.batch, heads, seq, dim}, call.dtype, 3 * inputs.seed + stream);
  };
  call.q = draw(inputs.num_q_heads, inputs.q_len, inputs.head_dim, 0);
  call.k = draw(inputs.num_kv_heads, inputs.kv_len, inputs.head_dim, 1);
  call.v = draw(inputs.num_kv_heads, inputs.kv_len, inputs.v_head_dim, 2);
  call.tensors.q = call.q.view();
  call.tensors.k = call.k.view();
  call.tensors.v = call.v.view();
  return call;
}

Output make_output(const Call& call) {
  const Dims& q = call.tensors.q.shape;
  const std::int64_t dim = call.tensors.v.shape[3];
  Dims shape{q[0], q[1], q[2], dim};
  if (call.layout == Layout::bshd) shape = {q[0], q[2], q[1], dim};
  if (call.layout == Layout::merged_heads) shape = {q[0], q[2], q[1] * dim};
  Output out{Tensor(call.dtype, shape), {}};
  out.view = heads_first(out.tensor.view(), call.layout, q[1]);
  return out;
}

Tensor make_lse(const Call& call) {
  const Dims& q = call.tensors.q.shape;
  return {DType::f32, {q[0], q[1], q[2]}};
}

}  // namespace attn::demo
