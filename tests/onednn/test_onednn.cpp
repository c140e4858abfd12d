// src/onednn: results of oneDNN's primitives, sharing of primitives, and use from several threads.
#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "onednn/isa.hpp"
#include "onednn/matmul.hpp"
#include "onednn/softmax.hpp"

using namespace attn;
using onednn::Matmul;
using onednn::MatmulCall;
using onednn::MatmulShape;

namespace {

std::vector<float> random_floats(std::int64_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

struct Operands {
  explicit Operands(const MatmulShape& shape, std::uint32_t seed = 1)
      : a(random_floats(shape.batch * shape.m * shape.k, seed)),
        b(random_floats(shape.batch * shape.k * shape.n, seed + 1)),
        c(static_cast<std::size_t>(shape.batch * shape.m * shape.n), std::nanf("")) {}
  std::vector<float> a, b, c;
};

/// The largest difference from a sum in double, in units of the bound on a float sum's error: k *
/// eps * sum of |a b|.
double error_in_bounds(const MatmulShape& shape, const Operands& operands) {
  double worst = 0;
  for (std::int64_t row = 0; row < shape.batch * shape.m; ++row) {
    const std::int64_t batch = row / shape.m;
    for (std::int64_t n = 0; n < shape.n; ++n) {
      double sum = 0, magnitude = 0;
      for (std::int64_t k = 0; k < shape.k; ++k) {
        const std::int64_t at = shape.b_transposed ? n * shape.k + k : k * shape.n + n;
        const double product =
            double{operands.a[row * shape.k + k]} * operands.b[batch * shape.k * shape.n + at];
        sum += product;
        magnitude += std::abs(product);
      }
      const double bound =
          static_cast<double>(shape.k) * std::numeric_limits<float>::epsilon() * magnitude;
      const double difference = std::abs(operands.c[row * shape.n + n] - sum);
      worst = std::isnan(difference) ? difference : std::max(worst, difference / bound);
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("oneDNN's matmul is the sum of products, for every layout, batch and thread count") {
  for (MatmulShape shape :
       {MatmulShape{1, 1, 1}, {1, 16, 64}, {5, 7, 3}, {96, 256, 64}, {33, 65, 80}, {6, 512, 128}}) {
    for (const std::int64_t batch : {1, 3}) {
      for (const bool b_transposed : {false, true}) {
        for (const int num_threads : {1, 2}) {
          shape.batch = batch;
          shape.b_transposed = b_transposed;
          shape.num_threads = num_threads;
          CAPTURE(shape.n);
          CAPTURE(batch);
          CAPTURE(b_transposed);
          Operands operands(shape);
          MatmulCall call(Matmul::shared(shape));
          call.execute(operands.a.data(), operands.b.data(), operands.c.data());
          CHECK(error_in_bounds(shape, operands) <= 1);
        }
      }
    }
  }
}

TEST_CASE("A call swaps its operands and leaves nothing behind") {
  const MatmulShape shape{.m = 8, .n = 32, .k = 16};
  MatmulCall call(Matmul::shared(shape));
  for (std::uint32_t seed = 1; seed < 4; ++seed) {
    Operands operands(shape, seed);
    call.execute(operands.a.data(), operands.b.data(), operands.c.data());
    CHECK(error_in_bounds(shape, operands) <= 1);
  }
}

TEST_CASE("Holders of a shape share one primitive") {
  const MatmulShape shape{.m = 16, .n = 48, .k = 32};
  MatmulShape transposed = shape;
  transposed.b_transposed = true;
  const auto first = Matmul::shared(shape);
  CHECK(first == Matmul::shared(shape));
  CHECK(first != Matmul::shared(transposed));
  CHECK(first->shape() == shape);
  CHECK_FALSE(first->implementation().empty());
}

TEST_CASE("Several threads execute one primitive at once") {
  const MatmulShape shape{.m = 96, .n = 256, .k = 64};
  const auto matmul = Matmul::shared(shape);
  constexpr int num_threads = 4;
  std::vector<Operands> operands;
  for (std::uint32_t thread = 0; thread < num_threads; ++thread)
    operands.emplace_back(shape, 10 * thread);
  {
    std::vector<std::jthread> threads;
    for (Operands& own : operands) {
      threads.emplace_back([&own, &matmul] {
        MatmulCall call(matmul);
        for (int repeat = 0; repeat < 20; ++repeat)
          call.execute(own.a.data(), own.b.data(), own.c.data());
      });
    }
  }
  for (const Operands& own : operands) CHECK(error_in_bounds(shape, own) <= 1);
}

TEST_CASE("Several threads may ask for a new primitive at once") {
  const MatmulShape shape{.m = 24, .n = 80, .k = 40};
  std::vector<std::shared_ptr<const Matmul>> got(4);
  {
    std::vector<std::jthread> threads;
    for (auto& matmul : got) threads.emplace_back([&] { matmul = Matmul::shared(shape); });
  }
  for (const auto& matmul : got) CHECK(matmul == got[0]);
}

TEST_CASE("With AVX-512, scores come from a kernel compiled for their shape") {
  const bool avx512 = onednn::may_use(Isa::avx512);
  const auto matmul = Matmul::shared({.m = 96, .n = 256, .k = 64});
  CAPTURE(matmul->implementation());
  if (avx512) CHECK(matmul->fast());
}

TEST_CASE("What oneDNN cannot make is reported with its sizes") {
  const MatmulShape shape{.m = -5, .n = 32, .k = 16};
  try {
    Matmul::shared(shape);
    FAIL("a matmul of -5 rows was made");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(std::string(error.what()).find("m -5, n 32, k 16") != std::string::npos);
  }
}

TEST_CASE("oneDNN's softmax of rows, in which -inf becomes 0") {
  constexpr std::int64_t rows = 3, columns = 37;
  std::vector<float> values = random_floats(rows * columns, 5);
  values[4] = -std::numeric_limits<float>::infinity();
  const std::vector<float> scores = values;
  onednn::softmax_rows({values.data(), rows, columns}, values.data(), 1);
  CHECK(values[4] == 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (std::int64_t n = 0; n < columns; ++n) sum += std::exp(double{scores[row * columns + n]});
    for (std::int64_t n = 0; n < columns; ++n) {
      CHECK(values[row * columns + n] ==
            doctest::Approx(std::exp(double{scores[row * columns + n]}) / sum).epsilon(1e-5));
    }
  }
}

TEST_CASE("oneDNN's tanh takes every element") {
  std::vector<float> values = random_floats(75, 6);
  const std::vector<float> inputs = values;
  onednn::tanh_elements({values.data(), 3, 25}, 2);
  for (std::size_t n = 0; n < values.size(); ++n)
    CHECK(values[n] == doctest::Approx(std::tanh(double{inputs[n]})).epsilon(1e-5));
}

TEST_CASE("The version has three numbers") {
  int major = 0, minor = 0, patch = 0;
  CHECK(std::sscanf(onednn::version().c_str(), "%d.%d.%d", &major, &minor, &patch) == 3);
  CHECK(major >= 2);
}
