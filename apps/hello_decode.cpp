// One attention block with a KV cache: first the whole prompt, then one token at a time.
#include <attn/attn.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr std::int64_t hidden = 64, num_q_heads = 4, num_kv_heads = 2, head_dim = 16, prompt = 5,
                       steps = 3;

/// Fills in example numbers. The weights of a real model come from its files.
std::vector<float> weights_of(std::int64_t out, std::int64_t in) {
  std::vector<float> values(static_cast<std::size_t>(out * in));
  for (std::size_t n = 0; n < values.size(); ++n) {
    values[n] = std::sin(static_cast<float>(n * n % 1000)) / std::sqrt(static_cast<float>(in));
  }
  return values;
}

}  // namespace

int main() {
  const auto q = weights_of(num_q_heads * head_dim, hidden),
             k = weights_of(num_kv_heads * head_dim, hidden),
             v = weights_of(num_kv_heads * head_dim, hidden),
             out = weights_of(hidden, num_q_heads * head_dim);
  attn::AttentionBlock block({.hidden = hidden,
                              .num_q_heads = num_q_heads,
                              .num_kv_heads = num_kv_heads,
                              .head_dim = head_dim,
                              .rope = attn::RopeSettings{.theta = 10000},
                              .max_positions = prompt + steps},
                             {.q = {.weight = {q.data(), {num_q_heads * head_dim, hidden}}},
                              .k = {.weight = {k.data(), {num_kv_heads * head_dim, hidden}}},
                              .v = {.weight = {v.data(), {num_kv_heads * head_dim, hidden}}},
                              .out = {.weight = {out.data(), {hidden, num_q_heads * head_dim}}}});
  attn::KvCache cache(
      {.num_kv_heads = num_kv_heads, .capacity = prompt + steps, .head_dim = head_dim});

  std::vector<float> x(prompt * hidden), y(prompt * hidden);
  for (std::size_t n = 0; n < x.size(); ++n) x[n] = std::cos(static_cast<float>(n));
  block.forward({x.data(), {1, prompt, hidden}}, cache, {y.data(), {1, prompt, hidden}});

  // A complete model would compute the next token's input from this output. Here the output itself
  // is used.
  std::vector<float> token(y.end() - hidden, y.end());
  for (int step = 0; step < steps; ++step) {
    const attn::MutableTensorView row(token.data(), {1, 1, hidden});
    block.forward(row, cache, row);
    std::printf("%lld keys cached, y = %.3f %.3f ...\n", static_cast<long long>(cache.length(0)),
                token[0], token[1]);
  }
}
