// Random draws: the generator against its published results; the distribution against a textbook
// version that sorts all classes and uses the standard library's exp, and against frequencies.
#include <attn/isa.hpp>
#include <attn/sample.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "softmax/categorical.hpp"
#include "softmax/philox.hpp"
#include "support/check_fails.hpp"
#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::detail;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

using Logits = std::vector<double>;  // rounded to the type of the logits
using Draws = std::vector<std::int64_t>;

/// Classes from the most probable to the least; equal ones by index.
std::vector<std::size_t> by_probability(const Logits& logits) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  return order;
}

/// The probability of each class after the filters, as the header defines them.
std::vector<double> textbook(const Logits& logits, const SampleOptions& options) {
  const std::vector<std::size_t> order = by_probability(logits);
  std::vector<double> p(logits.size(), 0);
  if (options.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  const auto normalize = [&] {
    const double sum = std::accumulate(p.begin(), p.end(), 0.);
    for (double& each : p) each /= sum;
  };
  for (std::size_t n = 0; n < p.size(); ++n)
    p[n] = std::exp((logits[n] - logits[order[0]]) / static_cast<double>(options.temperature));
  if (options.top_k && *options.top_k > 0) {
    for (auto n = static_cast<std::size_t>(*options.top_k); n < p.size(); ++n) p[order[n]] = 0;
  }
  normalize();
  if (options.top_p) {
    double sum = 0;
    for (const std::size_t n : order) {
      const bool full = n != order[0] && static_cast<float>(sum) >= *options.top_p;
      sum += p[n];
      if (full) p[n] = 0;
    }
    normalize();
  }
  if (options.min_p) {
    const double least = static_cast<double>(*options.min_p) * p[order[0]];
    for (double& each : p) each = each < least ? 0 : each;
    normalize();
  }
  return p;
}

/// The class at which the cumulative distribution exceeds `uniform`; -1 if that is so close to a
/// step that rounding decides.
std::int64_t class_at(const std::vector<double>& p, double uniform) {
  // A sum of n terms whose total is at most 1 has an error below n 2^-53; n is below 2^18 here.
  constexpr double rounding = 0x1p-34;
  double sum = 0;
  for (std::size_t n = 0; n < p.size(); ++n) {
    sum += p[n];
    if (p[n] > 0 && std::abs(uniform - sum) < rounding && n + 1 < p.size()) return -1;
    if (uniform < sum) return static_cast<std::int64_t>(n);
  }
  return -1;
}

Draws drawn(const Logits& logits, std::int64_t count, const SampleOptions& options = {},
            const Execution& execution = {}) {
  StridedTensor x(DType::f32, {static_cast<std::int64_t>(logits.size())});
  x.assign(logits);
  Draws draws(static_cast<std::size_t>(count));
  sample(x.view(), {draws.data(), {count}}, options, execution);
  return draws;
}

/// The classes that occur in many draws.
Draws support(const Logits& logits, const SampleOptions& options) {
  Draws draws = drawn(logits, 4000, options);
  std::sort(draws.begin(), draws.end());
  draws.erase(std::unique(draws.begin(), draws.end()), draws.end());
  return draws;
}

Logits normal_logits(std::int64_t classes, std::uint64_t seed, double deviation = 1) {
  StridedTensor rounded(DType::f32, {classes});
  Random random(seed);
  Logits logits(static_cast<std::size_t>(classes));
  for (double& logit : logits) logit = deviation * random.normal();
  rounded.assign(logits);
  return rounded.values();
}

/// Chi square of the draws from one row: the sum of (observed - expected)^2 / expected.
double chi_square(const Draws& draws, const std::vector<double>& p) {
  std::vector<double> seen(p.size(), 0);
  for (const std::int64_t draw : draws) ++seen[static_cast<std::size_t>(draw)];
  double sum = 0;
  for (std::size_t n = 0; n < p.size(); ++n) {
    const double expected = p[n] * static_cast<double>(draws.size());
    if (p[n] == 0) CHECK(seen[n] == 0);
    if (p[n] > 0) sum += (seen[n] - expected) * (seen[n] - expected) / expected;
  }
  return sum;
}

/// Draws from tensors of all types and layouts, and compares each draw with the textbook's.
void check_against_textbook(Random& random, const Dims& shape, std::int64_t count,
                            const SampleOptions& options) {
  StridedTensor logits(random.pick({DType::f32, DType::bf16, DType::f16}), shape,
                       random.pick({Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim,
                                    Layout::reversed}));
  Logits values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = random.chance(0.1) ? -infinity : 2 * random.normal();
  const std::int64_t classes = shape[shape.rank() - 1], rows = shape.product() / classes;
  for (std::int64_t row = 0; row < rows; ++row)
    values[static_cast<std::size_t>(row * classes + random.integer(0, classes - 1))] = 1;
  logits.assign(values);
  values = logits.values();

  Dims drawn_shape = shape;
  drawn_shape[shape.rank() - 1] = count;
  StridedTensor indices(
      DType::i64, drawn_shape,
      random.pick({Layout::bhsd, Layout::padded, Layout::strided_dim, Layout::reversed}));
  const std::vector<Isa> isas = available_isas();
  const Isa isa = isas[static_cast<std::size_t>(random.integer(0, std::ssize(isas) - 1))];
  sample(std::as_const(logits).view(), indices.view(), options,
         {.num_threads = static_cast<int>(random.integer(1, 3)), .isa = isa});
  CHECK(indices.gaps_untouched());

  const std::vector<std::uint64_t> got = indices.bits();
  std::int64_t undecided = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto begin = values.begin() + row * classes;
    const std::vector<double> p = textbook({begin, begin + classes}, options);
    for (std::int64_t n = 0; n < count; ++n) {
      const auto number = options.first_draw + static_cast<std::uint64_t>(n);
      const std::int64_t wanted =
          class_at(p, philox_uniform(options.seed, number, static_cast<std::uint64_t>(row)));
      if (wanted == -1) ++undecided;
      if (wanted != -1)
        REQUIRE(static_cast<std::int64_t>(got[static_cast<std::size_t>(row * count + n)]) ==
                wanted);
    }
  }
  CHECK(undecided <= 1);
}

}  // namespace

