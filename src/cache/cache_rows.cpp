#include "cache/cache_rows.hpp"

#include <attn/isa.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "functional/rope.hpp"
#include "kernels/select.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

const CacheShape& checked_shape(const CacheShape& shape) {
  require_positive("num_kv_heads", shape.num_kv_heads);
  require_positive("head_dim", shape.head_dim);
  require_positive("v_head_dim", shape.v_head_dim);
  require_enumerator("layout", shape.layout, CacheLayout::bshd);
  if (shape.dtype != DType::f32 && shape.dtype != DType::bf16 && shape.dtype != DType::f16 &&
      shape.dtype != DType::i8) {
    reject(fmt::format("dtype is {}; it needs f32, bf16, f16 or i8", name_of(shape.dtype)));
  }
  return shape;
}

Dims shape_in_memory(const CacheShape& shape, std::int64_t dim) {
  if (shape.layout == CacheLayout::bhsd) return {shape.slabs, shape.num_kv_heads, shape.keys, dim};
  return {shape.slabs, shape.keys, shape.num_kv_heads, dim};
}

TensorView with_batch_of_one(const TensorView& tensor) {
  return {tensor.data,
          tensor.dtype,
          {1, tensor.shape[0], tensor.shape[1], tensor.shape[2]},
          {0, tensor.strides[0], tensor.strides[1], tensor.strides[2]}};
}

void check_new_rows(const char* name, const TensorView& rows, const CacheShape& shape,
                    std::optional<std::int64_t> batch, std::int64_t dim, const char* dim_name) {
  if (batch) {
    require_rank(name, rows, 4, "[batch, num_kv_heads, count, dim]");
    require_extent(name, rows, 0, *batch, "batch of the cache");
  } else {
    require_rank(name, rows, 3, "[num_kv_heads, count, dim]");
  }
  const int heads = rows.rank() - 3;
  require_extent(name, rows, heads, shape.num_kv_heads, "num_kv_heads of the cache");
  require_extent(name, rows, heads + 2, dim, dim_name);
  // A stride of 0 repeats a key any number of times; of these, at most the capacity is read.
  require_extents(name, rows.shape);
  require_float(name, rows);
  require_memory(name, rows);
}

/// The largest magnitude; it is NaN or infinite if any value is. Magnitudes of floats have the same
/// order as their bits read as integers, with NaN above infinity.
float largest_magnitude(const float* values, std::int64_t count) noexcept {
  std::uint32_t largest = 0;
  for (std::int64_t n = 0; n < count; ++n)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(values[n]) & 0x7fffffffu);
  return std::bit_cast<float>(largest);
}

/// Rounds to nearest even; |value| is below 2^22. The sum with 1.5 * 2^23 has no bits for a
/// fraction, so the addition itself rounds.
float round_to_integer(float value) noexcept {
  constexpr float shift = 0x1.8p23f;
  return (value + shift) - shift;
}

/// Quantizes a row to i8 and returns its scale.
float quantize(const float* values, std::int64_t count, std::int8_t* to) noexcept {
  const float largest = largest_magnitude(values, count);
  if (largest == 0 || !(largest <= std::numeric_limits<float>::max())) {
    std::fill_n(to, count, std::int8_t{0});
    return largest == 0 ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  // A subnormal scale has so few bits that quotients could leave the range of i8.
  const float scale = std::max(largest / 127, std::numeric_limits<float>::min());
  for (std::int64_t n = 0; n < count; ++n)
    to[n] = static_cast<std::int8_t>(round_to_integer(values[n] / scale));
  return scale;
}

}  // namespace

CacheRows::CacheRows(const CacheShape& shape, std::int64_t dim)
    : memory_(shape.dtype, shape_in_memory(shape, dim)), rows_(memory_.view()) {
  if (shape.layout == CacheLayout::bshd) rows_ = rows_.permuted({0, 2, 1, 3});
  if (shape.dtype != DType::i8) return;
  scale_memory_ = Tensor(DType::f32, {shape.slabs, shape.num_kv_heads, shape.keys});
  scales_ = scale_memory_.view();
}

