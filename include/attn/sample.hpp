// Draws from the categorical distribution of logits, as a language model's next token is drawn.
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>

namespace attn {

/// The filters apply in this order, each to what the one before left: temperature, top-k, top-p,
/// min-p.
struct SampleOptions {
  float temperature = 1;  // finite, >= 0; 0 takes the greatest logit, the first of equal ones
  std::optional<std::int64_t>
      top_k{};  // >= 1: the k most probable, and of equal ones those of the lowest index
  std::optional<float>
      top_p{};  // in (0, 1]: the most probable ones up to and with the one that reaches p in sum
  std::optional<float>
      min_p{};  // in [0, 1]: those of at least min_p times the greatest probability
  std::uint64_t seed = 0;
  std::uint64_t first_draw =
      0;  // number of the first draw of each row: later calls go on where earlier ones stopped
};

/// logits f32, bf16 or f16 [..., classes], indices i64 [..., num_samples]: independent draws with
/// replacement. Draw n of row r (first_draw + n, and rows counted in row-major order) takes its
/// random number from Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405) under key
/// `seed` at counter (n, r), each of 64 bits, low word first: the upper 53 bits of the block's
/// first two words. Probabilities are computed in IEEE double operations of fixed order alone. So a
/// seed gives the same draws for any number of threads, on any machine and ISA. -inf is never
/// drawn. Throws Error(invalid_argument), before anything is written, for a row that holds a NaN or
/// +inf or nothing but -inf, naming it.
void sample(const TensorView& logits, const MutableTensorView& indices,
            const SampleOptions& options = {}, const Execution& execution = {});

}  // namespace attn
