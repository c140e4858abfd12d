// softmax, log_softmax and logsumexp against their formulas in double: ordinary and special values,
// layouts, types, threads and gradients.
#include <attn/attn.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double eps = 0x1p-24;  // the largest relative error of rounding to f32

using Values = std::vector<double>;

struct Exact {
  Values softmax, log_softmax;
  double logsumexp;
};

/// The formulas applied to one slice.
Exact exact_of(const Values& x, double temperature) {
  double greatest = -infinity, sum = 0;
  for (const double value : x) greatest = std::max(greatest, value);
  if (greatest == -infinity &&
      std::none_of(x.begin(), x.end(), [](double value) { return std::isnan(value); })) {
    return {Values(x.size(), 0), Values(x.size(), -infinity), -infinity};
  }
  for (const double value : x) sum += std::exp((value - greatest) / temperature);
  Exact exact{{}, {}, greatest / temperature + std::log(sum)};
  for (const double value : x) {
    exact.softmax.push_back(std::exp((value - greatest) / temperature) / sum);
    exact.log_softmax.push_back((value - greatest) / temperature - std::log(sum));
  }
  return exact;
}

/// The bounds that softmax.hpp gives for all instruction sets. softmax: the exponential has an
/// error of at most 0.7 ulp (0.99 on the baseline), the sum the same where one element makes most
/// of it, and the quotient is rounded once more. log_softmax: two roundings (three on the
/// baseline), of which the first is that of a difference as large as the result, or of parts of
/// 2^-24 of it; and the error of the sum.
constexpr double promised = 2e-7;

bool same_kind(double got, double wanted) {
  return std::isfinite(wanted)
             ? std::isfinite(got)
             : std::bit_cast<std::int64_t>(got) == std::bit_cast<std::int64_t>(wanted) ||
                   (std::isnan(got) && std::isnan(wanted));
}

std::string wrong_softmax(const Values& got, const Values& wanted, double tolerance,
                          double least = 1e-36) {
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    // Results below 1e-30 may have subnormal intermediate values.
    const double allowed = wanted[n] > 1e-30 ? std::max(tolerance * wanted[n], least) : least;
    if (!same_kind(got[n], wanted[n]) || std::abs(got[n] - wanted[n]) > allowed) {
      return fmt::format("element {}: {:.9g}, exactly {:.17g}, off by {:.3g} of it", n, got[n],
                         wanted[n], std::abs(got[n] - wanted[n]) / wanted[n]);
    }
  }
  return "";
}

std::string wrong_log(const Values& got, const Values& wanted, double tolerance) {
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    if (static_cast<float>(wanted[n]) == static_cast<float>(got[n]))
      continue;  // infinities, and values that become infinite in f32
    if (std::isnan(wanted[n]) && std::isnan(got[n])) continue;
    if (!(std::abs(got[n] - wanted[n]) <= tolerance * std::max(1., std::abs(wanted[n])))) {
      return fmt::format("element {}: {:.9g}, exactly {:.17g}", n, got[n], wanted[n]);
    }
  }
  return "";
}

Values as_values(const std::vector<float>& floats) { return Values(floats.begin(), floats.end()); }

/// Checks all three functions for one slice, on all instruction sets.
void check_slice(const std::vector<float>& x, float temperature) {
  const Exact exact = exact_of(as_values(x), temperature);
  const Dims shape{static_cast<std::int64_t>(x.size())};
  for (const Isa isa : available_isas()) {
    CAPTURE(name_of(isa));
    CAPTURE(x.size());
    CAPTURE(temperature);
    std::vector<float> y(x.size());
    softmax({x.data(), shape}, {y.data(), shape}, 0, temperature, {.isa = isa});
    CHECK(wrong_softmax(as_values(y), exact.softmax, promised) == "");
    log_softmax({x.data(), shape}, {y.data(), shape}, 0, temperature, {.isa = isa});
    CHECK(wrong_log(as_values(y), exact.log_softmax, promised) == "");
    float sum = 0;
    logsumexp({x.data(), shape}, {&sum, Dims{}}, 0, temperature, {.isa = isa});
    // The result is rounded once, after the error of the sum.
    CHECK(wrong_log({sum}, {exact.logsumexp}, promised) == "");
  }
}

std::vector<float> normal_floats(std::int64_t count, double mean, double deviation,
                                 std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values;
  for (std::int64_t n = 0; n < count; ++n)
    values.push_back(static_cast<float>(mean + deviation * random.normal()));
  return values;
}

