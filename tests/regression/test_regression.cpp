// Softmax regression: fits against Newton's method, gradients against differences, what options do.
#include <attn/regression.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/regression_case.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

double distance(Values a, const Values& b) {
  for (std::size_t n = 0; n < a.size(); ++n) a[n] -= b[n];
  return norm_of(a);
}

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

}  // namespace

TEST_CASE("fits are those of Newton's method, and the report is right") {
  struct Sizes {
    std::int64_t rows, features, classes;
  };
  for (const Sizes& sizes :
       {Sizes{200, 2, 3}, Sizes{137, 5, 2}, Sizes{300, 4, 5}, Sizes{61, 1, 2}}) {
    const std::int64_t rows = sizes.rows, classes = sizes.classes;
    const RegressionData data(rows, sizes.features, classes, static_cast<std::uint64_t>(rows));
    for (const double l2 : {0., 1e-3, 0.5}) {
      for (const double smoothing : {0., 0.1, 0.9}) {
        CAPTURE(rows);
        CAPTURE(l2);
        CAPTURE(smoothing);
        const RegressionOptions options{
            .classes = classes, .l2 = l2, .label_smoothing = smoothing, .tolerance = 1e-11};
        const auto [model, report] = data.fit(options);
        CHECK(report.status == FitStatus::converged);
        CHECK(report.gradient_norm < 1e-11);
        CHECK(report.iterations > 0);
        CHECK(report.iterations < 200);
        const Values found = parameters_of(model);
        Values gradient;
        CHECK(report.loss == doctest::Approx(loss_at(data, found, options, &gradient)));
        CHECK(norm_of(gradient) < 2e-11);
        CHECK(distance(found, newton(data, options)) < 1e-8 * (1 + norm_of(found)));
        std::int64_t right = 0;
        Values p(at_index(rows * classes));
        model.predict(data.input(), {p.data(), {rows, classes}});
        for (std::int64_t row = 0; row < rows; ++row) {
          const double* const own = p.data() + row * classes;
          right += std::max_element(own, own + classes) - own == data.target[at_index(row)] ? 1 : 0;
        }
        CHECK(report.accuracy == static_cast<double>(right) / static_cast<double>(rows));
      }
    }
  }
}

TEST_CASE("the gradient is that of the loss, by differences") {
  const RegressionData data(40, 3, 3, 7);
  const RegressionOptions options{.l2 = 0.1, .label_smoothing = 0.2, .max_iterations = 3};
  // Three iterations from the minimum, where the gradient is not 0.
  const auto [model, report] = data.fit(options);
  CHECK(report.status == FitStatus::iteration_limit);
  CHECK(report.iterations == 3);
  Values at = parameters_of(model), gradient(at.size());
  for (std::size_t n = 0; n < at.size(); ++n) {
    constexpr double step = 1e-5;
    Values before = at, after = at;
    before[n] -= step;
    after[n] += step;
    gradient[n] = (loss_at(data, after, options) - loss_at(data, before, options)) / (2 * step);
  }
  CHECK(report.gradient_norm > 1e-6);
  CHECK(report.gradient_norm == doctest::Approx(norm_of(gradient)).epsilon(1e-3));
  CHECK(report.loss == doctest::Approx(loss_at(data, at, options)).epsilon(1e-12));
}

// scikit-learn 1.9.1 found these: sklearn.linear_model.LogisticRegression(C=1 / (0.05 * 6),
// solver="newton-cg", tol=1e-12, max_iter=10000).fit(x, y) with the rows below; the biases less
// their mean.
TEST_CASE("a fit of scikit-learn's") {
  const Values x = {0.5, -1, 1.5, 0.25, -0.75, 2, 1, 1, -2, 0.5, 0, -0.5};
  const std::vector<std::int64_t> y = {0, 1, 2, 1, 2, 0};
  const Values wanted = {-0.1197089740, -1.3671396481, 0.6812821453, 1.3707427032, 0.5643031602,
                         -0.2904252406, -1.2510337292, 0.8028364879, -0.3908569047};
  const RegressionFit fit =
      SoftmaxRegression::fit({x.data(), {6, 2}}, {y.data(), {6}}, {.l2 = 0.05, .tolerance = 1e-12});
  CHECK(distance(parameters_of(fit.model), wanted) < 1e-7);
}

