// The options that choose the normalizer of a call.
#pragma once

#include <attn/normalizer.hpp>

#include <CLI/CLI.hpp>

#include <optional>
#include <string>

namespace attn::apps {

/// The values of --normalizer, --alpha and --sigmoid-bias.
struct NormalizerChoice {
  std::optional<std::string> name;  // softmax (the default), sigmoid, sparsemax, entmax15, entmax
  std::optional<float> alpha;
  std::optional<float> sigmoid_bias;

  /// Throws Error for a number that does not belong to the name, or is missing.
  Normalizer value() const;
};

/// Adds these options.
void add_normalizer_options(CLI::App& command, NormalizerChoice& choice);

}  // namespace attn::apps
