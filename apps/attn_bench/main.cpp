// attn_bench: times attention and compares it with the peak performance of this machine.
//
// It does not use Google Benchmark. A call takes milliseconds, so a median over whole calls is
// enough, and the peak performance is measured in the same process.
#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "apps/support/normalizer_option.hpp"
#include "apps/support/options.hpp"
#include "apps/support/program.hpp"
#include "decode.hpp"
#include "measure.hpp"
#include "softmax.hpp"

namespace attn::apps::bench {
namespace {

struct Arguments {
  std::string shape;
  bool causal = false;
  std::string dtype = "f32";
  std::string kernel = "tiled";
  NormalizerChoice normalizer;
  std::optional<std::string> kv_dtype, layout;
  std::optional<std::int64_t> page_size;
  bool decode = false;
  bool softmax = false;  // the command `softmax` was given
  int num_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  double min_time = 0.3;
  std::string isa;
  bool json = false;
};

DType dtype_from_name(const std::string& option, const std::string& name, bool quantized = false) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    if (name_of(dtype) == name) return dtype;
  }
  if (quantized && name == "i8") return DType::i8;
  reject("{} is {}; it needs f32, bf16{}", option, name, quantized ? ", f16 or i8" : " or f16");
}

CacheLayout layout_from_name(const std::string& name) {
  if (name == "bhsd") return CacheLayout::bhsd;
  if (name == "bshd") return CacheLayout::bshd;
  reject("--layout is {}; it needs bhsd or bshd", name);
}

Kernel kernel_from_name(const std::string& name) {
  if (name == "tiled") return Kernel::tiled;
  if (name == "unfused") return Kernel::unfused;
  if (name == "naive") return Kernel::naive;
  reject("--kernel is {}; it needs tiled, unfused or naive", name);
}

/// The cache that the options ask for; empty if k and v are plain tensors.
std::optional<CacheKind> cache_from(const Arguments& arguments, DType dtype) {
  if (!arguments.kv_dtype && !arguments.page_size && !arguments.layout && !arguments.decode)
    return std::nullopt;
  constexpr std::int64_t largest_page = std::int64_t{1} << 20;
  CacheKind cache{.dtype = dtype};
  if (arguments.kv_dtype) cache.dtype = dtype_from_name("--kv-dtype", *arguments.kv_dtype, true);
  if (arguments.layout) cache.layout = layout_from_name(*arguments.layout);
  cache.page_size = arguments.page_size.value_or(0);
  if (cache.page_size < 0 || cache.page_size > largest_page) {
    reject("--page-size is {}; it needs an integer in 0..{}", cache.page_size, largest_page);
  }
  if (arguments.kernel != "tiled")
    reject("--kv-dtype, --page-size, --layout and --decode are for --kernel tiled");
  return cache;
}

/// The settings that the options give to every case.
Case common_case(const Arguments& arguments) {
  Case common{};
  common.dtype = dtype_from_name("--dtype", arguments.dtype);
  common.kernel = kernel_from_name(arguments.kernel);
  common.normalizer = arguments.normalizer.value();
  common.cache = cache_from(arguments, common.dtype);
  return common;
}

