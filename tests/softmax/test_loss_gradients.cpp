// Gradients of losses against central differences of the formulas in double.
#include <attn/isa.hpp>
#include <attn/loss.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/loss_case.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr double eps = std::numeric_limits<float>::epsilon();
constexpr Reduction reductions[] = {Reduction::none, Reduction::sum, Reduction::mean};
constexpr Layout layouts[] = {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim,
                              Layout::reversed};
constexpr DType float_types[] = {DType::f32, DType::bf16, DType::f16};

StridedTensor random_dloss(const LossCase& c) {
  StridedTensor dloss(DType::f32, loss_shape(c), c.layout);
  Random random(c.seed + 1);
  Values values(static_cast<std::size_t>(dloss.shape().product()));
  for (double& value : values) value = random.normal();
  dloss.assign(values);
  return dloss;
}

/// The largest error of rounding to a type, relative, and absolute for the smallest numbers.
struct Rounding {
  double relative, absolute;
};
Rounding rounding_of(DType dtype) {
  if (dtype == DType::bf16) return {0x1p-8, 0};
  return dtype == DType::f16 ? Rounding{0x1p-11, 0x1p-25} : Rounding{0, 0};
}

/// A dense tensor in the layout of x.
struct Gradient {
  Values values, tolerances;
};

/// dloss times the difference quotient of each slice's loss. With a step of 1e-6 the rounding of
/// losses below 100 leaves an error of 1e-8, and a kink of p inside the step (p of sparsemax has
/// slope 1) one of a quarter of the step: 3e-7 in all. Besides, p has a relative error of 2e-7, and
/// for entmax what an error of eps in tau makes of it. Weights are at most 1.1; the factor 2 covers
/// them and their sum, by which p is multiplied. The product is rounded to f32 and to the type of
/// dx.
Gradient gradient_of(const LossCase& c, const LossInputs& inputs, const Values& dloss) {
  constexpr double step = 1e-6;
  const LossOracle oracle(c, inputs);
  const SliceMap& map = oracle.map();
  const Rounding rounding = rounding_of(c.x_type);
  Gradient gradient{Values(static_cast<std::size_t>(c.shape.product())),
                    Values(static_cast<std::size_t>(c.shape.product()))};
  for (std::int64_t slice = 0; slice < map.slices(); ++slice) {
    if (oracle.ignored(slice)) continue;
    const double factor =
        dloss[c.reduction == Reduction::none ? static_cast<std::size_t>(slice) : 0] /
        oracle.divisor();
    Values x = oracle.x_of(slice);
    const Values p = c.kind == LossKind::nll
                         ? Values(x.size())
                         : entmax_of(x, c.kind == LossKind::entmax ? c.alpha : 1);
    for (std::int64_t n = 0; n < map.classes; ++n) {
      const double here = x[static_cast<std::size_t>(n)];
      x[static_cast<std::size_t>(n)] = here + step;
      const double above = oracle.loss_of(slice, x, true);
      x[static_cast<std::size_t>(n)] = here - step;
      const double below = oracle.loss_of(slice, x, true);
      x[static_cast<std::size_t>(n)] = here;
      const double value = factor * (above - below) / (2 * step);
      const double one = p[static_cast<std::size_t>(n)];
      const double slope =
          c.kind == LossKind::entmax && c.alpha > 1 && one > 0 ? std::pow(one, 2 - c.alpha) : 1;
      const double off = 3e-7 + 2e-7 + eps * slope;
      gradient.values[map.at(slice, n)] = value;
      gradient.tolerances[map.at(slice, n)] = 2 * std::abs(factor) * off +
                                              (eps + rounding.relative) * std::abs(value) +
                                              rounding.absolute;
    }
  }
  return gradient;
}

std::string difference_of(const Values& got, const Gradient& wanted) {
  for (std::size_t n = 0; n < got.size(); ++n) {
    if (!(std::abs(got[n] - wanted.values[n]) <= wanted.tolerances[n])) {
      return fmt::format("element {} is {}, wanted {} +- {}", n, got[n], wanted.values[n],
                         wanted.tolerances[n]);
    }
  }
  return "";
}

