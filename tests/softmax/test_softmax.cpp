// softmax, log_softmax and logsumexp against their formulas in double: any length, magnitude and
// temperature, values that are not finite, short rows side by side.
#include <attn/error.hpp>
#include <attn/isa.hpp>
#include <attn/softmax.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/softmax_formulas.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

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

TEST_CASE("log-probabilities are never above 0, and logsumexp never below the greatest element") {
  std::vector<float> values = normal_floats(2000, 0, 60, 7);
  for (int n = -150; n <= 150; ++n) values.push_back(static_cast<float>(n));
  for (const std::int64_t count : {1, 2, 5, 33, 5000}) {
    for (const float temperature : {1.f, 0.3f, 7.f}) {
      // A batch of slices in which one element has nearly all of the probability.
      const std::int64_t slices = count < 5000 ? std::ssize(values) : 40;
      std::vector<float> x(static_cast<std::size_t>(slices * count)), y(x.size());
      for (std::int64_t n = 0; n < slices; ++n) {
        const float greatest = values[static_cast<std::size_t>(n)];
        std::fill_n(x.begin() + n * count, count, greatest - 100 * temperature);
        x[static_cast<std::size_t>(n * count + n % count)] = greatest;
      }
      std::vector<float> sums(static_cast<std::size_t>(slices));
      for (const Isa isa : available_isas()) {
        CAPTURE(name_of(isa));
        CAPTURE(count);
        CAPTURE(temperature);
        log_softmax({x.data(), {slices, count}}, {y.data(), {slices, count}}, 1, temperature,
                    {.isa = isa});
        CHECK(std::count_if(y.begin(), y.end(), [](float log_p) { return !(log_p <= 0); }) == 0);
        CHECK(std::count(y.begin(), y.end(), 0.f) == slices);
        logsumexp({x.data(), {slices, count}}, {sums.data(), {slices}}, 1, temperature,
                  {.isa = isa});
        std::int64_t below = 0;
        for (std::int64_t n = 0; n < slices; ++n) {
          const auto alone = static_cast<double>(values[static_cast<std::size_t>(n)]) /
                             static_cast<double>(temperature);
          below += sums[static_cast<std::size_t>(n)] < static_cast<float>(alone) ? 1 : 0;
        }
        CHECK(below == 0);
      }
    }
  }
}

TEST_CASE("the log-probability of a class that has nearly all of it keeps its digits") {
  for (const std::int64_t count : {2, 7, 100, 5000}) {
    for (const float below : {13.f, 20.f, 50.f, 80.f}) {
      for (const float greatest : {-150.f, -3.3f, 0.f, 17.7f, 101.25f}) {
        std::vector<float> x(static_cast<std::size_t>(count), greatest - below), y(x.size());
        x[static_cast<std::size_t>(count / 2)] = greatest;
        const double others = static_cast<double>(count - 1) *
                              std::exp(static_cast<double>(x[0]) - static_cast<double>(greatest));
        if (others > 0x1p-21) continue;
        for (const Isa isa : available_isas()) {
          log_softmax({x.data(), {count}}, {y.data(), {count}}, 0, 1, {.isa = isa});
          const double log_p = y[static_cast<std::size_t>(count / 2)];
          // x less the greatest, the other terms and what they add up to are floats.
          const double rounding = 2e-7 + (static_cast<double>(count) + double{below}) * 0x1p-24;
          CHECK(std::abs(log_p + std::log1p(others)) <= rounding * others + 0x1p-52);
        }
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
  std::vector<float> clean(x.begin(), x.end()), changed = clean, a(clean.size()), b(clean.size());
  changed[extent + 3] = nan;
  softmax({clean.data(), {3, extent}}, {a.data(), {3, extent}});
  softmax({changed.data(), {3, extent}}, {b.data(), {3, extent}});
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
