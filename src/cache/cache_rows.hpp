// What both caches are made of: memory for rows of keys and values in the cache's type, and the way
// that new rows take into it.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "iterate/row.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// A slab is what one index of the outermost dim stands for: the stretch of a sequence, or a page.
struct CacheShape {
  std::int64_t slabs;
  std::int64_t num_kv_heads;
  std::int64_t keys;  // of a slab
  std::int64_t head_dim;
  std::int64_t v_head_dim;
  DType dtype;
  CacheLayout layout;
};

/// Where the key of every head lies.
struct KeyPlace {
  std::int64_t slab;
  std::int64_t key;
};

/// What append() was given, checked: k [batch, num_kv_heads, count, head_dim], v [.., v_head_dim].
struct NewKeys {
  TensorView k, v;
  std::optional<Rope> rope;

  std::int64_t count() const noexcept { return k.shape[2]; }
};

/// Rows of keys, or of values. Rows of i8 have a scale each.
class CacheRows {
 public:
  CacheRows(const CacheShape& shape, std::int64_t dim);

  /// [slabs, num_kv_heads, keys, dim], with the strides of the layout.
  TensorView rows() const noexcept { return rows_; }
  /// f32 [slabs, num_kv_heads, keys], dense; absent for other types than i8.
  TensorView scales() const noexcept { return scales_; }
  std::size_t size_in_bytes() const noexcept {
    return memory_.size_in_bytes() + scale_memory_.size_in_bytes();
  }

  /// Takes over the bits of a row of the same type.
  void copy(const Row& from, std::int64_t head, const KeyPlace& place) noexcept;
  /// Rounds a row of dense floats.
  void round(const float* from, std::int64_t head, const KeyPlace& place,
             const kernels::Kernels& kernels) noexcept;
  void copy_slab(std::int64_t from, std::int64_t to) noexcept;

 private:
  Tensor memory_, scale_memory_;
  MutableTensorView rows_, scales_;
};

class CacheMemory {
 public:
  /// Throws Error(invalid_argument) for a shape that makes no cache, naming the setting.
  explicit CacheMemory(const CacheShape& shape);

  /// Checks all of append's arguments but the rope's number of positions. Without `batch`, k and v
  /// lack that dim.
  NewKeys checked(const TensorView& k, const TensorView& v, const std::optional<Rope>& rope,
                  std::optional<std::int64_t> batch) const;
  /// Writes new key n of one batch entry, which stands at `position` in its sequence.
  void store(const NewKeys& from, std::int64_t batch, std::int64_t n, std::int64_t position,
             const KeyPlace& place) noexcept;
  void copy_slab(std::int64_t from, std::int64_t to) noexcept;

  std::size_t size_in_bytes() const noexcept {
    return keys_.size_in_bytes() + values_.size_in_bytes();
  }
  /// The call with k, v and their scales, and nothing else that says where keys lie: a call may
  /// have been bound before.
  AttentionTensors bind(AttentionTensors tensors) const noexcept;

 private:
  void store_row(const Row& from, std::int64_t head, const KeyPlace& place, CacheRows& to) noexcept;

  CacheShape shape_;
  CacheRows keys_, values_;
  const kernels::Kernels& kernels_;
  std::vector<float> staging_;  // a row on its way
};

}  // namespace attn::detail
