// sparsemax and entmax against a plain derivation in long double, and against the conditions that
// define the solution.
#include <attn/softmax.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "support/plain_entmax.hpp"
#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Floats = std::vector<float>;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double half_ulp = 0x1p-24;  // the largest relative error of rounding to f32

struct Result {
  Floats y;
  float tau = 0;
  std::int64_t support = -1;
};

Result run(const Floats& x, float alpha, const Execution& execution = {}) {
  const auto count = static_cast<std::int64_t>(x.size());
  Result result{Floats(x.size(), -1)};
  entmax(TensorView(x.data(), {count}), MutableTensorView(result.y.data(), {count}), alpha, -1,
         {MutableTensorView(&result.tau, Dims{}), MutableTensorView(&result.support, Dims{})},
         execution);
  return result;
}

/// Small multiples of 2^-12: x - max x is exact, so nothing is lost before entmax begins.
Floats grid(std::int64_t count, double scale, std::uint64_t seed) {
  Random random(seed);
  Floats x;
  for (std::int64_t n = 0; n < count; ++n)
    x.push_back(static_cast<float>(std::round(random.normal() * scale * 0x1p12) * 0x1p-12));
  return x;
}

/// The tolerance of y. For alpha = 1.5 and 2 the part of x above the threshold is rounded at most
/// twice, squared, and its square rounded: 5 half ulps; the error of the threshold changes the sum
/// of y by at most 2^-23. For other alpha everything is double until y is rounded. softmax: see
/// softmax.hpp.
double tolerance(float alpha, double y) {
  if (alpha == 1) return 2e-7 * y + 1e-30;
  if (alpha == 1.5F || alpha == 2) return 5 * half_ulp * y + 0x1p-23;
  return half_ulp * y + 1e-9;
}

void check_against_plain(const Floats& x, float alpha, const Execution& execution) {
  const PlainEntmax wanted = plain_entmax({x.begin(), x.end()}, alpha);
  const Result got = run(x, alpha, execution);
  double worst = 0, sum = 0;
  for (std::size_t n = 0; n < x.size(); ++n) {
    const double y = static_cast<double>(wanted.y[n]);
    worst = std::max(worst, std::fabs(got.y[n] - y) / tolerance(alpha, y));
    sum += got.y[n];
  }
  CHECK(worst <= 1);
  CHECK(std::fabs(sum - 1) <= 5 * half_ulp + 0x1p-23);
  const double tau = static_cast<double>(wanted.tau);
  CHECK(std::fabs(got.tau - tau) <= half_ulp * std::fabs(tau) * (alpha == 1 ? 4 : 1) + 0x1p-23);
  if (alpha == 1) return;
  constexpr long double margin = 1e-6L;  // closer to the threshold, rounding decides
  const auto above = [&](long double by) {
    return std::count_if(wanted.above.begin(), wanted.above.end(),
                         [by](long double distance) { return distance > by; });
  };
  CHECK(got.support >= above(alpha > 2 ? 0 : margin));
  CHECK(got.support <= above(alpha > 2 ? 0 : -margin));
  if (alpha >= 1.5F)
    CHECK(got.support == std::count_if(got.y.begin(), got.y.end(), [](float y) { return y > 0; }));
}

/// Checks the conditions of a solution: y^(alpha - 1) = (alpha - 1) x - tau on the support,
/// (alpha - 1) x <= tau elsewhere, and a sum of 1. x - max x has an error of half an ulp of at most
/// 1 / (alpha - 1), the threshold has as much, and tau and y are rounded.
void check_certificate(const Floats& x, float alpha, const Execution& execution) {
  CAPTURE(alpha);
  const Result got = run(x, alpha, execution);
  const double factor = static_cast<double>(alpha) - 1;
  double sum = 0, worst = 0;
  std::int64_t support = 0;
  for (std::size_t n = 0; n < x.size(); ++n) {
    sum += got.y[n];
    support += got.y[n] > 0;
    const double above = factor * x[n] - got.tau;
    worst = std::max(worst, got.y[n] > 0 ? std::fabs(std::pow(got.y[n], factor) - above) : above);
  }
  CHECK(std::fabs(sum - 1) <= 1e-6);
  CHECK(got.support == support);
  CHECK(worst <= half_ulp * (std::fabs(got.tau) + 4 + 2 * factor) + 0x1p-23);
}

template <class F>
void with_each_isa(F&& f) {
  for (const Isa isa : available_isas()) {
    INFO(name_of(isa));
    f(Execution{.isa = isa});
  }
}

}  // namespace

