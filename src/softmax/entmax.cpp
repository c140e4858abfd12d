// sparsemax and entmax of tensors, slice by slice.
#include <attn/softmax.hpp>

#include "iterate/slices.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

void require_threshold(const Threshold& threshold, const TensorView& x, int dim) {
  if (!threshold.tau.absent())
    require_reduced_output("tau", threshold.tau, DType::f32, "x", x, dim);
  if (!threshold.support.absent())
    require_reduced_output("support", threshold.support, DType::i64, "x", x, dim);
}

}  // namespace

void entmax(const TensorView& x, const MutableTensorView& y, float alpha, int dim,
            const Threshold& threshold, const Execution& execution) {
  require_alpha(alpha);
  require_input("x", x);
  dim = checked_dim("x", x, dim);
  require_output_like("y", y, "x", x);
  require_threshold(threshold, x, dim);
  const ResolvedExecution resolved = resolve(execution);
  const PerSlice<float> tau(threshold.tau);
  const PerSlice<std::int64_t> support(threshold.support);
  for_each_slice({.in = {x}, .out = {y}, .dim = dim, .scratch = 2 * x.shape[dim]}, resolved,
                 [&](const Slice& slice) {
                   const RowThreshold found =
                       entmax_row(resolved.kernels, slice.in[0], slice.extent, alpha, slice.out[0],
                                  slice.scratch);
                   if (tau) tau[slice.index] = found.tau;
                   if (support) support[slice.index] = found.support;
                 });
}

void sparsemax(const TensorView& x, const MutableTensorView& y, int dim, const Threshold& threshold,
               const Execution& execution) {
  entmax(x, y, 2, dim, threshold, execution);
}

void entmax15(const TensorView& x, const MutableTensorView& y, int dim, const Threshold& threshold,
              const Execution& execution) {
  entmax(x, y, 1.5F, dim, threshold, execution);
}

}  // namespace attn