TEST_CASE("the bits are the same for any number of threads, any layout, and any type of target") {
  const RegressionData data(3000, 7, 3, 11);
  const Values once = parameters_of(data.fit({.l2 = 1e-3}, {.num_threads = 1}).model);
  for (const int threads : {2, 3, 8, 64}) {
    CAPTURE(threads);
    CHECK(same_bits(parameters_of(data.fit({.l2 = 1e-3}, {.num_threads = threads}).model), once));
  }
  for (const Isa isa : available_isas())
    CHECK(same_bits(parameters_of(data.fit({.l2 = 1e-3}, {.isa = isa}).model), once));
  for (const DType dtype : {DType::i8, DType::i32}) {
    const Tensor target = copy_as(data.targets(), dtype);
    const auto fit = SoftmaxRegression::fit(data.input(), target.view(), {.l2 = 1e-3});
    CHECK(same_bits(parameters_of(fit.model), once));
  }
  for (const Layout layout : {Layout::padded, Layout::strided_dim, Layout::reversed}) {
    StridedTensor input(DType::f64, {data.rows, data.features}, layout),
        target(DType::i64, {data.rows}, layout);
    input.assign(data.x);
    target.assign(Values(data.target.begin(), data.target.end()));
    const auto fit = SoftmaxRegression::fit(std::as_const(input).view(),
                                            std::as_const(target).view(), {.l2 = 1e-3});
    CHECK(same_bits(parameters_of(fit.model), once));
  }
}

TEST_CASE("the bits are those of any machine") {
  Random random(3);
  Values x;
  std::vector<std::int64_t> y;
  for (std::int64_t r = 0; r < 500; ++r) {
    y.push_back(random.integer(0, 2));
    for (std::int64_t d = 0; d < 4; ++d)  // multiples of 2^-10, which no library rounds
      x.push_back(static_cast<double>(random.integer(-2048, 2048) + 500 * (y.back() == d)) *
                  0x1p-10);
  }
  const RegressionFit fit =
      SoftmaxRegression::fit({x.data(), {500, 4}}, {y.data(), {500}}, {.l2 = 1e-3});
  std::uint64_t hash = 14695981039346656037u;  // FNV-1a of 64 bits
  for (const double parameter : parameters_of(fit.model))
    hash = (hash ^ std::bit_cast<std::uint64_t>(parameter)) * 1099511628211u;
  CHECK(hash == 0x73796dc4e101bedu);
}

TEST_CASE("inputs of each type are taken as they are") {
  const RegressionData data(200, 3, 2, 5);
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    const Tensor rounded = copy_as(data.input(), dtype), wide = copy_as(rounded.view(), DType::f64);
    const auto fit = SoftmaxRegression::fit(rounded.view(), data.targets());
    const auto same = SoftmaxRegression::fit(wide.view(), data.targets());
    CHECK(same_bits(parameters_of(fit.model), parameters_of(same.model)));
  }
  // Digits that f32 does not have count: two classes that only they tell apart.
  Values x;
  std::vector<std::int64_t> y;
  for (int n = 0; n < 20; ++n) {
    x.push_back(1 + n * 1e-12);
    y.push_back(n < 10 ? 0 : 1);
  }
  const auto fine =
      SoftmaxRegression::fit({x.data(), {20, 1}}, {y.data(), {20}}, {.tolerance = 1e-14});
  CHECK(fine.report.accuracy == 1);
}

TEST_CASE("separable classes") {
  const Values x = {-1, -2, 1, 2};
  const std::vector<std::int64_t> y = {0, 0, 1, 1};
  const TensorView input(x.data(), {4, 1}), target(y.data(), {4});
  for (const std::int64_t iterations : {5, 10000}) {
    for (const double tolerance : {1e-6, 1e-12, 0.}) {
      const auto [model, report] = SoftmaxRegression::fit(
          input, target, {.max_iterations = iterations, .tolerance = tolerance});
      CHECK(report.status == FitStatus::separable);
      CHECK(report.accuracy == 1);
      CHECK(report.loss >= 0);
      for (const double each : parameters_of(model)) CHECK(std::isfinite(each));
    }
  }
  // A penalty or smoothing bounds the weights.
  CHECK(SoftmaxRegression::fit(input, target, {.l2 = 1e-3}).report.status == FitStatus::converged);
  CHECK(SoftmaxRegression::fit(input, target, {.label_smoothing = 0.01}).report.status ==
        FitStatus::converged);
  // Without iterations nothing is separated yet.
  const auto none = SoftmaxRegression::fit(input, target, {.max_iterations = 0}).report;
  CHECK(none.status == FitStatus::iteration_limit);
  CHECK(none.loss == doctest::Approx(std::log(2)));
  CHECK(none.accuracy == 0.5);  // of equal logits the first class counts
}

