#include "measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>

#include "apps/support/memory.hpp"
#include "apps/support/peak.hpp"
#include "apps/support/timing.hpp"

namespace attn::apps::demo {
namespace {

using attn::detail::errors_between;

/// Random token ids, the same in every run of the program.
Tensor random_ids(const LayersRun& run, std::int64_t vocab_size) {
  Tensor ids(DType::i64, {run.batch, run.seq});
  std::mt19937_64 random(1);
  std::int64_t* const values = ids.data<std::int64_t>();
  std::generate(values, values + ids.size(), [&] {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(vocab_size));
  });
  return ids;
}

/// Repeats f for min_time, at least three times, and returns the run of median duration. One run
/// processes `tokens` tokens.
Phase median_of(double min_time, std::int64_t tokens, const std::function<Phase()>& f) {
  constexpr std::size_t least = 3;
  std::vector<Phase> runs;
  const auto begin = Clock::now();
  while (runs.size() < least || seconds_since(begin) < min_time) runs.push_back(f());
  const auto middle = runs.begin() + std::ssize(runs) / 2;
  std::nth_element(runs.begin(), middle, runs.end(),
                   [](const Phase& a, const Phase& b) { return a.seconds < b.seconds; });
  middle->tokens_per_second = static_cast<double>(tokens) / middle->seconds;
  return *middle;
}

/// Runs one model on one prompt: with each attention kernel, as prefill, and as decode.
class Runs {
 public:
  Runs(Model& model, const LayersRun& run)
      : model_(model),
        run_(run),
        ids_(random_ids(run, model.settings.vocab_size)),
        caches_(model, run.batch, run.positions()),
        logits_(DType::f32, {run.batch, model.settings.vocab_size}) {}

  /// The residual streams after all layers. Sets `time` to the duration in seconds.
  std::vector<Tensor> streams(AttentionKernel kernel, double& time) {
    std::vector<Tensor> streams;
    const ForwardHooks hooks{
        .layer = [&](const TensorView& x) { streams.push_back(copy_as(x, DType::f32)); }};
    caches_.truncate(0);
    time = seconds_of([&] { forward(ids_.view(), {.kernel = kernel, .hooks = &hooks}); });
    return streams;
  }

  Phase prefill() {
    const auto once = [&] {
      caches_.truncate(0);
      return timed_forward(ids_.view());
    };
    once();
    return median_of(run_.min_time, run_.batch * run_.seq, once);
  }

  /// Decode steps after the prompt.
  Phase decode() {
    const TensorView token = std::as_const(ids_).view().sliced(1, 0, 1);
    std::int64_t step = LayersRun::decode_steps;
    const auto once = [&] {
      if (step == LayersRun::decode_steps) {
        caches_.truncate(run_.seq);
        step = 0;
      }
      ++step;
      return timed_forward(token);
    };
    for (int warm_up = 0; warm_up < 3; ++warm_up) once();
    return median_of(run_.min_time, run_.batch, once);
  }

  std::size_t cache_bytes() const { return caches_.size_in_bytes(); }

 private:
  void forward(const TensorView& ids, const ForwardOptions& options) {
    model_.decoder.forward(ids, caches_.refs, logits_.view(), options);
  }

  Phase timed_forward(const TensorView& ids) {
    Phase phase;
    phase.seconds = seconds_of([&] { forward(ids, {.times = &phase.times}); });
    return phase;
  }

