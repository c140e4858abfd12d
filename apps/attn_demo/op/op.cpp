// attn_demo op: one function of tensors in files, its results written to files.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <array>
#include <memory>

#include "apps/attn_demo/call/call.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "arguments.hpp"

namespace attn::apps::demo {
namespace {

[[noreturn]] void reject(const std::string& message) {
  throw Error(ErrorCode::invalid_argument, message);
}

/// An optional tensor: its view is absent where no file was named.
struct Side {
  Side(const char* option, const OpArguments::File& file, std::optional<DType> dtype = {}) {
    if (file) view = (tensor = read_floats(option, *file, dtype)).view();
  }
  Tensor tensor;
  TensorView view;
};

MutableTensorView make_out(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  return outputs.make("--out", arguments.out, x.dtype, x.shape);
}

/// Dims that lie in the tensor; what does not is the library's to refuse.
bool inside(const TensorView& x, int dim) { return dim >= -x.rank() && dim < x.rank(); }

Dims remove_dim(const Dims& shape, int dim) {
  const int dropped = dim < 0 ? dim + shape.rank() : dim;
  Dims rest = shape;
  for (int n = dropped; n + 1 < shape.rank(); ++n) rest[n] = shape[n + 1];
  return {rest.begin(), shape.rank() - 1};
}

void run_softmax(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  softmax(x, make_out(arguments, x, outputs), arguments.axis, arguments.temperature,
          arguments.execution);
}

void run_log_softmax(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  log_softmax(x, make_out(arguments, x, outputs), arguments.axis, arguments.temperature,
              arguments.execution);
}

void run_logsumexp(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Dims shape = inside(x, arguments.axis) ? remove_dim(x.shape, arguments.axis) : x.shape;
  logsumexp(x, outputs.make("--out", arguments.out, x.dtype, shape), arguments.axis,
            arguments.temperature, arguments.execution);
}

Threshold make_threshold(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Dims shape = inside(x, arguments.axis) ? remove_dim(x.shape, arguments.axis) : x.shape;
  return {outputs.make("--tau", arguments.tau, DType::f32, shape),
          outputs.make("--support", arguments.support, DType::i64, shape)};
}

void run_sparsemax(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Threshold threshold = make_threshold(arguments, x, outputs);
  sparsemax(x, make_out(arguments, x, outputs), arguments.axis, threshold, arguments.execution);
}

void run_entmax15(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Threshold threshold = make_threshold(arguments, x, outputs);
  entmax15(x, make_out(arguments, x, outputs), arguments.axis, threshold, arguments.execution);
}

void run_entmax(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Threshold threshold = make_threshold(arguments, x, outputs);
  entmax(x, make_out(arguments, x, outputs), arguments.alpha, arguments.axis, threshold,
         arguments.execution);
}

/// The target and the weights of a loss, and room for its value.
struct LossCall {
  LossCall(const OpArguments& arguments, const TensorView& x, Outputs& outputs)
      : target(read_target(arguments.target)),
        weight("--weight", arguments.weight, DType::f32),
        options(arguments.loss) {
    options.weight = weight.view;
    const Dims each = x.rank() == 0 ? Dims() : remove_dim(x.shape, class_dim(x));
    loss = outputs.make("--out", arguments.out, DType::f32,
                        options.reduction == Reduction::none ? each : Dims());
  }

  static int class_dim(const TensorView& x) { return x.rank() == 1 ? 0 : 1; }
  static Tensor read_target(const std::string& file) {
    Tensor tensor = read_tensor(file);
    const bool classes = tensor.dtype() == DType::i32 || tensor.dtype() == DType::i64;
    return classes ? std::move(tensor) : read_floats("--target", file);
  }

