// softmax, log_softmax, logsumexp and their gradients, slice by slice.
#include <attn/softmax.hpp>

#include "iterate/elements.hpp"
#include "iterate/slices.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/arguments.hpp"

namespace attn {
using namespace detail;
namespace {

using RowsFunction = void (*)(const kernels::Kernels&, const kernels::FloatRows& x,
                              float temperature, const kernels::FloatRowsOut& y) noexcept;

/// The arguments of a function from x to y of the same shape.
struct MapCall {
  const TensorView& x;
  const MutableTensorView& y;
  int dim;
  float temperature;
  const Execution& execution;
};

void map_rows(const MapCall& call, RowsFunction function) {
  require_input("x", call.x);
  const int dim = checked_dim("x", call.x, call.dim);
  require_output_like("y", call.y, "x", call.x);
  require_positive_number("temperature", call.temperature);
  const ResolvedExecution resolved = resolve(call.execution);
  for_each_slice_group({.in = {call.x}, .out = {call.y}, .dim = dim}, resolved,
                       [&](const SliceGroup& group) {
                         function(resolved.kernels, group.in[0], call.temperature, group.out[0]);
                       });
}

/// The arguments of the gradient of such a function.
struct GradientCall {
  const TensorView& dy;
  const TensorView& y;
  const MutableTensorView& dx;
  int dim;
  float temperature;
  const Execution& execution;
};

template <class F>
void map_gradients(const GradientCall& call, F&& f) {
  require_input("dy", call.dy);
  const int dim = checked_dim("dy", call.dy, call.dim);
  require_input_like("y", call.y, "dy", call.dy);
  require_output_like("dx", call.dx, "dy", call.dy);
  require_positive_number("temperature", call.temperature);
  const ResolvedExecution resolved = resolve(call.execution);
  for_each_slice({.in = {call.dy, call.y}, .out = {call.dx}, .dim = dim}, resolved,
                 [&](const Slice& slice) { f(resolved.kernels.rows, slice); });
}

}  // namespace

void softmax(const TensorView& x, const MutableTensorView& y, int dim, float temperature,
             const Execution& execution) {
  map_rows({x, y, dim, temperature, execution}, softmax_rows);
}

void log_softmax(const TensorView& x, const MutableTensorView& y, int dim, float temperature,
                 const Execution& execution) {
  map_rows({x, y, dim, temperature, execution}, log_softmax_rows);
}

void logsumexp(const TensorView& x, const MutableTensorView& out, int dim, float temperature,
               const Execution& execution) {
  require_input("x", x);
  const int along = checked_dim("x", x, dim);
  require_reduced_output("out", out, "x", x, along);
  require_positive_number("temperature", temperature);
  const ResolvedExecution resolved = resolve(execution);
  const Elements results(out);
  for_each_slice_group({.in = {x}, .dim = along}, resolved, [&](const SliceGroup& group) {
    float sums[kernels::rows_at_once];
    logsumexp_rows(resolved.kernels, group.in[0], temperature, sums);
    for (std::int64_t n = 0; n < group.count; ++n)
      results.write_one(sums[n], group.first + n, resolved.kernels);
  });
}

void softmax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                      int dim, float temperature, const Execution& execution) {
  map_gradients({dy, y, dx, dim, temperature, execution},
                [temperature](const kernels::RowKernels& rows, const Slice& slice) {
                  const double mean = rows.dot(slice.in[0], slice.in[1], slice.extent);
                  rows.softmax_gradient({slice.in[0], slice.in[1], slice.extent,
                                         static_cast<float>(mean), temperature},
                                        slice.out[0]);
                });
}

void log_softmax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                          int dim, float temperature, const Execution& execution) {
  map_gradients({dy, y, dx, dim, temperature, execution},
                [temperature](const kernels::RowKernels& rows, const Slice& slice) {
                  const double sum = rows.sum(slice.in[0], slice.extent);
                  rows.log_softmax_gradient({slice.in[0], slice.in[1], slice.extent,
                                             static_cast<float>(sum), temperature},
                                            slice.out[0]);
                });
}

void logsumexp_backward(const TensorView& dout, const TensorView& x, const TensorView& out,
                        const MutableTensorView& dx, int dim, float temperature,
                        const Execution& execution) {
  require_input("x", x);
  const int along = checked_dim("x", x, dim);
  require_reduced_input("dout", dout, "x", x, along);
  require_reduced_input("out", out, "x", x, along);
  require_output_like("dx", dx, "x", x);
  require_positive_number("temperature", temperature);
  const ResolvedExecution resolved = resolve(execution);
  const Elements gradients(dout), values(out);
  for_each_slice({.in = {x}, .out = {dx}, .dim = along}, resolved, [&](const Slice& slice) {
    const float gradient = gradients.read_one(slice.index, resolved.kernels),
                value = values.read_one(slice.index, resolved.kernels);
    logsumexp_gradient_row(resolved.kernels, slice.in[0], slice.extent,
                           {gradient, value, temperature}, slice.out[0]);
  });
}

}  // namespace attn
