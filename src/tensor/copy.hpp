// Copies of tensors that have been checked.
#pragma once

#include <attn/tensor.hpp>

namespace attn::detail {

/// copy_into() without its checks, for rows of tensors that have passed them.
void copy_elements(const TensorView& source, const MutableTensorView& destination);

}  // namespace attn::detail
