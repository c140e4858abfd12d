// The rows that a cache should hold, and the rows that it holds, read through its bound tensors.
#pragma once

#include <attn/error.hpp>
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/check_fails.hpp"
#include "support/random.hpp"
#include "support/strided_tensor.hpp"

namespace attn::test {

/// One row that a cache should hold, with tolerances; and the rows of one key in all heads.
struct ModelRow {
  std::vector<double> values;
  double absolute = 0;  // tolerance
  double relative = 0;
};
struct ModelKey {
  std::vector<ModelRow> k, v;
};

inline double largest_magnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

inline std::vector<double> rounded_to(DType dtype, const std::vector<double>& values) {
  StridedTensor tensor(dtype, {static_cast<std::int64_t>(values.size())});
  tensor.assign(values);
  return tensor.values();
}

/// The row that a cache of this type stores for values that were computed to within `error`.
inline ModelRow stored(DType dtype, const std::vector<double>& values, double error) {
  if (dtype == DType::i8)
    return {values, largest_magnitude(values) / 127 * (0.5 + 1e-5) + error, 0};
  if (error == 0) return {rounded_to(dtype, values), 0, 0};
  return {values, error, dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24};
}

/// Rope tables of random angles, so that all positions differ.
struct RandomRopeTables {
  RandomRopeTables(Random& random, std::int64_t positions, std::int64_t pairs, bool in_pairs,
                   Layout layout)
      : cos(DType::f32, {positions, pairs}, layout),
        sin(DType::f32, {positions, pairs}, layout),
        interleaved(in_pairs) {
    for_each_index(cos.shape(), [&](const Dims& at) {
      const double angle = 6.28 * random.uniform();
      cos.set(at, std::cos(angle));
      sin.set(at, std::sin(angle));
    });
    cos_values = cos.values();
    sin_values = sin.values();
  }

  Rope rope() const { return {.cos = cos.view(), .sin = sin.view(), .interleaved = interleaved}; }
  std::vector<double> rotated(const std::vector<double>& row, std::int64_t position) const {
    const auto pairs = static_cast<std::size_t>(cos.shape()[1]);
    std::vector<double> result = row;
    for (std::size_t n = 0; n < pairs; ++n) {
      const std::size_t x = interleaved ? 2 * n : n, y = interleaved ? 2 * n + 1 : n + pairs;
      const std::size_t at = static_cast<std::size_t>(position) * pairs + n;
      result[x] = row[x] * cos_values[at] - row[y] * sin_values[at];
      result[y] = row[x] * sin_values[at] + row[y] * cos_values[at];
    }
    return result;
  }

  StridedTensor cos, sin;
  bool interleaved;
  std::vector<double> cos_values, sin_values;
};

/// Keys and values to append: [batch, num_kv_heads, count, dim], or without batch.
struct GivenKeys {
  StridedTensor k, v;

