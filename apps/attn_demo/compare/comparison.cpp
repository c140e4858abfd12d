#include "comparison.hpp"

#include <functional>

#include "apps/attn_demo/progress.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/timing.hpp"

namespace attn::apps::demo {
namespace {

using attn::detail::derive_tolerance;
using attn::detail::errors_between;
using attn::detail::ProbabilityRounding;

/// The median duration of several calls. A first call warms the caches and is not counted, unless
/// it takes seconds: then there is no other.
double median_seconds(const std::function<void()>& call) {
  constexpr double min_time = 0.2, too_long = 2;  // seconds
  constexpr std::size_t max_calls = 101;
  const double first = seconds_of(call);
  return first > too_long ? first : median_of(time_calls(call, min_time, max_calls));
}

/// The tensors that one kernel writes.
struct Results {
  Results(const Call& call, DType dtype)
      : out(dtype, {call.tensors.q.shape[0], call.tensors.q.shape[1], call.tensors.q.shape[2],
                    call.tensors.v.shape[3]}),
        lse(DType::f32,
            {call.tensors.q.shape[0], call.tensors.q.shape[1], call.tensors.q.shape[2]}),
        tensors(call.tensors) {
    tensors.out = out.view();
    if (call.options.normalizer == Normalizer::softmax()) tensors.lse = lse.view();
  }

  Tensor out, lse;
  AttentionTensors tensors;
};

double seconds_of_reference(const AttentionTensors& tensors, const AttentionOptions& options,
                            const Execution& execution) {
  Progress progress("naive, in double");
  const AttentionOptions counted = progress.counted(tensors, options);
  return seconds_of([&] { attention_reference(tensors, counted, execution); });
}

void set_errors(Measured& measured, const Results& got, const Results& reference) {
  measured.out = errors_between(got.tensors.out, reference.tensors.out);
  if (!reference.tensors.lse.absent())
    measured.lse = errors_between(got.tensors.lse, reference.tensors.lse);
}

Measured measure_tiled(const Call& call, const AttentionPlan& plan, const Results& reference) {
  Results results(call, call.dtype);
  const AttentionTensors tensors = bind_cache(call, results.tensors);
  Workspace workspace(plan.workspace_size());
  const Progress progress("tiled, several times");
  Measured measured{.kernel = "tiled", .out = {}};
  measured.seconds = median_seconds([&] { plan.run(tensors, workspace); });
  measured.scratch = plan.workspace_size();
  set_errors(measured, results, reference);
  return measured;
}

Measured measure_unfused(const Call& call, const PlainCall& plain, const Results& reference) {
  Results results(call, call.dtype);
  results.tensors.k = plain.tensors.k;
  results.tensors.v = plain.tensors.v;
  const Progress progress("unfused, several times");
  Measured measured{.kernel = "unfused", .out = {}};
  measured.seconds =
      median_seconds([&] { attention_unfused(results.tensors, call.options, call.execution); });
  measured.scratch = unfused_scratch_size(results.tensors);
  set_errors(measured, results, reference);
  return measured;
}

bool within(const Measured& measured, const Tolerance& tolerance) {
  return measured.out.max_abs <= tolerance.out &&
         (!measured.lse || measured.lse->max_abs <= tolerance.lse);
}

}  // namespace

bool Comparison::within_tolerance() const {
  return within(tiled, tolerance) && (!unfused || within(*unfused, tolerance));
}

Comparison compare_kernels(const Call& call, std::optional<double> tolerance) {
  Results reference(call, DType::f64);
  const PlainCall plain = plain_call(call);
  const AttentionPlan plan(bind_cache(call, Results(call, call.dtype).tensors), call.options,
                           call.execution);
  Comparison comparison;
  comparison.num_threads = plan.num_threads();
  comparison.path = plan.description();
  const double rows = static_cast<double>(reference.lse.size()),
               kv_len = static_cast<double>(call.tensors.k.shape[2]);
  comparison.score_matrix = rows * kv_len * static_cast<double>(sizeof(float));

  comparison.naive.kernel = "naive";
  comparison.naive.seconds = seconds_of_reference(reference.tensors, call.options, call.execution);
  comparison.naive.scratch =
      static_cast<std::size_t>(call.tensors.k.shape[2] * plan.num_threads()) * sizeof(double);
  comparison.tiled = measure_tiled(call, plan, reference);
  if (comparison.score_matrix < available_memory())
    comparison.unfused = measure_unfused(call, plain, reference);
  comparison.tolerance = tolerance
                             ? Tolerance{*tolerance, *tolerance, "as --tolerance says"}
                             : derive_tolerance(plain.tensors, reference.tensors, call.options,
                                                call.dtype, ProbabilityRounding::measured);
  return comparison;
}

}  // namespace attn::apps::demo
