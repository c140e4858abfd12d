// What the command line says of one function of tensors, and groups of options that several of them
// share.
#pragma once

#include <attn/attn.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace attn::apps::demo {

/// Files are empty, and the rest is the library's own defaults, where nothing is said.
struct OpArguments {
  using File = std::optional<std::string>;

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

/// Every function's: --input, --out, --threads, --isa.
void add_common_options(CLI::App& command, OpArguments& arguments);

void add_softmax_options(CLI::App& command, OpArguments& arguments);     // --axis, --temperature
void add_sparse_options(CLI::App& command, OpArguments& arguments);      // --axis, --tau, --support
void add_entmax_options(CLI::App& command, OpArguments& arguments);      // and --alpha
void add_loss_options(CLI::App& command, OpArguments& arguments);        // --target, --weight, ...
void add_log_p_options(CLI::App& command, OpArguments& arguments);       // and --log-prob
void add_alpha_loss_options(CLI::App& command, OpArguments& arguments);  // and --alpha
void add_sample_options(CLI::App& command, OpArguments& arguments);
void add_rms_norm_options(CLI::App& command, OpArguments& arguments);
void add_layer_norm_options(CLI::App& command, OpArguments& arguments);
void add_rope_options(CLI::App& command, OpArguments& arguments);
void add_gelu_options(CLI::App& command, OpArguments& arguments);
void add_no_options(CLI::App& command, OpArguments& arguments);

}  // namespace attn::apps::demo
