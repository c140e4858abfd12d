// Online softmax, and the kernels of whole rows that softmax is made of, against loops in double.
//
// Tolerances, with eps = 2^-23 (an ulp is at most eps of the value): exp2 is within 1.3 ulp of its
// argument. Scores are multiples of 1/8 and scale is 1/2, so that arguments are exact, and V holds
// small integers. A sum of n terms adds n roundings of eps / 2.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/guarded.hpp"

using namespace attn;
using namespace attn::test;
using kernels::Kernels;

namespace {

constexpr double eps = 0x1p-23, exp_error = 1.3 * eps;
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Shape {
  std::int64_t rows, first, last, columns;
  bool with_maxima, started;
};

/// arithmetic is null for softmax_rows, which makes P alone.
void check_online_softmax(const Kernels& kernels, const kernels::Arithmetic* arithmetic,
                          const Shape& s, Random& random) {
  CAPTURE(s.rows);
  CAPTURE(s.first);
  CAPTURE(s.last);
  CAPTURE(s.columns);
  CAPTURE(s.with_maxima);
  CAPTURE(s.started);
  const std::int64_t factor = arithmetic == nullptr ? 1 : arithmetic->vnni_factor,
                     w = kernels.vector_width, p = kernels.panel_width;
  const std::int64_t stride = s.last + 2, out_stride = s.columns + 3, keys = s.last - s.first;
  Guarded<float> scores((s.rows - 1) * stride + s.last), out((s.rows - 1) * out_stride + s.columns),
      row_max(s.rows), row_sum(s.rows), maxima(s.rows * w);
  std::int64_t begin[kernels::tile_rows], end[kernels::tile_rows];
  const std::int64_t value_end = s.last - random.integer(0, std::min<std::int64_t>(3, keys - 1));
  const std::int64_t depth = (value_end - s.first + factor - 1) / factor;
  const std::int64_t panels = (s.columns + p - 1) / p;
  const kernels::PanelLayout layout{p, depth * p, p};
  Guarded<float> values((panels - 1) * layout.panel_stride + (depth - 1) * p + s.columns -
                        (panels - 1) * p);
  std::vector<float> v(static_cast<std::size_t>(depth * factor * s.columns), 0.f);
  for (std::int64_t j = 0; j < value_end - s.first; ++j) {
    for (std::int64_t n = 0; n < s.columns; ++n)
      v[static_cast<std::size_t>(j * s.columns + n)] = small_integer(random);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    for (std::int64_t n = 0; n < s.columns; ++n) {
      const auto at = [&](std::int64_t j) {
        return v[static_cast<std::size_t>(j * s.columns + n)];
      };
      values[n / p * layout.panel_stride + k * p + n % p] =
          factor == 1 ? at(k) : packed_pair(at(2 * k), at(2 * k + 1));
    }
  }
  std::fill_n(maxima.data(), maxima.size(), -infinity);
  std::vector<double> expected_p, expected_out, out_size, expected_sum;
  std::vector<float> expected_max;
  for (std::int64_t r = 0; r < s.rows; ++r) {
    begin[r] = s.first;
    end[r] = s.last;
    if (!s.with_maxima) {
      begin[r] = random.integer(s.first, value_end);
      end[r] = random.integer(begin[r], value_end);
    }
    // Without a limit from begin and end, columns past value_end are hidden by their scores.
    row_max[r] = s.started ? static_cast<float>(random.integer(-32, 32)) / 8 : -infinity;
    row_sum[r] = s.started ? 1.5f : 0.f;
    double greatest = row_max[r];
    for (std::int64_t j = s.first; j < s.last; ++j) {
      const bool hidden = j >= value_end || random.chance(0.1);
      const float x = hidden ? -infinity : static_cast<float>(random.integer(-64, 64)) / 8;
      scores[r * stride + j] = x;
      maxima[r * w + j % w] = std::max(maxima[r * w + j % w], x);
      if (j >= begin[r] && j < end[r]) greatest = std::max<double>(greatest, x);
    }
    const double a =
        std::isinf(row_max[r]) ? 0 : std::exp2(0.5 * (static_cast<double>(row_max[r]) - greatest));
    double sum = a * row_sum[r];
    for (std::int64_t n = 0; n < s.columns; ++n) {
      out[r * out_stride + n] = s.started ? small_integer(random) : 0.f;
      expected_out.push_back(a * out[r * out_stride + n]);
      out_size.push_back(std::fabs(expected_out.back()));
    }
    for (std::int64_t j = s.first; j < s.last; ++j) {
      const float x = scores[r * stride + j];
      const bool visible = j >= begin[r] && j < end[r] && !std::isinf(x);
      const double probability = visible ? std::exp2(0.5 * (x - greatest)) : 0;
      expected_p.push_back(probability);
      sum += probability;
      for (std::int64_t n = 0; n < s.columns && arithmetic != nullptr && visible; ++n) {
        const double part =
            probability * v[static_cast<std::size_t>((j - s.first) * s.columns + n)];
        expected_out[static_cast<std::size_t>(r * s.columns + n)] += part;
        out_size[static_cast<std::size_t>(r * s.columns + n)] += std::fabs(part);
      }
    }
    expected_sum.push_back(sum);
    expected_max.push_back(static_cast<float>(greatest));
  }
  scores.remember();
  out.remember();
  row_max.remember();
  row_sum.remember();
  const kernels::SoftmaxTile tile{.scores = scores.data(),
                                  .stride = stride,
                                  .rows = s.rows,
                                  .begin = begin,
                                  .end = end,
                                  .first = s.first,
                                  .last = s.last,
                                  .scale = 0.5f,
                                  .maxima = s.with_maxima ? maxima.data() : nullptr,
                                  .row_max = row_max.data(),
                                  .row_sum = row_sum.data(),
                                  .values = {values.data(), layout},
                                  .value_end = value_end,
                                  .out = out.data(),
                                  .out_stride = out_stride,
                                  .columns = s.columns};
  arithmetic == nullptr ? kernels.softmax_rows(tile) : arithmetic->online_softmax(tile);
  const double sums = exp_error + (static_cast<double>(keys) + 2) * eps / 2;
  const double rounding = factor == 2 ? 0x1p-8 : 0;  // of P to bf16
  bool good = true;
  for (std::int64_t r = 0; r < s.rows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    good &= row_max[r] == expected_max[row];
    good &= std::fabs(row_sum[r] - expected_sum[row]) <= 2 * sums * expected_sum[row];
    for (std::int64_t j = 0; j < keys && factor == 1; ++j) {
      const double probability = expected_p[row * static_cast<std::size_t>(keys) + j];
      good &= std::fabs(scores[r * stride + s.first + j] - probability) <= exp_error * probability;
    }
    for (std::int64_t n = 0; n < s.columns; ++n) {
      const std::size_t at = row * static_cast<std::size_t>(s.columns) + n;
      good &= std::fabs(out[r * out_stride + n] - expected_out[at]) <=
              (2 * sums + rounding) * out_size[at];
    }
  }
  CHECK(good);
  CHECK(out.only_changed(s.rows, out_stride, s.columns));
  CHECK(row_max.only_changed(1, 0, s.rows));
  CHECK(row_sum.only_changed(1, 0, s.rows));
  const std::int64_t first_written = s.first / factor;
  if (s.rows == 1 && first_written > 0)  // the gap before it belongs to no row's range
    CHECK(std::isnan(scores[first_written - 1]));
}

void check_shapes(const Kernels& kernels, const kernels::Arithmetic* arithmetic) {
  Random random(5);
  const std::int64_t chunk = arithmetic == nullptr ? kernels.vector_width : arithmetic->chunk_keys;
  for (std::int64_t rows = 1; rows <= kernels::tile_rows; ++rows) {
    for (std::int64_t columns = kernels.vector_width; columns <= 2 * kernels.panel_width;
         columns += kernels.vector_width) {
      for (std::int64_t chunks = 1; chunks <= 4; ++chunks) {
        for (const bool with_maxima : {false, true}) {
          const std::int64_t first = chunk * random.integer(0, 2);
          check_online_softmax(
              kernels, arithmetic,
              {rows, first, first + chunks * chunk, columns, with_maxima, random.chance(0.5)},
              random);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("online_softmax: every number of rows, vectors of V and chunks of keys") {
  for_each_isa([](const Kernels& kernels) {
    check_shapes(kernels, &kernels.f32);
    if (kernels.bf16.online_softmax != nullptr) check_shapes(kernels, &kernels.bf16);
  });
}
TEST_CASE("softmax_rows: every number of rows and vectors") {
  for_each_isa([](const Kernels& kernels) { check_shapes(kernels, nullptr); });
}

TEST_CASE("Rows: maxima, sums of terms, scaled terms and logarithms of every length") {
  for_each_isa([](const Kernels& kernels) {
    Random random(6);
    const auto& rows = kernels.rows;
    for (std::int64_t count = 0; count <= 9 * kernels.vector_width + 1; ++count) {
      const std::int64_t num = random.integer(1, kernels::rows_at_once), stride = count + 3;
      CAPTURE(count);
      CAPTURE(num);
      const std::int64_t size = (num - 1) * stride + count;
      Guarded<float> x(size), y(size), maxima(num);
      for (std::int64_t r = 0; r < num; ++r) {
        for (std::int64_t n = 0; n < count; ++n)
          x[r * stride + n] = static_cast<float>(-40 * random.uniform());
      }
      rows.maxima({x.data(), stride, num, count}, maxima.data());
      const std::vector<kernels::ExpReduction> plain(16, kernels::plain_exponential);
      const std::vector<kernels::SplitFloat> half(16, {0.5f, 0, 0.5f, 0});
      std::vector<double> sums(16), stored_sums(16);
      rows.sum_terms({x.data(), stride, num, count}, plain.data(), {nullptr, 0}, sums.data());
      y.remember();
      rows.sum_terms({x.data(), stride, num, count}, plain.data(), {y.data(), stride},
                     stored_sums.data());
      CHECK(y.only_changed(num, stride, count));
      Guarded<float> scaled(size), scaled_terms(size), logs(size), gradient(count);
      scaled.remember();
      scaled_terms.remember();
      logs.remember();
      rows.scale({y.data(), stride, num, count}, half.data(), {scaled.data(), stride});
      rows.scale_terms({x.data(), stride, num, count}, plain.data(), half.data(),
                       {scaled_terms.data(), stride});
      const std::vector<kernels::LogTerms> log_terms(16, {false, 1, 0, 1, {1, 0, 1, 0}, 2.5f, 0});
      rows.log_terms({x.data(), stride, num, count}, log_terms.data(), {logs.data(), stride});
      CHECK(scaled.only_changed(num, stride, count));
      CHECK(scaled_terms.only_changed(num, stride, count));
      CHECK(logs.only_changed(num, stride, count));
      bool good = true;
      for (std::int64_t r = 0; r < num; ++r) {
        const float* const row = x.data() + r * stride;
        double sum = 0;
        float greatest = -infinity;
        for (std::int64_t n = 0; n < count; ++n) {
          const double term = std::exp(static_cast<double>(row[n]));
          sum += term;
          greatest = std::max(greatest, row[n]);
          good &= std::fabs(y[r * stride + n] - term) <= exp_error * term;
          good &= scaled[r * stride + n] == y[r * stride + n] / 2;
          good &= scaled_terms[r * stride + n] == y[r * stride + n] / 2;
          // x - 2.5 is rounded once.
          good &= logs[r * stride + n] == row[n] - 2.5f;
        }
        good &= maxima[r] == greatest && rows.maximum(row, count) == greatest;
        good &= std::fabs(sums[static_cast<std::size_t>(r)] - sum) <= exp_error * sum;
        good &= sums[static_cast<std::size_t>(r)] == stored_sums[static_cast<std::size_t>(r)];
      }
      CHECK(good);
      if (count == 0) continue;
      // In double: one rounding of 2^-53 for each element.
      const float* const row = x.data() + (num - 1) * stride;
      double sum = 0, dot = 0;
      for (std::int64_t n = 0; n < count; ++n) {
        sum += row[n];
        dot += static_cast<double>(row[n]) * row[n];
      }
      const double tiny = static_cast<double>(count) * 0x1p-52;
      CHECK(std::fabs(rows.sum(row, count) - sum) <= tiny * std::fabs(sum));
      CHECK(std::fabs(rows.dot(row, row, count) - dot) <= tiny * dot);
      const kernels::RowGradient g{row, row, count, 0.5f, 2};
      gradient.remember();
      rows.softmax_gradient(g, gradient.data());
      CHECK(gradient.only_changed(1, 0, count));
      good = true;
      for (std::int64_t n = 0; n < count; ++n) good &= gradient[n] == row[n] * (row[n] - 0.5f) / 2;
      CHECK(good);
      rows.log_softmax_gradient(g, gradient.data());
      for (std::int64_t n = 0; n < count; ++n) {
        const double e = std::exp(static_cast<double>(row[n])) / 2, expected = (row[n] - e) / 2;
        good &= std::fabs(gradient[n] - expected) <= exp_error * e + eps * std::fabs(expected);
      }
      CHECK(good);
      x[size - 1] = __builtin_nanf("");
      CHECK(std::isnan(rows.maximum(row, count)));
    }
  });
}