TEST_CASE("Philox4x32-10 gives the published answers") {
  using Words = PhiloxCounter;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint32_t ones = 0xffffffff;
  CHECK(philox({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  // 0xe169c58d6627e8d5 without its lower 11 bits, divided by 2^64.
  CHECK(philox_uniform(0, 0, 0) == static_cast<double>(0xe169c58d6627e800) * 0x1p-64);
}

TEST_CASE("a seed gives these draws, everywhere") {
  // 13 classes at temperature 2; the expected draws were computed by a separate program.
  Logits logits(13), twice;
  for (std::size_t n = 0; n < logits.size(); ++n)
    logits[n] = (static_cast<double>(7 * n % 13) - 6) / 2;
  constexpr std::uint64_t seed = 0x123456789abcdef0;
  const Draws first = {8, 7, 4, 7, 11, 11, 1, 9, 1, 5, 3, 9, 8, 3, 11, 3};
  const Draws second = {3, 9, 7, 12, 9, 7, 5, 3, 7, 9, 11, 10, 11, 11, 12, 7};
  CHECK(drawn(logits, 16, {.temperature = 2, .seed = seed}) == first);
  CHECK(drawn(logits, 11, {.temperature = 2, .seed = seed, .first_draw = 5}) ==
        Draws(first.begin() + 5, first.end()));
  const Draws later = {7, 9, 11, 1, 12, 11, 9, 11};
  CHECK(drawn(logits, 8, {.temperature = 2, .seed = seed, .first_draw = std::uint64_t{1} << 32}) ==
        later);

  twice = logits;
  twice.insert(twice.end(), logits.begin(), logits.end());
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    StridedTensor rows(dtype, {2, 13});
    rows.assign(twice);
    Draws draws(32);
    sample(std::as_const(rows).view(), {draws.data(), {2, 16}}, {.temperature = 2, .seed = seed});
    CHECK(Draws(draws.begin(), draws.begin() + 16) == first);
    CHECK(Draws(draws.begin() + 16, draws.end()) == second);
  }
}

TEST_CASE("draws are the textbook's, for any filters, types, layouts, ISAs and threads") {
  Random random(1);
  for (int n = 0; n < 400; ++n) {
    SampleOptions options{.seed = random.bits(),
                          .first_draw = random.chance(0.5) ? 0 : random.bits()};
    const std::int64_t classes = random.integer(1, 300);
    options.temperature = random.pick({1.f, 0.f, 0.3f, 2.5f, 40.f});
    if (random.chance(0.5)) options.top_k = random.integer(1, 2 * classes);
    if (random.chance(0.5)) options.top_p = static_cast<float>(0.001 + 0.999 * random.uniform());
    if (random.chance(0.5)) options.min_p = static_cast<float>(random.uniform() * random.uniform());
    CAPTURE(n);
    CAPTURE(classes);
    const Dims shape = random.chance(0.5) ? Dims{classes}
                                          : Dims{random.integer(1, 3), random.integer(1, 4),
                                                 random.integer(1, 3), classes};
    check_against_textbook(random, shape, random.integer(1, 20), options);
  }
}

TEST_CASE("draws of a vocabulary are the textbook's, however many classes a filter leaves") {
  constexpr std::int64_t classes = 131072;
  for (const double deviation : {0.01, 1., 4.}) {
    const Logits logits = normal_logits(classes, 2, deviation);
    const auto check = [&](const SampleOptions& options) {
      CAPTURE(deviation);
      const std::vector<double> p = textbook(logits, options);
      const Draws draws = drawn(logits, 50, options);
      for (std::size_t n = 0; n < draws.size(); ++n) {
        const std::int64_t wanted = class_at(p, philox_uniform(options.seed, n, 0));
        if (wanted != -1) CHECK(draws[n] == wanted);
      }
    };
    check({.seed = 3});
    check({.top_k = 50, .seed = 4});
    check({.top_k = 100000, .seed = 5});
    check({.top_p = 0.9f, .seed = 6});
    check({.top_p = 0.999999f, .seed = 7});
    check({.temperature = 0.7f, .top_k = 1000, .top_p = 0.95f, .min_p = 0.01f, .seed = 8});
  }
}

TEST_CASE("draws have the distribution that they are said to have") {
  // Chi square with f degrees of freedom exceeds f + 3.3 sqrt(2 f) + 6 with a probability below 1
  // in 1000. The seeds are fixed.
  constexpr std::int64_t count = 200000;
  const Logits logits = normal_logits(40, 9);
  for (const SampleOptions& options :
       {SampleOptions{.seed = 10}, SampleOptions{.temperature = 0.5f, .seed = 11},
        SampleOptions{.top_k = 7, .seed = 12}, SampleOptions{.top_p = 0.8f, .seed = 13},
        SampleOptions{
            .temperature = 1.5f, .top_k = 30, .top_p = 0.9f, .min_p = 0.2f, .seed = 14}}) {
    const std::vector<double> p = textbook(logits, options);
    const auto freedom =
        static_cast<double>(std::ssize(p) - std::count(p.begin(), p.end(), 0.) - 1);
    CAPTURE(freedom);
    CHECK(chi_square(drawn(logits, count, options), p) <
          freedom + 3.3 * std::sqrt(2 * freedom) + 6);
  }
  // One draw from each of many rows.
  const std::vector<double> p = textbook(logits, {});
  StridedTensor one_row(DType::f32, {40});
  one_row.assign(logits);
  TensorView rows = std::as_const(one_row).view();
  rows.shape = {count, 40};
  rows.strides = {0, 1};
  Draws draws(count);
  sample(rows, {draws.data(), {count, 1}}, {.seed = 15});
  CHECK(chi_square(draws, p) < 39 + 3.3 * std::sqrt(2 * 39.) + 6);
}

TEST_CASE("filters keep exactly what they should") {
  const Logits ties = {1, 3, 2, 3, 2, 3, 1};
  CHECK(support(ties, {}) == Draws{0, 1, 2, 3, 4, 5, 6});
  CHECK(support(ties, {.top_k = 1}) == Draws{1});
  CHECK(support(ties, {.top_k = 2}) == Draws{1, 3});
  CHECK(support(ties, {.top_k = 3}) == Draws{1, 3, 5});
  CHECK(support(ties, {.top_k = 4}) == Draws{1, 2, 3, 5});
  CHECK(support(ties, {.top_k = 7}) == support(ties, {}));
  CHECK(support(ties, {.top_k = std::numeric_limits<std::int64_t>::max()}) == support(ties, {}));

  // Quarters are exact: the second class reaches a half, slightly more needs the third.
  const Logits uniform = {0, 0, 0, 0};
  CHECK(support(uniform, {.top_p = 0.25f}) == Draws{0});
  CHECK(support(uniform, {.top_p = 0.5f}) == Draws{0, 1});
  CHECK(support(uniform, {.top_p = 0.500001f}) == Draws{0, 1, 2});
  CHECK(support(uniform, {.top_p = 1.f}) == Draws{0, 1, 2, 3});
  CHECK(support(ties, {.top_p = 1e-30f}) == Draws{1});
  // top-p applies to what top-k leaves: two classes of a half each.
  CHECK(support(uniform, {.top_k = 2, .top_p = 0.5f}) == Draws{0});
  CHECK(support(uniform, {.top_k = 2, .top_p = 0.51f}) == Draws{0, 1});
  // The terms are 1, e^-1, e^-2. The probabilities are 0.665, 0.245, 0.090 among all classes, and
  // 0.731, 0.269 among the first two.
  const Logits steps = {-2, 0, -1};
  CHECK(support(steps, {.top_p = 0.7f}) == Draws{1, 2});
  CHECK(support(steps, {.top_k = 2, .top_p = 0.7f}) == Draws{1});
  CHECK(support(steps, {.temperature = 0.5f, .top_p = 0.7f}) == Draws{1});

  CHECK(support(steps, {.min_p = 0.f}) == Draws{0, 1, 2});
  CHECK(support(steps, {.min_p = 0.2f}) == Draws{1, 2});
  CHECK(support(steps, {.min_p = 0.37f}) == Draws{1});
  CHECK(support(ties, {.min_p = 1.f}) == Draws{1, 3, 5});
  CHECK(support(steps, {.temperature = 2, .min_p = 0.37f}) == Draws{1, 2});
}

TEST_CASE("top-p keeps classes up to and with the one that reaches it") {
  // The first of `count` equal classes whose sum reaches tenths / 10 = p.
  for (std::int64_t count = 1; count <= 1000; count += count < 130 ? 1 : 29) {
    for (std::int64_t tenths = 1; tenths < 10; ++tenths) {
      CAPTURE(count);
      CAPTURE(tenths);
      Categorical classes(count);
      const std::vector<float> logits(static_cast<std::size_t>(count), 0.7f);
      const auto kept = [&](float p) {
        classes.assign(logits.data(), {.top_p = p});
        return classes.at(std::nextafter(1., 0.)) + 1;
      };
      const auto p = static_cast<float>(static_cast<double>(tenths) / 10);
      CHECK(kept(p) == (tenths * count + 9) / 10);
      if (tenths * count % 10 == 0) {
        CHECK(kept(std::nextafter(p, 1.f)) == tenths * count / 10 + 1);
        CHECK(kept(std::nextafter(p, 0.f)) == tenths * count / 10);
      }
    }
  }
  // Unlike ones, whose probabilities are 1/2, 1/4 and four times 1/16.
  const double ln2 = std::log(2.);
  const Logits halves = {-ln2, -4 * ln2, -2 * ln2, -4 * ln2, -4 * ln2, -4 * ln2};
  CHECK(support(halves, {.top_p = 0.5f}) == Draws{0});
  CHECK(support(halves, {.top_p = 0.75f}) == Draws{0, 2});
  CHECK(support(halves, {.top_p = 0.8125f}) == Draws{0, 1, 2});
  CHECK(support(halves, {.top_p = 0.875f}) == Draws{0, 1, 2, 3});
  CHECK(support(halves, {.top_p = 0.87501f}) == Draws{0, 1, 2, 3, 4});
}

TEST_CASE("top-k 0 is off, and top-p 0 keeps the most probable class alone") {
  const Logits ties = {1, 3, 2, 3, 2};
  CHECK(support(ties, {.top_k = 0}) == support(ties, {}));
  CHECK(support(ties, {.top_p = 0.f}) == Draws{1});
  CHECK(support(ties, {.top_p = -0.f}) == Draws{1});
  CHECK(support(ties, {.top_k = 0, .top_p = 0.f, .min_p = 0.f}) == Draws{1});
}

TEST_CASE("temperatures of any size, and logits of any size, draw what is left of them") {
  const Logits logits = {1, 3, 2, 3};
  CHECK(support(logits, {.temperature = 0}) == Draws{1});
  CHECK(support(logits, {.temperature = 0, .top_k = 3, .top_p = 0.9f, .min_p = 0.1f}) == Draws{1});
  CHECK(support(logits, {.temperature = std::numeric_limits<float>::denorm_min()}) == Draws{1, 3});
  const SampleOptions hot{.temperature = std::numeric_limits<float>::max(), .seed = 1};
  CHECK(chi_square(drawn(logits, 100000, hot), {0.25, 0.25, 0.25, 0.25}) <
        3 + 3.3 * std::sqrt(6.) + 6);
  CHECK(support({-infinity, 0, -infinity, 0, -infinity}, {}) == Draws{1, 3});
  CHECK(support({-infinity, -infinity, -5}, {.top_k = 2, .top_p = 0.5f}) == Draws{2});
  const double largest = std::numeric_limits<float>::max();
  CHECK(support({-largest, largest, largest}, {}) == Draws{1, 2});
  CHECK(support({-largest, -infinity}, {}) == Draws{0});
}

TEST_CASE("the same bits for any number of threads, on any ISA, and in any batch") {
  const std::int64_t rows = 64, classes = 1000, count = 8;
  StridedTensor logits(DType::f32, {rows, classes});
  logits.assign(normal_logits(rows * classes, 16));
  const TensorView all = std::as_const(logits).view();
  const SampleOptions options{.temperature = 0.8f, .top_p = 0.95f, .seed = 17};
  Draws expected(static_cast<std::size_t>(rows * count));
  sample(all, {expected.data(), {rows, count}}, options, {.num_threads = 1});
  for (const Isa isa : available_isas()) {
    for (const int threads : {1, 2, 5}) {
      Draws draws(expected.size());
      sample(all, {draws.data(), {rows, count}}, options, {.num_threads = threads, .isa = isa});
      CHECK(draws == expected);
    }
  }
  Draws head(static_cast<std::size_t>(3 * count));
  sample(all.sliced(0, 0, 3), {head.data(), {3, count}}, options);
  CHECK(head == Draws(expected.begin(), expected.begin() + 3 * count));
}