TEST_CASE(
    "the penalty makes weights smaller, both rows of two classes alike, and leaves the bias") {
  const RegressionData data(400, 2, 2, 3);
  double before = HUGE_VAL;
  for (const double l2 : {0.01, 0.1, 1., 10., 1e6}) {
    const Values found = parameters_of(data.fit({.l2 = l2}).model);
    for (std::size_t k = 0; k < 3; ++k) CHECK(found[k] == doctest::Approx(-found[k + 3]));
    const double norm = std::hypot(found[0], found[1]);
    CHECK(norm < before);
    before = norm;
  }
  CHECK(before < 1e-5);
  // The biases are then the logarithms of the shares of classes.
  const auto ones = static_cast<double>(std::count(data.target.begin(), data.target.end(), 1));
  const Values found = parameters_of(data.fit({.l2 = 1e6, .tolerance = 1e-10}).model);
  CHECK(found[5] - found[2] == doctest::Approx(std::log(ones / (400 - ones))).epsilon(1e-4));
}

TEST_CASE("label smoothing: the best probabilities are the smoothed targets") {
  // Without features that tell anything, p = mean of q; with an indicator, q itself.
  const Values x = {1, 0, 0, 1};
  const std::vector<std::int64_t> y = {0, 1};
  const auto [model, report] =
      SoftmaxRegression::fit({x.data(), {2, 2}}, {y.data(), {2}},
                             {.classes = 4, .label_smoothing = 0.2, .tolerance = 1e-12});
  CHECK(report.status == FitStatus::converged);
  Values p(8);
  model.predict({x.data(), {2, 2}}, {p.data(), {2, 4}});
  for (std::size_t n = 0; n < 8; ++n)
    CHECK(p[n] == doctest::Approx(n == 0 || n == 5 ? 0.85 : 0.05).epsilon(1e-9));
  const auto even =
      SoftmaxRegression::fit({x.data(), {2, 2}}, {y.data(), {2}}, {.label_smoothing = 1});
  CHECK(even.report.iterations == 0);
  CHECK(even.report.gradient_norm == 0);
  CHECK(even.report.loss == doctest::Approx(std::log(2)));
}

TEST_CASE("scales, means and dependent features hardly matter") {
  const RegressionData data(300, 4, 3, 21);
  const RegressionOptions options{.tolerance = 1e-9};
  const double loss = data.fit(options).report.loss;
  RegressionData changed = data;
  const double scales[] = {1e-9, 1, 1e6, 1e-3}, means[] = {0, 1e5, 0, 7};
  for (std::size_t n = 0; n < changed.x.size(); ++n)
    changed.x[n] = changed.x[n] * scales[n % 4] + means[n % 4];
  const FitReport report = changed.fit({.tolerance = 1e-7}).report;
  CHECK(report.status == FitStatus::converged);
  CHECK(report.iterations < 60);
  CHECK(report.loss == doctest::Approx(loss).epsilon(1e-9));

  RegressionData wide = data;  // a copy of each feature, one that is constant, and one that is 0
  wide.features = 10;
  wide.x.clear();
  for (std::int64_t row = 0; row < data.rows; ++row) {
    const double* const own = data.x.data() + row * 4;
    wide.x.insert(wide.x.end(), own, own + 4);
    for (int k = 0; k < 4; ++k) wide.x.push_back(3 * own[k] + own[(k + 1) % 4]);
    wide.x.insert(wide.x.end(), {7, 0});
  }
  const FitReport dependent = wide.fit(options).report;
  CHECK(dependent.status == FitStatus::converged);
  CHECK(dependent.loss == doctest::Approx(loss).epsilon(1e-9));
}

