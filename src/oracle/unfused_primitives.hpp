// What the unfused baseline is made of: matmul, softmax and tanh over whole matrices. They are
// oneDNN's, and the library's own kernels in a build without oneDNN.
#pragma once

#include <cstdint>

#include "iterate/execution.hpp"
#include "onednn/matmul.hpp"
#include "oracle/unfused_call.hpp"

namespace attn::detail {

/// C = A B for each matrix of the batch. Runs on the threads of the call, whatever the shape says.
void multiply(const UnfusedCall& call, onednn::MatmulShape shape, const float* a, const float* b,
              float* c);
/// The same by the micro-kernel, which reads B from a packed copy.
void multiply_by_panels(const ResolvedExecution& execution, const onednn::MatmulShape& shape,
                        const float* a, const float* b, float* c);

/// Softmax of each row of the scores, in place. A row that contains NaN or +inf, or only -inf, gets
/// unspecified elements.
void softmax_rows(const UnfusedCall& call);
/// Replaces each score by its tanh.
void tanh_elements(const UnfusedCall& call);

}  // namespace attn::detail