  Model& model_;
  const LayersRun& run_;
  Tensor ids_;
  Caches caches_;
  Tensor logits_;
};

double rms_of(const Tensor& tensor) {
  double sum = 0;
  for (std::int64_t n = 0; n < tensor.size(); ++n) sum += std::pow(tensor.data<float>()[n], 2.0);
  return std::sqrt(sum / static_cast<double>(tensor.size()));
}

void measure_distances(Runs& runs, LayersMeasured& measured) {
  double first_time = 0;  // not used: oneDNN compiles its kernels in the first run
  const std::vector<Tensor> tiled = runs.streams(AttentionKernel::tiled, first_time);
  runs.streams(AttentionKernel::unfused, first_time);
  const std::vector<Tensor> unfused =
      runs.streams(AttentionKernel::unfused, measured.unfused_seconds);
  const std::vector<Tensor> naive =
      runs.streams(AttentionKernel::reference, measured.naive_seconds);
  for (std::size_t n = 0; n < naive.size(); ++n) {
    measured.layers.push_back({.tiled = errors_between(tiled[n].view(), naive[n].view()),
                               .unfused = errors_between(unfused[n].view(), naive[n].view()),
                               .rms = rms_of(naive[n])});
  }
}

/// Floating-point operations of a prefill. Logits are not counted: only the last token of each
/// sequence has them.
double prefill_flops(const DecoderSettings& settings, const LayersRun& run) {
  double flops = 2 * static_cast<double>(run.seq) * projection_weights(settings);
  for (const LayerSettings& layer : settings.layers) {
    const AttentionSettings& a = layer.attention;
    flops += 4 * product_of({a.num_q_heads, a.head_dim, run.seq, run.seq + 1}) / 2;
  }
  return static_cast<double>(run.batch) * flops;
}

/// Bytes of keys and values that an average decode step reads: those of the prompt and of half of
/// the steps.
double cache_bytes_read(const DecoderSettings& settings, const LayersRun& run) {
  return cache_bytes_per_token(settings) * static_cast<double>(run.batch) *
         (static_cast<double>(run.seq) + LayersRun::decode_steps / 2.0);
}

/// Refuses a run that does not fit into memory. It needs the residual streams after all layers for
/// three kernels, the widest activations, and the scores of all heads, which unfused holds.
void require_room(const DecoderSettings& settings, const LayersRun& run) {
  const AttentionSettings& a = settings.layers.front().attention;
  const double streams =
      3 * product_of({run.batch, run.seq, a.hidden, std::ssize(settings.layers)});
  const double activations =
      2 * product_of({run.batch, run.seq, settings.layers.front().mlp_width + a.hidden});
  const double scores = product_of({run.batch, run.seq, run.seq, a.num_q_heads});
  require_memory(fmt::format("unfused attention of {} x {} tokens, which tiled is compared with,",
                             run.batch, run.seq),
                 static_cast<double>(sizeof(float)) * (streams + activations + scores));
}

}  // namespace

double seconds(ForwardTimes::Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

LayersMeasured measure_layers(Model& model, const LayersRun& run) {
  require_room(model.settings, run);
  LayersMeasured measured;
  measured.isa = model.execution.isa.value_or(default_isa());
  measured.num_threads = model.execution.num_threads.value_or(build_info().num_threads);
  Runs runs(model, run);
  measure_distances(runs, measured);
  const Peak peak = measure_peak(measured.isa, measured.num_threads);
  measured.prefill = runs.prefill();
  measured.decode = runs.decode();
  const bool bf16 = model.settings.layers.front().attention.dtype == DType::bf16;
  measured.peak_gflops = bf16 ? peak.bf16_gflops : peak.multiply_add_gflops;
  measured.prefill_gflops = prefill_flops(model.settings, run) / measured.prefill.seconds * 1e-9;
  measured.packed_bytes = static_cast<double>(model.decoder.size_in_bytes());
  measured.in_place_bytes = static_cast<double>(model.decoder.in_place_bytes());
  measured.cache_bytes = static_cast<double>(runs.cache_bytes());
  measured.activation_bytes = static_cast<double>(model.decoder.scratch_bytes());
  measured.read_gbps = peak.read_gbps;
  measured.decode_bytes = static_cast<double>(model.decoder.bytes_read_per_step()) +
                          cache_bytes_read(model.settings, run);
  measured.decode_gbps = measured.decode_bytes / measured.decode.seconds * 1e-9;
  return measured;
}

}  // namespace attn::apps::demo