/// Applies f to each slice of x and returns the results as one dense array: f(slice) returns as
/// many values as the slice has, or one.
Values by_slices(const Values& x, const Dims& shape, int dim,
                 const std::function<Values(const Values&)>& f) {
  std::int64_t inner = 1, extent = shape[dim];
  for (int n = dim + 1; n < shape.rank(); ++n) inner *= shape[n];
  const std::int64_t outer =
      extent == 0 || inner == 0 ? 0 : static_cast<std::int64_t>(x.size()) / extent / inner;
  Values result;
  bool reduced = false;
  std::vector<Values> slices;
  for (std::int64_t slice = 0; slice < outer * inner; ++slice) {
    Values one;
    for (std::int64_t n = 0; n < extent; ++n)
      one.push_back(
          x[static_cast<std::size_t>((slice / inner * extent + n) * inner + slice % inner)]);
    slices.push_back(f(one));
    reduced = slices.back().size() == 1 && extent != 1;
  }
  if (reduced || extent == 1) {
    for (const Values& one : slices) result.push_back(one[0]);
    return result;
  }
  result.resize(x.size());
  for (std::int64_t slice = 0; slice < outer * inner; ++slice) {
    for (std::int64_t n = 0; n < extent; ++n) {
      result[static_cast<std::size_t>((slice / inner * extent + n) * inner + slice % inner)] =
          slices[static_cast<std::size_t>(slice)][static_cast<std::size_t>(n)];
    }
  }
  return result;
}

/// Half an ulp of a type, relative.
double rounding_of(DType dtype) {
  return dtype == DType::f32 ? 0 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
}

Values normal_values(std::int64_t count, std::uint64_t seed) {
  const std::vector<float> floats = normal_floats(count, 0, 1, seed);
  return as_values(floats);
}

}  // namespace

TEST_CASE(
    "softmax, log_softmax and logsumexp are their formulas, whatever the length, the place and the "
    "temperature") {
  std::uint64_t seed = 1;
  for (const std::int64_t count :
       {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 127, 1000, 2047, 4096, 4097, 8192, 20000}) {
    for (const double mean : {0., 80., -170., 185., 3000., -1e6}) {
      for (const float temperature : {1.f, 0.7f, 3.f})
        check_slice(normal_floats(count, mean, 5, seed++), temperature);
    }
  }
  for (const double deviation : {0.01, 1., 20., 100.})
    check_slice(normal_floats(100003, 0, deviation, seed++), 1);
}

TEST_CASE("a million elements lose no digits") {
  check_slice(normal_floats(1000000, 0, 1, 5), 1);
  check_slice(std::vector<float>(1000000, 0.3f), 1);
  std::vector<float> tail(
      1000000, -16.f);  // each is below half an ulp of 1, so a float sum would lose all of them
  tail[12345] = 0;
  check_slice(tail, 1);
}

TEST_CASE("equal elements share exactly, and one element is all") {
  for (const Isa isa : available_isas()) {
    for (const std::int64_t count : {1, 2, 3, 7, 16, 100, 4099}) {
      for (const float value : {0.f, 0.3f, -77.1f, 1234.5f, 3e38f}) {
        const std::vector<float> x(static_cast<std::size_t>(count), value);
        std::vector<float> y(x.size());
        softmax({x.data(), {count}}, {y.data(), {count}}, 0, 1, {.isa = isa});
        const float share = static_cast<float>(1. / static_cast<double>(count));
        CHECK(std::all_of(y.begin(), y.end(),
                          [&](float p) { return std::abs(p - share) <= share * 0x1p-23f; }));
        if (count == 1) CHECK(y[0] == 1);
      }
    }
  }
}

TEST_CASE("no temperature and no magnitude overflows") {
  const std::vector<float> wide = {3e38f, -3e38f, 0, 1e38f, 2.9999998e38f, 1e-40f};
  const std::vector<float> small = {1e-38f, 2e-38f, -1e-38f, 3e-45f, 0};
  for (const float temperature : {1e-45f, 1e-38f, 1e-30f, 1e-20f, 1.f, 1e20f, 1e30f, 3e38f}) {
    check_slice(wide, temperature);
    check_slice(small, temperature);
    check_slice(normal_floats(100, 0, 1, 3), temperature);
  }
}

