#include "gradients.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "apps/attn_demo/progress.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/timing.hpp"
#include "comparison.hpp"
#include "oracle/backward_tolerance.hpp"

namespace attn::apps::demo {
namespace {

using attn::detail::BackwardTolerance;
using attn::detail::derive_backward_tolerance;
using attn::detail::errors_between;

/// The gradients that one kernel writes: all that the call has.
class Results {
 public:
  Results(const Call& call, const IncomingGradients& incoming, DType dtype, DType shared)
      : gradients(incoming.gradients) {
    const AttentionTensors& tensors = call.tensors;
    add(dtype, tensors.q, gradients.dq);
    add(dtype, tensors.k, gradients.dk);
    add(dtype, tensors.v, gradients.dv);
    if (tensors.mask.dtype != DType::boolean) add(shared, tensors.mask, gradients.dmask);
    add(shared, tensors.alibi_slopes, gradients.dalibi);
    add(shared, tensors.sinks, gradients.dsinks);
  }

  AttentionGradients gradients;

 private:
  void add(DType dtype, const TensorView& input, MutableTensorView& gradient) {
    if (input.absent()) return;
    memory_.emplace_back(dtype, input.shape);
    gradient = memory_.back().view();
  }

  std::vector<Tensor> memory_;
};

std::vector<ComparedGradient> compared(const AttentionGradients& got,
                                       const AttentionGradients& reference,
                                       const BackwardTolerance& tolerance) {
  std::vector<ComparedGradient> all;
  const auto add = [&](const char* name, const TensorView& values, const TensorView& truth,
                       const detail::GradientTolerance& of) {
    if (!values.absent()) all.push_back({name, errors_between(values, truth), of.allowed});
  };
  add("dq", got.dq, reference.dq, tolerance.dq);
  add("dk", got.dk, reference.dk, tolerance.dk);
  add("dv", got.dv, reference.dv, tolerance.dv);
  add("dmask", got.dmask, reference.dmask, tolerance.dmask);
  add("dalibi", got.dalibi, reference.dalibi, tolerance.dalibi);
  add("dsinks", got.dsinks, reference.dsinks, tolerance.dsinks);
  return all;
}

BackwardTolerance same_for_all(double tolerance) {
  const detail::GradientTolerance each{.allowed = tolerance};
  return {each, each, each, each, each, each, "as --tolerance says"};
}

/// The reference has copies of its inputs and sums of its outputs in double, besides the outputs of
/// both kernels: 32 bytes an element.
void require_room(const Call& call) {
  const AttentionTensors& tensors = call.tensors;
  double elements = static_cast<double>(output_shape(tensors).product());
  for (const TensorView* tensor : {&tensors.q, &tensors.k, &tensors.v, &tensors.mask})
    elements += tensor->absent() ? 0 : static_cast<double>(tensor->size());
  require_memory("comparing the gradients", 32 * elements);
}

}  // namespace

bool GradientComparison::within_tolerance() const {
  return std::all_of(gradients.begin(), gradients.end(),
                     [](const ComparedGradient& each) { return each.within_tolerance(); });
}

GradientComparison compare_gradients(const Call& call, const IncomingGradients& incoming,
                                     std::optional<double> tolerance) {
  require_room(call);
  const ForwardResults forward(call);
  const Results results(call, incoming, call.dtype, DType::f32);
  const Results reference(call, incoming, DType::f64, DType::f64);
  // Made first, since it checks the call.
  const AttentionBackwardPlan plan(forward.tensors, results.gradients, call.options,
                                   call.execution);
  GradientComparison comparison;
  comparison.num_threads = plan.num_threads();
  comparison.scratch = plan.workspace_size();
  comparison.path = plan.description();
  {
    Progress progress("naive, in double");
    const AttentionOptions counted = progress.counted(forward.tensors, call.options);
    comparison.naive_seconds = seconds_of([&] {
      attention_backward_reference(forward.tensors, reference.gradients, counted, call.execution);
    });
  }
  attention(forward.tensors, call.options, call.execution);
  {
    const Progress progress("tiled, several times");
    Workspace workspace(comparison.scratch);
    comparison.tiled_seconds =
        median_seconds([&] { plan.run(forward.tensors, results.gradients, workspace); });
  }
  const Progress progress("deriving tolerances");
  const BackwardTolerance derived =
      tolerance ? same_for_all(*tolerance)
                : derive_backward_tolerance(forward.tensors, results.gradients, reference.gradients,
                                            call.options);
  comparison.derivation = derived.derivation;
  comparison.gradients = compared(results.gradients, reference.gradients, derived);
  return comparison;
}

}  // namespace attn::apps::demo
