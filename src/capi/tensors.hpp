// Tensors and arguments of C calls as those of the C++ library.
#pragma once

#include <attn/attn.h>
#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/rope.hpp>
#include <attn/tensor.hpp>

#include <optional>

#include "capi/handles.hpp"

namespace attn::capi {

/// Throws for a number that is no enumerator.
DType dtype_of(attn_dtype dtype, const char* name);

/// The view of a tensor that may be absent. Inputs are views of const memory only in C++; a
/// MutableTensorView converts to one. Throws for a type or a rank that no tensor has; all else is
/// checked by the function that gets the view.
MutableTensorView optional_view(const attn_tensor* tensor, const char* name);
/// Throws if the tensor is absent.
MutableTensorView view(const attn_tensor* tensor, const char* name);

attn_tensor tensor_of(const TensorView& view) noexcept;

/// Tables that may be NULL.
std::optional<Rope> optional_rope(const attn_rope_tables* tables);

/// What a call makes of its arguments.
struct Arguments {
  AttentionTensors tensors;
  AttentionGradients gradients;
};
enum class CallKind { forward, backward, forward_on_cache };
/// Throws for arguments that are given twice, or that the kind of call does not take. Allocates
/// nothing unless it throws.
Arguments read_arguments(const attn_argument* arguments, std::int64_t num_arguments, CallKind kind,
                         const RaggedLimits& limits);

/// The tensor of a cache for a role. Throws for a role that no cache has.
attn_tensor cache_tensor(const AttentionTensors& bound, attn_role role);

}  // namespace attn::capi