TEST_CASE("more features than the factored Hessian takes") {
  const RegressionData data(200, 300, 2, 4);
  const RegressionOptions options{.l2 = 0.1, .tolerance = 1e-9};
  const auto [model, report] = data.fit(options);
  CHECK(report.status == FitStatus::converged);
  Values gradient;
  loss_at(data, parameters_of(model), options, &gradient);
  CHECK(norm_of(gradient) < 1.1e-9);
}

TEST_CASE("extreme features give finite results") {
  for (const double scale : {1e-300, 1e-150, 1e150, 1e300, 8e307}) {
    CAPTURE(scale);
    RegressionData data(50, 2, 2, 9);
    for (double& x : data.x) x = std::clamp(x, -2., 2.) * scale;
    for (const double l2 : {0., 0.1}) {
      const auto [model, report] = data.fit({.l2 = l2});
      for (const double each : parameters_of(model)) CHECK(std::isfinite(each));
      CHECK(std::isfinite(report.loss));
      CHECK(report.loss <= std::log(2) + 1e-9);
      CHECK(std::isfinite(report.gradient_norm));
    }
  }
}

TEST_CASE("a tolerance that rounding does not allow ends with the best point") {
  const RegressionData data(200, 3, 3, 13);
  for (const double tolerance : {1e-18, 1e-300, 0.}) {
    const FitReport report = data.fit({.tolerance = tolerance}).report;
    CHECK(report.status == FitStatus::rounding);
    CHECK(report.gradient_norm < 1e-15);
    CHECK(report.iterations < 500);
  }
}

TEST_CASE("classes without rows, and a single row") {
  const RegressionData data(100, 2, 2, 17);
  const auto [model, report] = data.fit({.classes = 5});
  CHECK(report.status == FitStatus::converged);
  CHECK(model.classes() == 5);
  const FitReport two = data.fit({}).report;
  CHECK(report.loss == doctest::Approx(two.loss).epsilon(1e-5));

  const Values x = {1, 2};
  const std::int64_t y = 2;
  const auto one = SoftmaxRegression::fit({x.data(), {1, 2}}, {&y, {1}}, {.l2 = 1});
  CHECK(one.model.classes() == 3);
  CHECK(one.report.status == FitStatus::converged);
  CHECK(one.report.accuracy == 1);
}

TEST_CASE("logits and probabilities of a model that is given") {
  const std::vector<float> w = {1, 2, -1, 0, 0.5f, 3}, b = {0, 1, -1};
  const SoftmaxRegression model({w.data(), {3, 2}}, {b.data(), {3}});
  CHECK(model.classes() == 3);
  CHECK(model.features() == 2);
  Random random(1);
  Values x;
  for (int n = 0; n < 38; ++n) x.push_back(random.normal());
  Values z(57), p(57);
  model.logits({x.data(), {19, 2}}, {z.data(), {19, 3}});
  for (std::size_t row = 0; row < 19; ++row) {
    for (std::size_t c = 0; c < 3; ++c) {
      const double wanted = static_cast<double>(w[2 * c]) * x[2 * row] +
                            static_cast<double>(w[2 * c + 1]) * x[2 * row + 1] +
                            static_cast<double>(b[c]);
      CHECK(std::abs(z[3 * row + c] - wanted) <= 1e-14 * (1 + std::abs(wanted)));
    }
  }
  for (const double temperature : {0.1, 1., 30., 1e-300, 5e-324, 1e300}) {
    model.predict({x.data(), {19, 2}}, {p.data(), {19, 3}}, temperature);
    for (std::size_t row = 0; row < 19; ++row) {
      const double* const own = z.data() + 3 * row;
      const double most = *std::max_element(own, own + 3);
      double sum = 0;
      for (int c = 0; c < 3; ++c) sum += std::exp((own[c] - most) / temperature);
      for (std::size_t c = 0; c < 3; ++c)
        CHECK(std::abs(p[3 * row + c] - std::exp((own[c] - most) / temperature) / sum) <= 1e-14);
    }
  }
  for (const Layout layout : {Layout::padded, Layout::reversed}) {
    StridedTensor out(DType::f32, {19, 3}, layout);
    model.logits({x.data(), {19, 2}}, out.view());
    for (std::size_t n = 0; n < z.size(); ++n)
      CHECK(out.values()[n] == static_cast<double>(static_cast<float>(z[n])));
    CHECK(out.gaps_untouched());
  }
}
