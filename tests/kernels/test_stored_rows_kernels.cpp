// Scores and sums of values that are read in place, for each element type. The inputs are small
// integers, and scales are powers of two: all sums are exact, and results must be equal to those of
// plain loops.
#include "kernels/guarded.hpp"

using namespace attn;
using namespace attn::test;
using kernels::Kernels;
using kernels::StoredArithmetic;

namespace {

float stored(float x, float) { return x; }
std::uint16_t stored(float x, std::uint16_t (*convert)(float)) { return convert(x); }
std::int8_t stored(float x, std::int8_t) { return static_cast<std::int8_t>(x); }

/// Rows of elements, their values as floats, and their scales.
template <class T>
struct Rows {
  template <class Convert>
  Rows(std::int64_t count, std::int64_t width, bool scaled, Convert convert, Random& random)
      : stride(width + 3), elements((count - 1) * stride + width), scales(2 * count - 1) {
    for (std::int64_t j = 0; j < count; ++j) {
      for (std::int64_t d = 0; d < width; ++d) {
        const float x = small_integer(random);
        values.push_back(x);
        elements[j * stride + d] = stored(x, convert);
      }
      scales[2 * j] = scaled ? random.pick({0.5f, 1.f, 2.f}) : 1.f;
    }
    rows = {.data = reinterpret_cast<const std::byte*>(elements.data()),
            .stride = stride * static_cast<std::int64_t>(sizeof(T)),
            .count = count,
            .width = width,
            .scales = scaled ? scales.data() : nullptr,
            .scale_stride = 2};
  }
  double at(std::int64_t j, std::int64_t d) const {
    return static_cast<double>(values[static_cast<std::size_t>(j * rows.width + d)]) *
           scales[2 * j];
  }

