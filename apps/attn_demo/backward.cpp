// attn_demo backward: the gradients of one call, written to files.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <optional>
#include <string>

#include "call/call.hpp"
#include "call/gradients.hpp"
#include "commands.hpp"
#include "outputs.hpp"
#include "progress.hpp"

namespace attn::apps::demo {
namespace {

struct BackwardArguments {
  CallArguments call;
  GradientArguments incoming;
  std::optional<std::string> dq, dk, dv, dmask, dalibi, dsinks, out, lse;  // files
  Kernel kernel = Kernel::tiled;
};

/// Computes O and lse only where they are needed: softmax's gradients and the files.
void compute_tiled(const Call& call, const ForwardResults& forward,
                   const AttentionGradients& gradients, bool writes_out) {
  const Progress progress("computing");
  // Made first, since it checks the call.
  const AttentionBackwardPlan plan(forward.tensors, gradients, call.options, call.execution);
  if (writes_out || !forward.tensors.lse.absent())
    attention(forward.tensors, call.options, call.execution);
  Workspace workspace(plan.workspace_size());
  plan.run(forward.tensors, gradients, workspace);
}

void compute_naive(const Call& call, const ForwardResults& forward,
                   const AttentionGradients& gradients, bool writes_out) {
  Progress progress("computing");
  attention_backward_reference(forward.tensors, gradients,
                               progress.counted(forward.tensors, call.options), call.execution);
  if (writes_out) attention_reference(forward.tensors, call.options, call.execution);
}

int backward(const BackwardArguments& arguments) {
  require_tiles(arguments.call.options.score_matmul, arguments.kernel);
  const Call call = load_call(arguments.call);
  IncomingGradients incoming = load_gradients(call, arguments.call, arguments.incoming);
  AttentionGradients& gradients = incoming.gradients;
  const ForwardResults forward(call);
  const Dims &q = call.tensors.q.shape, &k = call.tensors.k.shape;
  Outputs outputs;
  const auto like_input = [&](const char* option, const std::optional<std::string>& file,
                              const Tensor& input, std::int64_t heads) {
    return heads_first(outputs.make(option, file, call.dtype, input.shape()), call.layout, heads);
  };
  gradients.dq = like_input("--dq", arguments.dq, call.q, q[1]);
  gradients.dk = like_input("--dk", arguments.dk, call.k, k[1]);
  gradients.dv = like_input("--dv", arguments.dv, call.v, k[1]);
  gradients.dmask = outputs.make("--dmask", arguments.dmask, DType::f32, call.mask.shape());
  gradients.dalibi = outputs.make("--dalibi", arguments.dalibi, DType::f32, {q[1]});
  gradients.dsinks = outputs.make("--dsinks", arguments.dsinks, DType::f32, {q[1]});
  const MutableTensorView out =
      outputs.make("--out", arguments.out, call.dtype, output_shape(call));
  const MutableTensorView lse =
      outputs.make("--lse", arguments.lse, DType::f32, {q[0], q[1], q[2]});
  if (arguments.lse && forward.tensors.lse.absent())
    reject("--lse is given with {}: only softmax has a log of the sum of exp",
           call.options.normalizer.to_string());
  const bool writes_out = arguments.out || arguments.lse;
  if (arguments.kernel == Kernel::tiled) {
    compute_tiled(call, forward, gradients, writes_out);
  } else {
    compute_naive(call, forward, gradients, writes_out);
  }
  if (arguments.out) copy_into(forward.tensors.out, heads_first(out, call.layout, q[1]));
  if (arguments.lse) copy_into(forward.tensors.lse, lse);
  outputs.commit();
  return 0;
}

void add_output_options(CLI::App& command, BackwardArguments& arguments) {
  const auto add = [&](const char* spec, std::optional<std::string>& file,
                       const char* description) {
    return add_file(command, spec, file, description);
  };
  add("--dq FILE", arguments.dq, "the gradient of Q, in its layout")->required();
  add("--dk FILE", arguments.dk, "the gradient of K, in its layout")->required();
  add("--dv FILE", arguments.dv, "the gradient of V, in its layout")->required();
  add("--dmask FILE", arguments.dmask,
      "the gradient of an additive mask, in its shape: summed where it broadcasts");
  add("--dalibi FILE", arguments.dalibi, "the gradient of the ALiBi slopes, [heads]");
  add("--dsinks FILE", arguments.dsinks, "the gradient of the sinks, [heads]");
  add("--out FILE", arguments.out, "the result of the forward, in the layout of Q");
  add("--lse FILE", arguments.lse,
      "log of the sum of exp of each row's scores, [batch, heads, q_len]");
  set_help_group(command, "Outputs");
}

}  // namespace

void add_backward(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<BackwardArguments>(
      app, chosen, "backward",
      "the gradients of one attention call on tensors in files, written to files",
      [](const BackwardArguments& given) {
        return under_option_names(call_option_names, [&] { return backward(given); });
      });
  require_tensors(add_current_files(command, arguments.call));
  add_gradient_files(command, arguments.incoming).front()->required();
  set_help_group(command, "Inputs");
  add_output_options(command, arguments);
  add_probability_options(command, arguments.call);
  add_engine_options(command, arguments.call);
  add_choice(command, "--kernel NAME", arguments.kernel,
             {{"tiled", Kernel::tiled}, {"naive", Kernel::naive}},
             "tiled (default) or naive (textbook, in double)");
  set_help_group(command, "Types and execution");
}

}  // namespace attn::apps::demo