TEST_CASE("every alpha, against the plain derivation") {
  for (const std::int64_t count : {1, 2, 3, 5, 15, 16, 17, 33, 100, 300}) {
    for (const double scale : {0.002, 0.05, 1., 6.}) {
      for (const float alpha :
           {1.F, 1.000001F, 1.0001F, 1.001F, 1.25F, 1.5F, 1.75F, 2.F, 2.5F, 4.F, 10.F, 50.F}) {
        CAPTURE(count);
        CAPTURE(scale);
        CAPTURE(alpha);
        const Floats x = grid(count, scale, static_cast<std::uint64_t>(count) * 31 + 7);
        with_each_isa(
            [&](const Execution& execution) { check_against_plain(x, alpha, execution); });
      }
    }
  }
}

TEST_CASE("alpha = 1.5 and 2 exactly, for rows long enough to be sampled, in every order") {
  for (const std::int64_t count : {2047, 2048, 5000, 40000}) {
    for (const double scale : {0.001, 0.01, 0.3, 4.}) {
      for (const int order : {0, 1, 2}) {
        CAPTURE(count);
        CAPTURE(scale);
        CAPTURE(order);
        Floats x = grid(count, scale, 5);
        if (order == 1) std::sort(x.begin(), x.end());
        if (order == 2) std::sort(x.begin(), x.end(), std::greater<>());
        with_each_isa([&](const Execution& execution) {
          check_against_plain(x, 1.5F, execution);
          check_against_plain(x, 2, execution);
        });
      }
    }
  }
}

TEST_CASE("rows that are hard for a search") {
  std::vector<Floats> rows(5);
  rows[0].push_back(0);
  for (int n = 0; n < 120; ++n)
    rows[0].push_back(-std::exp2(-static_cast<float>(n) / 4));  // each step removes a few elements
  for (int n = 0; n < 3000; ++n)
    rows[1].push_back(static_cast<float>(n % 2) * 0x1p-11F);  // two values, both in the support
  for (int n = 0; n < 100; ++n)
    rows[2].push_back(-static_cast<float>(n) * 0x1p-20F);  // evenly spaced, close together
  rows[3] = Floats(5000, -0.984375F);  // one element, and many that are just inside the support
  rows[3][4999] = 0;
  rows[4] = Floats(3000, -1.F);  // many that are just outside or just inside the support
  rows[4][0] = 0;
  for (const Floats& x : rows) {
    for (const float alpha : {1.5F, 2.F}) {
      CAPTURE(alpha);
      with_each_isa([&](const Execution& execution) { check_against_plain(x, alpha, execution); });
    }
  }
  for (const float alpha : {1.1F, 3.F, 10.F}) {
    CAPTURE(alpha);
    check_against_plain(rows[0], alpha, {});
    check_against_plain(rows[2], alpha, {});
  }
}

TEST_CASE(
    "an element nearer to the threshold than doubles lie to each other may have a probability of "
    "almost half") {
  // For {0, d} with alpha = 10 and d just above -1/9, d is about (1 - (-9 d)^(1/9))^9 above the
  // threshold. Its probability, a power of that, is found by the plain derivation through
  // logarithms.
  for (const float alpha : {2.25F, 4.F, 10.F, 50.F}) {
    for (int n = 1; n < 200; ++n) {
      CAPTURE(alpha);
      CAPTURE(n);
      const float d = -std::pow(1 - static_cast<float>(n) / 300, alpha - 1) / (alpha - 1);
      check_against_plain({0, d}, alpha, {});
      check_against_plain({d, -3, 0, d, 1.001F * d}, alpha, {});
      check_against_plain({0.1F * d, 0, d, 0, 0.5F * d, d}, alpha, {});
    }
  }
}

TEST_CASE("100,000 elements, up to alpha = 10") {
  Random random(3);
  for (const double scale : {1e-4, 0.1, 1.}) {
    CAPTURE(scale);
    Floats x(100000);
    for (float& value : x) value = static_cast<float>(random.normal() * scale);
    for (const float alpha : {1.25F, 1.5F, 2.F}) check_certificate(x, alpha, {});
    for (const float alpha : {3.F, 10.F}) {
      CAPTURE(alpha);
      const Result got = run(x, alpha);
      CHECK(std::fabs(std::accumulate(got.y.begin(), got.y.end(), 0.) - 1) <= 1e-6);
      CHECK(got.support ==
            std::count_if(got.y.begin(), got.y.end(), [](float y) { return y > 0; }));
      // No element outside the support is greater than one inside.
      float least_in = infinity, greatest_out = -infinity;
      for (std::size_t n = 0; n < x.size(); ++n)
        (got.y[n] > 0) ? least_in = std::min(least_in, x[n])
                       : greatest_out = std::max(greatest_out, x[n]);
      CHECK(greatest_out < least_in);
    }
  }
}

