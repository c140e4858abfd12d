// Compares the library with the reference, within a tolerance that is derived for each case.
#pragma once

#include <string>
#include <vector>

#include "support/case.hpp"

namespace attn::test {

/// The reference's result and its tolerance: twice the error of a plain float version on the same
/// inputs, plus 4 eps max|V|, plus half an ulp of a 16-bit output at max|O|. If Q, K and V are
/// bf16, probabilities may be rounded to bf16: each may be off by half an ulp, and O by the same
/// fraction of P |V|. If probabilities sum to more than 1, max|V| is multiplied by the sum. The
/// tolerance of lse has 4 eps of its magnitude, or of 1. K and V of i8 are multiplied by their
/// scales exactly.
struct Expected {
  std::vector<double> out, lse;
  double out_tolerance = 0;
  double lse_tolerance = 0;
};
Expected expected_of(const Case& c, const Inputs& inputs);

/// Returns "" if each value is within the tolerance, where NaN matches NaN and an infinity itself;
/// else the worst place.
std::string difference(const std::vector<double>& got, const std::vector<double>& wanted,
                       double tolerance);
/// The same for O and lse together. It also checks that gaps between elements were not written.
std::string difference(const Outputs& got, const Expected& wanted);

/// Returns "" if both have the same bits; else the first place where they differ.
std::string bit_difference(const Outputs& a, const Outputs& b);

/// Runs the case with each available ISA and checks the results.
void check_case(const Case& c);
/// The same with given inputs instead of the case's own.
void check_inputs(const Case& c, const Inputs& inputs);

}  // namespace attn::test