  Tensor target;
  Side weight;
  LossOptions options;
  MutableTensorView loss;
};

void run_cross_entropy(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const LossCall call(arguments, x, outputs);
  const MutableTensorView log_p = outputs.make("--log-prob", arguments.log_p, x.dtype, x.shape);
  cross_entropy(x, call.target.view(), call.loss, call.options, arguments.execution);
  if (arguments.log_p) log_softmax(x, log_p, LossCall::class_dim(x), 1, arguments.execution);
}

/// Its log-probabilities are what it is given.
void run_nll_loss(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const LossCall call(arguments, x, outputs);
  const MutableTensorView log_p = outputs.make("--log-prob", arguments.log_p, x.dtype, x.shape);
  nll_loss(x, call.target.view(), call.loss, call.options, arguments.execution);
  if (arguments.log_p) copy_into(x, log_p);
}

void run_sparsemax_loss(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const LossCall call(arguments, x, outputs);
  sparsemax_loss(x, call.target.view(), call.loss, call.options, arguments.execution);
}

void run_entmax_loss(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const LossCall call(arguments, x, outputs);
  entmax_loss(x, call.target.view(), call.loss, arguments.alpha, call.options, arguments.execution);
}

void run_sample(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  Dims shape = x.shape;
  if (x.rank() > 0) shape[x.rank() - 1] = arguments.num_samples;
  sample(x, outputs.make("--out", arguments.out, DType::i64, shape), arguments.sample,
         arguments.execution);
}

void run_rms_norm(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Side scale("--scale-file", arguments.scale);
  rms_norm(x, scale.view, make_out(arguments, x, outputs), arguments.norm, arguments.execution);
}

void run_layer_norm(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Side scale("--scale-file", arguments.scale), bias("--bias-file", arguments.bias);
  Dims shape = x.shape;
  if (inside(x, arguments.norm.dim)) {
    for (int dim = arguments.norm.dim < 0 ? arguments.norm.dim + x.rank() : arguments.norm.dim;
         dim < x.rank(); ++dim)
      shape[dim] = 1;
  }
  const LayerNormStatistics statistics{
      outputs.make("--mean", arguments.mean, DType::f32, shape),
      outputs.make("--inv-std-dev", arguments.inverse_deviation, DType::f32, shape)};
  layer_norm(x, scale.view, bias.view, make_out(arguments, x, outputs), arguments.norm, statistics,
             arguments.execution);
}

/// How the input of rope lies, which its rank says.
Layout rope_layout(const OpArguments& arguments, const TensorView& x) {
  if (x.rank() == 4 && arguments.heads)
    reject(
        fmt::format("--heads is for rank-3 inputs, but --input has shape {}", x.shape.to_string()));
  if (x.rank() == 4) return Layout::bhsd;
  if (x.rank() != 3 || !arguments.heads) {
    reject(
        fmt::format("--input has shape {}; it needs rank 4 [batch, heads, seq, dim], or rank 3 "
                    "[batch, seq, heads * dim] with --heads",
                    x.shape.to_string()));
  }
  require_multiple("--input", x.shape, *arguments.heads);
  return Layout::merged_heads;
}

void run_rope(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  const Tensor cos = read_floats("--cos", arguments.cos, DType::f32),
               sin = read_floats("--sin", arguments.sin, DType::f32);
  const Tensor position_ids =
      arguments.position_ids ? read_tensor(*arguments.position_ids) : Tensor();
  const Dims& table = cos.shape();
  if (arguments.rotary_dim && table.rank() > 0 &&
      *arguments.rotary_dim != 2 * table[table.rank() - 1]) {
    reject(fmt::format(
        "--rotary-dim is {}, but --cos has shape {}: its last dim needs to be half of that",
        *arguments.rotary_dim, table.to_string()));
  }
  const Layout layout = rope_layout(arguments, x);
  const std::int64_t heads = arguments.heads.value_or(1);
  const MutableTensorView out = make_out(arguments, x, outputs);
  const Rope tables{.cos = cos.view(), .sin = sin.view(), .interleaved = arguments.interleaved};
  rope(heads_first(x, layout, heads), tables,
       arguments.position_ids ? position_ids.view() : TensorView{}, heads_first(out, layout, heads),
       arguments.execution);
}

void run_gelu(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  gelu(x, make_out(arguments, x, outputs), arguments.gelu, arguments.execution);
}

void run_silu(const OpArguments& arguments, const TensorView& x, Outputs& outputs) {
  silu(x, make_out(arguments, x, outputs), arguments.execution);
}

struct Op {
  const char* name;
  const char* description;
  void (*add_options)(CLI::App& command, OpArguments& arguments);
  void (*run)(const OpArguments& arguments, const TensorView& x, Outputs& outputs);
};

/// Each takes its own options and no others.
constexpr std::array ops = {
    Op{"softmax", "exp(x / T), over its sum along the axis", add_softmax_options, run_softmax},
    Op{"log_softmax", "its logarithm", add_softmax_options, run_log_softmax},
    Op{"logsumexp", "log of the sum of exp(x / T) along the axis, which the result lacks",
       add_softmax_options, run_logsumexp},
    Op{"sparsemax", "the nearest distribution to x, with exact zeros", add_sparse_options,
       run_sparsemax},
    Op{"entmax15", "entmax with alpha = 1.5, between softmax and sparsemax", add_sparse_options,
       run_entmax15},
    Op{"entmax", "with any alpha", add_entmax_options, run_entmax},
    Op{"cross_entropy", "of scores; classes on axis 1, or 0 for rank 1", add_log_p_options,
       run_cross_entropy},
    Op{"nll_loss", "the same of log-probabilities", add_log_p_options, run_nll_loss},
    Op{"sparsemax_loss", "the Fenchel-Young loss of sparsemax", add_loss_options,
       run_sparsemax_loss},
    Op{"entmax_loss", "the Fenchel-Young loss of entmax", add_alpha_loss_options, run_entmax_loss},
    Op{"sample", "draws of classes, int64, from logits along the last dim", add_sample_options,
       run_sample},
    Op{"rms_norm", "x over the root of its mean square", add_rms_norm_options, run_rms_norm},
    Op{"layer_norm", "x less its mean, over its deviation", add_layer_norm_options, run_layer_norm},
    Op{"rope", "rotary positions", add_rope_options, run_rope},
    Op{"gelu", "x times the normal distribution's cumulative probability at x", add_gelu_options,
       run_gelu},
    Op{"silu", "x / (1 + exp(-x))", add_no_options, run_silu},
};

int run(const Op& op, const OpArguments& arguments) {
  const Tensor input = read_floats("--input", arguments.input);
  Outputs outputs;
  op.run(arguments, input.view(), outputs);
  outputs.commit();
  return 0;
}

}  // namespace

void add_op(CLI::App& app, Command& chosen) {
  CLI::App& command = *app.add_subcommand("op",
                                          "one function of tensors in files: softmax and its "
                                          "family, losses, draws, norms, activations");
  for (const Op& op : ops) {
    const auto arguments = std::make_shared<OpArguments>();
    CLI::App& own = *command.add_subcommand(op.name, op.description);
    add_common_options(own, *arguments);
    op.add_options(own, *arguments);
    own.callback(
        [&op, arguments, &chosen] { chosen = [&op, arguments] { return run(op, *arguments); }; });
  }
  check_name(command, Name::required);
}

}  // namespace attn::apps::demo