TEST_CASE("equal logits get equal shares") {
  for (const std::int64_t count : {1, 7, 1000, 1000000}) {
    for (const float alpha : {1.25F, 1.5F, 2.F, 10.F, 1e30F}) {
      CAPTURE(count);
      CAPTURE(alpha);
      const Result got = run(Floats(static_cast<std::size_t>(count), 2.75F), alpha);
      const float share = 1 / static_cast<float>(count);
      CHECK(got.support == count);
      CHECK(std::all_of(got.y.begin(), got.y.end(),
                        [&](float y) { return std::fabs(y - share) <= 2.4e-7F * share; }));
    }
  }
}

TEST_CASE("a shift changes nothing, a permutation permutes") {
  const Floats x = grid(500, 1, 9);
  Floats shifted = x, reversed(x.rbegin(), x.rend());
  for (float& value : shifted) value += 16;
  for (const float alpha : {1.25F, 1.5F, 2.F, 3.F}) {
    CAPTURE(alpha);
    const Result plain = run(x, alpha);
    const Result of_shifted = run(shifted, alpha), of_reversed = run(reversed, alpha);
    CHECK(of_shifted.y == plain.y);
    CHECK(of_shifted.support == plain.support);
    CHECK(std::fabs(of_shifted.tau - plain.tau - (alpha - 1) * 16) <= 64 * half_ulp);
    CHECK(of_reversed.support == plain.support);
    for (std::size_t n = 0; n < x.size(); ++n) {
      CHECK(std::fabs(of_reversed.y[x.size() - 1 - n] - plain.y[n]) <=
            2 * tolerance(alpha, plain.y[n]));
    }
  }
}

TEST_CASE("continuous in alpha at 1, 1.5 and 2") {
  // |dy / dalpha| is at most (log y)^2 y < 1 for some y, and slightly more near a threshold: a step
  // of 1e-4 changes y by less than 2e-4.
  const Floats x = grid(64, 0.3, 11);
  for (const float alpha : {1.F, 1.5F, 2.F}) {
    const Result at = run(x, alpha), above = run(x, alpha + 1e-4F),
                 below = run(x, std::max(1.F, alpha - 1e-4F));
    double moved = 0;
    for (std::size_t n = 0; n < x.size(); ++n) {
      CHECK(std::fabs(above.y[n] - at.y[n]) < 2e-4);
      CHECK(std::fabs(below.y[n] - at.y[n]) < 2e-4);
      moved += std::fabs(above.y[n] - at.y[n]);
    }
    CHECK(moved > 1e-6);
  }
  const Result at = run(x, 1), next = run(x, std::nextafter(1.F, 2.F));
  for (std::size_t n = 0; n < x.size(); ++n) CHECK(std::fabs(next.y[n] - at.y[n]) < 1e-6);
}

TEST_CASE("values that are not finite") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto all = [](const Floats& y, auto holds) {
    return std::all_of(y.begin(), y.end(), holds);
  };
  for (const float alpha : {1.F, 1.25F, 1.5F, 2.F, 3.F}) {
    for (const std::size_t count : {1U, 3U, 40U}) {
      CAPTURE(alpha);
      with_each_isa([&](const Execution& execution) {
        const Result hidden = run(Floats(count, -infinity), alpha, execution);
        CHECK(all(hidden.y, [](float y) { return y == 0; }));
        CHECK(hidden.tau == -infinity);
        CHECK(hidden.support == 0);
        for (const float bad : {nan, infinity}) {
          Floats x(count, 0.5F);
          x[count - 1] = bad;
          const Result got = run(x, alpha, execution);
          CHECK(all(got.y, [](float y) { return std::isnan(y); }));
          CHECK(std::isnan(got.tau));
          CHECK(got.support == 0);
        }
        Floats masked(2 * count, -infinity);
        std::fill_n(masked.begin(), count, -1e30F);
        const Result got = run(masked, alpha, execution);
        CHECK(got.support == static_cast<std::int64_t>(count));
        for (std::size_t n = 0; n < masked.size(); ++n) {
          CHECK(got.y[n] ==
                doctest::Approx(n < count ? 1. / static_cast<double>(count) : 0).epsilon(3e-7));
        }
      });
    }
  }
  const Result far = run({3e38F, -3e38F, 3e38F}, 1.5F);
  CHECK(far.y[0] == doctest::Approx(0.5).epsilon(3e-7));
  CHECK(far.y[1] == 0);
  CHECK(far.support == 2);
}
