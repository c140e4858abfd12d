// A normalizer as the command line names it.
#pragma once

#include <attn/normalizer.hpp>

#include <optional>
#include <string>

namespace attn::apps {

/// What --normalizer, --alpha and --sigmoid-bias were given.
struct NormalizerChoice {
  std::optional<std::string> name;  // softmax (if left out), sigmoid, sparsemax, entmax15 or entmax
  std::optional<float> alpha;
  std::optional<float> sigmoid_bias;

  /// Throws Error for another name, or for a number that does not belong to the name.
  Normalizer value() const;
};

}  // namespace attn::apps
