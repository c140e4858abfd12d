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

/// A call of online_softmax or of softmax_rows: its random inputs, and the results of loops in
/// double.
struct OnlineSoftmaxCall {
  OnlineSoftmaxCall(const Kernels& kernels_of_isa, const kernels::Arithmetic* arithmetic_of_call,
                    const Shape& shape, Random& random)
      : isa(kernels_of_isa),
        arithmetic(arithmetic_of_call),
        s(shape),
        factor(arithmetic == nullptr ? 1 : arithmetic->vnni_factor),
        keys(s.last - s.first),
        value_end(s.last - random.integer(0, std::min<std::int64_t>(3, keys - 1))),
        depth((value_end - s.first + factor - 1) / factor),
        layout{isa.panel_width, depth * isa.panel_width, isa.panel_width},
        scores((s.rows - 1) * stride() + s.last),
        out((s.rows - 1) * out_stride() + s.columns),
        row_max(s.rows),
        row_sum(s.rows),
        maxima(s.rows * isa.vector_width),
        value_scales(s.last),
        values(place_of_value(depth - 1, s.columns - 1) + 1),
        v(static_cast<std::size_t>(depth * factor * s.columns), 0.f) {
    std::fill_n(maxima.data(), maxima.size(), -infinity);
  }

  std::int64_t stride() const { return s.last + 2; }
  std::int64_t out_stride() const { return s.columns + 3; }
  std::int64_t place_of_value(std::int64_t k, std::int64_t n) const {
    return n / layout.panel_width * layout.panel_stride + k * layout.row_stride +
           n % layout.panel_width;
  }
  float v_at(std::int64_t j, std::int64_t n) const {
    return v[static_cast<std::size_t>(j * s.columns + n)];
  }

  bool scaled() const { return arithmetic == &isa.i8; }
  double scale_of_value(std::int64_t j) const {
    return scaled() ? static_cast<double>(value_scales[j]) : 1;
  }

  void draw_values(Random& random);
  void draw_row(std::int64_t r, Random& random);
  void expect_row(std::int64_t r);
  void run();
  bool row_is_right(std::int64_t r) const;

  const Kernels& isa;
  const kernels::Arithmetic* arithmetic;  // null for softmax_rows, which makes P alone
  Shape s;
  std::int64_t factor, keys, value_end, depth;
  kernels::PanelLayout layout;
  Guarded<float> scores, out, row_max, row_sum, maxima, value_scales, values;
  std::vector<float> v;  // [keys, columns], which `values` packs
  std::int64_t begin[kernels::tile_rows], end[kernels::tile_rows];
  std::vector<double> expected_p, expected_out, out_size, expected_sum;
  std::vector<float> expected_max;
};

void OnlineSoftmaxCall::draw_values(Random& random) {
  for (std::int64_t j = s.first; j < s.last; ++j) value_scales[j] = small_integer(random) / 3;
  for (std::int64_t j = 0; j < value_end - s.first; ++j) {
    for (std::int64_t n = 0; n < s.columns; ++n)
      v[static_cast<std::size_t>(j * s.columns + n)] = small_integer(random);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    for (std::int64_t n = 0; n < s.columns; ++n) {
      values[place_of_value(k, n)] =
          factor == 1 ? v_at(k, n) : packed_pair(v_at(2 * k, n), v_at(2 * k + 1, n));
    }
  }
}

void OnlineSoftmaxCall::draw_row(std::int64_t r, Random& random) {
  begin[r] = s.first;
  end[r] = s.last;
  if (!s.with_maxima) {
    begin[r] = random.integer(s.first, value_end);
    end[r] = random.integer(begin[r], value_end);
  }
  row_max[r] = s.started ? static_cast<float>(random.integer(-32, 32)) / 8 : -infinity;
  row_sum[r] = s.started ? 1.5f : 0.f;
  for (std::int64_t j = s.first; j < s.last; ++j) {
    // Without a limit from begin and end, columns past value_end are hidden by their scores.
    const bool hidden = j >= value_end || random.chance(0.1);
    const float x = hidden ? -infinity : static_cast<float>(random.integer(-64, 64)) / 8;
    scores[r * stride() + j] = x;
    float& lane = maxima[r * isa.vector_width + j % isa.vector_width];
    lane = std::max(lane, x);
  }
  for (std::int64_t n = 0; n < s.columns; ++n)
    out[r * out_stride() + n] = s.started ? small_integer(random) : 0.f;
}