Case case_from_text(const std::string& text) {
  std::vector<std::int64_t> sizes;
  for (const std::string& part : CLI::detail::split(text, ',')) {
    std::int64_t size = 0;
    if (!CLI::detail::lexical_cast(part, size) || size < 1)
      reject("--shape is {}; it needs B,H,HKV,SQ,SKV,D[,DV]", text);
    sizes.push_back(size);
  }
  if (sizes.size() != 6 && sizes.size() != 7)
    reject("--shape is {}; it needs B,H,HKV,SQ,SKV,D[,DV]", text);
  if (sizes.size() == 6) sizes.push_back(sizes.back());
  return {text, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
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
  const nlohmann::ordered_json line = {{"name", shape.name},
                                       {"dtype", name_of(shape.dtype)},
                                       {"kv_dtype", name_of(shape.kv_dtype())},
                                       {"page_size", shape.page_size()},
                                       {"threads", settings.num_threads},
                                       {"median_ms", result.median_ms},
                                       {"min_ms", result.min_ms},
                                       {"gflops", result.gflops},
                                       {"gbps", result.gbps},
                                       {"peak_gflops", result.peak_gflops},
                                       {"fraction_of_peak", result.fraction_of_peak},
                                       {"path", result.path}};
  fmt::print("{}\n", line.dump());
}

void print_row(const Case& shape, const Result& result) {
  fmt::print("{:28}{:>10.3f}{:>10.3f}{:>10.1f}{:>9.1f}{:>11.1f} %\n", shape.name, result.median_ms,
             result.min_ms, result.gflops, result.gbps, 100 * result.fraction_of_peak);
}

std::vector<Case> cases_from(const Arguments& arguments, const Case& common) {
  std::vector<Case> cases = standard_cases();
  if (!arguments.shape.empty()) {
    cases = {case_from_text(arguments.shape)};
    cases[0].causal = arguments.causal;
  }
  for (Case& each : cases) {
    each.dtype = common.dtype;
    each.kernel = common.kernel;
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
    if (!json && cases.size() == 1) fmt::print("\n{}\n", result.path);
  }
}

void run(const Arguments& arguments) {
  if (arguments.num_threads < 1 || arguments.num_threads > 4096)
    reject("--threads needs to lie in 1..4096");
  const Settings settings{arguments.num_threads, arguments.min_time,
                          arguments.isa.empty() ? default_isa() : isa_from_name(arguments.isa)};
  if (arguments.softmax) return measure_softmax(settings, arguments.json);
  const Case common = common_case(arguments);
  const std::vector<Case> cases = cases_from(arguments, common);
  const Peak peak = measure_peak(settings.isa, settings.num_threads);
  if (!arguments.json) {
    fmt::print(
        "{} threads, {}: {:.1f} GFLOP/s of f32 multiply-adds, {:.1f} of bf16, {:.1f} GB/s read "
        "from memory\n\n",
        settings.num_threads, name_of(settings.isa), peak.multiply_add_gflops, peak.bf16_gflops,
        peak.read_gbps);
  }
  if (!arguments.decode) return measure_cases(cases, settings, peak, arguments.json);
  if (!arguments.json) return measure_decode(common, settings, peak);
  measure_decode(common, settings, peak, [&](const Case& each, const Result& result) {
    print_json(each, settings, result);
  });
}

void add_common_options(CLI::App& app, Arguments& arguments) {
  app.add_option("--threads", arguments.num_threads, "number of threads")->capture_default_str();
  app.add_option("--min-time", arguments.min_time, "seconds to time each shape for, at least")
      ->capture_default_str();
  app.add_option("--isa", arguments.isa, "instruction set; default as attn_demo info says");
  app.add_flag("--json", arguments.json, "one JSON object a shape, a line each");
}

void add_options(CLI::App& app, Arguments& arguments) {
  auto* const shape = app.add_option("--shape", arguments.shape, "B,H,HKV,SQ,SKV,D[,DV]");
  auto* const causal = app.add_flag("--causal", arguments.causal, "bottom-right causal");
  app.add_option("--dtype", arguments.dtype, "f32, bf16 or f16")->capture_default_str();
  app.add_option("--kv-dtype", arguments.kv_dtype,
                 "f32, bf16, f16 or i8: type of a cache of K and V; default --dtype");
  app.add_option("--page-size", arguments.page_size,
                 "keys in a page of a cache; default 0, no pages");
  app.add_option("--layout", arguments.layout,
                 "of a cache: bhsd [heads, keys, dim] (default) or bshd [keys, heads, dim]");
  app.add_flag(
         "--decode", arguments.decode,
         "a table of single queries against caches of many sizes, with the share of memory's speed")
      ->excludes(shape)
      ->excludes(causal);
  app.add_option("--kernel", arguments.kernel, "tiled, unfused or naive")->capture_default_str();
  add_normalizer_options(app, arguments.normalizer);
  add_common_options(app, arguments);

  CLI::App* const softmax = app.add_subcommand(
      "softmax", "softmax and its family on a list of shapes, beside a copy and oneDNN");
  add_common_options(*softmax, arguments);
  softmax->callback([&arguments] { arguments.softmax = true; });
}

int run_command_line(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Times attention on one shape, or on a list of real model shapes, after verifying its "
      "result. --kv-dtype, --page-size and "
      "--layout put K and V into a cache first."};
  add_options(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  }
  run(arguments);
  return 0;
}

}  // namespace
}  // namespace attn::apps::bench

int main(int argc, char** argv) {
  return attn::apps::run_program("attn_bench", attn::apps::bench::run_command_line, argc, argv);
}
