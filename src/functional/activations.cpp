// gelu, silu and their gated forms: functions of single elements.
#include <attn/functional.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>

#include "iterate/elements.hpp"
#include "iterate/execution.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

/// A kernel, as a member of the table of any instruction set.
using Activation = void (*kernels::Kernels::*)(const float* src, std::int64_t count, float* dst);

/// Elements that stay in the L1 cache together with their staging memory.
constexpr std::int64_t chunk_size = 2048;
using ChunkMemory = std::array<float, chunk_size>;

/// The dims in the order of decreasing strides. The order in which elements are processed is free,
/// so outputs are written in the order of memory.
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

/// Calls f(first, count) for each chunk of 0 <= index < size.
template <class F>
void for_each_chunk(std::int64_t size, const Threads& threads, F&& f) {
  parallel_for(threads_for(size, threads), divide_up(size, chunk_size), [&](std::int64_t chunk) {
    const std::int64_t first = chunk * chunk_size;
    f(first, std::min(chunk_size, size - first));
  });
}

void activate(const TensorView& x, const MutableTensorView& y, const Execution& execution,
              Activation activation) {
  require_float("x", x);
  require_data("x", x);
  require_output_like("y", y, "x", x);
  const ResolvedExecution resolved = resolve(execution);
  const Dims order = order_in_memory(y.strides);
  const InputAndOutput elements{Elements(x.permuted(order)), Elements(y.permuted(order))};
  const auto kernel = resolved.kernels.*activation;
  for_each_chunk(x.size(), resolved.threads, [&](std::int64_t first, std::int64_t count) {
    ChunkMemory x_staging, y_staging;
    elements.apply(first, count, {resolved.kernels, x_staging.data(), y_staging.data()},
                   [&](const float* src, float* dst) { kernel(src, count, dst); });
  });
}

/// y = function(gate) * up; `multiply` does it for `count` dense floats.
template <class Multiply>
void activate_gated(const TensorView& gate, const TensorView& up, const MutableTensorView& y,
                    const Execution& execution, Multiply&& multiply) {
  require_float("gate", gate);
  require_data("gate", gate);
  require_input_like("up", up, "gate", gate);
  require_output_like("y", y, "gate", gate);
  const ResolvedExecution resolved = resolve(execution);
  const Dims order = order_in_memory(y.strides);
  const InputAndOutput elements{Elements(gate.permuted(order)), Elements(y.permuted(order))};
  const Elements ups(up.permuted(order));
  for_each_chunk(gate.size(), resolved.threads, [&](std::int64_t first, std::int64_t count) {
    ChunkMemory gate_staging, up_staging, y_staging;
    const float* const up_floats = ups.as_floats(first, count, resolved.kernels, up_staging.data());
    elements.apply(first, count, {resolved.kernels, gate_staging.data(), y_staging.data()},
                   [&](const float* src, float* dst) {
                     multiply(resolved.kernels, src, up_floats, count, dst);
                   });
  });
}

}  // namespace

void gelu(const TensorView& x, const MutableTensorView& y, GeluForm form,
          const Execution& execution) {
  require_enumerator("form", form, GeluForm::tanh);
  activate(x, y, execution,
           form == GeluForm::erf ? &kernels::Kernels::gelu_erf : &kernels::Kernels::gelu_tanh);
}

void silu(const TensorView& x, const MutableTensorView& y, const Execution& execution) {
  activate(x, y, execution, &kernels::Kernels::silu);
}

void swiglu(const TensorView& gate, const TensorView& up, const MutableTensorView& y,
            const Execution& execution) {
  activate_gated(gate, up, y, execution,
                 [](const kernels::Kernels& kernels, const float* src, const float* ups,
                    std::int64_t count, float* dst) { kernels.swiglu(src, ups, count, dst); });
}

void geglu(const TensorView& gate, const TensorView& up, const MutableTensorView& y, GeluForm form,
           const Execution& execution) {
  require_enumerator("form", form, GeluForm::tanh);
  const Activation activation =
      form == GeluForm::erf ? &kernels::Kernels::gelu_erf : &kernels::Kernels::gelu_tanh;
  activate_gated(gate, up, y, execution,
                 [activation](const kernels::Kernels& kernels, const float* src, const float* ups,
                              std::int64_t count, float* dst) {
                   ChunkMemory active;  // dst may be the memory of `ups`
                   (kernels.*activation)(src, count, active.data());
                   std::transform(active.data(), active.data() + count, ups, dst,
                                  std::multiplies<>());
                 });
}

}  // namespace attn
