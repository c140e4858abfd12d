// attn_demo op: one function of a tensor in a file; its results are written to files.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "apps/attn_demo/call/call.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/op_option_names.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "apps/support/options.hpp"
#include "tensor/indexing.hpp"

namespace attn::apps::demo {
namespace {

using detail::remove_dim;  // a dim that the shape does not have is left for the library to refuse
using File = std::optional<std::string>;

/// What the command line says. A file that is not given is empty; every other option that is not
/// given keeps the default of the library.
struct OpArguments {
  std::string input;
  File out;
  Execution execution;
  int axis = -1;
  float temperature = 1;
  float alpha = 1;
  File tau, support;
  std::string target;
  File weight, log_p;
  LossOptions loss;
  SampleOptions sample;
  std::int64_t num_samples = 1;
  File scale, bias, mean, inverse_deviation;
  NormOptions norm;
  std::string cos, sin;
  File position_ids;
  bool interleaved = false;
  std::optional<std::int64_t> rotary_dim, heads;
  GeluForm gelu = GeluForm::erf;
};

// Groups of options that several functions share.

void add_axis(CLI::App& command, int& axis, const std::string& description) {
  using Limits = std::numeric_limits<int>;
  add_integer(command, "--axis K", axis, {Limits::min(), Limits::max()}, description);
}

void add_common_options(CLI::App& command, OpArguments& arguments) {
  add_file(command, "--input FILE", arguments.input,
           "x.npy, or x.safetensors:NAME; f64 is converted to f32")
      ->required();
  add_file(command, "--out FILE", arguments.out,
           "the result: .npy, or .safetensors where the name ends so")
      ->required();
  add_execution_options(command, arguments.execution);
}

void add_softmax_options(CLI::App& command, OpArguments& arguments) {
  add_axis(command, arguments.axis, "default -1, the last");
  add_number(command, "--temperature X", arguments.temperature, any_number,
             "above 0: less than 1 sharpens, more smooths; default 1");
}

void add_sparse_options(CLI::App& command, OpArguments& arguments) {
  add_axis(command, arguments.axis, "default -1, the last");
  add_file(command, "--tau FILE", arguments.tau,
           "the threshold of each slice, f32, in the shape of the input without the axis");
  add_file(command, "--support FILE", arguments.support,
           "how many elements of each slice are above 0, int64, in the same shape");
}

void add_alpha_option(CLI::App& command, OpArguments& arguments) {
  add_number(command, "--alpha A", arguments.alpha, any_number,
             "at least 1: 1 is softmax, 2 is sparsemax")
      ->required();
}

void add_entmax_options(CLI::App& command, OpArguments& arguments) {
  add_sparse_options(command, arguments);
  add_alpha_option(command, arguments);
}

void add_loss_options(CLI::App& command, OpArguments& arguments) {
  LossOptions& loss = arguments.loss;
  add_file(command, "--target FILE", arguments.target,
           "a class (int32, int64) for each place, or a distribution of the input's shape")
      ->required();
  add_file(command, "--weight FILE", arguments.weight, "a factor for each class; default 1");
  add_integer(command, "--ignore-index I", loss.ignore_index, {},
              "targets equal to it count for nothing; any integer");
  add_number(command, "--label-smoothing X", loss.label_smoothing, any_number,
             "in 0..1; default 0");
  add_choice(command, "--reduction HOW", loss.reduction,
             {{"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}},
             "mean (default), sum or none");
}

void add_entmax_loss_options(CLI::App& command, OpArguments& arguments) {
  add_loss_options(command, arguments);
  add_alpha_option(command, arguments);
}

void add_log_p_options(CLI::App& command, OpArguments& arguments) {
  add_loss_options(command, arguments);
  add_file(command, "--log-prob FILE", arguments.log_p,
           "the log-probabilities of all classes, in the shape of the input");
}

void add_sample_options(CLI::App& command, OpArguments& arguments) {
  SampleOptions& sample = arguments.sample;
  add_seed(command, sample.seed, "the same draws for the same seed, on any machine; default 0");
  add_integer(command, "--num-samples S", arguments.num_samples, {.min = 0},
              "draws from each row, the last dim of the result; default 1");
  add_number(command, "--temperature X", sample.temperature, any_number,
             "at least 0: 0 takes the greatest; default 1");
  add_integer(command, "--top-k K", sample.top_k, {.min = 0}, "keep the K most probable; 0 is off");
  add_number(command, "--top-p X", sample.top_p, any_number,
             "keep the most probable up to the one that reaches this sum, in 0..1: 0 keeps one");
  add_number(command, "--min-p X", sample.min_p, any_number,
             "keep those of at least this part of the greatest probability, in 0..1");
}

void add_norm_options(CLI::App& command, OpArguments& arguments) {
  add_file(command, "--scale-file FILE", arguments.scale,
           "factors, of the shape of the dims from the axis on, or one that broadcasts to it");
  add_axis(command, arguments.norm.dim,
           "the first of the dims that are normalized together; default -1");
  add_number(command, "--epsilon X", arguments.norm.epsilon, any_number,
             "is added to the mean of squares; default 1e-5");
}

void add_layer_norm_options(CLI::App& command, OpArguments& arguments) {
  add_norm_options(command, arguments);
  add_file(command, "--bias-file FILE", arguments.bias,
           "is added in the end; shapes as for --scale-file");
  add_file(command, "--mean FILE", arguments.mean,
           "the mean of the elements that are normalized together, f32");
  add_file(command, "--inv-std-dev FILE", arguments.inverse_deviation,
           "1 / sqrt(variance + epsilon), f32");
}

void add_rope_options(CLI::App& command, OpArguments& arguments) {
  add_file(command, "--cos FILE", arguments.cos,
           "[positions, pairs], or, without position ids, [batch, seq, pairs] too")
      ->required();
  add_file(command, "--sin FILE", arguments.sin, "the same")->required();
  add_file(command, "--position-ids FILE", arguments.position_ids,
           "rows of the tables, integers [batch, seq]; default 0, 1, ...");
  command.add_flag("--interleaved", arguments.interleaved,
                   "pairs are neighbors; default: elements of the first and the second half");
  add_integer(command, "--rotary-dim N", arguments.rotary_dim, {.min = 0},
              "twice the pairs: the elements that are rotated; the others stay as they are");
  add_integer(command, "--heads H", arguments.heads, {.min = 1},
              "heads of rank-3 inputs [batch, seq, heads * dim]; rank 4 is [batch, heads, seq, "
              "dim]");
}

void add_gelu_options(CLI::App& command, OpArguments& arguments) {
  add_choice(command, "--approximate HOW", arguments.gelu,
             {{"none", GeluForm::erf}, {"tanh", GeluForm::tanh}},
             "none (default: with erf) or tanh");
}

/// One run of a function: its arguments, its input, and the tensors that it fills.
struct OpCall {
  const OpArguments& arguments;
  TensorView x;
  Outputs& outputs;

  MutableTensorView make_out() { return outputs.make("--out", arguments.out, x.dtype, x.shape); }
  Threshold make_threshold() {
    const Dims shape = remove_dim(x.shape, arguments.axis);
    return {outputs.make("--tau", arguments.tau, DType::f32, shape),
            outputs.make("--support", arguments.support, DType::i64, shape)};
  }
};

/// An optional input, whose view is absent if no file was given.
struct OptionalInput {
  OptionalInput(const char* option, const File& file, std::optional<DType> dtype = {}) {
    if (file) view = (tensor = read_floats(option, *file, dtype)).view();
  }
  Tensor tensor;
  TensorView view;
};

/// The target and the class weights of a loss, and the tensor that its value goes to.
struct LossCall {
  explicit LossCall(OpCall& call)
      : target(read_target(call.arguments.target)),
        weight("--weight", call.arguments.weight, DType::f32),
        options(call.arguments.loss) {
    options.weight = weight.view;
    const Dims each = remove_dim(call.x.shape, class_dim(call.x));
    loss = call.outputs.make("--out", call.arguments.out, DType::f32,
                             options.reduction == Reduction::none ? each : Dims());
  }

  static int class_dim(const TensorView& x) { return x.rank() == 1 ? 0 : 1; }
  static Tensor read_target(const std::string& file) {
    Tensor tensor = read_tensor(file);
    return tensor.dtype() == DType::f64 ? copy_as(tensor.view(), DType::f32) : std::move(tensor);
  }

  Tensor target;
  OptionalInput weight;
  LossOptions options;
  MutableTensorView loss;
};

/// `function` is softmax or log_softmax.
template <auto function>
void run_softmax(OpCall& call, const OpArguments& a) {
  function(call.x, call.make_out(), a.axis, a.temperature, a.execution);
}

void run_logsumexp(OpCall& call, const OpArguments& a) {
  const MutableTensorView out =
      call.outputs.make("--out", a.out, call.x.dtype, remove_dim(call.x.shape, a.axis));
  logsumexp(call.x, out, a.axis, a.temperature, a.execution);
}

/// `function` is sparsemax or entmax15.
template <auto function>
void run_sparse(OpCall& call, const OpArguments& a) {
  const Threshold threshold = call.make_threshold();
  function(call.x, call.make_out(), a.axis, threshold, a.execution);
}

void run_entmax(OpCall& call, const OpArguments& a) {
  const Threshold threshold = call.make_threshold();
  entmax(call.x, call.make_out(), a.alpha, a.axis, threshold, a.execution);
}

/// `function` is cross_entropy, nll_loss, whose input is already log-probabilities, or
/// sparsemax_loss, which has no --log-prob.
template <auto function>
void run_loss(OpCall& call, const OpArguments& a) {
  const LossCall loss(call);
  const MutableTensorView log_p =
      call.outputs.make("--log-prob", a.log_p, call.x.dtype, call.x.shape);
  function(call.x, loss.target.view(), loss.loss, loss.options, a.execution);
  if (!a.log_p) return;
  if (function == nll_loss)
    copy_into(call.x, log_p);
  else
    log_softmax(call.x, log_p, LossCall::class_dim(call.x), 1, a.execution);
}

void run_entmax_loss(OpCall& call, const OpArguments& a) {
  const LossCall loss(call);
  entmax_loss(call.x, loss.target.view(), loss.loss, a.alpha, loss.options, a.execution);
}

void run_sample(OpCall& call, const OpArguments& a) {
  Dims shape = call.x.shape;
  if (call.x.rank() > 0) shape[call.x.rank() - 1] = a.num_samples;
  sample(call.x, call.outputs.make("--out", a.out, DType::i64, shape), a.sample, a.execution);
}

void run_rms_norm(OpCall& call, const OpArguments& a) {
  const OptionalInput scale("--scale-file", a.scale);
  rms_norm(call.x, scale.view, call.make_out(), a.norm, a.execution);
}

void run_layer_norm(OpCall& call, const OpArguments& a) {
  const OptionalInput scale("--scale-file", a.scale), bias("--bias-file", a.bias);
  Dims shape = call.x.shape;
  const int rank = call.x.rank(), axis = a.norm.dim;
  if (axis >= -rank) {
    for (int dim = axis < 0 ? axis + rank : axis; dim < rank; ++dim) shape[dim] = 1;
  }
  const LayerNormStatistics statistics{
      call.outputs.make("--mean", a.mean, DType::f32, shape),
      call.outputs.make("--inv-std-dev", a.inverse_deviation, DType::f32, shape)};
  layer_norm(call.x, scale.view, bias.view, call.make_out(), a.norm, statistics, a.execution);
}

/// The rank of the input of rope says its layout.
Layout rope_layout(const TensorView& x, const std::optional<std::int64_t>& heads) {
  if (x.rank() == 4 && heads)
    reject("--heads is for rank-3 inputs, but --input has shape {}", x.shape.to_string());
  if (x.rank() == 4) return Layout::bhsd;
  if (x.rank() != 3 || !heads) {
    reject(
        "--input has shape {}; it needs rank 4 [batch, heads, seq, dim], or rank 3 "
        "[batch, seq, heads * dim] with --heads",
        x.shape.to_string());
  }
  require_multiple("--input", x.shape, *heads);
  return Layout::merged_heads;
}

void run_rope(OpCall& call, const OpArguments& a) {
  const Tensor cos = read_floats("--cos", a.cos, DType::f32),
               sin = read_floats("--sin", a.sin, DType::f32);
  const Tensor position_ids = a.position_ids ? read_tensor(*a.position_ids) : Tensor();
  const Dims& table = cos.shape();
  if (a.rotary_dim && table.rank() > 0 && *a.rotary_dim != 2 * table[table.rank() - 1]) {
    reject("--rotary-dim is {}, but --cos has shape {}: its last dim needs to be half of that",
           *a.rotary_dim, table.to_string());
  }
  const Layout layout = rope_layout(call.x, a.heads);
  const std::int64_t heads = a.heads.value_or(1);
  const MutableTensorView out = call.make_out();
  const Rope tables{.cos = cos.view(), .sin = sin.view(), .interleaved = a.interleaved};
  rope(heads_first(call.x, layout, heads), tables,
       a.position_ids ? position_ids.view() : TensorView{}, heads_first(out, layout, heads),
       a.execution);
}

void run_gelu(OpCall& call, const OpArguments& a) {
  gelu(call.x, call.make_out(), a.gelu, a.execution);
}

void run_silu(OpCall& call, const OpArguments& a) { silu(call.x, call.make_out(), a.execution); }

struct Op {
  const char* name;
  const char* description;
  void (*add_options)(CLI::App& command, OpArguments& arguments);
  void (*run)(OpCall& call, const OpArguments& a);
};

/// All functions. Each accepts the common options and its own.
constexpr std::array ops = {
    Op{"softmax", "exp(x / T), over its sum along the axis", add_softmax_options,
       run_softmax<softmax>},
    Op{"log_softmax", "the logarithm of softmax", add_softmax_options, run_softmax<log_softmax>},
    Op{"logsumexp", "log of the sum of exp(x / T) along the axis, which the result lacks",
       add_softmax_options, run_logsumexp},
    Op{"sparsemax", "the nearest distribution to x, with exact zeros", add_sparse_options,
       run_sparse<sparsemax>},
    Op{"entmax15", "entmax with alpha = 1.5, between softmax and sparsemax", add_sparse_options,
       run_sparse<entmax15>},
    Op{"entmax", "entmax with any alpha", add_entmax_options, run_entmax},
    Op{"cross_entropy", "cross-entropy of logits; classes on axis 1, or 0 for rank 1",
       add_log_p_options, run_loss<cross_entropy>},
    Op{"nll_loss", "the same of log-probabilities", add_log_p_options, run_loss<nll_loss>},
    Op{"sparsemax_loss", "the Fenchel-Young loss of sparsemax", add_loss_options,
       run_loss<sparsemax_loss>},
    Op{"entmax_loss", "the Fenchel-Young loss of entmax", add_entmax_loss_options, run_entmax_loss},
    Op{"sample", "draws of classes, int64, from logits along the last dim", add_sample_options,
       run_sample},
    Op{"rms_norm", "x over the root of its mean square", add_norm_options, run_rms_norm},
    Op{"layer_norm", "x less its mean, over its standard deviation", add_layer_norm_options,
       run_layer_norm},
    Op{"rope", "rotary position embedding", add_rope_options, run_rope},
    Op{"gelu", "x times the normal distribution's cumulative probability at x", add_gelu_options,
       run_gelu},
    Op{"silu", "x / (1 + exp(-x))", [](CLI::App&, OpArguments&) {}, run_silu},
};

int run(const Op& op, const OpArguments& arguments) {
  const Tensor input = read_floats("--input", arguments.input);
  Outputs outputs;
  OpCall call{arguments, input.view(), outputs};
  op.run(call, arguments);
  outputs.commit();
  return 0;
}

}  // namespace

void add_op(CLI::App& app, Command& chosen) {
  CLI::App& command = *app.add_subcommand("op",
                                          "one function of tensors in files: softmax and its "
                                          "family, losses, draws, norms, activations");
  for (const Op& op : ops) {
    const auto added = add_command<OpArguments>(
        command, chosen, op.name, op.description, [&op](const OpArguments& arguments) {
          return under_option_names(op_option_names, [&] { return run(op, arguments); });
        });
    add_common_options(added.command, added.arguments);
    op.add_options(added.command, added.arguments);
  }
}

}  // namespace attn::apps::demo