void CacheRows::copy(const Row& from, std::int64_t head, const KeyIndex& at) noexcept {
  const std::size_t size = size_of(from.dtype);
  const std::int64_t dim = rows_.shape[3];
  std::byte* to = row_of(rows_, at.slab, head, at.key).data;
  if (from.stride == 1) {
    std::memcpy(to, from.data, static_cast<std::size_t>(dim) * size);
  } else {
    for (std::int64_t n = 0; n < dim; ++n)
      std::memcpy(to + static_cast<std::size_t>(n) * size, from.at(n), size);
  }
}

void CacheRows::round(const float* from, std::int64_t head, const KeyIndex& at,
                      const kernels::Kernels& kernels) noexcept {
  const Row to = row_of(rows_, at.slab, head, at.key);
  const std::int64_t dim = rows_.shape[3];
  if (to.dtype != DType::i8) return write_row(from, dim, kernels, to);
  const std::int64_t scale_at = (at.slab * scales_.shape[1] + head) * scales_.shape[2] + at.key;
  static_cast<float*>(scales_.data)[scale_at] =
      quantize(from, dim, reinterpret_cast<std::int8_t*>(to.data));
}

void CacheRows::copy_slab(std::int64_t from, std::int64_t to) noexcept {
  for (Tensor* memory : {&memory_, &scale_memory_}) {
    if (memory->size() == 0) continue;
    const auto slab = static_cast<std::int64_t>(memory->size_in_bytes()) / memory->shape()[0];
    auto* bytes = static_cast<std::byte*>(memory->data());
    std::memcpy(bytes + to * slab, bytes + from * slab, static_cast<std::size_t>(slab));
  }
}

CacheMemory::CacheMemory(const CacheShape& shape)
    : shape_(checked_shape(shape)),
      keys_(shape, shape.head_dim),
      values_(shape, shape.v_head_dim),
      kernels_(kernels::kernels_for(default_isa())),
      staging_(static_cast<std::size_t>(std::max(shape.head_dim, shape.v_head_dim))) {}

NewKeys CacheMemory::checked(const TensorView& k, const TensorView& v,
                             const std::optional<Rope>& rope,
                             std::optional<std::int64_t> batch) const {
  check_new_rows("k", k, shape_, batch, shape_.head_dim, "head_dim of the cache");
  check_new_rows("v", v, shape_, batch, shape_.v_head_dim, "v_head_dim of the cache");
  const int keys = k.rank() - 2;
  require_extent("v", v, keys, k.shape[keys], "count of k");
  if (rope) check_rope("rope", *rope, shape_.head_dim, 0);
  return {
      .k = batch ? k : with_batch_of_one(k), .v = batch ? v : with_batch_of_one(v), .rope = rope};
}

void CacheMemory::store(const NewKeys& from, std::int64_t batch, std::int64_t n,
                        std::int64_t position, const KeyIndex& at) noexcept {
  for (std::int64_t head = 0; head < shape_.num_kv_heads; ++head) {
    const Row key = row_of(from.k, batch, head, n);
    if (from.rope) {
      read_row(key, shape_.head_dim, kernels_, staging_.data());
      rotate(*from.rope, position, kernels_, staging_.data());
      keys_.round(staging_.data(), head, at, kernels_);
    } else {
      store_row(key, head, at, keys_);
    }
    store_row(row_of(from.v, batch, head, n), head, at, values_);
  }
}

void CacheMemory::store_row(const Row& from, std::int64_t head, const KeyIndex& at,
                            CacheRows& to) noexcept {
  if (from.dtype == shape_.dtype) return to.copy(from, head, at);
  to.round(as_floats(from, to.rows().shape[3], kernels_, staging_.data()), head, at, kernels_);
}

void CacheMemory::copy_slab(std::int64_t from, std::int64_t to) noexcept {
  keys_.copy_slab(from, to);
  values_.copy_slab(from, to);
}

AttentionTensors CacheMemory::bind(AttentionTensors tensors) const noexcept {
  tensors.k = keys_.rows();
  tensors.v = values_.rows();
  tensors.storage.k_scales = keys_.scales();
  tensors.storage.v_scales = values_.scales();
  tensors.kv_lens = TensorView{};
  tensors.storage.layout = Contiguous{};
  return tensors;
}

}  // namespace attn::detail