void check_gradient(const LossCase& c) {
  const LossInputs inputs = make_loss_inputs(c);
  const StridedTensor dloss = random_dloss(c);
  const LossOracle oracle(c, inputs);
  if (oracle.divisor() == 0) return;
  const Gradient wanted = gradient_of(c, inputs, dloss.values());
  for (const Isa isa : available_isas()) {
    INFO(c.describe());
    StridedTensor dx(c.x_type, c.shape, c.layout);
    run_loss_backward(c, inputs, dloss.view(), dx.view(), {.isa = isa});
    CHECK(difference_of(dx.values(), wanted) == "");
    CHECK(dx.gaps_untouched());
    if (c.kind == LossKind::nll) continue;
    LossInputs in_place = inputs;
    run_loss_backward(c, in_place, dloss.view(), in_place.x.view(), {.isa = isa});
    CHECK(in_place.x.bits() == dx.bits());
  }
}

void check_gradients(LossKind kind, float alpha) {
  std::uint64_t seed = 0;
  for (const Dims& shape : {Dims{5}, Dims{1}, Dims{3, 19}, Dims{2, 6, 5}, Dims{2, 3, 2, 17}})
    for (const DType target : {DType::i32, DType::i64, DType::f32})
      for (const bool weights : {false, true})
        for (const std::optional<std::int64_t> ignored :
             {std::optional<std::int64_t>{}, {-100}, {0}})
          for (const float smoothing : {0.f, 0.1f, 1.f})
            for (const Reduction reduction : reductions) {
              if (target == DType::f32 && (ignored || (weights && kind == LossKind::entmax)))
                continue;
              check_gradient({.kind = kind,
                              .alpha = alpha,
                              .shape = shape,
                              .x_type = float_types[seed % 3],
                              .target_type = target,
                              .layout = layouts[seed % 5],
                              .weights = weights,
                              .ignore_index = ignored,
                              .label_smoothing = smoothing,
                              .reduction = reduction,
                              .seed = ++seed});
            }
}

/// dx of f(dloss, x, target, dx) for one slice of two or three classes.
template <class F>
std::vector<float> gradient_of_slice(const std::vector<float>& x, F&& f) {
  std::vector<float> dx(x.size(), -7);
  f(TensorView(x.data(), {static_cast<std::int64_t>(x.size())}),
    MutableTensorView(dx.data(), {static_cast<std::int64_t>(x.size())}));
  return dx;
}

const LossOptions as_sum{.reduction = Reduction::sum};

}  // namespace

TEST_CASE("The gradient of nll_loss") { check_gradients(LossKind::nll, 0); }
TEST_CASE("The gradient of cross_entropy") { check_gradients(LossKind::cross_entropy, 0); }
TEST_CASE("The gradient of sparsemax_loss") { check_gradients(LossKind::entmax, 2); }
TEST_CASE("The gradient of entmax_loss, alpha 1.5") { check_gradients(LossKind::entmax, 1.5f); }

TEST_CASE("The gradient of entmax_loss, other alphas") {
  for (const float alpha : {1.f, 1.25f, 1.8f, 2.7f})
    for (const DType target : {DType::i64, DType::f32})
      for (const float smoothing : {0.f, 0.2f}) {
        check_gradient({.kind = LossKind::entmax,
                        .alpha = alpha,
                        .shape = {3, 14},
                        .target_type = target,
                        .label_smoothing = smoothing,
                        .reduction = Reduction::none,
                        .seed = 3});
      }
}

