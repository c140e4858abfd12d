// Attention as a loop in float: what rounding costs a plain program is the measure of what it may
// cost the engine.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <vector>

namespace attn::demo {

/// A call's rows, one at a time, by the textbook's three passes over a row's scores: they and their
/// largest, weights and their sum, weighted values; other normalizers in softmax's place as their
/// formulas have them. Every sum is sequential, in float. Where V is bf16 or f16 the weights are
/// rounded to its type, as a product in that type takes them.
class PlainFloat {
 public:
  /// Of a call that attention() accepts. The tensors other than q, k and v must outlive this
  /// object.
  PlainFloat(const AttentionTensors& tensors, const AttentionOptions& options);

  struct Row {
    std::vector<float> out;
    float lse;  // of softmax
  };
  Row row(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const;

  /// max|V| over the finite values.
  float largest_value() const;

 private:
  KeyRun all_keys(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const;
  std::int64_t kv_length(std::int64_t batch) const;
  std::vector<float> mask_row(const KeyRun& row) const;
  std::vector<float> masked_scores(const KeyRun& row) const;
  std::vector<float> weighted_values(const KeyRun& run, const std::vector<float>& scores,
                                     const std::vector<float>& weights) const;
  void hide(const KeyRun& row, const std::vector<float>& mask, std::vector<float>& scores) const;

  AttentionTensors tensors_;
  AttentionOptions options_;
  Tensor q_, k_, v_;
};

}  // namespace attn::demo
