#include "arguments.hpp"

#include <limits>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

/// An option that has to be there.
void add_input(CLI::App& command, const std::string& option, std::string& file,
               const std::string& description) {
  add_text(command, option + " FILE", file, description)->required();
}

void add_number(CLI::App& command, const std::string& option, float& number,
                const std::string& description) {
  add_value(command, option + " X", description,
            [&number](auto name, auto text) { number = number_value<float>(name, text); });
}

void add_number(CLI::App& command, const std::string& option, std::optional<float>& number,
                const std::string& description) {
  add_value(command, option + " X", description,
            [&number](auto name, auto text) { number = number_value<float>(name, text); });
}

void add_axis(CLI::App& command, int& axis, const std::string& description) {
  using Limits = std::numeric_limits<int>;
  add_value(command, "--axis K", description, [&axis](auto option, auto text) {
    axis = static_cast<int>(integer_value(option, text, {Limits::min(), Limits::max()}));
  });
}

void add_temperature(CLI::App& command, float& temperature, const std::string& description) {
  add_number(command, "--temperature", temperature, description);
}

void add_alpha(CLI::App& command, float& alpha) {
  add_value(command, "--alpha A", "at least 1: 1 is softmax, 2 is sparsemax",
            [&](auto option, auto text) { alpha = number_value<float>(option, text); })
      ->required();
}

Reduction reduction_value(std::string_view option, std::string_view text) {
  return choice_value<Reduction>(
      option, text,
      {{"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}});
}

void add_norm_options(CLI::App& command, OpArguments& arguments) {
  add_text(command, "--scale-file FILE", arguments.scale,
           "factors, of the shape of the dims from the axis on, or one that broadcasts to it");
  add_axis(command, arguments.norm.dim,
           "the first of the dims that are normalized together; default -1");
  add_number(command, "--epsilon", arguments.norm.epsilon,
             "is added to the mean of squares; default 1e-5");
}

}  // namespace

void add_common_options(CLI::App& command, OpArguments& arguments) {
  add_input(command, "--input", arguments.input,
            "x.npy, or x.safetensors:NAME; f64 is converted to f32");
  add_text(command, "--out FILE", arguments.out,
           "the result: .npy, or .safetensors where the name ends so")
      ->required();
  add_execution_options(command, arguments.execution);
}

void add_softmax_options(CLI::App& command, OpArguments& arguments) {
  add_axis(command, arguments.axis, "default -1, the last");
  add_temperature(command, arguments.temperature,
                  "above 0: less than 1 sharpens, more smooths; default 1");
}

void add_sparse_options(CLI::App& command, OpArguments& arguments) {
  add_axis(command, arguments.axis, "default -1, the last");
  add_text(command, "--tau FILE", arguments.tau,
           "the threshold of each slice, f32, in the shape of the input without the axis");
  add_text(command, "--support FILE", arguments.support,
           "how many elements of each slice are above 0, int64, in the same shape");
}

void add_entmax_options(CLI::App& command, OpArguments& arguments) {
  add_sparse_options(command, arguments);
  add_alpha(command, arguments.alpha);
}

void add_loss_options(CLI::App& command, OpArguments& arguments) {
  LossOptions& loss = arguments.loss;
  add_input(command, "--target", arguments.target,
            "a class (int32, int64) for each place, or a distribution of the input's shape");
  add_text(command, "--weight FILE", arguments.weight, "of each class; default 1");
  add_value(command, "--ignore-index I", "targets equal to it count for nothing; any integer",
            [&](auto option, auto text) { loss.ignore_index = integer_value(option, text); });
  add_number(command, "--label-smoothing", loss.label_smoothing, "in 0..1; default 0");
  add_value(command, "--reduction HOW", "mean (default), sum or none",
            [&](auto option, auto text) { loss.reduction = reduction_value(option, text); });
}

void add_log_p_options(CLI::App& command, OpArguments& arguments) {
  add_loss_options(command, arguments);
  add_text(command, "--log-prob FILE", arguments.log_p,
           "the log-probabilities of all classes, in the shape of the input");
}

void add_alpha_loss_options(CLI::App& command, OpArguments& arguments) {
  add_loss_options(command, arguments);
  add_alpha(command, arguments.alpha);
}

void add_sample_options(CLI::App& command, OpArguments& arguments) {
  SampleOptions& sample = arguments.sample;
  add_value(command, "--seed N", "the same draws for the same seed, on any machine; default 0",
            [&](auto option, auto text) {
              sample.seed = static_cast<std::uint64_t>(integer_value(option, text, {.min = 0}));
            });
  add_value(command, "--num-samples S",
            "draws from each row, the last dim of the result; default 1",
            [&](auto option, auto text) {
              arguments.num_samples = integer_value(option, text, {.min = 0});
            });
  add_temperature(command, sample.temperature, "at least 0: 0 takes the greatest; default 1");
  add_value(command, "--top-k K", "keep the K most probable", [&](auto option, auto text) {
    sample.top_k = integer_value(option, text, {.min = 1});
  });
  add_number(command, "--top-p", sample.top_p,
             "keep the most probable up to the one that reaches this sum, above 0 and up to 1");
  add_number(command, "--min-p", sample.min_p,
             "keep those of at least this part of the greatest probability, in 0..1");
}

void add_rms_norm_options(CLI::App& command, OpArguments& arguments) {
  add_norm_options(command, arguments);
}

void add_layer_norm_options(CLI::App& command, OpArguments& arguments) {
  add_norm_options(command, arguments);
  add_text(command, "--bias-file FILE", arguments.bias,
           "is added in the end; shapes as for --scale-file");
  add_text(command, "--mean FILE", arguments.mean, "of what is normalized together, f32");
  add_text(command, "--inv-std-dev FILE", arguments.inverse_deviation,
           "1 / sqrt(variance + epsilon), f32");
}

void add_rope_options(CLI::App& command, OpArguments& arguments) {
  add_input(command, "--cos", arguments.cos,
            "[positions, pairs], or, without position ids, [batch, seq, pairs] too");
  add_input(command, "--sin", arguments.sin, "the same");
  add_text(command, "--position-ids FILE", arguments.position_ids,
           "rows of the tables, integers [batch, seq]; default 0, 1, ...");
  command.add_flag("--interleaved", arguments.interleaved,
                   "pairs are neighbors; default: elements of the first and the second half");
  add_value(command, "--rotary-dim N",
            "twice the pairs: the elements that are turned; the rest stays as it is",
            [&](auto option, auto text) {
              arguments.rotary_dim = integer_value(option, text, {.min = 0});
            });
  add_value(
      command, "--heads H",
      "of rank-3 inputs [batch, seq, heads * dim]; rank 4 is [batch, heads, seq, dim]",
      [&](auto option, auto text) { arguments.heads = integer_value(option, text, {.min = 1}); });
}

void add_gelu_options(CLI::App& command, OpArguments& arguments) {
  add_value(command, "--approximate HOW", "none (default: with erf) or tanh",
            [&](auto option, auto text) {
              arguments.gelu = choice_value<GeluForm>(
                  option, text, {{"none", GeluForm::erf}, {"tanh", GeluForm::tanh}});
            });
}

void add_no_options(CLI::App&, OpArguments&) {}

}  // namespace attn::apps::demo
