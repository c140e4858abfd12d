// One call computed by each kernel: errors, times and memory.
#pragma once

#include <attn/attn.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/attn_demo/call/call.hpp"
#include "oracle/errors.hpp"
#include "oracle/tolerance.hpp"

namespace attn::apps::demo {

using attn::detail::Errors;
using attn::detail::Tolerance;

struct Measured {
  std::string kernel;           // "tiled", "tiled, oneDNN", "unfused", "naive"
  Errors out;                   // difference from naive
  std::optional<Errors> lse{};  // only with softmax
  double seconds = 0;           // naive: one call; others: the median of several calls
  std::size_t scratch = 0;      // bytes; naive: one row of scores for each thread

  bool is_reference() const { return kernel == "naive"; }
};

struct Comparison {
  Measured tiled;
  /// The same with oneDNN's products of whole tiles, if the build has oneDNN and the call does not
  /// say who multiplies.
  std::optional<Measured> tiled_onednn;
  std::optional<Measured> unfused;  // empty if its scratch does not fit in memory
  Measured naive;
  double score_matrix = 0;  // bytes of q_len x kv_len scores in f32, all heads and the whole batch
  Tolerance tolerance;
  std::string path;  // the plan's description
  int num_threads = 1;

  /// Those that were measured, naive last.
  std::vector<Measured> kernels() const;
  double speedup(const Measured& measured) const { return naive.seconds / measured.seconds; }
  bool within_tolerance() const;
};

/// The median duration of several calls. A first call warms the caches and is not counted, unless
/// it takes seconds: then there is no other.
double median_seconds(const std::function<void()>& call);

/// Naive reads K and V as they are given, the other kernels as the call's cache holds them, so the
/// errors include the rounding of the cache. A given tolerance applies to O and lse and replaces
/// the derived one.
Comparison compare_kernels(const Call& call, std::optional<double> tolerance = {});

}  // namespace attn::apps::demo
