// The memory of both kinds of caches: rows of keys and values in the cache's element type, and the
// conversion of new rows to that type.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "iterate/row.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// The shape of a cache's memory. A slab is the memory of one index of the outermost dim: a
/// sequence of a KvCache, or a page of a PagedKvCache.
struct CacheShape {
  std::int64_t slabs;
  std::int64_t num_kv_heads;
  std::int64_t keys;  // per slab
  std::int64_t head_dim;
  std::int64_t v_head_dim;
  DType dtype;
  CacheLayout layout;
};

/// The location of one token's key, which is the same for every head.
struct KeyIndex {
  std::int64_t slab;
  std::int64_t key;  // within the slab
};

/// Checked arguments of append(): k [batch, num_kv_heads, count, head_dim], v [.., v_head_dim].
struct NewKeys {
  TensorView k, v;
  std::optional<Rope> rope;

  std::int64_t count() const noexcept { return k.shape[2]; }
};

/// The rows of all keys, or of all values. Each row of i8 has a scale.
class CacheRows {
 public:
  CacheRows(const CacheShape& shape, std::int64_t dim);

  /// All rows, [slabs, num_kv_heads, keys, dim]. Strides depend on the layout.
  TensorView rows() const noexcept { return rows_; }
  /// f32 [slabs, num_kv_heads, keys], dense. Absent unless rows are i8.
  TensorView scales() const noexcept { return scales_; }
  std::size_t size_in_bytes() const noexcept {
    return memory_.size_in_bytes() + scale_memory_.size_in_bytes();
  }

  /// Stores the bits of a row of the same type.
  void copy(const Row& from, std::int64_t head, const KeyIndex& at) noexcept;
  /// Rounds a row of dense floats to the cache's type and stores it.
  void round(const float* from, std::int64_t head, const KeyIndex& at,
             const kernels::Kernels& kernels) noexcept;
  /// Copies the rows and scales of one slab to another.
  void copy_slab(std::int64_t from, std::int64_t to) noexcept;

 private:
  Tensor memory_, scale_memory_;
  MutableTensorView rows_, scales_;
};

/// Keys and values.
class CacheMemory {
 public:
  /// Throws Error(invalid_argument), which names the setting that is not valid.
  explicit CacheMemory(const CacheShape& shape);

  /// Checks all arguments of append() except the number of positions in the tables of RoPE. Without
  /// `batch`, k and v have no batch dim.
  NewKeys checked(const TensorView& k, const TensorView& v, const std::optional<Rope>& rope,
                  std::optional<std::int64_t> batch) const;
  /// Stores key and value n of one batch entry. The key stands at `position` in its sequence.
  void store(const NewKeys& from, std::int64_t batch, std::int64_t n, std::int64_t position,
             const KeyIndex& at) noexcept;
  void copy_slab(std::int64_t from, std::int64_t to) noexcept;

  std::size_t size_in_bytes() const noexcept {
    return keys_.size_in_bytes() + values_.size_in_bytes();
  }
  /// The call with k, v and their scales. kv_lens and the storage's layout are reset, because the
  /// call may have been bound to another cache before.
  AttentionTensors bind(AttentionTensors tensors) const noexcept;

 private:
  void store_row(const Row& from, std::int64_t head, const KeyIndex& at, CacheRows& to) noexcept;

  CacheShape shape_;
  CacheRows keys_, values_;
  const kernels::Kernels& kernels_;
  std::vector<float> staging_;  // one row as floats, before it is rounded
};

}  // namespace attn::detail
