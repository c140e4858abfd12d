// A KV cache with the settings of the command line, and its content as plain tensors.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstdint>
#include <variant>
#include <vector>

namespace attn::apps {

struct CacheSettings {
  std::int64_t batch = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t capacity = 0;  // keys of a sequence
  std::int64_t head_dim = 0;
  std::int64_t v_head_dim = 0;
  DType dtype = DType::f32;
  CacheLayout layout = CacheLayout::bhsd;
  std::int64_t page_size = 0;  // keys; 0: no pages
};

/// A KvCache or a PagedKvCache. The pages of a sequence are scattered over the pool, as they are
/// after other sequences were added and removed.
class AnyCache {
 public:
  explicit AnyCache(const CacheSettings& settings);

  /// k [num_kv_heads, count, head_dim], v [.., v_head_dim].
  void append_to(std::int64_t sequence, const TensorView& k, const TensorView& v);
  /// Appends to every sequence: k [batch, num_kv_heads, count, head_dim].
  void append(const TensorView& k, const TensorView& v);
  /// The call with all sequences as its batch. It is valid until the next change or the next bind.
  AttentionTensors bind(AttentionTensors tensors);

 private:
  std::variant<KvCache, PagedKvCache> cache_;
  std::vector<PagedKvCache::Sequence> sequences_;  // used with a PagedKvCache
};

// The keys and values of a call as contiguous f32 rows, multiplied with their scales. The call may
// have a cache bound, or dense k and v.
/// The rows of one batch entry and KV head, [1, 1, length, dim].
Tensor plain_keys(const AttentionTensors& bound, std::int64_t batch, std::int64_t kv_head);
Tensor plain_values(const AttentionTensors& bound, std::int64_t batch, std::int64_t kv_head);
/// The rows of all sequences, which have the same length: [batch, num_kv_heads, length, dim].
Tensor plain_keys(const AttentionTensors& bound);
Tensor plain_values(const AttentionTensors& bound);

}  // namespace attn::apps
