// The gradients of one call computed by the engine and by the textbook: errors, times and memory.
#pragma once

#include <attn/attn.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "apps/attn_demo/call/gradients.hpp"
#include "oracle/errors.hpp"

namespace attn::apps::demo {

using attn::detail::Errors;

struct ComparedGradient {
  std::string name;  // "dq", ...
  Errors errors;     // difference from naive
  double tolerance = 0;

  bool within_tolerance() const { return errors.max_abs <= tolerance; }
};

struct GradientComparison {
  std::vector<ComparedGradient> gradients;  // those that the call has
  double tiled_seconds = 0;                 // the median of several calls of the backward alone
  double naive_seconds = 0;                 // one call
  std::size_t scratch = 0;                  // bytes of the engine's workspace
  std::string derivation;                   // of the tolerances
  std::string path;                         // the plan's description
  int num_threads = 1;

  double speedup() const { return naive_seconds / tiled_seconds; }
  bool within_tolerance() const;
};

/// A given tolerance applies to all gradients and replaces the derived ones.
GradientComparison compare_gradients(const Call& call, const IncomingGradients& incoming,
                                     std::optional<double> tolerance = {});

// Both print the comparison to standard output.
void print_text(const Call& call, const GradientComparison& comparison);
void print_json(const Call& call, const GradientComparison& comparison);

}  // namespace attn::apps::demo
