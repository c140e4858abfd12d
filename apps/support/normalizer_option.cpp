#include "normalizer_option.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include "options.hpp"

namespace attn::apps {

Normalizer NormalizerChoice::value() const {
  const std::string chosen = name.value_or("softmax");
  if (alpha && chosen != "entmax")
    reject("--alpha is given with --normalizer {}: it belongs to entmax", chosen);
  if (sigmoid_bias && chosen != "sigmoid") {
    reject("--sigmoid-bias is given with --normalizer {}: it belongs to sigmoid", chosen);
  }
  if (chosen == "softmax") return Normalizer::softmax();
  if (chosen == "sigmoid") return Normalizer::sigmoid(sigmoid_bias);
  if (chosen == "sparsemax") return Normalizer::sparsemax();
  if (chosen == "entmax15") return Normalizer::entmax(1.5f);
  if (!alpha) reject("--normalizer entmax needs --alpha");
  return Normalizer::entmax(*alpha);
}

void add_normalizer_options(CLI::App& command, NormalizerChoice& choice) {
  add_choice(command, "--normalizer NAME", choice.name,
             {{"softmax", "softmax"},
              {"sigmoid", "sigmoid"},
              {"sparsemax", "sparsemax"},
              {"entmax15", "entmax15"},
              {"entmax", "entmax"}},
             "how scores become probabilities: softmax (default), sigmoid, sparsemax, entmax15 or "
             "entmax");
  add_number(command, "--alpha A", choice.alpha, at_least_1,
             "for entmax, at least 1: 1 is softmax, 2 is sparsemax");
  add_number(command, "--sigmoid-bias X", choice.sigmoid_bias, any_number,
             "for sigmoid; default -log(number of keys)");
}

}  // namespace attn::apps
