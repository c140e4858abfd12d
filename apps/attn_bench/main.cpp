// attn_bench: times attention and compares it with the peak performance of this machine.
//
// It does not use Google Benchmark. A call takes milliseconds, so a median over whole calls is
// enough, and the peak performance is measured in the same process.
#include <attn/info.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/support/call_options.hpp"
#include "apps/support/command_line.hpp"
#include "apps/support/normalizer_option.hpp"
#include "apps/support/options.hpp"
#include "apps/support/quantities.hpp"
#include "apps/support/ranks.hpp"
#include "decode.hpp"
#include "measure.hpp"
#include "ring.hpp"
#include "softmax.hpp"

namespace attn::apps::bench {
namespace {

constexpr std::int64_t most_documents = std::int64_t{1} << 20;

struct Arguments {
  std::optional<Case> shape;
  bool causal = false;
  std::optional<Window> window;
  std::optional<std::int64_t> documents;
  bool backward = false;
  std::vector<int> simulated_threads;
  TypeChoice types;
  Kernel kernel = Kernel::tiled;
  ScoreMatmul score_matmul = ScoreMatmul::automatic;
  NormalizerChoice normalizer;
  std::optional<CacheLayout> layout;
  bool decode = false;
  bool ring = false;
  bool softmax = false;  // the command `softmax` was given
  double min_time = 0.3;
  Execution execution;
  bool openmp = false;
  bool json = false;
};

void check_backward(const Arguments& arguments) {
  if (!arguments.backward) return;
  if (arguments.types.kv_dtype || arguments.types.page_size || arguments.layout)
    reject(
        "--backward does not go with --kv-dtype, --page-size and --layout: a cache has no "
        "gradients");
  if (arguments.kernel == Kernel::unfused)
    reject("--backward is for --kernel tiled and naive: unfused has no gradients");
}

void check_simulation(const Arguments& arguments) {
  if (arguments.simulated_threads.empty()) return;
  if (arguments.backward || arguments.kernel != Kernel::tiled)
    reject("--simulate-threads replays the forward of --kernel tiled");
}

/// The cache that the options ask for; empty if k and v are plain tensors.
std::optional<CacheKind> cache_from(const Arguments& arguments) {
  const TypeChoice& types = arguments.types;
  if (!types.kv_dtype && !types.page_size && !arguments.layout && !arguments.decode)
    return std::nullopt;
  if (arguments.kernel != Kernel::tiled)
    reject("--kv-dtype, --page-size, --layout and --decode are for --kernel tiled");
  return CacheKind{.dtype = types.kv_dtype.value_or(types.dtype),
                   .page_size = types.page_size.value_or(0),
                   .layout = arguments.layout.value_or(CacheLayout::bhsd)};
}

/// The settings that the options give to every case.
Case common_case(const Arguments& arguments) {
  Case common{};
  common.backward = arguments.backward;
  common.window = arguments.window;
  common.documents = arguments.documents;
  common.dtype = arguments.types.dtype;
  common.kernel = arguments.kernel;
  common.score_matmul = arguments.score_matmul;
  common.normalizer = arguments.normalizer.value();
  common.cache = cache_from(arguments);
  return common;
}

Case case_of(const std::string& name, const CallSizes& sizes) {
  return {name,        sizes.batch,  sizes.num_q_heads, sizes.num_kv_heads,
          sizes.q_len, sizes.kv_len, sizes.head_dim,    sizes.v_head_dim};
}

/// The attention of one layer of well-known models.
std::vector<Case> standard_cases() {
  return {
      {"tiny encoder", 1, 4, 4, 64, 64, 32, 32},
      {"BERT base, 8 x 128", 8, 12, 12, 128, 128, 64, 64},
      {"ViT-H/14 at 336", 1, 16, 16, 577, 577, 80, 80},
      {"GPT-2, 1024, causal", 1, 12, 12, 1024, 1024, 64, 64, true},
      {"full, 4096", 1, 4, 4, 4096, 4096, 64, 64},
      {"Llama-3 8B, 2048, causal", 1, 32, 8, 2048, 2048, 128, 128, true},
      {"Llama-3 8B, chunk of 256", 1, 32, 8, 256, 4096, 128, 128, true},
      {"Gemma-2 2B, 2048, causal", 1, 8, 4, 2048, 2048, 256, 256, true},
      {"Phi-2, 1024, causal", 1, 32, 32, 1024, 1024, 80, 80, true},
      {"Llama-3 8B, decode at 8192", 1, 32, 8, 1, 8192, 128, 128},
  };
}

void print_json(const Case& shape, const Settings& settings, const Result& result) {
  nlohmann::ordered_json line = {{"name", shape.name},
                                 {"dtype", name_of(shape.dtype)},
                                 {"kv_dtype", name_of(shape.kv_dtype())},
                                 {"page_size", shape.page_size()},
                                 {"threads", settings.num_threads},
                                 {"median_ms", result.median_ms},
                                 {"min_ms", result.min_ms},
                                 {"mean_ms", result.mean_ms},
                                 {"p99_ms", result.p99_ms},
                                 {"gflops", result.gflops},
                                 {"gbps", result.gbps},
                                 {"peak_gflops", result.peak_gflops},
                                 {"fraction_of_peak", result.fraction_of_peak},
                                 {"scratch_bytes", result.scratch_bytes},
                                 {"path", result.path}};
  for (const Simulated& each : result.simulated)
    line["simulated"].push_back(
        {{"threads", each.threads}, {"ms", each.ms}, {"share_of_ideal", each.share_of_ideal}});
  fmt::print("{}\n", line.dump());
}

void print_row(const Case& shape, const Result& result) {
  fmt::print("{:28}{:>10.3f}{:>10.3f}{:>10.1f}{:>9.1f}{:>11.1f} %\n", shape.name, result.median_ms,
             result.min_ms, result.gflops, result.gbps, 100 * result.fraction_of_peak);
  for (const Simulated& each : result.simulated)
    fmt::print("{:>28}{:>10.3f}{:>35.0f} % of ideal\n",
               format_threads(each.threads) + ", simulated", each.ms, 100 * each.share_of_ideal);
}

std::vector<Case> cases_from(const Arguments& arguments, const Case& common) {
  std::vector<Case> cases = standard_cases();
  if (arguments.shape) {
    cases = {*arguments.shape};
    cases[0].causal = arguments.causal;
  }
  for (Case& each : cases) {
    each.backward = common.backward;
    each.window = common.window;
    each.documents = common.documents;
    each.dtype = common.dtype;
    each.kernel = common.kernel;
    each.score_matmul = common.score_matmul;
    each.normalizer = common.normalizer;
    each.cache = common.cache;
  }
  return cases;
}

void measure_cases(const std::vector<Case>& cases, const Settings& settings, const Peak& peak,
                   bool json) {
  if (!json)
    fmt::print("{:28}{:>10}{:>10}{:>10}{:>9}{:>13}\n", "shape", "median ms", "min ms", "GFLOP/s",
               "GB/s", "of the roof");
  for (const Case& each : cases) {
    const Result result = measure(each, settings, peak);
    if (json) {
      print_json(each, settings, result);
    } else {
      print_row(each, result);
    }
    if (!json && cases.size() == 1)
      fmt::print("\n{}\n{} scratch\n", result.path,
                 format_bytes(static_cast<double>(result.scratch_bytes)));
  }
}

void run(const Arguments& arguments) {
  const Execution& execution = arguments.execution;
  const Settings settings{execution.num_threads.value_or(build_info().num_threads),
                          arguments.simulated_threads, arguments.min_time,
                          execution.isa.value_or(default_isa()),
                          arguments.openmp ? &openmp_executor() : nullptr};
  if (arguments.softmax) return measure_softmax(settings, arguments.json);
  require_tiles(arguments.score_matmul, arguments.kernel);
  check_backward(arguments);
  check_simulation(arguments);
  const Case common = common_case(arguments);
  const std::vector<Case> cases = cases_from(arguments, common);
  if (arguments.ring) {
    if (!arguments.shape) reject("--ring is for one shape: --shape is required");
    if (arguments.decode || !arguments.simulated_threads.empty())
      reject("--ring does not go with --decode and --simulate-threads");
    return measure_ring(cases[0], settings, arguments.json);
  }
  const Peak peak = measure_peak(settings.isa, settings.num_threads);
  if (!arguments.json) {
    fmt::print(
        "{}, {}: {:.1f} GFLOP/s of f32 multiply-adds, {:.1f} of bf16, {:.1f} GB/s read "
        "from memory\n\n",
        format_threads(settings.num_threads), name_of(settings.isa), peak.multiply_add_gflops,
        peak.bf16_gflops, peak.read_gbps);
  }
  if (!arguments.decode) return measure_cases(cases, settings, peak, arguments.json);
  if (!arguments.json) return measure_decode(common, settings, peak);
  measure_decode(common, settings, peak, [&](const Case& each, const Result& result) {
    print_json(each, settings, result);
  });
}

void add_common_options(CLI::App& app, Arguments& arguments) {
  add_number(app, "--min-time S", arguments.min_time, not_negative,
             "seconds to time each shape for, at least; default 0.3");
  add_execution_options(app, arguments.execution);
  add_choice(app, "--executor NAME", arguments.openmp, {{"pool", false}, {"openmp", true}},
             "whose threads: the library's own (default), or OpenMP's");
  app.add_flag("--json", arguments.json, "one JSON object a shape, a line each");
}

void add_options(CLI::App& app, Arguments& arguments) {
  auto* const shape =
      add_value(app, "--shape B,H,HKV,SQ,SKV,D[,DV]",
                "one shape: batch, heads, KV heads, q_len, kv_len, dim and, if another, dim of V",
                [&arguments](auto option, auto text) {
                  arguments.shape = case_of(text, sizes_value(option, text, 1));
                });
  auto* const causal = app.add_flag("--causal", arguments.causal, "bottom-right causal");
  add_window_option(app, arguments.window);
  add_integer(app, "--documents N", arguments.documents, {1, most_documents},
              "a block mask of N documents of equal lengths, each of which sees itself alone");
  auto* const backward = app.add_flag("--backward", arguments.backward,
                                      "the gradients of Q, K and V, without the forward");
  add_value(app, "--simulate-threads N,...",
            "what so many threads would make of the call: its schedule is replayed with measured "
            "times of its items",
            [&arguments](auto option, auto text) {
              const std::string needed = fmt::format(
                  "numbers of threads in 1..{} with commas between them", max_num_threads);
              for (const std::int64_t threads : integers_value(option, text, needed)) {
                if (threads < 1 || threads > max_num_threads) reject_value(option, text, needed);
                arguments.simulated_threads.push_back(static_cast<int>(threads));
              }
            });
  add_type_options(app, arguments.types);
  add_choice(app, "--layout ORDER", arguments.layout,
             {{"bhsd", CacheLayout::bhsd}, {"bshd", CacheLayout::bshd}},
             "of a cache: bhsd [heads, keys, dim] (default) or bshd [keys, heads, dim]");
  app.add_flag(
         "--decode", arguments.decode,
         "a table of single queries against caches of many sizes, with the share of memory's speed")
      ->excludes(shape)
      ->excludes(causal)
      ->excludes(app.get_option("--window"))
      ->excludes(app.get_option("--documents"))
      ->excludes(backward);
  add_ring_option(app, arguments.ring);
  add_kernel_option(app, arguments.kernel);
  add_score_matmul_option(app, arguments.score_matmul);
  add_normalizer_options(app, arguments.normalizer);
  add_common_options(app, arguments);

  CLI::App* const softmax = app.add_subcommand(
      "softmax", "softmax and its family on a list of shapes, beside a copy and oneDNN");
  add_common_options(*softmax, arguments);
  softmax->callback([&app, softmax, &arguments] {
    arguments.softmax = true;
    for (const CLI::Option* const option : app.get_options()) {
      const std::string name = option->get_name();
      if (option->count() > 0 && softmax->get_option_no_throw(name) == nullptr)
        reject("{} does not go with softmax, which has its own shapes", name);
    }
  });
}

int run_command_line(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Times attention on one shape, or on a list of real model shapes, after verifying its "
      "result. --kv-dtype, --page-size and "
      "--layout put K and V into a cache first.",
      "attn_bench"};
  add_options(app, arguments);
  try {
    parse_command_line(app, argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  }
  run(arguments);
  return 0;
}

}  // namespace
}  // namespace attn::apps::bench

int main(int argc, char** argv) {
  const bool on_ranks = std::any_of(argv, argv + argc, [](const char* argument) {
    return std::string_view(argument) == "--ring";
  });
  return attn::apps::run_program_on_ranks("attn_bench", attn::apps::bench::run_command_line, argc,
                                          argv, on_ranks);
}
