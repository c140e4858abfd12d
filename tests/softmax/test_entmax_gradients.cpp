// Gradients of entmax against central differences of the plain derivation in long double.
#include <attn/softmax.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/plain_entmax.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Floats = std::vector<float>;

constexpr double half_ulp = 0x1p-24;  // the largest relative error of rounding to f32

struct Point {
  LongDoubles x;
  Floats y;   // rounded once
  Floats dy;  // of order 1
  double greatest_dy = 0;
};

/// Whether no element is so close to the threshold that the difference would step across it.
Point point_away_from_kinks(std::int64_t count, double scale, float alpha, std::uint64_t seed) {
  for (Random random(seed);;) {
    Point point;
    for (std::int64_t n = 0; n < count; ++n) {
      point.x.push_back(random.normal() * scale);
      point.dy.push_back(static_cast<float>(random.normal()));
      point.greatest_dy = std::max<double>(point.greatest_dy, std::fabs(point.dy.back()));
    }
    const PlainEntmax plain = plain_entmax(point.x, alpha);
    const auto close = [&](long double above) {
      return std::fabs(above) < 0.02L * std::min(1.F, alpha - 1);
    };
    if (std::any_of(plain.above.begin(), plain.above.end(), close)) continue;
    for (const long double y : plain.y) point.y.push_back(static_cast<float>(y));
    return point;
  }
}

long double weighted(const Point& point, const PlainEntmax& plain) {
  long double sum = 0;
  for (std::size_t n = 0; n < point.dy.size(); ++n) sum += point.dy[n] * plain.y[n];
  return sum;
}

double difference_in_x(Point point, std::size_t n, float alpha) {
  constexpr long double step = 1e-6L;
  const long double x = point.x[n];
  point.x[n] = x + step;
  const long double above = weighted(point, plain_entmax(point.x, alpha));
  point.x[n] = x - step;
  return static_cast<double>((above - weighted(point, plain_entmax(point.x, alpha))) / (2 * step));
}

/// A one-sided difference with three points, for alpha = 1, which has no smaller alpha.
double difference_in_alpha(const Point& point, float alpha) {
  const auto at = [&](long double a) { return weighted(point, plain_entmax(point.x, a)); };
  const long double step = std::min(2e-6L, (static_cast<long double>(alpha) - 1) / 8);
  if (step > 0) return static_cast<double>((at(alpha + step) - at(alpha - step)) / (2 * step));
  constexpr long double one_sided = 2e-5L;
  return static_cast<double>((4 * at(1 + one_sided) - 3 * at(1) - at(1 + 2 * one_sided)) /
                             (2 * one_sided));
}

Dims row_of(const Point& point) { return {static_cast<std::int64_t>(point.y.size())}; }

Floats backward(const Point& point, float alpha) {
  Floats dx(point.y.size(), -1);
  const Dims row = row_of(point);
  entmax_backward(TensorView(point.dy.data(), row), TensorView(point.y.data(), row),
                  MutableTensorView(dx.data(), row), alpha);
  return dx;
}

double backward_alpha(const Point& point, float alpha) {
  float dalpha = 0;
  const Dims row = row_of(point);
  entmax_backward_alpha(TensorView(point.dy.data(), row), TensorView(point.y.data(), row),
                        MutableTensorView(&dalpha, Dims{}), alpha);
  return dalpha;
}

/// y has an error of half an ulp, s = y^(2 - alpha) one of |2 - alpha| half ulps, the mean of dy
/// weighted by s twice that times the greatest dy, and the result is rounded. The difference
/// quotient has an error of step^2 y''' / 6, less than 1e-8 at this distance from kinks.
double tolerance_in_x(const Point& point, float y, float alpha) {
  const double s = std::pow(y, 2 - static_cast<double>(alpha));
  return s * point.greatest_dy * half_ulp * (4 * std::fabs(2 - static_cast<double>(alpha)) + 2) +
         1e-8;
}