TEST_CASE("-inf has probability 0; NaN and +inf make NaN, in their own slice only") {
  constexpr float inf = std::numeric_limits<float>::infinity(),
                  nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::int64_t count : {1, 5, 16, 40, 300}) {
    std::vector<float> x = normal_floats(count, 0, 1, 9);
    for (const float temperature : {1.f, 0.5f, 1e-35f}) {
      for (const std::int64_t at : {std::int64_t{0}, count / 2, count - 1}) {
        for (const float special : {-inf, inf, nan}) {
          std::vector<float> with = x;
          with[static_cast<std::size_t>(at)] = special;
          check_slice(with, temperature);
          std::vector<float> hidden(x.size(), -inf);
          hidden[static_cast<std::size_t>(at)] = special;
          check_slice(hidden, temperature);
        }
      }
    }
  }
  // The slices beside it keep their results.
  const std::int64_t extent = 37;
  Values x = normal_values(3 * extent, 4);
  std::vector<float> clean(x.begin(), x.end()), spoilt = clean, a(clean.size()), b(clean.size());
  spoilt[extent + 3] = nan;
  softmax({clean.data(), {3, extent}}, {a.data(), {3, extent}});
  softmax({spoilt.data(), {3, extent}}, {b.data(), {3, extent}});
  for (std::int64_t n = 0; n < extent; ++n) {
    CHECK(a[static_cast<std::size_t>(n)] == b[static_cast<std::size_t>(n)]);
    CHECK(std::isnan(b[static_cast<std::size_t>(extent + n)]));
    CHECK(a[static_cast<std::size_t>(2 * extent + n)] ==
          b[static_cast<std::size_t>(2 * extent + n)]);
  }
}

namespace {

/// Rows of all kinds of values, one after the other.
std::vector<float> row_of_kind(std::int64_t kind, std::int64_t count, std::uint64_t seed) {
  constexpr float inf = std::numeric_limits<float>::infinity(),
                  nan = std::numeric_limits<float>::quiet_NaN();
  const auto at = static_cast<std::size_t>(seed % static_cast<std::uint64_t>(count));
  std::vector<float> row = normal_floats(count,
                                         kind % 8 == 1   ? 3000
                                         : kind % 8 == 2 ? -170
                                                         : 0,
                                         3, seed);
  if (kind % 8 == 3 || kind % 8 == 6) row.assign(row.size(), -inf);
  if (kind % 8 == 4 || kind % 8 == 6) row[at] = nan;
  if (kind % 8 == 5) row[at] = inf;
  if (kind % 8 == 7) row[at] = -inf;
  return row;
}

/// Rows of all kinds of values with gaps between them: each result agrees with the formula, and has
/// the bits that it has when the row is processed alone.
void check_rows(std::int64_t rows, std::int64_t count, float temperature, Isa isa) {
  CAPTURE(name_of(isa));
  CAPTURE(rows);
  CAPTURE(count);
  CAPTURE(temperature);
  const std::int64_t stride = count + 3;
  const Dims shape{rows, count};
  std::vector<float> x(static_cast<std::size_t>(rows * stride), 1e30f),
      y(static_cast<std::size_t>(rows * count)), logs(y);
  std::vector<float> sums(static_cast<std::size_t>(rows)), alone(static_cast<std::size_t>(count)),
      log_alone(alone);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::vector<float> row =
        row_of_kind(r, count, static_cast<std::uint64_t>(r * 1000 + count));
    std::copy(row.begin(), row.end(), x.begin() + r * stride);
  }
  const TensorView all(x.data(), shape, {stride, 1});
  softmax(all, {y.data(), shape}, 1, temperature, {.isa = isa});
  log_softmax(all, {logs.data(), shape}, 1, temperature, {.isa = isa});
  logsumexp(all, {sums.data(), {rows}}, 1, temperature, {.isa = isa});
  const auto same = [](const float* a, const float* b, std::int64_t n) {
    return std::equal(a, a + n, b, [](float one, float other) {
      return std::bit_cast<std::int32_t>(one) == std::bit_cast<std::int32_t>(other);
    });
  };
  for (std::int64_t r = 0; r < rows; ++r) {
    CAPTURE(r);
    const float* const row = x.data() + r * stride;
    const Exact exact = exact_of(Values(row, row + count), temperature);
    const float *const p = y.data() + r * count, *const log_p = logs.data() + r * count;
    CHECK(wrong_softmax(Values(p, p + count), exact.softmax, promised) == "");
    CHECK(wrong_log(Values(log_p, log_p + count), exact.log_softmax, promised) == "");
    CHECK(wrong_log({sums[static_cast<std::size_t>(r)]}, {exact.logsumexp}, promised) == "");
    float sum = 0;
    softmax({row, {count}}, {alone.data(), {count}}, 0, temperature, {.isa = isa});
    log_softmax({row, {count}}, {log_alone.data(), {count}}, 0, temperature, {.isa = isa});
    logsumexp({row, {count}}, {&sum, Dims{}}, 0, temperature, {.isa = isa});
    CHECK(same(alone.data(), p, count));
    CHECK(same(log_alone.data(), log_p, count));
    CHECK(same(&sum, &sums[static_cast<std::size_t>(r)], 1));
  }
}

}  // namespace

