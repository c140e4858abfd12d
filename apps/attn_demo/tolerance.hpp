// How far two results are apart, and how far they may be.
#pragma once

#include <attn/attention.hpp>

#include <string>
#include <vector>

namespace attn::demo {

struct Errors {
  double max_abs = 0;  // infinite where just one of the two is NaN, or an infinity has no equal
  double max_rel =
      0;  // |value - reference| / |reference|, where the reference is neither 0 nor infinite
  double rms = 0;
  std::vector<std::int64_t> worst;  // index of max_abs; empty if there is no error
};

/// Both of one shape. NaN equals NaN, and an infinity its like.
Errors errors_between(const TensorView& values, const TensorView& reference);

/// The largest absolute errors of O and of lse that pass.
struct Tolerance {
  double out = 0;
  double lse = 0;
  std::string derivation;  // one line
};

/// 2 e + 4 eps max|V|, where e is the error of a plain float program on a sample of rows spread
/// over batch, heads and positions, and eps is float's; half a unit in the last place of max|O|
/// besides where O is rounded to a shorter type. For lse likewise, with max(1, max|lse|) in place
/// of max|V|. `reference` holds the call's true results: O in f64, and lse of softmax. `call` has
/// what the program is given, which may be K and V as a cache rounds them.
Tolerance derive_tolerance(const AttentionTensors& call, const AttentionTensors& reference,
                           const AttentionOptions& options, DType out_dtype);

}  // namespace attn::demo
