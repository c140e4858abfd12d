// attn_demo run: one call, its results written to files.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <optional>
#include <string>

#include "call/call.hpp"
#include "commands.hpp"
#include "outputs.hpp"
#include "progress.hpp"

namespace attn::apps::demo {
namespace {

struct RunArguments {
  CallArguments call;
  std::optional<std::string> out, lse, scores, present_k, present_v;  // files
  ScoreStage stage = ScoreStage::weights;
  Kernel kernel = Kernel::tiled;
};

/// `tensors` have plain K and V, which the tiled kernel finds in the call's cache instead.
void compute(Kernel kernel, const Call& call, const AttentionTensors& tensors) {
  Progress progress("computing");
  switch (kernel) {
    case Kernel::tiled: return attention(bind_cache(call, tensors), call.options, call.execution);
    case Kernel::naive:
      return attention_reference(tensors, progress.counted(tensors, call.options), call.execution);
    case Kernel::unfused: return attention_unfused(tensors, call.options, call.execution);
  }
}

int run(const RunArguments& arguments) {
  require_tiles(arguments.call.options.score_matmul, arguments.kernel);
  const Call call = load_call(arguments.call);
  const PlainCall plain = plain_call(call);
  AttentionTensors tensors = plain.tensors;
  const Dims &q = tensors.q.shape, &k = tensors.k.shape, &v = tensors.v.shape;
  Outputs outputs;
  const MutableTensorView out =
      outputs.make("--out", arguments.out, call.dtype, output_shape(call));
  const MutableTensorView present_k =
      outputs.make("--present-k", arguments.present_k, call.dtype, k);
  const MutableTensorView present_v =
      outputs.make("--present-v", arguments.present_v, call.dtype, v);
  tensors.out = heads_first(out, call.layout, q[1]);
  tensors.lse = outputs.make("--lse", arguments.lse, DType::f32, {q[0], q[1], q[2]});
  const MutableTensorView scores =
      outputs.make("--scores", arguments.scores, DType::f32, {q[0], q[1], q[2], k[2]});
  compute(arguments.kernel, call, tensors);
  if (arguments.present_k) copy_into(tensors.k, present_k);
  if (arguments.present_v) copy_into(tensors.v, present_v);
  if (arguments.scores)
    reference_scores(tensors, call.options, arguments.stage, scores, call.execution);
  outputs.commit();
  return 0;
}

void add_output_options(CLI::App& command, RunArguments& arguments) {
  add_file(command, "--out FILE", arguments.out,
           "the result, in the layout of Q: .npy, or .safetensors where the name ends so")
      ->required();
  add_file(command, "--lse FILE", arguments.lse,
           "log of the sum of exp of each row's scores, [batch, heads, q_len]");
  add_file(command, "--present-k FILE", arguments.present_k,
           "past and new keys together, [batch, kv_heads, kv_len, dim]");
  add_file(command, "--present-v FILE", arguments.present_v, "past and new values together");
  auto* const scores = add_file(command, "--scores FILE", arguments.scores,
                                "for inspection, [batch, heads, q_len, kv_len]");
  add_choice(command, "--scores-stage STAGE", arguments.stage,
             {{"scaled", ScoreStage::scaled},
              {"capped", ScoreStage::capped},
              {"masked", ScoreStage::masked},
              {"weights", ScoreStage::weights}},
             "the step after which scores are written: scaled, capped, masked or weights "
             "(default), which are the probabilities")
      ->needs(scores);
  set_help_group(command, "Outputs");
}

}  // namespace

void add_run(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<RunArguments>(
      app, chosen, "run", "one attention call on tensors in files, its results written to files",
      [](const RunArguments& given) {
        return under_option_names(call_option_names, [&] { return run(given); });
      });
  require_tensors(add_input_files(command, arguments.call));
  add_output_options(command, arguments);
  add_call_options(command, arguments.call);
  add_kernel_option(command, arguments.kernel);
  set_help_group(command, "Types, cache and execution");
}

}  // namespace attn::apps::demo