TEST_CASE("short rows of all kinds, side by side: each is its formula, and what it is alone") {
  for (const Isa isa : available_isas()) {
    for (std::int64_t count = 1; count <= 4 * 16 + 1; ++count)
      check_rows(19, count, count % 3 == 0 ? 0.5f : 1.f, isa);
    for (std::int64_t rows = 1; rows <= 34; ++rows) check_rows(rows, 21, 1, isa);
    for (const std::int64_t count : {127, 255, 256, 257, 273, 1024, 2048, 4095, 4096, 4097})
      check_rows(9, count, 1, isa);
    for (const float temperature : {1e-45f, 1e-30f, 1e30f}) check_rows(18, 40, temperature, isa);
  }
}

TEST_CASE("any layout, type and dim; thread counts change no bit; gaps are left alone") {
  std::uint64_t seed = 100;
  for (const Dims& shape : {Dims{2, 3, 5, 7}, Dims{1, 4, 33, 21}, Dims{3, 2, 20, 34},
                            Dims{2, 1, 17, 1}, Dims{2, 0, 3, 4}, Dims{1, 5, 2, 530}}) {
    const Values x = normal_values(shape.product(), seed++);
    for (int dim = -4; dim < 4; ++dim) {
      for (const Layout in :
           {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
        const Layout out = in == Layout::bshd     ? Layout::reversed
                           : in == Layout::padded ? Layout::bshd
                                                  : in;
        const DType from = seed % 3 == 0 ? DType::bf16 : seed % 3 == 1 ? DType::f32 : DType::f16;
        const DType to = seed % 4 == 0 ? DType::f16 : seed % 4 == 1 ? DType::bf16 : DType::f32;
        ++seed;
        CAPTURE(shape.to_string());
        CAPTURE(dim);
        CAPTURE(name_of(in));
        StridedTensor source(from, shape, in);
        source.assign(x);
        const int along = dim < 0 ? dim + 4 : dim;
        const Values wanted = by_slices(source.values(), shape, along,
                                        [](const Values& one) { return exact_of(one, 1).softmax; });
        const Values sums = by_slices(source.values(), shape, along, [](const Values& one) {
          return Values{exact_of(one, 1).logsumexp};
        });
        StridedTensor first(to, shape, out), second(to, shape, out);
        softmax(source.view(), first.view(), dim, 1, {.num_threads = 1});
        softmax(source.view(), second.view(), dim, 1, {.num_threads = 3});
        CHECK(wrong_softmax(first.values(), wanted, promised + 1.01 * rounding_of(to),
                            to == DType::f16 ? 0x1p-25 : 1e-36) == "");
        CHECK(first.bits() == second.bits());
        CHECK(first.gaps_untouched());
        if (shape[along] > 1 && shape.product() > 0) {
          std::vector<float> got(sums.size());
          Dims rest{0, 0, 0};
          for (int n = 0, kept = 0; n < 4; ++n) {
            if (n != along) rest[kept++] = shape[n];
          }
          logsumexp(source.view(), {got.data(), rest}, dim);
          CHECK(wrong_log(as_values(got), sums, 3e-7) == "");
        }
        if (from == to) {
          softmax(source.view(), source.view(), dim);
          StridedTensor apart(to, shape, in);
          StridedTensor again(from, shape, in);
          again.assign(x);
          softmax(again.view(), apart.view(), dim);
          CHECK(source.bits() == apart.bits());
        }
      }
    }
  }
}

TEST_CASE("broadcast inputs, rank 1, and extents of 0") {
  const std::vector<float> row = normal_floats(40, 0, 1, 8);
  const Exact exact = exact_of(as_values(row), 1);
  std::vector<float> y(120);
  softmax(TensorView(row.data(), {3, 40}, {0, 1}), {y.data(), {3, 40}});
  for (int n = 0; n < 3; ++n)
    CHECK(wrong_softmax(Values(y.begin() + 40 * n, y.begin() + 40 * (n + 1)), exact.softmax,
                        promised) == "");
  softmax(TensorView(row.data(), {40, 3}, {1, 0}), {y.data(), {40, 3}}, -1);
  CHECK(std::all_of(y.begin(), y.end(), [](float p) { return p == 1.f / 3; }));
  float sum[3] = {};
  logsumexp(TensorView(row.data(), DType::f32, {3, 0}), {sum, {3}});
  CHECK(sum[1] == -std::numeric_limits<float>::infinity());
  softmax(TensorView(nullptr, DType::f32, {0, 5}), MutableTensorView(nullptr, DType::f32, {0, 5}));
}

TEST_CASE("the memory of great tensors is written in full") {
  // More elements than the caches hold, and in place.
  const Dims shape{700, 24001};
  Tensor x(DType::f32, shape), y(DType::f32, shape), one(DType::f32, shape);
  Random random(3);
  for (std::int64_t n = 0; n < x.size(); ++n)
    x.data<float>()[n] = static_cast<float>(random.bits() % 1000) * 0.01f;
  softmax(x.view(), y.view());
  for (std::int64_t row : {0, 1, 350, 699}) {
    const float* const from = x.data<float>() + row * shape[1];
    const float* const got = y.data<float>() + row * shape[1];
    CHECK(wrong_softmax(Values(got, got + shape[1]),
                        exact_of(Values(from, from + shape[1]), 1).softmax, promised) == "");
  }
  softmax(x.view(), one.view(), -1, 1, {.num_threads = 1});
  CHECK(std::equal(y.data<float>(), y.data<float>() + y.size(), one.data<float>()));
  softmax(x.view(), x.view());
  CHECK(std::equal(y.data<float>(), y.data<float>() + y.size(), x.data<float>()));
}

namespace {

/// sum_i weights_i f(x)_i, and its derivative with respect to each x by a central difference. f is
/// smooth on the scale of 1, so a step h has an error of order h^2 = 1e-10 plus eps(double) / h =
/// 2e-11.
Values numeric_gradient(const Values& x, const Values& weights,
                        const std::function<Values(const Values&)>& f) {
  constexpr double step = 1e-5;
  const auto value = [&](const Values& at) {
    const Values y = f(at);
    double sum = 0;
    for (std::size_t n = 0; n < y.size(); ++n) sum += weights[n] * y[n];
    return sum;
  };
  Values gradient;
  for (std::size_t n = 0; n < x.size(); ++n) {
    Values up = x, down = x;
    up[n] += step;
    down[n] -= step;
    gradient.push_back((value(up) - value(down)) / (2 * step));
  }
  return gradient;
}

/// Values of order 1 are rounded about four times; sums of them are double.
void check_gradient(const std::vector<float>& got, const Values& wanted, double temperature) {
  for (std::size_t n = 0; n < wanted.size(); ++n)
    CHECK(std::abs(got[n] - wanted[n]) <= (16 * eps + 1e-9) * 4 / std::min(temperature, 1.));
}

}  // namespace

TEST_CASE("gradients are those of the formulas") {
  std::uint64_t seed = 50;
  for (const Isa isa : available_isas()) {
    for (const std::int64_t count : {1, 2, 5, 16, 33, 70}) {
      for (const float temperature : {1.f, 0.5f, 2.5f}) {
        const std::vector<float> x = normal_floats(count, 0, 1, seed++),
                                 dy = normal_floats(count, 0, 1, seed++);
        const Execution execution{.isa = isa};
        const Dims shape{count};
        std::vector<float> y(x.size()), dx(x.size());
        const Values exact_x = as_values(x), weights = as_values(dy);
        softmax({x.data(), shape}, {y.data(), shape}, 0, temperature, execution);
        softmax_backward({dy.data(), shape}, {y.data(), shape}, {dx.data(), shape}, 0, temperature,
                         execution);
        check_gradient(
            dx,
            numeric_gradient(exact_x, weights,
                             [&](const Values& at) { return exact_of(at, temperature).softmax; }),
            temperature);
        softmax_backward({dy.data(), shape}, {y.data(), shape}, {y.data(), shape}, 0, temperature,
                         execution);
        CHECK(y == dx);
        log_softmax({x.data(), shape}, {y.data(), shape}, 0, temperature, execution);
        log_softmax_backward({dy.data(), shape}, {y.data(), shape}, {dx.data(), shape}, 0,
                             temperature, execution);
        // The sum of dy is of order sqrt(count).
        check_gradient(dx,
                       numeric_gradient(
                           exact_x, weights,
                           [&](const Values& at) { return exact_of(at, temperature).log_softmax; }),
                       temperature / 4);
        std::vector<float> in_place = dy;
        log_softmax_backward({in_place.data(), shape}, {y.data(), shape}, {in_place.data(), shape},
                             0, temperature, execution);
        CHECK(in_place == dx);
        float out = 0;
        logsumexp({x.data(), shape}, {&out, Dims{}}, 0, temperature, execution);
        logsumexp_backward({dy.data(), Dims{}}, {x.data(), shape}, {&out, Dims{}},
                           {dx.data(), shape}, 0, temperature, execution);
        check_gradient(dx,
                       numeric_gradient(exact_x, {weights[0]},
                                        [&](const Values& at) {
                                          return Values{exact_of(at, temperature).logsumexp};
                                        }),
                       temperature);
      }
    }
  }
}

TEST_CASE("gradients of slices that nothing is to be had from") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> hidden(20, -inf), dy = normal_floats(20, 0, 1, 2);
  std::vector<float> y(20), dx(20, 7.f);
  float out = 0;
  logsumexp({hidden.data(), {20}}, {&out, Dims{}});
  logsumexp_backward({dy.data(), Dims{}}, {hidden.data(), {20}}, {&out, Dims{}}, {dx.data(), {20}});
  CHECK(std::all_of(dx.begin(), dx.end(), [](float d) { return d == 0; }));
  softmax({hidden.data(), {20}}, {y.data(), {20}});
  softmax_backward({dy.data(), {20}}, {y.data(), {20}}, {dx.data(), {20}});
  CHECK(std::all_of(dx.begin(), dx.end(), [](float d) { return d == 0; }));
  log_softmax({hidden.data(), {20}}, {y.data(), {20}});
  log_softmax_backward({dy.data(), {20}}, {y.data(), {20}}, {dx.data(), {20}});
  CHECK(dx == dy);
}

