// A normaliser as the command line names it.
#pragma once

#include <attn/normaliser.hpp>

#include <optional>
#include <string>

namespace attn::demo {

/// What --normaliser, --alpha and --sigmoid-bias were given.
struct NormaliserChoice {
  std::optional<std::string> name;  // softmax (if left out), sigmoid, sparsemax, entmax15 or entmax
  std::optional<float> alpha;
  std::optional<float> sigmoid_bias;

  /// Throws Error for another name, or for a number that does not belong to the name.
  Normaliser value() const;
};

}  // namespace attn::demo
