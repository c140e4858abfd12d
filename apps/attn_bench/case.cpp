#include "case.hpp"

#include <algorithm>

#include "apps/support/random.hpp"

namespace attn::apps::bench {
namespace {

constexpr std::int64_t chunk = 128;  // keys of one append

/// Random rows for a cache of any size. They are windows of a few million values, each with another
/// beginning.
class RandomRows {
 public:
  RandomRows(std::int64_t heads, std::int64_t dim, unsigned seed)
      : heads_(heads),
        dim_(dim),
        values_(normal_tensor({heads * chunk * dim + offsets}, DType::f32, seed)) {}

  /// [heads, count, dim]
  TensorView next(std::int64_t count) {
    offset_ = (offset_ + 7919) % offsets;
    return {values_.data<float>() + offset_, {heads_, count, dim_}};
  }

 private:
  static constexpr std::int64_t offsets = std::int64_t{1} << 20;
  std::int64_t heads_, dim_, offset_ = 0;
  Tensor values_;
};

void fill(AnyCache& cache, const Case& shape) {
  RandomRows k(shape.num_kv_heads, shape.head_dim, 2), v(shape.num_kv_heads, shape.v_head_dim, 3);
  for (std::int64_t sequence = 0; sequence < shape.batch; ++sequence) {
    const std::int64_t length = shape.length(sequence);
    for (std::int64_t begin = 0; begin < length; begin += chunk) {
      const std::int64_t count = std::min(chunk, length - begin);
      cache.append_to(sequence, k.next(count), v.next(count));
    }
  }
}

}  // namespace

std::int64_t Case::total_length() const {
  std::int64_t total = 0;
  for (std::int64_t sequence = 0; sequence < batch; ++sequence) total += length(sequence);
  return total;
}

double Case::bytes_of_keys(std::int64_t keys) const {
  const std::size_t scales = kv_dtype() == DType::i8 ? 2 * sizeof(float) : 0;
  const std::size_t key =
      static_cast<std::size_t>(head_dim + v_head_dim) * size_of(kv_dtype()) + scales;
  return static_cast<double>(keys * num_kv_heads) * static_cast<double>(key);
}

KeysAndValues::KeysAndValues(const Case& shape) {
  if (!shape.cache) {
    k_ = normal_tensor({shape.batch, shape.num_kv_heads, shape.kv_len, shape.head_dim}, shape.dtype,
                       2);
    v_ = normal_tensor({shape.batch, shape.num_kv_heads, shape.kv_len, shape.v_head_dim},
                       shape.dtype, 3);
    return;
  }
  cache_ = std::make_unique<AnyCache>(CacheSettings{.batch = shape.batch,
                                                    .num_kv_heads = shape.num_kv_heads,
                                                    .capacity = shape.kv_len,
                                                    .head_dim = shape.head_dim,
                                                    .v_head_dim = shape.v_head_dim,
                                                    .dtype = shape.cache->dtype,
                                                    .layout = shape.cache->layout,
                                                    .page_size = shape.cache->page_size});
  fill(*cache_, shape);
}

AttentionTensors KeysAndValues::bind(AttentionTensors tensors) {
  if (cache_) return cache_->bind(tensors);
  tensors.k = k_.view();
  tensors.v = v_.view();
  return tensors;
}

}  // namespace attn::apps::bench