TEST_CASE("calls that do not fit are refused, and write nothing") {
  std::vector<float> x(12, 1.f), y(12, 5.f);
  const TensorView in(x.data(), {3, 4});
  const MutableTensorView out(y.data(), {3, 4});
  const auto refusal = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.code() == ErrorCode::invalid_argument ? error.what() : "another code";
    }
    return "none";
  };
  const auto names = [&](const char* word, const std::function<void()>& call) {
    const std::string message = refusal(call);
    CAPTURE(message);
    CHECK(message.find(word) != std::string::npos);
    CHECK(std::all_of(y.begin(), y.end(), [](float value) { return value == 5; }));
  };
  names("dim", [&] { softmax(in, out, 2); });
  names("dim", [&] { log_softmax(in, out, -3); });
  names("y has shape", [&] { softmax(in, {y.data(), {4, 3}}); });
  names("out has shape", [&] { logsumexp(in, {y.data(), {4}}, -1); });
  names("temperature", [&] { softmax(in, out, -1, 0); });
  names("temperature", [&] { softmax(in, out, -1, -1); });
  names("temperature", [&] {
    logsumexp(in, {y.data(), {3}}, -1, std::numeric_limits<float>::infinity());
  });
  names("temperature", [&] { log_softmax(in, out, -1, std::numeric_limits<float>::quiet_NaN()); });
  names("x has type", [&] { softmax(TensorView(x.data(), DType::i32, {3, 4}), out); });
  names("y has type", [&] { softmax(in, MutableTensorView(y.data(), DType::i32, {3, 4})); });
  names("x of shape", [&] { softmax(TensorView(nullptr, DType::f32, {3, 4}), out); });
  names("stride 0", [&] { softmax(in, MutableTensorView(y.data(), {3, 4}, {0, 1})); });
  names("rank 0",
        [&] { softmax(TensorView(x.data(), Dims{}), MutableTensorView(y.data(), Dims{})); });
  names("num_threads", [&] { softmax(in, out, -1, 1, {.num_threads = 0}); });
  names("y has shape", [&] { softmax_backward(in, {x.data(), {4, 3}}, out); });
  names("dout has shape", [&] { logsumexp_backward(in, in, in, out); });
}