void OnlineSoftmaxCall::expect_row(std::int64_t r) {
  double greatest = row_max[r];
  for (std::int64_t j = begin[r]; j < end[r]; ++j)
    greatest = std::max<double>(greatest, scores[r * stride() + j]);
  const double rescale =
      std::isinf(row_max[r]) ? 0 : std::exp2(0.5 * (static_cast<double>(row_max[r]) - greatest));
  double sum = rescale * row_sum[r];
  for (std::int64_t n = 0; n < s.columns; ++n) {
    expected_out.push_back(rescale * out[r * out_stride() + n]);
    out_size.push_back(std::fabs(expected_out.back()));
  }
  for (std::int64_t j = s.first; j < s.last; ++j) {
    const float x = scores[r * stride() + j];
    const bool visible = j >= begin[r] && j < end[r] && !std::isinf(x);
    const double probability = visible ? std::exp2(0.5 * (x - greatest)) : 0;
    expected_p.push_back(probability);
    sum += probability;
    for (std::int64_t n = 0; n < s.columns && arithmetic != nullptr && visible; ++n) {
      const double part = probability * scale_of_value(j) * v_at(j - s.first, n);
      expected_out[static_cast<std::size_t>(r * s.columns + n)] += part;
      out_size[static_cast<std::size_t>(r * s.columns + n)] += std::fabs(part);
    }
  }
  expected_sum.push_back(sum);
  expected_max.push_back(static_cast<float>(greatest));
}

void OnlineSoftmaxCall::run() {
  out.remember();
  row_max.remember();
  row_sum.remember();
  const kernels::SoftmaxTile tile{.scores = scores.data(),
                                  .stride = stride(),
                                  .rows = s.rows,
                                  .begin = begin,
                                  .end = end,
                                  .first = s.first,
                                  .last = s.last,
                                  .scale = 0.5f,
                                  .maxima = s.with_maxima ? maxima.data() : nullptr,
                                  .row_max = row_max.data(),
                                  .row_sum = row_sum.data(),
                                  .value_scales = scaled() ? value_scales.data() : nullptr,
                                  .values = {values.data(), layout},
                                  .value_end = value_end,
                                  .out = out.data(),
                                  .out_stride = out_stride(),
                                  .columns = s.columns};
  arithmetic == nullptr ? isa.softmax_rows(tile) : arithmetic->online_softmax(tile);
}

bool OnlineSoftmaxCall::row_is_right(std::int64_t r) const {
  const double sums = exp_error + (static_cast<double>(keys) + 2) * eps / 2;
  const double rounding = factor == 2 ? 0x1p-8 : 0;  // of P to bf16
  const auto row = static_cast<std::size_t>(r);
  bool good = row_max[r] == expected_max[row];
  good &= std::fabs(row_sum[r] - expected_sum[row]) <= 2 * sums * expected_sum[row];
  for (std::int64_t j = 0; j < keys && factor == 1; ++j) {
    const double probability = expected_p[row * static_cast<std::size_t>(keys) + j];
    good &= std::fabs(scores[r * stride() + s.first + j] - probability) <= exp_error * probability;
  }
  for (std::int64_t n = 0; n < s.columns; ++n) {
    const std::size_t at = row * static_cast<std::size_t>(s.columns) + n;
    good &= std::fabs(out[r * out_stride() + n] - expected_out[at]) <=
            (2 * sums + rounding) * out_size[at];
  }
  return good;
}

