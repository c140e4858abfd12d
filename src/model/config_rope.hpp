// Rotary positions of config.json.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/json.hpp"
#include "model/config.hpp"

namespace attn::model {

/// How a family reads its rotary positions.
struct RopeRules {
  double theta = 10000;  // if the file names none
  /// partial_rotary_factor says how much of a head is rotated. The other families rotate all of it:
  /// there, Transformers does not read the key, and scaled positions do not work with it.
  bool partial = false;
  /// Phi-3: original_max_position_embeddings has this default, and positions are scaled by LongRoPE
  /// (also by its older names, su and yarn) or not at all.
  std::int64_t long_rope_original = 0;
};

/// Gives all layers the positions that the file describes, and the number of positions that follows
/// from them.
void read_rope(const io::JsonObject& json, const RopeRules& rules, ModelConfig& config);
/// Gemma 3: layers with a window have positions of their own.
void read_rope_by_type(const io::JsonObject& json, double theta_of_full, double theta_of_sliding,
                       ModelConfig& config);

}  // namespace attn::model
