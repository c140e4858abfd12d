// attn_demo without a command: compares the three kernels on the sample tensors and explains the
// result, for somebody who has just built the program.
#include <attn/info.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "comparison.hpp"

namespace attn::apps::demo {
namespace {

namespace fs = std::filesystem;

struct Sample {
  std::string title;
  CallArguments arguments;
};

/// The folder of the sample tensors: beside the installed program, in the source tree that the
/// program was built from, or in the current folder.
fs::path find_data() {
  std::error_code unreadable;
  const fs::path program = fs::read_symlink("/proc/self/exe", unreadable);
  const std::vector<fs::path> places = {program.parent_path().parent_path() / "share/attn/data",
                                        ATTN_DATA_DIR, "data"};
  for (const fs::path& place : places) {
    if (fs::exists(place / "prefill.safetensors", unreadable)) return place;
  }
  throw Error(
      ErrorCode::io,
      fmt::format("the sample tensors are missing; looked for prefill.safetensors in {}, {} and {}",
                  places[0].string(), places[1].string(), places[2].string()));
}

std::vector<Sample> samples(const fs::path& data) {
  const auto file = [&data](const std::string& name) { return (data / name).string(); };
  const auto inputs = [&file](const std::string& before, const std::string& after) {
    CallArguments arguments;
    arguments.q = file(before + "q" + after);
    arguments.k = file(before + "k" + after);
    arguments.v = file(before + "v" + after);
    return arguments;
  };
  CallArguments prefill = inputs("prefill.safetensors:", "");
  prefill.options.causal = Causal::bottom_right();
  CallArguments decode = inputs("decode_", ".npy");
  decode.past_k = file("decode_past_k.npy");
  decode.past_v = file("decode_past_v.npy");
  CallArguments padded = inputs("padded_", ".npy");
  padded.mask = file("padded_mask.npy");
  padded.heads = 4;

  return {
      {"A prompt: 256 tokens, each sees those up to itself (causal); 8 query heads share 2 KV "
       "heads",
       prefill},
      {"The next token: 1 query, 512 keys, of which 511 come from a cache; the same heads", decode},
      {"A padded batch: 3 texts of 80, 53 and 21 tokens, a mask hides the padding; 4 heads",
       padded}};
}

std::vector<std::string> table_row(const Measured& measured, const Comparison& comparison) {
  const bool reference = measured.is_reference();
  const auto error = [&](double value) { return reference ? "-" : format_error(value); };
  return {"  " + measured.kernel,
          error(measured.out.max_abs),
          error(measured.out.rms),
          error(comparison.tolerance.out),
          format_seconds(measured.seconds),
          format_speedup(comparison.speedup(measured)),
          format_bytes(static_cast<double>(measured.scratch)),
          format_bytes(comparison.score_matrix)};
}

void print_samples(const std::vector<Sample>& all, const std::vector<Comparison>& comparisons) {
  std::vector<std::vector<std::string>> rows = {
      {"", "max error", "RMS error", "tolerance", "time", "speed-up", "scratch", "all scores"}};
  for (std::size_t n = 0; n < all.size(); ++n) {
    rows.push_back({all[n].title});
    for (const Measured& measured : comparisons[n].kernels())
      rows.push_back(table_row(measured, comparisons[n]));
  }
  print_table(rows);
}

/// Scratch memory of the engine for the same call with longer sequences. A plan computes it from
/// the shapes, without data.
double scratch_at(const Call& call, std::int64_t length) {
  AttentionTensors tensors = call.tensors;
  for (TensorView* const tensor : {&tensors.q, &tensors.k, &tensors.v}) {
    const Dims& shape = tensor->shape;
    *tensor = {nullptr, tensor->dtype, {shape[0], shape[1], length, shape[3]}};
  }
  tensors.out = {nullptr, call.dtype, output_shape(tensors)};
  return static_cast<double>(AttentionPlan(tensors, call.options, call.execution).workspace_size());
}

void print_conclusion(const Call& prompt, const Comparison& first, bool agree) {
  constexpr std::int64_t length = 16384;
  const double longer =
      static_cast<double>(length) / static_cast<double>(prompt.tensors.q.shape[2]);
  if (agree) {
    fmt::print(
        "\n{} No error is past its tolerance: twice that of a plain loop in single precision\n",
        styled(Style::good, "All agree."));
    fmt::print("on the same numbers, and a few units of rounding.\n");
  } else {
    fmt::print(
        "\n{} An error is past its tolerance: rounding in single precision does not explain it.\n",
        styled(Style::bad, "They differ."));
  }
  fmt::print("On the prompt, tiled is {:.0f} times as fast as naive", first.speedup(first.tiled));
  if (first.unfused)
    fmt::print(" and {:.1f} times as fast as unfused",
               first.unfused->seconds / first.tiled.seconds);
  fmt::print(" ({}).\n", format_threads(first.num_threads));
  fmt::print(
      "unfused holds all the scores, q_len x kv_len for each head; tiled holds a few tiles of "
      "them.\n");
  fmt::print(
      "At {} tokens the prompt would have {} of scores, and tiled would take {} of scratch.\n",
      length, format_bytes(first.score_matrix * longer * longer),
      format_bytes(scratch_at(prompt, length)));
  fmt::print(
      "\nNext: attn_demo --help, attn_demo info, attn_demo compare --shape 1,32,8,512,512,128 "
      "--causal\n");
}

}  // namespace

int compare_samples() {
  const std::vector<Sample> all = samples(find_data());
  std::vector<Call> calls;
  std::vector<Comparison> comparisons;
  for (const Sample& sample : all) {
    calls.push_back(load_call(sample.arguments));
    comparisons.push_back(compare_kernels(calls.back()));
  }
  const bool onednn = !build_info().onednn_version.empty();
  fmt::print(
      "Attention gives every query a weighted mean of the values whose keys it may see. Three ways "
      "to it:\n");
  fmt::print("tiled is this library{};\n",
             onednn ? ", which lets its own micro-kernel multiply whole tiles, or oneDNN" : "");
  fmt::print("unfused chains {} matmul, softmax and matmul; naive is the textbook in double\n",
             onednn ? "oneDNN's" : "separate");
  fmt::print("precision, which the errors and speed-ups of the others refer to.\n\n");
  print_samples(all, comparisons);
  const bool agree = std::all_of(comparisons.begin(), comparisons.end(),
                                 [](const Comparison& each) { return each.within_tolerance(); });
  print_conclusion(calls.front(), comparisons.front(), agree);
  return agree ? 0 : 1;
}

}  // namespace attn::apps::demo