void check_online_softmax(const Kernels& kernels, const kernels::Arithmetic* arithmetic,
                          const Shape& s, Random& random) {
  CAPTURE(s.rows);
  CAPTURE(s.first);
  CAPTURE(s.last);
  CAPTURE(s.columns);
  CAPTURE(s.with_maxima);
  CAPTURE(s.started);
  OnlineSoftmaxCall call(kernels, arithmetic, s, random);
  call.draw_values(random);
  for (std::int64_t r = 0; r < s.rows; ++r) {
    call.draw_row(r, random);
    call.expect_row(r);
  }
  call.run();
  bool good = true;
  for (std::int64_t r = 0; r < s.rows; ++r) good &= call.row_is_right(r);
  CHECK(good);
  CHECK(call.out.only_changed(s.rows, call.out_stride(), s.columns));
  CHECK(call.row_max.only_changed(1, 0, s.rows));
  CHECK(call.row_sum.only_changed(1, 0, s.rows));
  const std::int64_t first_written = s.first / call.factor;
  if (s.rows == 1 && first_written > 0)  // the gap before it belongs to no row's range
    CHECK(std::isnan(call.scores[first_written - 1]));
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

/// Several rows at once; `y`, `scaled` and the like are results of one kernel each.
void check_rows(const Kernels& kernels, const Guarded<float>& x, std::int64_t num,
                std::int64_t count) {
  const auto& rows = kernels.rows;
  const std::int64_t stride = count + 3;
  const kernels::FloatRows all{x.data(), stride, num, count};
  Guarded<float> y(x.size()), maxima(num), scaled(x.size()), scaled_terms(x.size()), logs(x.size());
  const std::vector<kernels::ExpReduction> plain(16, kernels::plain_exponential);
  const std::vector<kernels::SplitFloat> half(16, {0.5f, 0, 0.5f, 0});
  const std::vector<kernels::LogTerms> log_terms(16, {false, 1, 0, 1, {1, 0, 1, 0}, 2.5f, 0});
  std::vector<double> sums(16), stored_sums(16);
  for (Guarded<float>* const result : {&y, &scaled, &scaled_terms, &logs}) result->remember();
  rows.maxima(all, maxima.data());
  rows.sum_terms(all, plain.data(), {nullptr, 0}, sums.data());
  rows.sum_terms(all, plain.data(), {y.data(), stride}, stored_sums.data());
  rows.scale({y.data(), stride, num, count}, half.data(), {scaled.data(), stride});
  rows.scale_terms(all, plain.data(), half.data(), {scaled_terms.data(), stride});
  rows.log_terms(all, log_terms.data(), {logs.data(), stride});
  for (const Guarded<float>* const result : {&y, &scaled, &scaled_terms, &logs})
    CHECK(result->only_changed(num, stride, count));
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
}

/// The kernels of one row, of at least one element.
void check_row(const Kernels& kernels, const float* row, std::int64_t count) {
  const auto& rows = kernels.rows;
  // In double: one rounding of 2^-53 for each element.
  double sum = 0, dot = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    sum += row[n];
    dot += static_cast<double>(row[n]) * row[n];
  }
  const double tiny = static_cast<double>(count) * 0x1p-52;
  CHECK(std::fabs(rows.sum(row, count) - sum) <= tiny * std::fabs(sum));
  CHECK(std::fabs(rows.dot(row, row, count) - dot) <= tiny * dot);
  Guarded<double> scaled_sums(count);
  for (std::int64_t n = 0; n < count; ++n) scaled_sums.data()[n] = 1;
  rows.add_scaled(row, count, 0.3, scaled_sums.data());
  bool exact = true;
  for (std::int64_t n = 0; n < count; ++n) exact &= scaled_sums[n] == 1 + 0.3 * double{row[n]};
  CHECK(exact);
  Guarded<float> gradient(count);
  const kernels::RowGradient g{row, row, count, 0.5f, 2};
  gradient.remember();
  rows.softmax_gradient(g, gradient.data());
  CHECK(gradient.only_changed(1, 0, count));
  bool good = true;
  for (std::int64_t n = 0; n < count; ++n) good &= gradient[n] == row[n] * (row[n] - 0.5f) / 2;
  CHECK(good);
  rows.log_softmax_gradient(g, gradient.data());
  for (std::int64_t n = 0; n < count; ++n) {
    const double e = std::exp(static_cast<double>(row[n])) / 2, expected = (row[n] - e) / 2;
    good &= std::fabs(gradient[n] - expected) <= exp_error * e + eps * std::fabs(expected);
  }
  CHECK(good);
}

}  // namespace

TEST_CASE("online_softmax: every number of rows, vectors of V and chunks of keys") {
  for_each_isa([](const Kernels& kernels) {
    check_shapes(kernels, &kernels.f32);
    if (kernels.bf16.online_softmax != nullptr) check_shapes(kernels, &kernels.bf16);
    if (kernels.i8.online_softmax != nullptr) check_shapes(kernels, &kernels.i8);
  });
}
TEST_CASE("softmax_rows: every number of rows and vectors") {
  for_each_isa([](const Kernels& kernels) { check_shapes(kernels, nullptr); });
}

TEST_CASE("Rows: maxima, sums of terms, scaled terms and logarithms of every length") {
  for_each_isa([](const Kernels& kernels) {
    Random random(6);
    for (std::int64_t count = 0; count <= 9 * kernels.vector_width + 1; ++count) {
      const std::int64_t num = random.integer(1, kernels::rows_at_once), stride = count + 3;
      CAPTURE(count);
      CAPTURE(num);
      Guarded<float> x((num - 1) * stride + count);
      for (std::int64_t r = 0; r < num; ++r) {
        for (std::int64_t n = 0; n < count; ++n)
          x[r * stride + n] = static_cast<float>(-40 * random.uniform());
      }
      check_rows(kernels, x, num, count);
      if (count == 0) continue;
      const float* const last = x.data() + (num - 1) * stride;
      check_row(kernels, last, count);
      x[x.size() - 1] = __builtin_nanf("");
      CHECK(std::isnan(kernels.rows.maximum(last, count)));
    }
  });
}