  /// The keys that a sequence has to hold after batch entry `batch` was appended at position
  /// `first`.
  std::vector<ModelKey> stored_in(DType dtype, std::int64_t batch, std::int64_t first,
                                  const std::optional<RandomRopeTables>& tables) const {
    const int heads = k.shape().rank() - 3;
    const std::vector<double> keys = k.values(), values = v.values();
    const auto row = [&](const std::vector<double>& all, const Dims& shape, std::int64_t head,
                         std::int64_t n) {
      const std::int64_t dim = shape[heads + 2];
      const auto begin = all.begin() + ((batch * shape[heads] + head) * shape[heads + 1] + n) * dim;
      return std::vector<double>(begin, begin + dim);
    };
    std::vector<ModelKey> result(static_cast<std::size_t>(k.shape()[heads + 1]));
    for (std::int64_t n = 0; n < std::ssize(result); ++n) {
      ModelKey& key = result[static_cast<std::size_t>(n)];
      for (std::int64_t head = 0; head < k.shape()[heads]; ++head) {
        const std::vector<double> plain = row(keys, k.shape(), head, n);
        key.k.push_back(tables ? stored(dtype, tables->rotated(plain, first + n),
                                        0x1p-21 * largest_magnitude(plain))
                               : stored(dtype, plain, 0));
        key.v.push_back(stored(dtype, row(values, v.shape(), head, n), 0));
      }
    }
    return result;
  }
};

inline constexpr std::initializer_list<DType> given_types = {DType::f32, DType::bf16, DType::f16};
inline constexpr std::initializer_list<DType> cache_types = {DType::f32, DType::bf16, DType::f16,
                                                             DType::i8};
inline constexpr std::initializer_list<CacheLayout> cache_layouts = {CacheLayout::bhsd,
                                                                     CacheLayout::bshd};
inline constexpr std::initializer_list<Layout> given_layouts = {
    Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed};

inline StridedTensor random_rows(Random& random, const Dims& shape) {
  StridedTensor tensor(random.pick(given_types), shape, random.pick(given_layouts));
  std::vector<double> values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = random.normal();
  tensor.assign(values);
  return tensor;
}

/// Tables for all appends to a cache, or none.
inline std::optional<RandomRopeTables> random_tables(Random& random, std::int64_t positions,
                                                     std::int64_t head_dim) {
  if (random.chance(0.4)) return {};
  const std::int64_t pairs = random.integer(0, head_dim / 2);
  return RandomRopeTables(random, positions, pairs, random.chance(0.5), random.pick(given_layouts));
}

inline std::optional<Rope> rope_of(const std::optional<RandomRopeTables>& tables) {
  return tables ? std::optional(tables->rope()) : std::nullopt;
}

/// One row of a bound k or v, multiplied by its scale if there are scales.
inline std::vector<double> row_through(const TensorView& rows, const TensorView& scales,
                                       const Dims& place) {
  TensorView row = rows;
  for (int dim = 0; dim < 3; ++dim) row = row.sliced(dim, place[dim], place[dim] + 1);
  const Tensor copy = copy_as(row, DType::f64);
  std::vector<double> values(copy.data<double>(), copy.data<double>() + copy.size());
  if (scales.absent()) return values;
  for (double& value : values)
    value *= static_cast<const float*>(scales.data)[offset_of(scales.strides, place)];
  return values;
}

inline std::string difference(const std::vector<double>& got, const ModelRow& wanted) {
  if (got.size() != wanted.values.size())
    return fmt::format("{} elements instead of {}", got.size(), wanted.values.size());
  for (std::size_t n = 0; n < got.size(); ++n) {
    const double tolerance = wanted.absolute + wanted.relative * std::abs(wanted.values[n]);
    if (!(std::abs(got[n] - wanted.values[n]) <= tolerance)) {
      return fmt::format("element {} is {} instead of {} (tolerance {})", n, got[n],
                         wanted.values[n], tolerance);
    }
  }
  return "";
}

/// Returns "" if key and value in this row of this slab are as they should be in every head; else
/// the first difference.
inline std::string difference(const AttentionTensors& bound, std::int64_t slab, std::int64_t key,
                              const ModelKey& wanted) {
  for (std::size_t head = 0; head < wanted.k.size(); ++head) {
    const Dims place{slab, static_cast<std::int64_t>(head), key};
    const std::string of_k =
        difference(row_through(bound.k, bound.storage.k_scales, place), wanted.k[head]);
    if (!of_k.empty()) return fmt::format("k at {}: {}", place.to_string(), of_k);
    const std::string of_v =
        difference(row_through(bound.v, bound.storage.v_scales, place), wanted.v[head]);
    if (!of_v.empty()) return fmt::format("v at {}: {}", place.to_string(), of_v);
  }
  return "";
}

template <class Settings>
std::int64_t v_dim(const Settings& settings) {
  return settings.v_head_dim.value_or(settings.head_dim);
}

/// One element of a bound tensor of integers.
template <class T>
T entry(const TensorView& tensor, const Dims& index) {
  REQUIRE(tensor.dtype == dtype_of<T>());
  return static_cast<const T*>(tensor.data)[offset_of(tensor.strides, index)];
}

inline std::string_view name_of(CacheLayout layout) {
  return layout == CacheLayout::bhsd ? "bhsd" : "bshd";
}

}  // namespace attn::test
