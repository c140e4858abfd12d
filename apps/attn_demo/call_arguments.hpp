// What the command line says of a call: its inputs and options.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <optional>
#include <string>

#include "apps/support/normalizer_choice.hpp"

namespace attn::apps::demo {

/// How a tensor lies in its file.
enum class Layout {
  bhsd,          // [batch, heads, seq, dim]
  bshd,          // [batch, seq, heads, dim]
  merged_heads,  // [batch, seq, heads * dim]: rank 3
};

struct CallArguments {
  std::optional<std::string> q, k, v, past_k, past_v, mask, alibi, sinks, kv_lens;  // files
  std::optional<Layout> layout;
  std::optional<std::int64_t> heads, kv_heads;
  DType dtype = DType::f32;
  std::optional<DType> kv_dtype;  // of a cache
  std::optional<std::int64_t> page_size;
  NormalizerChoice normalizer;
  AttentionOptions options;  // all but the normalizer
  Execution execution;
};

}  // namespace attn::apps::demo
