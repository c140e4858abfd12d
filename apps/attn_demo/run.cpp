// attn_demo run: one call, its results written to files.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <string>

#include "apps/support/option_values.hpp"
#include "call_options.hpp"
#include "commands.hpp"
#include "inputs.hpp"
#include "outputs.hpp"
#include "progress.hpp"

namespace attn::apps::demo {
namespace {

enum class Kernel { tiled, naive, unfused };

struct RunArguments {
  CallArguments call;
  std::optional<std::string> out, lse, scores, present_k, present_v;  // files
  ScoreStage stage = ScoreStage::weights;
  Kernel kernel = Kernel::tiled;
};

/// `tensors` have K and V plain.
void compute(Kernel kernel, const Call& call, const AttentionTensors& tensors) {
  Progress progress("computing");
  switch (kernel) {
    case Kernel::tiled: return attention(bind_cache(call, tensors), call.options, call.execution);
    case Kernel::naive:
      return attention_reference(tensors, progress.counted(tensors, call.options), call.execution);
    case Kernel::unfused: return attention_unfused(tensors, call.options, call.execution);
  }
}

/// Makes sure that every output can be written, and in its type.
void add_outputs(const RunArguments& arguments, OutputFiles& files) {
  const auto add = [&files](const char* option, const std::optional<std::string>& file,
                            DType dtype) {
    if (file) add_output(files, option, *file, dtype);
  };
  const DType dtype = arguments.call.dtype;
  add("--out", arguments.out, dtype);
  add("--present-k", arguments.present_k, dtype);
  add("--present-v", arguments.present_v, dtype);
  add("--lse", arguments.lse, DType::f32);
  add("--scores", arguments.scores, DType::f32);
}

int run(const RunArguments& arguments) {
  const Call call = load_call(arguments.call);
  OutputFiles files;
  add_outputs(arguments, files);
  const auto write = [&files](const std::string& name, const std::optional<std::string>& file,
                              const TensorView& tensor) {
    if (file) files.write(*file, tensor, name);
  };

  const PlainCall plain = plain_call(call);
  AttentionTensors tensors = plain.tensors;
  Output out = make_output(call);
  Tensor lse = make_lse(call);
  tensors.out = out.view;
  if (arguments.lse) tensors.lse = lse.view();
  compute(arguments.kernel, call, tensors);
  write("out", arguments.out, out.tensor.view());
  write("lse", arguments.lse, lse.view());
  const auto write_present = [&](const std::string& name, const std::optional<std::string>& file,
                                 const TensorView& tensor) {
    if (file) write(name, file, copy_as(tensor, call.dtype).view());
  };
  write_present("present_k", arguments.present_k, tensors.k);
  write_present("present_v", arguments.present_v, tensors.v);
  if (arguments.scores) {
    const Dims& q = tensors.q.shape;
    Tensor scores(DType::f32, {q[0], q[1], q[2], tensors.k.shape[2]});
    reference_scores(tensors, call.options, arguments.stage, scores.view(), call.execution);
    write("scores", arguments.scores, scores.view());
  }
  files.commit();
  return 0;
}

ScoreStage stage_value(const std::string& text) {
  return choice_value<ScoreStage>("--scores-stage", text,
                                  {{"scaled", ScoreStage::scaled},
                                   {"capped", ScoreStage::capped},
                                   {"masked", ScoreStage::masked},
                                   {"weights", ScoreStage::weights}});
}

Kernel kernel_value(const std::string& text) {
  return choice_value<Kernel>(
      "--kernel", text,
      {{"tiled", Kernel::tiled}, {"naive", Kernel::naive}, {"unfused", Kernel::unfused}});
}

void add_output_options(CLI::App& command, RunArguments& arguments) {
  add_file(command, "--out", arguments.out,
           "the result, in the layout of Q: .npy, or .safetensors where the name ends so")
      ->required();
  add_file(command, "--lse", arguments.lse,
           "log of the sum of exp of each row's scores, [batch, heads, q_len]");
  add_file(command, "--present-k", arguments.present_k,
           "past and new keys together, [batch, kv_heads, kv_len, dim]");
  add_file(command, "--present-v", arguments.present_v, "past and new values together");
  auto* const scores = add_file(command, "--scores", arguments.scores,
                                "for inspection, [batch, heads, q_len, kv_len]");
  command
      .add_option_function<std::string>(
          "--scores-stage", [&](const std::string& text) { arguments.stage = stage_value(text); },
          "after which step: scaled, capped, masked or weights (default)")
      ->type_name("STAGE")
      ->needs(scores);
}

}  // namespace

void add_run(CLI::App& app, Command& chosen) {
  const auto arguments = std::make_shared<RunArguments>();
  CLI::App& command = *app.add_subcommand(
      "run", "compute attention on tensors in files, and write the results to files");
  add_input_files(command, arguments->call);
  add_output_options(command, *arguments);
  add_call_options(command, arguments->call);
  command
      .add_option_function<std::string>(
          "--kernel",
          [arguments](const std::string& text) { arguments->kernel = kernel_value(text); },
          "tiled (default), naive (textbook, in double) or unfused (oneDNN matmul, softmax, "
          "matmul)")
      ->type_name("NAME");
  command.callback([arguments, &chosen] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace attn::apps::demo
