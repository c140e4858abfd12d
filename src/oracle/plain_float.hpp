// Attention as a plain loop in float. What rounding costs this program is the measure of what it
// may cost the engine (tolerance.hpp).
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <vector>

#include "oracle/plain_scores.hpp"  // IWYU pragma: export

namespace attn::detail {

/// Computes single rows of a dense call that attention() accepts; floating-point tensors may also
/// be f64. A row takes three passes: scores and their maximum; exponentials and their sum; the sum
/// of the values and its division. Other normalizers than softmax follow their formulas. All sums
/// are sequential, in float. The tensors other than q, k and v must outlive this object.
class PlainFloat {
 public:
  /// Where softmax divides by the sum of a row's exponentials.
  enum class Division {
    before_values,  // P is divided, and then multiplied with V
    after_values,   // O is divided. Where P is of bf16 or f16, the exponentials are rounded to that
                    // type before, as in a product of that type
  };
  PlainFloat(const AttentionTensors& tensors, const AttentionOptions& options, Division division,
             DType type_of_probabilities = DType::f32);

  struct Row {
    std::vector<float> out;  // [v_head_dim]
    float lse;               // of softmax
    // How far the rounding of the row's scores may move the greatest of `out`, and lse.
    double out_spread = 0;
    double lse_spread = 0;
  };
  Row row(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const;

 private:
  Row softmax_row(const KeyRun& run, const PlainScores& scores, float sink) const;
  std::vector<float> output_row(const KeyRun& row, const std::vector<float>& scores,
                                const std::vector<float>& probabilities) const;
  double output_spread(const KeyRun& row, const std::vector<float>& probability_spread) const;

  AttentionTensors tensors_;
  AttentionOptions options_;
  Division division_;
  DType type_of_probabilities_;
  Tensor q_, k_, v_;  // dense, f32
};

}  // namespace attn::detail
