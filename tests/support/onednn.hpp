// Whether the library is built with oneDNN.
#pragma once

#include <attn/attention.hpp>
#include <attn/info.hpp>

#include <vector>

namespace attn::test {

inline bool has_onednn() { return !build_info().onednn_version.empty(); }

/// What this build can compute scores by.
inline std::vector<ScoreMatmul> score_matmuls() {
  if (!has_onednn()) return {ScoreMatmul::built_in};
  return {ScoreMatmul::built_in, ScoreMatmul::onednn};
}

}  // namespace attn::test