/// With b = alpha - 1, dy_i / dalpha consists of y_i l_i^2 phi(b l_i) <= y_i l_i^2 / 2 * max(1,
/// y_i^-b) and of the sum of these, divided in proportion to s. Half an ulp of y changes l by as
/// much, y and s by factors of 1 and |2 - alpha| of it. Differences have an error of 1e-7: step^2
/// times a third derivative of order 10^4 where p = 1 / (alpha - 1) is large, or cancellation.
double tolerance_in_alpha(const Point& point, float alpha) {
  double parts = 0;
  for (const float y : point.y) {
    if (y > 0)
      parts += y * (1 + std::pow(std::log(y), 2)) *
               std::max(1., std::pow(y, 1 - static_cast<double>(alpha)));
  }
  return half_ulp * point.greatest_dy * parts *
             (4 + 4 * std::fabs(2 - static_cast<double>(alpha))) +
         1e-7;
}

}  // namespace

TEST_CASE("in x") {
  for (const float alpha : {1.F, 1.001F, 1.25F, 1.5F, 1.75F, 2.F, 2.5F, 4.F}) {
    for (const std::int64_t count : {2, 5, 12}) {
      CAPTURE(alpha);
      CAPTURE(count);
      const Point point =
          point_away_from_kinks(count, 0.3, alpha, static_cast<std::uint64_t>(count));
      const Floats dx = backward(point, alpha);
      for (std::size_t n = 0; n < dx.size(); ++n) {
        const double wanted = difference_in_x(point, n, alpha);
        if (point.y[n] == 0) {
          CHECK(dx[n] == 0);
          CHECK(std::fabs(wanted) < 1e-9);
        } else {
          CHECK(std::fabs(dx[n] - wanted) <= tolerance_in_x(point, point.y[n], alpha));
        }
      }
    }
  }
}

TEST_CASE("in alpha, at its limit and near it, too") {
  for (const float alpha :
       {1.F, 1.00001F, 1.001F, 1.1F, 1.25F, 1.5F, 1.9F, 1.999F, 2.F, 2.001F, 2.5F, 4.F}) {
    for (const double scale : {0.3, 2.}) {
      for (const std::int64_t count : {2, 5, 12}) {
        CAPTURE(alpha);
        CAPTURE(scale);
        CAPTURE(count);
        const Point point =
            point_away_from_kinks(count, scale, alpha, static_cast<std::uint64_t>(count));
        CHECK(std::fabs(backward_alpha(point, alpha) - difference_in_alpha(point, alpha)) <=
              tolerance_in_alpha(point, alpha));
      }
    }
  }
}

TEST_CASE("supports of none and of one, and what is not finite") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float alpha : {1.F, 1.5F, 2.F, 4.F, 100.F}) {
    CAPTURE(alpha);
    const Point none{.x = {}, .y = {0, 0, 0}, .dy = {1, 2, nan}};
    CHECK(backward(none, alpha) == Floats{0, 0, 0});
    CHECK(backward_alpha(none, alpha) == 0);
    const Point one{
        .x = {},
        .y = {0, 1, 0},
        .dy = {nan, 2, 3}};  // an element outside the support does not affect the gradient
    CHECK(backward(one, alpha) == Floats{0, 0, 0});
    CHECK(backward_alpha(one, alpha) == 0);
    const Point bad{.x = {}, .y = {nan, nan, nan}, .dy = {1, 2, 3}};
    for (const float dx : backward(bad, alpha)) CHECK(std::isnan(dx));
    CHECK(std::isnan(backward_alpha(bad, alpha)));
    const Point bad_gradient{.x = {}, .y = {0, 0.5F, 0.5F}, .dy = {1, nan, 3}};
    const Floats dx = backward(bad_gradient, alpha);
    CHECK(dx[0] == 0);
    CHECK(std::isnan(dx[1]));
    CHECK(std::isnan(dx[2]));
    // Probabilities at the end of the range of floats.
    const Point small{.x = {}, .y = {1, 1e-38F, 1e-45F}, .dy = {1, 2, 3}};
    CHECK_FALSE(std::isnan(backward_alpha(small, alpha)));
    for (const float value : backward(small, alpha)) CHECK_FALSE(std::isnan(value));
  }
}
