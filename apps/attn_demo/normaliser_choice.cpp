#include "normaliser_choice.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

namespace attn::demo {

Normaliser NormaliserChoice::value() const {
  const std::string chosen = name.value_or("softmax");
  const auto reject = [&](const std::string& what) -> Normaliser {
    throw Error(ErrorCode::invalid_argument, what);
  };
  if (alpha && chosen != "entmax")
    return reject(
        fmt::format("--alpha is given with --normaliser {}: it belongs to entmax", chosen));
  if (sigmoid_bias && chosen != "sigmoid") {
    return reject(
        fmt::format("--sigmoid-bias is given with --normaliser {}: it belongs to sigmoid", chosen));
  }
  if (chosen == "softmax") return Normaliser::softmax();
  if (chosen == "sigmoid") return Normaliser::sigmoid(sigmoid_bias);
  if (chosen == "sparsemax") return Normaliser::sparsemax();
  if (chosen == "entmax15") return Normaliser::entmax(1.5f);
  if (chosen != "entmax") {
    return reject(fmt::format(
        "--normaliser is {}; it needs one of softmax, sigmoid, sparsemax, entmax15, entmax",
        chosen));
  }
  if (!alpha) return reject("--normaliser entmax needs --alpha");
  return Normaliser::entmax(*alpha);
}

}  // namespace attn::demo