  std::int64_t stride;
  Guarded<T> elements;
  Guarded<float> scales;
  std::vector<float> values;
  kernels::StoredRows rows;
};

template <class T>
void check_scores(const Kernels& kernels, const StoredArithmetic& arithmetic, bool pairs,
                  std::int64_t num_q, const Rows<T>& keys, Random& random) {
  const std::int64_t factor = pairs ? 2 : 1, width = keys.rows.width, count = keys.rows.count;
  const std::int64_t depth = round_up(width, kernels.vector_width * factor) / factor;
  const std::int64_t q_stride = depth + 1, stride = count + 2;
  Guarded<float> q((num_q - 1) * q_stride + depth), scores((num_q - 1) * stride + count);
  std::vector<float> queries(static_cast<std::size_t>(num_q * depth * factor));
  for (std::int64_t r = 0; r < num_q; ++r) {
    for (std::int64_t d = 0; d < width; ++d)
      queries[static_cast<std::size_t>(r * depth * factor + d)] = small_integer(random);
    for (std::int64_t k = 0; k < depth; ++k) {
      const auto at = [&](std::int64_t d) {
        return queries[static_cast<std::size_t>(r * depth * factor + d)];
      };
      const std::int64_t lane = k % kernels.vector_width, low = 2 * (k - lane) + lane;
      q[r * q_stride + k] = !pairs           ? at(k)
                            : sizeof(T) == 1 ? packed_pair(at(low), at(low + kernels.vector_width))
                                             : packed_pair(at(2 * k), at(2 * k + 1));
    }
  }
  scores.remember();
  const auto function = pairs ? arithmetic.scores_with_bf16_queries : arithmetic.scores;
  function({.q = q.data(),
            .q_stride = q_stride,
            .rows = num_q,
            .keys = keys.rows,
            .scores = scores.data(),
            .stride = stride,
            .prefetch = {}});
  bool equal = true;
  for (std::int64_t r = 0; r < num_q; ++r) {
    for (std::int64_t j = 0; j < count; ++j) {
      double sum = 0;
      for (std::int64_t d = 0; d < width; ++d)
        sum += queries[static_cast<std::size_t>(r * depth * factor + d)] * keys.at(j, d);
      equal &= scores[r * stride + j] == sum;
    }
  }
  CHECK(equal);
  CHECK(scores.only_changed(num_q, stride, count));
}

template <class T>
void check_values(const Kernels& kernels, const StoredArithmetic& arithmetic, std::int64_t num_q,
                  const Rows<T>& values, Random& random) {
  const std::int64_t width = values.rows.width, count = values.rows.count;
  const std::int64_t wide = round_up(width, kernels.vector_width), stride = count + 2,
                     out_stride = wide + 3;
  Guarded<float> p((num_q - 1) * stride + count), out((num_q - 1) * out_stride + wide);
  std::vector<double> expected(static_cast<std::size_t>(num_q * width));
  for (std::int64_t r = 0; r < num_q; ++r) {
    for (std::int64_t j = 0; j < count; ++j) p[r * stride + j] = small_integer(random);
    for (std::int64_t d = 0; d < wide; ++d) out[r * out_stride + d] = small_integer(random);
    for (std::int64_t d = 0; d < width; ++d) {
      double& sum = expected[static_cast<std::size_t>(r * width + d)];
      sum = out[r * out_stride + d];
      for (std::int64_t j = 0; j < count; ++j) sum += p[r * stride + j] * values.at(j, d);
    }
  }
  p.remember();
  out.remember();
  arithmetic.add_values({.probabilities = p.data(),
                         .stride = stride,
                         .rows = num_q,
                         .values = values.rows,
                         .out = out.data(),
                         .out_stride = out_stride,
                         .prefetch = {}});
  bool equal = true;
  for (std::int64_t r = 0; r < num_q; ++r) {
    for (std::int64_t d = 0; d < width; ++d)
      equal &= out[r * out_stride + d] == expected[static_cast<std::size_t>(r * width + d)];
  }
  CHECK(equal);
  CHECK(p.only_changed(num_q, stride, count));
  CHECK(out.only_changed(num_q, out_stride, wide));
}

/// Probabilities in pairs, for values that begin with the second half of a pair or not.
template <class T>
void check_values_to_pairs(const Kernels& kernels, const StoredArithmetic& arithmetic,
                           std::int64_t num_q, bool begins_odd, const Rows<T>& values,
                           Random& random) {
  const std::int64_t width = values.rows.width, count = values.rows.count, before = begins_odd;
  const std::int64_t wide = round_up(width, kernels.vector_width), pairs = (count + before + 1) / 2,
                     stride = pairs + 1, out_stride = wide + 3;
  Guarded<float> p((num_q - 1) * stride + pairs), out((num_q - 1) * out_stride + wide);
  std::vector<double> expected(static_cast<std::size_t>(num_q * width));
  for (std::int64_t r = 0; r < num_q; ++r) {
    std::vector<float> row(static_cast<std::size_t>(2 * pairs));
    for (float& probability : row) probability = small_integer(random);
    for (std::int64_t m = 0; m < pairs; ++m) {
      const float* const pair = &row[static_cast<std::size_t>(2 * m)];
      p[r * stride + m] = packed_pair(pair[0], pair[1]);
    }
    for (std::int64_t d = 0; d < wide; ++d) out[r * out_stride + d] = small_integer(random);
    for (std::int64_t d = 0; d < width; ++d) {
      double& sum = expected[static_cast<std::size_t>(r * width + d)];
      sum = out[r * out_stride + d];
      for (std::int64_t j = 0; j < count; ++j)
        sum += row[static_cast<std::size_t>(j + before)] * values.at(j, d);
    }
  }
  out.remember();
  arithmetic.add_values_to_pairs({.probabilities = p.data(),
                                  .stride = stride,
                                  .rows = num_q,
                                  .values = values.rows,
                                  .out = out.data(),
                                  .out_stride = out_stride,
                                  .prefetch = {},
                                  .begins_odd = begins_odd});
  bool equal = true;
  for (std::int64_t r = 0; r < num_q; ++r) {
    for (std::int64_t d = 0; d < width; ++d)
      equal &= out[r * out_stride + d] == expected[static_cast<std::size_t>(r * width + d)];
  }
  CHECK(equal);
  CHECK(out.only_changed(num_q, out_stride, wide));
}

template <class T, class Convert>
void check_type(const Kernels& kernels, const StoredArithmetic& arithmetic, Convert convert) {
  Random random(4);
  for (std::int64_t width = 1; width <= 2 * kernels.panel_width + 1; ++width) {
    const std::int64_t count = width % 19 + 1;
    for (const bool scaled : {false, true}) {
      CAPTURE(width);
      CAPTURE(count);
      CAPTURE(scaled);
      const Rows<T> rows(count, width, scaled, convert, random);
      for (std::int64_t num_q = 1; num_q <= kernels::tile_rows; ++num_q) {
        CAPTURE(num_q);
        check_scores(kernels, arithmetic, false, num_q, rows, random);
        if (arithmetic.scores_with_bf16_queries != nullptr)
          check_scores(kernels, arithmetic, true, num_q, rows, random);
        check_values(kernels, arithmetic, num_q, rows, random);
        if (arithmetic.add_values_to_pairs == nullptr || scaled) continue;
        for (const bool begins_odd : {false, true})
          check_values_to_pairs(kernels, arithmetic, num_q, begins_odd, rows, random);
      }
    }
  }
}

}  // namespace

TEST_CASE("stored rows of f32") {
  for_each_isa([](const Kernels& k) { check_type<float>(k, k.stored_f32, float{}); });
}
TEST_CASE("stored rows of bf16") {
  for_each_isa([](const Kernels& k) { check_type<std::uint16_t>(k, k.stored_bf16, bf16_of); });
}
TEST_CASE("stored rows of f16") {
  for_each_isa([](const Kernels& k) { check_type<std::uint16_t>(k, k.stored_f16, f16_of); });
}
TEST_CASE("stored rows of i8") {
  for_each_isa([](const Kernels& k) { check_type<std::int8_t>(k, k.stored_i8, std::int8_t{}); });
}
