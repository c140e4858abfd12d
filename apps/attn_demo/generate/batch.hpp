// Several texts at once: their tokens go through each forward together, without padding, and each
// text is what it is alone.
#pragma once

#include <attn/sample.hpp>

#include <cstdint>
#include <vector>

#include "apps/attn_demo/models/model.hpp"

namespace attn::apps::demo {

struct BatchChoice {
  std::int64_t max_new = 0;
  SampleOptions sampling;
  bool ignore_eos = false;
};

/// The tokens that continue each prompt. The token that ends a text is not among them.
std::vector<std::vector<std::int64_t>> generate_batch(
    Model& model, const std::vector<std::vector<std::int64_t>>& prompts, const BatchChoice& choice);

}  // namespace attn::apps::demo
