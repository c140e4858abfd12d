// The gradients of softmax, log_softmax and logsumexp against differences of the formulas.
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

TEST_CASE("gradients of slices whose elements are all -inf") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> hidden(20, -inf), dy = normal_floats(20, 0, 1, 2);
  const Dims shape{20};
  for (const Isa isa : available_isas()) {
    const Execution execution{.isa = isa};
    std::vector<float> y(20), dx(20, 7.f);
    const auto is_zero = [](float d) { return d == 0; };
    float out = 0;
    logsumexp({hidden.data(), shape}, {&out, Dims{}}, 0, 1, execution);
    logsumexp_backward({dy.data(), Dims{}}, {hidden.data(), shape}, {&out, Dims{}},
                       {dx.data(), shape}, 0, 1, execution);
    CHECK(std::all_of(dx.begin(), dx.end(), is_zero));
    softmax({hidden.data(), shape}, {y.data(), shape}, 0, 1, execution);
    softmax_backward({dy.data(), shape}, {y.data(), shape}, {dx.data(), shape}, 0, 1, execution);
    CHECK(std::all_of(dx.begin(), dx.end(), is_zero));
    log_softmax({hidden.data(), shape}, {y.data(), shape}, 0, 1, execution);
    log_softmax_backward({dy.data(), shape}, {y.data(), shape}, {dx.data(), shape}, 0, 1,
                         execution);
    CHECK(dx == dy);
  }
}
