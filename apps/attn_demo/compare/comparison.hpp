// One call made in three ways, measured side by side.
#pragma once

#include <attn/attn.hpp>

#include <optional>
#include <string>

#include "apps/attn_demo/call/call.hpp"
#include "apps/attn_demo/tolerance.hpp"

namespace attn::apps::demo {

using attn::demo::Errors;
using attn::demo::Tolerance;

struct Measured {
  std::string kernel;           // "tiled", "unfused", "naive"
  Errors out;                   // against naive
  std::optional<Errors> lse{};  // of softmax
  double seconds = 0;           // naive: of one call; else the median of several
  std::size_t scratch = 0;      // bytes; naive: its rows alone
};

struct Comparison {
  Measured tiled;
  std::optional<Measured> unfused;  // empty if its scratch does not fit in memory
  Measured naive;
  double score_matrix = 0;  // bytes of q_len x kv_len scores in f32, all heads and the whole batch
  Tolerance tolerance;
  std::string path;  // the plan's description
  int num_threads = 1;

  bool within_tolerance() const;
};

/// Naive has K and V as they are given, the others as the call's cache holds them: errors include
/// what the cache costs. A given tolerance holds for O and lse and takes the derived one's place.
Comparison compare_kernels(const Call& call, std::optional<double> tolerance = {});

}  // namespace attn::apps::demo
