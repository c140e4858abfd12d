// Phi-3: Llama with q, k and v in one tensor, gate and up in one, and LongRoPE.
#include "model/config_reader.hpp"
#include "model/config_rope.hpp"
#include "model/config_window.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

void read_phi3(const JsonObject& json, ModelConfig& config) {
  read_llama_sizes(json, {.max_positions = 4096, .epsilon = 1e-5, .bos_id = 1, .eos_id = 32000},
                   config);
  read_rope(json, {.partial = true, .long_rope_original = 4096}, config);
  WindowRules windows;
  if (json.has("sliding_window")) windows.slides = [](std::size_t) { return true; };
  read_windows(json, windows, config);
  require_silu(json);
  config.fused = true;
}

}  // namespace

constexpr FamilyReader phi3_family{"phi3", read_phi3, {}};

}  // namespace attn::model
