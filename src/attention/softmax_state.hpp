// The state of a softmax over part of the keys of a row, and how states are combined.
//
//   m = max_j s_j                 row_max
//   l = sum_j exp(s_j - m)        row_sum
//   O = sum_j exp(s_j - m) v_j    out, not yet divided by l
//
// over the keys j that were processed. The identity is m = -inf, l = 0, O = 0. A greater maximum m'
// rescales: l and O are multiplied by exp(m - m'); the kernels do so for each block of keys
// (kernels::OnlineSoftmax). Two states of disjoint keys merge by rescaling both to the greater
// maximum and adding. A row ends with O / l and lse = m + log(l), where a sink adds exp(sink - m)
// to l. A finished part is (O / l, lse); state.cpp merges those.
//
// Milakov and Gimelshein 2018, arXiv:1805.02867.
#pragma once

#include <cstdint>

namespace attn::detail {

/// The states of some rows: row_max and row_sum [rows], out [rows, width]. row_max holds scores
/// before the factor `scale` that the softmax still applies to them.
struct SoftmaxStates {
  float* out;
  float* row_max;
  float* row_sum;

  /// The states from a row on.
  SoftmaxStates from(std::int64_t row, std::int64_t width) const noexcept {
    return {out + row * width, row_max + row, row_sum + row};
  }
};

/// Sets the states of `rows` rows to the identity.
void set_identity(const SoftmaxStates& states, std::int64_t rows, std::int64_t width) noexcept;
void copy_states(const SoftmaxStates& from, std::int64_t rows, std::int64_t width,
                 const SoftmaxStates& to) noexcept;
/// into = merge of into and part, for `rows` rows. `scale` is what the softmax still multiplies the
/// scores with.
void merge_states(const SoftmaxStates& part, std::int64_t rows, std::int64_t width, float scale,
                  const SoftmaxStates& into) noexcept;

/// The end of a row: O is the sum of its state times factor(). A sink of -inf is no sink. A row
/// that has seen no key has O = 0, and the sink is its lse.
class FinishedRow {
 public:
  /// `row_max` includes the scale.
  FinishedRow(double row_max, double row_sum, double sink) noexcept;

  double factor() const noexcept { return 1 / sum_; }
  float lse() const noexcept;

 private:
  double row_max_, sink_;
  double sum_;  // the sink included; 1 if no key was seen
  bool no_key_;
};

}  // namespace attn::detail
