#include "tensor/arguments.hpp"

#include <cmath>

#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "tensor/overlap.hpp"

namespace attn::detail {
namespace {

[[noreturn]] void reject_shape(const char* name, const TensorView& tensor, const Dims& needed,
                               const std::string& meaning) {
  reject(fmt::format("{} has shape {}; it needs {} ({})", name, tensor.shape.to_string(),
                     needed.to_string(), meaning));
}

void require_reduced(const char* name, const TensorView& tensor, const char* of_name,
                     const TensorView& of, int dim) {
  const Dims needed = remove_dim(of.shape, dim);
  if (!(tensor.shape == needed))
    reject_shape(name, tensor, needed, fmt::format("the shape of {} without dim {}", of_name, dim));
  require_data(name, tensor);
}

}  // namespace

int checked_dim(const char* name, const TensorView& tensor, int dim) {
  const int rank = tensor.rank();
  if (rank == 0) reject(fmt::format("dim is {}, but {} has rank 0 and no dims", dim, name));
  if (dim < -rank || dim >= rank) {
    reject(fmt::format("dim is {}; it needs to lie in {}..{} ({} has rank {})", dim, -rank,
                       rank - 1, name, rank));
  }
  return dim < 0 ? dim + rank : dim;
}

void require_input(const char* name, const TensorView& tensor) {
  if (tensor.rank() == 0) reject(fmt::format("{} has rank 0; it needs rank 1 or more", name));
  require_float(name, tensor);
  require_data(name, tensor);
}

void require_input_like(const char* name, const TensorView& tensor, const char* like_name,
                        const TensorView& like) {
  if (!(tensor.shape == like.shape))
    reject_shape(name, tensor, like.shape, fmt::format("the shape of {}", like_name));
  require_float(name, tensor);
  require_data(name, tensor);
}

void require_elements_apart(const char* name, const MutableTensorView& tensor) {
  if (!elements_overlap(tensor.shape, tensor.strides)) return;
  std::string what = "two elements lie in the same place";
  for (int dim = tensor.rank() - 1; dim >= 0; --dim) {
    if (tensor.strides[dim] == 0 && tensor.shape[dim] > 1)
      what = fmt::format("dim {} has stride 0", dim);
  }
  reject(
      fmt::format("{} has strides {} for shape {}: {}, but an output needs memory for each "
                  "element",
                  name, tensor.strides.to_string(), tensor.shape.to_string(), what));
}

void require_output_like(const char* name, const MutableTensorView& tensor, const char* like_name,
                         const TensorView& like) {
  require_input_like(name, tensor, like_name, like);
  require_elements_apart(name, tensor);
}

void require_reduced_output(const char* name, const MutableTensorView& tensor, DType dtype,
                            const char* of_name, const TensorView& of, int dim) {
  require_reduced(name, tensor, of_name, of, dim);
  require_type(name, tensor, dtype);
  require_elements_apart(name, tensor);
}

void require_reduced_output(const char* name, const MutableTensorView& tensor, const char* of_name,
                            const TensorView& of, int dim) {
  require_reduced(name, tensor, of_name, of, dim);
  require_float(name, tensor);
  require_elements_apart(name, tensor);
}

void require_reduced_input(const char* name, const TensorView& tensor, const char* of_name,
                           const TensorView& of, int dim) {
  require_reduced(name, tensor, of_name, of, dim);
  require_float(name, tensor);
}

void require_positive_number(const char* name, float value) {
  if (!(std::isfinite(value) && value > 0))
    reject(fmt::format("{} is {}; it needs a finite number greater than 0", name, value));
}

void require_epsilon(const char* name, float epsilon) {
  if (!(std::isfinite(epsilon) && epsilon >= 0))
    reject(fmt::format("{} is {}; it needs a finite number, 0 or more", name, epsilon));
}

}  // namespace attn::detail
