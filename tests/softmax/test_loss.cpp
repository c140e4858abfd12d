// Losses against their formulas in double, for all combinations of their options, and for values
// that are known in closed form.
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
constexpr Reduction reductions[] = {Reduction::none, Reduction::sum, Reduction::mean};
constexpr Layout layouts[] = {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim,
                              Layout::reversed};
constexpr DType float_types[] = {DType::f32, DType::bf16, DType::f16};

/// An empty string if each loss lies within its tolerance, where NaN matches NaN.
std::string difference_of(const Values& got, const Values& wanted, const Values& tolerances) {
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    const bool near =
        std::isnan(wanted[n]) ? std::isnan(got[n]) : std::abs(got[n] - wanted[n]) <= tolerances[n];
    if (!near)
      return fmt::format("loss {} is {}, wanted {} +- {}", n, got[n], wanted[n], tolerances[n]);
  }
  return "";
}

void check_loss(const LossCase& c) {
  const LossInputs inputs = make_loss_inputs(c);
  const LossOracle oracle(c, inputs);
  const Values wanted = oracle.losses(), tolerances = oracle.tolerances();
  for (const Isa isa : available_isas()) {
    StridedTensor loss(DType::f32, loss_shape(c), c.layout);
    run_loss(c, inputs, loss.view(), {.isa = isa});
    const Values got = loss.values();
    INFO(c.describe());
    REQUIRE(got.size() == wanted.size());
    CHECK(difference_of(got, wanted, tolerances) == "");
    CHECK(loss.gaps_untouched());
    if (c.kind == LossKind::entmax)
      CHECK(std::none_of(got.begin(), got.end(), [](double one) { return one < 0; }));
  }
}

