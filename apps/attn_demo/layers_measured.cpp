#include "layers_measured.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>

#include "attn_bench/peak.hpp"

namespace attn::demo {
namespace {

using Clock = std::chrono::steady_clock;

/// Token ids, the same in every run.
Tensor random_ids(const LayersRun& run, std::int64_t vocab_size) {
  Tensor ids(DType::i64, {run.batch, run.seq});
  std::mt19937_64 random(1);
  std::int64_t* const values = ids.data<std::int64_t>();
  std::generate(values, values + ids.size(), [&] { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(vocab_size)); });
  return ids;
}

/// Runs f at least three times and for min_time; f's own durations in seconds, ascending.
std::vector<double> repeat(double min_time, const std::function<double()>& f) {
  constexpr std::size_t least = 3;
  std::vector<double> times;
  const auto begin = Clock::now();
  while (times.size() < least || seconds(Clock::now() - begin) < min_time) times.push_back(f());
  std::sort(times.begin(), times.end());
  return times;
}

double timed(const std::function<void()>& f) {
  const auto begin = Clock::now();
  f();
  return seconds(Clock::now() - begin);
}

ForwardTimes divided(ForwardTimes times, std::size_t by) {
  for (const auto part : {&ForwardTimes::projections, &ForwardTimes::attention, &ForwardTimes::cache, &ForwardTimes::mlp,
                          &ForwardTimes::norms, &ForwardTimes::embedding, &ForwardTimes::output}) {
    times.*part /= static_cast<ForwardTimes::Duration::rep>(by);
  }
  return times;
}

/// One model and prompt, run in several ways.
class Runs {
 public:
  Runs(Model& model, const LayersRun& run)
      : model_(model),
        run_(run),
        ids_(random_ids(run, model.settings.vocab_size)),
        caches_(model, run.batch, run.positions()),
        logits_(DType::f32, {run.batch, model.settings.vocab_size}) {}

  /// The residual streams behind all layers, and the time that took.
  std::vector<Tensor> streams(AttentionKernel kernel, double& time) {
    std::vector<Tensor> streams;
    const ForwardHooks hooks{.layer = [&](const TensorView& x) { streams.push_back(copy_as(x, DType::f32)); }};
    caches_.truncate(0);
    time = timed([&] { forward(ids_.view(), {.kernel = kernel, .hooks = &hooks}); });
    return streams;
  }

  Phase prefill() {
    ForwardTimes times;
    const auto once = [&](ForwardTimes* into) {
      caches_.truncate(0);
      return timed([&] { forward(ids_.view(), {.times = into}); });
    };
    once(nullptr);
    const std::vector<double> all = repeat(run_.min_time, [&] { return once(&times); });
    return phase(all, times, run_.batch * run_.seq);
  }

  /// Steps behind the prompt.
  Phase decode() {
    ForwardTimes times;
    const TensorView token = std::as_const(ids_).view().sliced(1, 0, 1);
    std::int64_t step = LayersRun::decode_steps;
    const auto once = [&](ForwardTimes* into) {
      if (step == LayersRun::decode_steps) {
        caches_.truncate(run_.seq);
        step = 0;
      }
      ++step;
      return timed([&] { forward(token, {.times = into}); });
    };
    for (int warm_up = 0; warm_up < 3; ++warm_up) once(nullptr);
    const std::vector<double> all = repeat(run_.min_time, [&] { return once(&times); });
    return phase(all, times, run_.batch);
  }

  std::size_t cache_bytes() const { return caches_.size_in_bytes(); }

 private:
  void forward(const TensorView& ids, const ForwardOptions& options) { model_.decoder.forward(ids, caches_.refs, logits_.view(), options); }

