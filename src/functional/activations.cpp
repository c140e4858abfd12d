// Functions of single elements.
#include <attn/functional.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "functional/elements.hpp"
#include "softmax/arguments.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

/// A kernel, as a member of the table of any instruction set.
using Activation = void (*kernels::Kernels::*)(const float* src, std::int64_t count, float* dst);

constexpr std::int64_t at_once = 2048;  // elements that stay in L1, staged ones included

/// The dims by their strides, the greatest first: elements come in any order, so the one in which
/// they are written in memory.
Dims order_in_memory(const Dims& strides) {
  Dims order = strides;
  for (int dim = 0; dim < strides.rank(); ++dim) order[dim] = dim;
  const auto stride_of = [&](std::int64_t dim) { return std::abs(strides[static_cast<int>(dim)]); };
  for (int end = 1; end < order.rank(); ++end) {
    for (int n = end; n > 0 && stride_of(order[n - 1]) < stride_of(order[n]); --n)
      std::swap(order[n - 1], order[n]);
  }
  return order;
}

void activate(const TensorView& x, const MutableTensorView& y, const Execution& execution,
              Activation activation) {
  require_float("x", x);
  require_data("x", x);
  require_output_like("y", y, "x", x);
  const ResolvedExecution resources = resolve(execution);
  const Dims order = order_in_memory(y.strides);
  const InAndOut elements{Elements(x.permuted(order)), Elements(y.permuted(order))};
  const std::int64_t size = x.size();
  const auto kernel = resources.kernels.*activation;
  parallel_for(threads_for(size, resources.num_threads), (size + at_once - 1) / at_once,
               [&](std::int64_t index) {
                 std::array<float, at_once> x_staging, y_staging;
                 const Staging staging{resources.kernels, x_staging.data(), y_staging.data()};
                 const std::int64_t first = index * at_once,
                                    count = std::min(at_once, size - first);
                 elements.apply(first, count, staging,
                                [&](const float* src, float* dst) { kernel(src, count, dst); });
               });
}

}  // namespace

void gelu(const TensorView& x, const MutableTensorView& y, GeluForm form,
          const Execution& execution) {
  activate(x, y, execution,
           form == GeluForm::erf ? &kernels::Kernels::gelu_erf : &kernels::Kernels::gelu_tanh);
}

void silu(const TensorView& x, const MutableTensorView& y, const Execution& execution) {
  activate(x, y, execution, &kernels::Kernels::silu);
}

void swiglu(const TensorView& gate, const TensorView& up, const MutableTensorView& y,
            const Execution& execution) {
  require_float("gate", gate);
  require_data("gate", gate);
  require_input_like("up", up, "gate", gate);
  require_output_like("y", y, "gate", gate);
  const ResolvedExecution resources = resolve(execution);
  const Dims order = order_in_memory(y.strides);
  const InAndOut elements{Elements(gate.permuted(order)), Elements(y.permuted(order))};
  const Elements factors(up.permuted(order));
  const std::int64_t size = gate.size();
  parallel_for(threads_for(size, resources.num_threads), (size + at_once - 1) / at_once,
               [&](std::int64_t index) {
                 std::array<float, at_once> gate_staging, up_staging, y_staging;
                 const Staging staging{resources.kernels, gate_staging.data(), y_staging.data()};
                 const std::int64_t first = index * at_once,
                                    count = std::min(at_once, size - first);
                 const float* factor = factors.in_place(first, count);
                 if (factor == nullptr) {
                   factors.read(first, count, resources.kernels, up_staging.data());
                   factor = up_staging.data();
                 }
                 elements.apply(first, count, staging, [&](const float* src, float* dst) {
                   resources.kernels.swiglu(src, factor, count, dst);
                 });
               });
}

}  // namespace attn
