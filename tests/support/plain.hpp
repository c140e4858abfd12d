// Attention as a plain program in float: three passes over each row. Tolerances of the library are
// derived from its error.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <vector>

namespace attn::test {

/// Whether query i of a head sees key j, by all masks.
bool visible(const AttentionTensors& tensors, const AttentionOptions& options, std::int64_t batch,
             std::int64_t q_head, std::int64_t i, std::int64_t j);

struct PlainResult {
  std::vector<float> out;  // [batch, num_q_heads, q_len, v_head_dim]
  std::vector<float> lse;  // [batch, num_q_heads, q_len] of softmax, else empty
};
PlainResult attention_plain(const AttentionTensors& tensors, const AttentionOptions& options);

}  // namespace attn::test