  static Phase phase(const std::vector<double>& all, const ForwardTimes& times, std::int64_t tokens) {
    const double median = all[all.size() / 2];
    return {.seconds = median, .tokens_per_second = static_cast<double>(tokens) / median, .times = divided(times, all.size())};
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
  double first_time = 0;  // has the compiling of kernels in it
  const std::vector<Tensor> tiled = runs.streams(AttentionKernel::tiled, first_time);
  const std::vector<Tensor> unfused = runs.streams(AttentionKernel::unfused, measured.unfused_seconds);
  const std::vector<Tensor> naive = runs.streams(AttentionKernel::reference, measured.naive_seconds);
  for (std::size_t n = 0; n < naive.size(); ++n) {
    measured.layers.push_back({.tiled = errors_between(tiled[n].view(), naive[n].view()),
                               .unfused = errors_between(unfused[n].view(), naive[n].view()),
                               .rms = rms_of(naive[n])});
  }
}

/// Multiply-adds of one token's projections in all layers.
double projection_weights(const DecoderSettings& settings) {
  const LayerSettings& layer = settings.layer;
  const AttentionSettings& a = layer.attention;
  const std::int64_t attention = a.hidden * a.head_dim * (2 * a.num_q_heads + 2 * a.num_kv_heads);
  const std::int64_t mlp = a.hidden * layer.mlp_width * (layer.mlp == MlpKind::swiglu ? 3 : 2);
  return static_cast<double>(settings.num_layers) * static_cast<double>(attention + mlp);
}

/// Logits are made of the last tokens alone, and left out.
double prefill_flops(const DecoderSettings& settings, const LayersRun& run) {
  const AttentionSettings& a = settings.layer.attention;
  const auto seq = static_cast<double>(run.seq), batch = static_cast<double>(run.batch);
  const double pairs = seq * (seq + 1) / 2 * static_cast<double>(a.num_q_heads * settings.num_layers);
  return batch * (2 * seq * projection_weights(settings) + 4 * static_cast<double>(a.head_dim) * pairs);
}

/// Keys and values of the prompt and half of the steps.
double cache_bytes_read(const DecoderSettings& settings, const LayersRun& run) {
  const AttentionSettings& a = settings.layer.attention;
  const std::int64_t a_key = 2 * a.num_kv_heads * a.head_dim * static_cast<std::int64_t>(size_of(a.dtype)) * settings.num_layers;
  return static_cast<double>(a_key * run.batch) * (static_cast<double>(run.seq) + LayersRun::decode_steps / 2.0);
}

}  // namespace

double seconds(ForwardTimes::Duration duration) { return std::chrono::duration<double>(duration).count(); }

LayersMeasured measure_layers(Model& model, const LayersRun& run) {
  LayersMeasured measured;
  measured.isa = model.execution.isa.value_or(default_isa());
  measured.num_threads = model.execution.num_threads.value_or(build_info().num_threads);
  Runs runs(model, run);
  measure_distances(runs, measured);
  const bench::Peak peak = bench::measure_peak(measured.isa, measured.num_threads);
  measured.prefill = runs.prefill();
  measured.decode = runs.decode();
  const bool bf16 = model.settings.layer.attention.dtype == DType::bf16;
  measured.peak_gflops = bf16 ? peak.bf16_gflops : peak.multiply_add_gflops;
  measured.prefill_gflops = prefill_flops(model.settings, run) / measured.prefill.seconds * 1e-9;
  measured.packed_bytes = static_cast<double>(model.decoder.size_in_bytes());
  measured.in_place_bytes = static_cast<double>(model.decoder.in_place_bytes());
  measured.cache_bytes = static_cast<double>(runs.cache_bytes());
  measured.activation_bytes = static_cast<double>(model.decoder.activation_bytes());
  measured.read_gbps = peak.read_gbps;
  measured.decode_bytes = static_cast<double>(model.decoder.bytes_read_per_step()) + cache_bytes_read(model.settings, run);
  measured.decode_gbps = measured.decode_bytes / measured.decode.seconds * 1e-9;
  return measured;
}

}  // namespace attn::demo
