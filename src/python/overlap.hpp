// Whether two tensors share memory.
#pragma once

#include <attn/tensor.hpp>

namespace attn::python {

/// Whether some element of one lies where some element of the other does. Parts of one tensor that
/// are interleaved share nothing. Where a short search finds no answer, they do not.
bool share_memory(const TensorView& a, const TensorView& b) noexcept;

}  // namespace attn::python