/// All combinations of options. Layouts and the types of x alternate.
template <class F>
void for_each_case(LossKind kind, std::initializer_list<float> alphas, F&& f) {
  std::uint64_t seed = 0;
  for (const float alpha : alphas)
    for (const Dims& shape : {Dims{5}, Dims{1}, Dims{7, 3}, Dims{3, 37}, Dims{2, 6, 5},
                              Dims{2, 3, 2, 19}, Dims{2, 4, 1, 2, 3}})
      for (const DType target : {DType::i32, DType::i64, DType::f32, DType::bf16, DType::f16})
        for (const bool weights : {false, true})
          for (const std::optional<std::int64_t> ignored :
               {std::optional<std::int64_t>{}, {-100}, {0}, {1 << 20}})
            for (const float smoothing : {0.f, 0.1f, 1.f})
              for (const Reduction reduction : reductions) {
                const bool of_classes = target == DType::i32 || target == DType::i64;
                if (!of_classes && (ignored || (weights && kind == LossKind::entmax))) continue;
                f(LossCase{.kind = kind,
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

/// The loss of one slice, given by its elements.
float loss_of(const LossCase& c, const std::vector<float>& x, const TensorView& target,
              LossOptions options = {}) {
  float loss = -1;
  const TensorView view(x.data(), {static_cast<std::int64_t>(x.size())});
  options.reduction = c.reduction;
  if (c.kind == LossKind::nll)
    nll_loss(view, target, {&loss, Dims()}, options);
  else if (c.kind == LossKind::cross_entropy)
    cross_entropy(view, target, {&loss, Dims()}, options);
  else
    entmax_loss(view, target, {&loss, Dims()}, c.alpha, options);
  return loss;
}

float loss_of_class(const LossCase& c, const std::vector<float>& x, std::int64_t target,
                    const LossOptions& options = {}) {
  return loss_of(c, x, {&target, Dims()}, options);
}

float loss_of_distribution(const LossCase& c, const std::vector<float>& x,
                           const std::vector<float>& q, const LossOptions& options = {}) {
  return loss_of(c, x, {q.data(), {static_cast<std::int64_t>(q.size())}}, options);
}

const LossCase nll{.kind = LossKind::nll, .reduction = Reduction::none};
const LossCase cross{.kind = LossKind::cross_entropy, .reduction = Reduction::none};
LossCase entmax_case(float alpha) {
  return {.kind = LossKind::entmax, .alpha = alpha, .reduction = Reduction::none};
}

}  // namespace

TEST_CASE("nll_loss follows its formula in all combinations") {
  for_each_case(LossKind::nll, {0}, [](const LossCase& c) { check_loss(c); });
}

TEST_CASE("cross_entropy follows its formula in all combinations") {
  for_each_case(LossKind::cross_entropy, {0}, [](const LossCase& c) { check_loss(c); });
}

TEST_CASE("Fenchel-Young losses follow their formula in all combinations") {
  for_each_case(LossKind::entmax, {1, 1.5, 2}, [](const LossCase& c) { check_loss(c); });
}

TEST_CASE("Fenchel-Young losses of other alphas") {
  for (const float alpha : {1.01f, 1.2f, 1.75f, 2.5f, 4.f, 10.f})
    for (const DType target : {DType::i64, DType::f32})
      for (const float smoothing : {0.f, 0.2f})
        for (std::uint64_t seed = 1; seed <= 4; ++seed) {
          check_loss({.kind = LossKind::entmax,
                      .alpha = alpha,
                      .shape = {4, 23},
                      .target_type = target,
                      .label_smoothing = smoothing,
                      .reduction = Reduction::none,
                      .seed = seed});
        }
}

TEST_CASE("Many slices, and slices of many classes") {
  for (const Dims& shape : {Dims{9001, 3}, Dims{2, 5, 4111}, Dims{3, 20011}})
    for (const LossKind kind : {LossKind::nll, LossKind::cross_entropy, LossKind::entmax})
      for (const Reduction reduction : reductions)
        for (const float smoothing : {0.f, 0.1f}) {
          check_loss({.kind = kind,
                      .shape = shape,
                      .weights = true,
                      .ignore_index = 1,
                      .label_smoothing = smoothing,
                      .reduction = reduction,
                      .seed = 7});
        }
}

TEST_CASE("Values known by hand") {
  const float log2 = std::log(2.f);
  CHECK(loss_of_class(cross, {0, 0}, 1) == doctest::Approx(log2).epsilon(1e-6));
  CHECK(loss_of_class(cross, {0, 0, 0, 0}, 2) == doctest::Approx(2 * log2).epsilon(1e-6));
  CHECK(loss_of_class(nll, {-0.5f, -2}, 1) == 2);
  CHECK(loss_of_distribution(nll, {-0.5f, -2}, {0.5f, 0.25f}) == 0.75f);
  CHECK(loss_of_class(nll, {-1, -3}, 0, {.label_smoothing = 0.5f}) == 1.5f);
  // p = (1, 0): (p - q) . x + H(p) - H(q) = 3 - 0 for the other class, 0 for its own.
  CHECK(loss_of_class(entmax_case(2), {3, 0}, 0) == 0);
  CHECK(loss_of_class(entmax_case(2), {3, 0}, 1) == 3);
  // p = (3/4, 1/4), H(p) = (1 - 10/16) / 2 = 3/16: (p - q) . x = -1/8 for the first class, 3/8 for
  // the second.
  CHECK(loss_of_class(entmax_case(2), {0.5f, 0}, 0) == doctest::Approx(1. / 16));
  CHECK(loss_of_class(entmax_case(2), {0.5f, 0}, 1) == doctest::Approx(9. / 16));
  // p = (1/2, 1/2), H(p) = (1 - 2 / sqrt(8)) / 0.75, x . (p - q) = 0.
  CHECK(loss_of_class(entmax_case(1.5f), {7, 7}, 0) ==
        doctest::Approx((1 - std::sqrt(0.5)) / 0.75));
  CHECK(loss_of_class(entmax_case(1), {7, 7}, 0) == doctest::Approx(log2));
}

TEST_CASE("Large logits lose nothing") {
  const float log2 = std::log(2.f);
  for (const float shift : {0.f, 1e4f, -1e4f, 1e30f, -1e30f, 3e38f}) {
    INFO("shift ", shift);
    CHECK(loss_of_class(cross, {shift, shift}, 0) == doctest::Approx(log2).epsilon(1e-6));
    CHECK(loss_of_class(entmax_case(1), {shift, shift}, 0) == doctest::Approx(log2).epsilon(1e-6));
    CHECK(loss_of_class(entmax_case(2), {shift, shift}, 0) == doctest::Approx(0.25).epsilon(1e-6));
    CHECK(
        loss_of_class(entmax_case(1.3f), {shift, shift}, 0) ==
        doctest::Approx((1 - std::pow(0.5, double{1.3f} - 1)) / (double{1.3f} * (double{1.3f} - 1)))
            .epsilon(1e-6));
  }
  CHECK(loss_of_class(cross, {10000, 10000.5f}, 0) ==
        doctest::Approx(std::log1p(std::exp(0.5))).epsilon(1e-6));
  CHECK(loss_of_class(cross, {3e38f, -3e38f}, 1) ==
        infinity);  // 6e38 is outside the range of floats
  CHECK(loss_of_class(cross, {1e38f, -1e38f}, 1) == 2e38f);
  CHECK(loss_of_class(entmax_case(2), {1e38f, -1e38f}, 1) == 2e38f);
  CHECK(loss_of_class(entmax_case(1.001f), {1e4f, 0}, 1) == doctest::Approx(1e4).epsilon(0.1));
}

TEST_CASE("A loss near 0 has all its digits") {
  // The term of the greatest element is exactly 1. The exponentials of the others have an error of
  // 2e-7, and x - max one of 2^-24 * 15; the loss is rounded, relative to itself.
  constexpr double tolerance = 2e-7 + 16 * 0x1p-24;
  for (const float shift : {0.f, 3.7f, -170.f, 1000.f}) {
    for (const std::int64_t count : {2, 100, 5000, 20000}) {
      for (const std::int64_t at : {std::int64_t{0}, count / 2, count - 1}) {
        INFO("shift ", shift, " count ", count, " greatest at ", at);
        std::vector<float> x(static_cast<std::size_t>(count), shift - 15);
        x[static_cast<std::size_t>(at)] = shift;
        const double others =
            static_cast<double>(count - 1) * std::exp(static_cast<double>(shift - 15) - shift);
        CHECK(loss_of_class(cross, x, at) ==
              doctest::Approx(std::log1p(others)).scale(0).epsilon(tolerance));
        CHECK(loss_of_class(entmax_case(1), x, at) ==
              doctest::Approx(std::log1p(others)).scale(0).epsilon(tolerance));
      }
    }
  }
}

TEST_CASE("-inf costs nothing where nothing asks for it, and inf where something does") {
  const std::vector<float> x{0, -infinity, 0};
  const std::vector<float> weight{1, 0, 1};
  const LossOptions smooth{.label_smoothing = 0.3f};
  for (const LossCase& c :
       {cross, nll, entmax_case(1), entmax_case(1.5f), entmax_case(2), entmax_case(3)}) {
    INFO(c.describe());
    CHECK(std::isfinite(loss_of_class(c, x, 0)));
    CHECK(loss_of_class(c, x, 1) == infinity);
    CHECK(loss_of_class(c, x, 1, {.weight = {weight.data(), {3}}}) == 0);
    CHECK(std::isfinite(loss_of_distribution(c, x, {0.5f, 0, 0.5f})));
    CHECK(loss_of_distribution(c, x, {0.5f, 0.25f, 0.25f}) == infinity);
    CHECK(loss_of_class(c, x, 0, smooth) == infinity);
    CHECK(loss_of_distribution(c, x, {0.5f, 0, 0.5f}, smooth) == infinity);
    CHECK(loss_of_class(c, {-infinity, -infinity}, 1) == infinity);
    CHECK(loss_of_distribution(c, {-infinity, -infinity}, {0.5f, 0.5f}) == infinity);
  }
  for (const LossCase& c : {cross, nll}) {
    CHECK(std::isfinite(
        loss_of_class(c, x, 0, {.weight = {weight.data(), {3}}, .label_smoothing = 0.3f})));
    CHECK(std::isfinite(
        loss_of_distribution(c, x, {0.25f, 0.5f, 0.25f}, {.weight = {weight.data(), {3}}})));
  }
  CHECK(loss_of_class(cross, x, 0) == doctest::Approx(std::log(2.)));
}

TEST_CASE("NaN and inf stay in their own slice") {
  for (const float bad : {not_a_number, infinity}) {
    const std::vector<float> x{1, bad, 0.5f, /**/ 1, 2, 0};
    const std::vector<std::int64_t> target{0, 1};
    for (const float alpha : {0.f, 1.f, 1.5f, 2.f, 3.f}) {
      std::vector<float> loss(2);
      const LossOptions options{.reduction = Reduction::none};
      if (alpha == 0)
        cross_entropy({x.data(), {2, 3}}, {target.data(), {2}}, {loss.data(), {2}}, options);
      else
        entmax_loss({x.data(), {2, 3}}, {target.data(), {2}}, {loss.data(), {2}}, alpha, options);
      INFO("alpha ", alpha);
      CHECK(std::isnan(loss[0]));
      CHECK(std::isfinite(loss[1]));
    }
  }
}

TEST_CASE("Ignored slices count for nothing, whatever they hold") {
  const std::vector<float> x{not_a_number, infinity, /**/ 0, 0};
  for (const std::int64_t ignored :
       {std::int64_t{-100}, std::int64_t{1}, std::numeric_limits<std::int64_t>::min()}) {
    const std::vector<std::int64_t> target{ignored, 0}, all_ignored{ignored, ignored};
    for (const float alpha : {0.f, 1.f, 1.5f, 2.f, 3.f}) {
      const auto run = [&](const std::vector<std::int64_t>& t, Reduction reduction) {
        float loss = -1;
        const LossOptions options{.ignore_index = ignored, .reduction = reduction};
        if (alpha == 0)
          cross_entropy({x.data(), {2, 2}}, {t.data(), {2}}, {&loss, Dims()}, options);
        else
          entmax_loss({x.data(), {2, 2}}, {t.data(), {2}}, {&loss, Dims()}, alpha, options);
        return loss;
      };
      INFO("ignored ", ignored, " alpha ", alpha);
      CHECK(run(target, Reduction::sum) > 0.1f);
      CHECK(run(target, Reduction::mean) == run(target, Reduction::sum));
      CHECK(run(all_ignored, Reduction::sum) == 0);
      CHECK(std::isnan(run(all_ignored, Reduction::mean)));
    }
  }
}

TEST_CASE("No slices, and no classes") {
  const float x = 1, q = 1;
  const std::int64_t target = -1;
  const auto run = [&](const Dims& shape, bool of_classes, Reduction reduction) {
    float loss = -1;
    const TensorView given = of_classes ? TensorView(&target, {shape[0]}) : TensorView(&q, shape);
    const auto ignored = of_classes ? std::optional<std::int64_t>(-1) : std::nullopt;
    for (const float alpha : {0.f, 1.f, 1.5f, 2.f, 3.f}) {
      const LossOptions options{.ignore_index = ignored, .reduction = reduction};
      loss = -1;
      if (alpha == 0)
        cross_entropy({&x, shape}, given, {&loss, Dims()}, options);
      else
        entmax_loss({&x, shape}, given, {&loss, Dims()}, alpha, options);
      if (reduction == Reduction::sum) CHECK(loss == 0);
    }
    return loss;
  };
  for (const bool of_classes : {true, false}) {
    CHECK(run({0, 3}, of_classes, Reduction::sum) == 0);
    CHECK(std::isnan(run({0, 3}, of_classes, Reduction::mean)));
    CHECK(run({1, 0}, of_classes, Reduction::sum) == 0);
  }
  CHECK(run({1, 0}, false, Reduction::mean) == 0);
}

TEST_CASE("Fenchel-Young losses are 0 where p = q, and greater elsewhere") {
  for (const float alpha : {1.f, 1.0001f, 1.25f, 1.5f, 1.9f, 2.f, 3.f, 10.f}) {
    Random random(17);
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<float> x(12), q(12), away(12);
      Values exact(12);
      for (std::size_t c = 0; c < x.size(); ++c)
        exact[c] = x[c] = static_cast<float>(random.normal());
      const Values p = entmax_of(exact, alpha);
      for (std::size_t c = 0; c < x.size(); ++c) q[c] = static_cast<float>(p[c]);
      // Some of the greatest probability goes to the neighboring class.
      const auto greatest =
          static_cast<std::size_t>(std::max_element(q.begin(), q.end()) - q.begin());
      away = q;
      away[greatest] -= q[greatest] / 16;
      away[(greatest + 1) % 12] += q[greatest] / 16;
      const float at_p = loss_of_distribution(entmax_case(alpha), x, q),
                  beside = loss_of_distribution(entmax_case(alpha), x, away);
      INFO("alpha ", alpha, " repeat ", repeat);
      CHECK(at_p >= 0);
      CHECK(at_p < 1e-6f);
      CHECK(beside > 1e-4f);
    }
  }
}

TEST_CASE("Fenchel-Young losses go on from alpha to alpha") {
  const std::vector<float> x{0.3f, -200, 1.1f, 0.9f};
  for (const float alpha : {1.f, 1.5f, 2.f}) {
    for (std::int64_t target = 0; target < 4; ++target) {
      const float here = loss_of_class(entmax_case(alpha), x, target);
      const float above = loss_of_class(entmax_case(std::nextafter(alpha, 3.f)), x, target);
      const float further = loss_of_class(entmax_case(alpha + 1e-4f), x, target);
      INFO("alpha ", alpha, " target ", target);
      CHECK(above == doctest::Approx(here).epsilon(1e-5));
      CHECK(further == doctest::Approx(here).epsilon(3e-2));
    }
  }
}

TEST_CASE("Weights and scores of x may be broadcast") {
  const float weight = 3, x = 0.5f;
  const std::vector<std::int64_t> target{2, 0};
  float loss = 0;
  cross_entropy({&x, DType::f32, {2, 4}, {0, 0}}, {target.data(), {2}}, {&loss, Dims()},
                {.weight = {&weight, DType::f32, {4}, {0}}, .reduction = Reduction::sum});
  CHECK(loss == doctest::Approx(6 * std::log(4.)));
}

TEST_CASE("Bits do not depend on threads") {
  for (const LossKind kind : {LossKind::nll, LossKind::cross_entropy, LossKind::entmax})
    for (const Dims& shape : {Dims{20000, 7}, Dims{3, 30, 3001}})
      for (const DType target : {DType::i64, DType::f32})
        for (const Reduction reduction : reductions) {
          const LossCase c{.kind = kind,
                           .alpha = 1.5f,
                           .shape = shape,
                           .target_type = target,
                           .label_smoothing = 0.1f,
                           .reduction = reduction};
          const LossInputs inputs = make_loss_inputs(c);
          StridedTensor one(DType::f32, loss_shape(c)), many(DType::f32, loss_shape(c));
          run_loss(c, inputs, one.view(), {.num_threads = 1});
          for (const int threads : {2, 3, 5}) {
            run_loss(c, inputs, many.view(), {.num_threads = threads});
            INFO(c.describe(), ", threads ", threads);
            CHECK(one.bits() == many.bits());
          }
        }
}
