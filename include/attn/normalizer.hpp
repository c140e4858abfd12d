// How the scores of a query become the probabilities of its keys. s_j are the scores of the visible
// keys after all transforms and masks. A hidden key, or a key with a score of -inf, has probability
// 0 with each normalizer.
//
//   softmax         P_j = exp(s_j) / sum_i exp(s_i)
//   sigmoid(b)      P_j = 1 / (1 + exp(-(s_j + b)))                    no sum over keys [1]
//   sparsemax       P_j = max(s_j - tau, 0)                            has exact zeros [2]
//   entmax(alpha)   P_j = max((alpha - 1) s_j - tau, 0)^(1 / (alpha - 1))              [3]
//
// [1] Ramapuram et al. 2024, arXiv:2409.04431
// [2] Martins and Astudillo 2016, arXiv:1602.02068
// [3] Peters, Niculae and Martins 2019, arXiv:1905.05702
//
// tau is the number that makes the sum of a query's probabilities 1. alpha = 1 is softmax and
// alpha = 2 sparsemax; the greater alpha is, the fewer keys have a probability above 0 (Correia,
// Niculae and Martins 2019, arXiv:1909.00015, learn it for each head). The values of sigmoid need
// not sum to 1: a bias of -log(number of keys) makes their sum of order 1 for scores of order 1.
#pragma once

#include <attn/export.hpp>

#include <optional>
#include <string>

namespace attn {

class ATTN_API Normalizer {
 public:
  enum class Kind { softmax, sigmoid, entmax };

  static constexpr Normalizer softmax() noexcept { return {}; }
  /// Without a bias it is -log(n) for the n keys that the batch entry has (kv_lens[b] if lengths
  /// are given), whether visible or hidden.
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
  /// 1 for softmax, 2 for sparsemax. Meaningless for sigmoid.
  constexpr float alpha() const noexcept { return alpha_; }
  /// The bias of sigmoid, if one was given.
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
