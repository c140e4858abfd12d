#include "comparison.hpp"

#include <algorithm>
#include <functional>

#include "apps/attn_demo/progress.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/timing.hpp"
#include "tensor/indexing.hpp"

namespace attn::apps::demo {
namespace {

using attn::detail::derive_tolerance;
using attn::detail::errors_between;
using attn::detail::ProbabilityRounding;

/// The tensors that one kernel writes.
struct Results {
  Results(const Call& call, DType dtype)
      : out(dtype, output_shape(call.tensors)),
        lse(DType::f32, detail::remove_dim(call.tensors.q.shape, -1)),
        tensors(call.tensors) {
    tensors.out = out.view();
    if (call.options.normalizer == Normalizer::softmax()) tensors.lse = lse.view();
  }

  Tensor out, lse;
  AttentionTensors tensors;
};

/// Fills `reference`.
Measured measure_naive(const Call& call, Results& reference, int num_threads) {
  const AttentionTensors& tensors = reference.tensors;
  Progress progress("naive, in double");
  const AttentionOptions counted = progress.counted(tensors, call.options);
  return {.kernel = "naive",
          .out = {},
          .seconds = seconds_of([&] { attention_reference(tensors, counted, call.execution); }),
          .scratch = static_cast<std::size_t>(tensors.k.shape[2] * num_threads) * sizeof(double)};
}

/// Times a kernel that writes `results`, and compares them with the reference.
Measured measure(const std::string& kernel, const std::function<void()>& run, std::size_t scratch,
                 const Results& results, const Results& reference) {
  const Progress progress(kernel + ", several times");
  Measured measured{
      .kernel = kernel, .out = {}, .seconds = median_seconds(run), .scratch = scratch};
  measured.out = errors_between(results.tensors.out, reference.tensors.out);
  if (!reference.tensors.lse.absent())
    measured.lse = errors_between(results.tensors.lse, reference.tensors.lse);
  return measured;
}

Measured measure_tiled(const std::string& kernel, const Call& call, const AttentionPlan& plan,
                       const Results& reference) {
  const Results results(call, call.dtype);
  const AttentionTensors tensors = bind_cache(call, results.tensors);
  Workspace workspace(plan.workspace_size());
  const auto run = [&] { plan.run(tensors, workspace); };
  return measure(kernel, run, plan.workspace_size(), results, reference);
}

AttentionPlan plan_of(const Call& call, ScoreMatmul score_matmul) {
  AttentionOptions options = call.options;
  options.score_matmul = score_matmul;
  return AttentionPlan(bind_cache(call, Results(call, call.dtype).tensors), options,
                       call.execution);
}

/// A call without rows, keys or dims has nothing to multiply.
bool compares_onednn(const Call& call) {
  return !build_info().onednn_version.empty() &&
         call.options.score_matmul == ScoreMatmul::automatic &&
         call.tensors.q.shape.product() > 0 && call.tensors.v.shape.product() > 0;
}

Measured measure_unfused(const Call& call, const PlainCall& plain, const Results& reference) {
  Results results(call, call.dtype);
  results.tensors.k = plain.tensors.k;
  results.tensors.v = plain.tensors.v;
  const auto run = [&] { attention_unfused(results.tensors, call.options, call.execution); };
  return measure("unfused", run, unfused_scratch_size(results.tensors), results, reference);
}

/// The type in which the tiled pass has K and V; `plain` has them as floats where they are i8.
DType stored_type(const Call& call, const AttentionTensors& plain) {
  return call.kv_dtype == DType::i8 ? DType::i8 : plain.v.dtype;
}

}  // namespace

double median_seconds(const std::function<void()>& call) {
  constexpr double min_time = 0.2, too_long = 2;  // seconds
  constexpr std::size_t max_calls = 101;
  const double first = seconds_of(call);
  return first > too_long ? first : median_of(time_calls(call, min_time, max_calls));
}

std::vector<Measured> Comparison::kernels() const {
  std::vector<Measured> measured = {tiled};
  if (tiled_onednn) measured.push_back(*tiled_onednn);
  if (unfused) measured.push_back(*unfused);
  measured.push_back(naive);
  return measured;
}

bool Comparison::within_tolerance() const {
  const std::vector<Measured> all = kernels();
  return std::all_of(all.begin(), all.end(), [this](const Measured& measured) {
    return measured.out.max_abs <= tolerance.out &&
           (!measured.lse || measured.lse->max_abs <= tolerance.lse);
  });
}

Comparison compare_kernels(const Call& call, std::optional<double> tolerance) {
  Results reference(call, DType::f64);
  const PlainCall plain = plain_call(call);
  const AttentionPlan plan = plan_of(call, call.options.score_matmul);
  Comparison comparison;
  comparison.num_threads = plan.num_threads();
  comparison.path = plan.description();
  comparison.score_matrix =
      product_of({reference.lse.size(), call.tensors.k.shape[2], std::int64_t{sizeof(float)}});
  comparison.naive = measure_naive(call, reference, plan.num_threads());
  comparison.tiled = measure_tiled("tiled", call, plan, reference);
  if (compares_onednn(call)) {
    comparison.tiled_onednn =
        measure_tiled("tiled, oneDNN", call, plan_of(call, ScoreMatmul::onednn), reference);
  }
  if (comparison.score_matrix < available_memory())
    comparison.unfused = measure_unfused(call, plain, reference);
  comparison.tolerance =
      tolerance ? Tolerance{*tolerance, *tolerance, "as --tolerance says"}
                : derive_tolerance(plain.tensors, reference.tensors, call.options, call.dtype,
                                   stored_type(call, plain.tensors), ProbabilityRounding::measured);
  return comparison;
}

}  // namespace attn::apps::demo
