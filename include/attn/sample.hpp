// Random draws from the categorical distribution of logits, as for the next token of a language
// model.
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>

namespace attn {

/// The filters apply in the order temperature, top-k, top-p, min-p, each to what the ones before it
/// left.
struct SampleOptions {
  /// Finite, >= 0. 0 always draws the greatest logit, the first one of equals.
  float temperature = 1;
  /// >= 1: keeps the k most probable classes; of equal ones, those with the lowest indices. 0 is
  /// off, as in published settings of generation.
  std::optional<std::int64_t> top_k{};
  /// In [0, 1]: keeps the most probable classes up to and with the one with which the sum of their
  /// probabilities, rounded to a float, reaches top_p: one of ten equal classes for 0.1f, eight for
  /// 0.8f. 0 keeps the most probable class alone, 1 all classes.
  std::optional<float> top_p{};
  /// In [0, 1]: keeps classes with at least min_p times the greatest probability.
  std::optional<float> min_p{};
  std::uint64_t seed = 0;
  /// The number of each row's first draw, so that a later call can continue where an earlier one
  /// stopped.
  std::uint64_t first_draw = 0;
};

/// Draws independently, with replacement. logits are f32, bf16 or f16 [..., classes], indices i64
/// [..., num_samples].
///
/// Draw n of row r (n counts from first_draw, rows are counted in row-major order) uses one random
/// number of Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405): the upper 53 bits of
/// the first two words of the block for key `seed` and counter (n, r), all of 64 bits, low word
/// first. Probabilities are computed in IEEE 754 double operations in a fixed order. So a seed
/// gives the same draws on any machine and ISA and for any number of threads.
///
/// A logit of -inf is never drawn. Throws Error(invalid_argument), before anything is written, for
/// a row with a NaN, a +inf or nothing but -inf, and names the row.
ATTN_API void sample(const TensorView& logits, const MutableTensorView& indices,
                     const SampleOptions& options = {}, const Execution& execution = {});

}  // namespace attn
