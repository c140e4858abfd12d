// Checks of what regression and calibration take. Each throws Error(invalid_argument).
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>
#include <vector>

#include "threads/team_size.hpp"

namespace attn::detail {

/// A tensor of one of these types, of any rank; its memory is not looked at.
void require_any_float(const char* name, const TensorView& tensor);
/// A matrix that can be read, f32, bf16, f16 or f64.
void require_matrix(const char* name, const TensorView& matrix, const char* layout);
/// A matrix of this type and shape that can be written.
void require_output_matrix(const char* name, const MutableTensorView& matrix, std::int64_t rows,
                           std::int64_t classes);
/// Names the first element of the matrix that is not finite, or with Values::fractions not in 0..1.
enum class Values { finite, fractions };
void require_values(const char* name, const TensorView& matrix, Values values,
                    const Threads& threads);

/// The class of each row: i8, i32, i64 or boolean [rows], each at least 0 and, if `classes` is
/// given, below it. `matrix_name` has the rows.
std::vector<std::int64_t> checked_targets(const TensorView& target, const char* matrix_name,
                                          std::int64_t rows, std::optional<std::int64_t> classes);

}  // namespace attn::detail
