// The engine beside the reference, within a tolerance that is derived anew for each case.
#pragma once

#include <string>
#include <vector>

#include "support/case.hpp"

namespace attn::test {

/// The reference's result, and how far from it the engine may lie: at most twice as far as a plain
/// float version on the same inputs, plus 4 eps max|V|, plus half an ulp of a 16-bit output at
/// max|O|. Where Q, K and V are bf16, weights may be, too: each may then be off by half an ulp of
/// its own, and O by such a part of P |V|. Where weights sum to more than 1, max|V| is that many
/// times as much. For lse, 4 eps of its magnitude, or of 1. Of i8, all take the exact products with
/// the scales.
struct Expected {
  std::vector<double> out, lse;
  double out_tolerance = 0;
  double lse_tolerance = 0;
};
Expected expected_of(const Case& c, const Inputs& inputs);

/// Empty if no value is further off than the tolerance, NaN meets NaN and infinities meet their
/// like; else the worst place.
std::string difference(const std::vector<double>& got, const std::vector<double>& wanted,
                       double tolerance);
/// As above, of O and lse together; it also looks at the gaps between their elements.
std::string difference(const Outputs& got, const Expected& wanted);

/// Empty if both hold the same bits; else the first place where they do not.
std::string bit_difference(const Outputs& a, const Outputs& b);

/// Runs the case with each available ISA and checks the results.
void check_case(const Case& c);
/// The same on other inputs than the case's own.
void check_inputs(const Case& c, const Inputs& inputs);

}  // namespace attn::test
