// Checks of arguments that several functions of tensors share. Each throws Error(invalid_argument)
// with a message that names the argument, what it is and what it needs to be.
#pragma once

#include <attn/tensor.hpp>

namespace attn::detail {

/// Returns dim counted from the first one. Throws unless -rank <= dim < rank.
int checked_dim(const char* name, const TensorView& tensor, int dim);
/// An input has data, rank 1 or more, and is f32, bf16 or f16.
void require_input(const char* name, const TensorView& tensor);
/// An input that has the shape of another tensor.
void require_input_like(const char* name, const TensorView& tensor, const char* like_name,
                        const TensorView& like);
/// An output has data, is f32, bf16 or f16, has the shape of another tensor, and memory of its own
/// for each element.
void require_output_like(const char* name, const MutableTensorView& tensor, const char* like_name,
                         const TensorView& like);
/// No two elements of an output lie in the same place. The tensor has passed require_memory().
void require_elements_apart(const char* name, const MutableTensorView& tensor);
/// An output of one type, in the shape of another tensor without `dim`.
void require_reduced_output(const char* name, const MutableTensorView& tensor, DType dtype,
                            const char* of_name, const TensorView& of, int dim);
/// An f32, bf16 or f16 output in the shape of another tensor without `dim`.
void require_reduced_output(const char* name, const MutableTensorView& tensor, const char* of_name,
                            const TensorView& of, int dim);
/// An f32, bf16 or f16 input in the shape of another tensor without `dim`.
void require_reduced_input(const char* name, const TensorView& tensor, const char* of_name,
                           const TensorView& of, int dim);
/// A finite number greater than 0.
void require_positive_number(const char* name, float value);
/// The epsilon that a norm adds to a mean of squares: finite, 0 or more.
void require_epsilon(const char* name, float epsilon);

}  // namespace attn::detail
