// Checks the engine against the reference, within a tolerance that is derived for each case.
#pragma once

#include <string>
#include <vector>

#include "support/case.hpp"

namespace attn::test {

/// The reference's result, and how far from it the engine may be (src/oracle/tolerance.hpp). K and
/// V of i8 are multiplied with their scales first, for the reference and for the tolerance.
struct Expected {
  std::vector<double> out, lse;
  double out_tolerance = 0;
  double lse_tolerance = 0;
};
Expected expected_of(const Case& c, const Inputs& inputs);

/// Empty if each value is within the tolerance, NaN meets NaN, and an infinity meets the same
/// infinity. Else it describes the largest error.
std::string difference(const std::vector<double>& got, const std::vector<double>& wanted,
                       double tolerance);
/// The same for O and lse. It also checks that nobody wrote to the gaps between their elements.
std::string difference(const Outputs& got, const Expected& wanted);

/// Empty if both hold the same bits; else it describes the first difference.
std::string bit_difference(const Outputs& a, const Outputs& b);

/// Runs the case with each available ISA and checks the results.
void check_case(const Case& c);
/// The same with inputs that are not the case's own.
void check_inputs(const Case& c, const Inputs& inputs);

}  // namespace attn::test
