// How the scores of a query become the weights of its keys. s_j are the scores of the visible keys
// after all transforms and masks; a hidden key, or one with a score of -inf, weighs 0 with each of
// them.
//
//   softmax         P_j = exp(s_j) / sum_i exp(s_i)
//   sigmoid(b)      P_j = 1 / (1 + exp(-(s_j + b)))                            no sum over keys;
//   Ramapuram et al. 2024, arXiv:2409.04431 sparsemax       P_j = max(s_j - tau, 0) exact zeros;
//   Martins and Astudillo 2016, arXiv:1602.02068 entmax(alpha)   P_j = max((alpha - 1) s_j - tau,
//   0)^(1 / (alpha - 1))      Peters, Niculae and Martins 2019, arXiv:1905.05702
//
// tau makes the sum of a row's weights 1; each query has its own. alpha = 1 is softmax, alpha = 2
// sparsemax, and the greater it is, the fewer keys weigh anything (Correia, Niculae and Martins
// 2019, arXiv:1909.00015, learn it head by head). Sigmoid weights need not sum to 1: a bias of
// -log(number of keys) makes their sum of order 1 for scores of order 1.
#pragma once

#include <optional>
#include <string>

namespace attn {

class Normalizer {
 public:
  enum class Kind { softmax, sigmoid, entmax };

  static constexpr Normalizer softmax() noexcept { return {}; }
  /// Without a bias: -log(n) for the n keys that the batch entry has (kv_lens[b] where lengths are
  /// given), seen or hidden.
  static constexpr Normalizer sigmoid(std::optional<float> bias = {}) noexcept {
    return {Kind::sigmoid, 1, bias};
  }
  static constexpr Normalizer sparsemax() noexcept { return entmax(2); }
  /// alpha >= 1, finite; entmax(1) is softmax() itself.
  static constexpr Normalizer entmax(float alpha) noexcept {
    return {alpha == 1 ? Kind::softmax : Kind::entmax, alpha, {}};
  }

  constexpr Normalizer() noexcept = default;

  constexpr Kind kind() const noexcept { return kind_; }
  /// Of softmax 1, of sparsemax 2; sigmoid has none.
  constexpr float alpha() const noexcept { return alpha_; }
  /// Of sigmoid, if it was given.
  constexpr std::optional<float> bias() const noexcept { return bias_; }
  /// "softmax", "sigmoid", "sigmoid with bias -3", "sparsemax", "entmax 1.5".
  std::string to_string() const;

  friend constexpr bool operator==(const Normalizer&, const Normalizer&) noexcept = default;

 private:
  constexpr Normalizer(Kind kind, float alpha, std::optional<float> bias) noexcept
      : kind_(kind), alpha_(alpha), bias_(bias) {}

  Kind kind_ = Kind::softmax;
  float alpha_ = 1;
  std::optional<float> bias_{};
};

}  // namespace attn
