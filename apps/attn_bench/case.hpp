// One case of the benchmark: the sizes and types of a call, and how keys and values are stored.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/support/cache.hpp"
#include "apps/support/call_options.hpp"

namespace attn::apps::bench {

struct CacheKind {
  DType dtype = DType::f32;
  std::int64_t page_size = 0;  // 0: without pages
  CacheLayout layout = CacheLayout::bhsd;
};

struct Case {
  std::string name;
  std::int64_t batch, num_q_heads, num_kv_heads, q_len, kv_len, head_dim, v_head_dim;
  bool causal = false;
  bool backward = false;  // the gradients are timed instead, without the forward
  DType dtype = DType::f32;
  Kernel kernel = Kernel::tiled;
  ScoreMatmul score_matmul = ScoreMatmul::automatic;
  Normalizer normalizer{};
  std::optional<CacheKind> cache{};  // empty: k and v are plain tensors of dtype
  std::vector<std::int64_t>
      lengths{};  // of a cache's sequences, kv_len at most; empty: kv_len each
  std::optional<Window> window{};
  std::optional<std::int64_t> documents{};  // as many, of equal lengths, one after another

  DType kv_dtype() const { return cache ? cache->dtype : dtype; }
  std::int64_t page_size() const { return cache ? cache->page_size : 0; }
  std::int64_t length(std::int64_t sequence) const {
    return lengths.empty() ? kv_len : lengths[static_cast<std::size_t>(sequence)];
  }
  std::int64_t total_length() const;
  /// The position of a query of a sequence: queries stand at the end of its keys.
  std::int64_t position(std::int64_t sequence, std::int64_t row) const {
    return row + length(sequence) - q_len;
  }
  /// The keys that a query sees: from the first on, and before the second.
  std::pair<std::int64_t, std::int64_t> visible_keys(std::int64_t sequence, std::int64_t row) const;
  /// Bytes of `keys` keys of all KV heads with their values and scales.
  double bytes_of_keys(std::int64_t keys) const;
};

/// The masks and the normalizer of a case whose tensors these are.
AttentionOptions options_of(const Case& shape, const AttentionTensors& tensors);
/// The same for a call of one query of a sequence with `num_keys` keys.
AttentionOptions options_of_row(const Case& shape, std::int64_t sequence, std::int64_t row,
                                std::int64_t num_keys);

/// The random keys and values of a case, stored as the case says.
class KeysAndValues {
 public:
  explicit KeysAndValues(const Case& shape);
  /// The call with these keys and values.
  AttentionTensors bind(AttentionTensors tensors);

 private:
  Tensor k_, v_;
  std::unique_ptr<AnyCache> cache_;
};

}  // namespace attn::apps::bench