TEST_CASE("Gradients known by hand") {
  const float dloss = 2;
  const std::int64_t target = 1;
  const TensorView scalar(&dloss, Dims()), t(&target, Dims());
  using Row = std::vector<float>;
  const auto of_cross = [&](const TensorView& x, const MutableTensorView& dx) {
    cross_entropy_backward(scalar, x, t, dx, as_sum);
  };
  const auto of_sparse = [&](const TensorView& x, const MutableTensorView& dx) {
    sparsemax_loss_backward(scalar, x, t, dx, as_sum);
  };
  const auto of_nll = [&](const TensorView&, const MutableTensorView& dx) {
    nll_loss_backward(scalar, t, dx, as_sum);
  };
  CHECK(gradient_of_slice({0, 0}, of_cross) == Row{1, -1});
  CHECK(gradient_of_slice({0, 0, 0, 0}, of_cross) == Row{0.5f, -1.5f, 0.5f, 0.5f});
  CHECK(gradient_of_slice({0, 5}, of_sparse) == Row{0, 0});
  CHECK(gradient_of_slice({0.5f, 0}, of_sparse) == Row{1.5f, -1.5f});
  CHECK(gradient_of_slice({1, 2, 3}, of_nll) == Row{0, -2, 0});
  CHECK(gradient_of_slice({0, -infinity}, of_cross) == Row{2, -2});
  CHECK(gradient_of_slice({-infinity, 0}, of_cross) == Row{0, 0});
  CHECK(gradient_of_slice({-infinity, -infinity}, of_cross) == Row{0, -2});
}

TEST_CASE("The gradient of an ignored slice is 0, whatever it holds") {
  const std::vector<float> x{not_a_number, infinity, /**/ 0, 0};
  const std::vector<std::int64_t> target{-1, 0}, all_ignored{-1, -1};
  const float dloss = 1;
  for (const Reduction reduction : {Reduction::sum, Reduction::mean})
    for (const float alpha : {0.f, 1.f, 1.5f, 2.f, 3.f}) {
      const auto run = [&](const std::vector<std::int64_t>& t) {
        std::vector<float> dx(4, -7);
        const LossOptions options{.ignore_index = -1, .reduction = reduction};
        if (alpha == 0)
          cross_entropy_backward({&dloss, Dims()}, {x.data(), {2, 2}}, {t.data(), {2}},
                                 {dx.data(), {2, 2}}, options);
        else
          entmax_loss_backward({&dloss, Dims()}, {x.data(), {2, 2}}, {t.data(), {2}},
                               {dx.data(), {2, 2}}, alpha, options);
        return dx;
      };
      INFO("alpha ", alpha);
      const std::vector<float> dx = run(target);
      CHECK(std::vector<float>(dx.begin(), dx.begin() + 2) == std::vector<float>(2));
      CHECK(dx[2] == doctest::Approx(-0.5));
      CHECK(dx[3] == doctest::Approx(0.5));
      CHECK(run(all_ignored) == std::vector<float>(4));
    }
  std::vector<float> dx(4, -7);
  nll_loss_backward({&dloss, Dims()}, {target.data(), {2}}, {dx.data(), {2, 2}},
                    {.ignore_index = -1});
  CHECK(dx == std::vector<float>{0, 0, -1, 0});
  nll_loss_backward({&dloss, Dims()}, {all_ignored.data(), {2}}, {dx.data(), {2, 2}},
                    {.ignore_index = -1});
  CHECK(dx == std::vector<float>(4));
}

TEST_CASE("Bits of gradients do not depend on threads") {
  for (const LossKind kind : {LossKind::nll, LossKind::cross_entropy, LossKind::entmax})
    for (const Dims& shape : {Dims{20000, 7}, Dims{3, 30, 3001}})
      for (const DType target : {DType::i64, DType::f32})
        for (const float smoothing : {0.f, 0.1f}) {
          const LossCase c{.kind = kind,
                           .alpha = 1.5f,
                           .shape = shape,
                           .target_type = target,
                           .label_smoothing = smoothing};
          const LossInputs inputs = make_loss_inputs(c);
          const StridedTensor dloss = random_dloss(c);
          StridedTensor one(DType::f32, shape), many(DType::f32, shape);
          run_loss_backward(c, inputs, dloss.view(), one.view(), {.num_threads = 1});
          for (const int threads : {2, 3}) {
            run_loss_backward(c, inputs, dloss.view(), many.view(), {.num_threads = threads});
            INFO(c.describe(), ", threads ", threads);
            CHECK(one.bits() == many.bits());
          }
        }
}
