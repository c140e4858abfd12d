// Checks that the functions along one dim share.
#pragma once

#include <attn/tensor.hpp>

namespace attn::detail {

/// dim counted from the first one. Throws unless -rank <= dim < rank; `tensor` has rank 1 or more.
int checked_dim(const char* name, const TensorView& tensor, int dim);
/// An input: f32, bf16 or f16 with data. Rank 1 or more.
void require_input(const char* name, const TensorView& tensor);
/// The same, and of the shape of another.
void require_input_like(const char* name, const TensorView& tensor, const char* like_name,
                        const TensorView& like);
/// A float output of the shape of another tensor, whose elements all lie apart.
void require_output_like(const char* name, const MutableTensorView& tensor, const char* like_name,
                         const TensorView& like);
/// No two elements at one place by a stride of 0.
void require_elements_apart(const char* name, const MutableTensorView& tensor);
/// An output of one type in the shape of another tensor without dim.
void require_reduced_output(const char* name, const MutableTensorView& tensor, DType dtype,
                            const char* of_name, const TensorView& of, int dim);
/// Any float output in the shape of another tensor without dim; and such an input.
void require_reduced_output(const char* name, const MutableTensorView& tensor, const char* of_name,
                            const TensorView& of, int dim);
void require_reduced_input(const char* name, const TensorView& tensor, const char* of_name,
                           const TensorView& of, int dim);
/// Finite and greater than 0.
void require_positive_number(const char* name, float value);
/// What a norm adds to a mean of squares: finite, 0 or more.
void require_epsilon(const char* name, float epsilon);
/// Of entmax: finite, 1 or more.
void require_alpha(float alpha);

}  // namespace attn::detail
