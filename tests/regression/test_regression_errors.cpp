// What softmax regression and calibration refuse.
#include <attn/regression.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr auto invalid = ErrorCode::invalid_argument;
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(),
                 infinity = std::numeric_limits<double>::infinity();

struct Case {
  std::vector<double> x = {1, 2, 3, 4, 5, 6};
  std::vector<std::int64_t> y = {0, 1, 1};
  RegressionOptions options{};
  Execution execution{};

  void fails(const std::vector<std::string>& fragments, const Dims& shape = {3, 2},
             DType dtype = DType::f64) const {
    check_fails(invalid, fragments, [&] {
      SoftmaxRegression::fit(TensorView(static_cast<const void*>(x.data()), dtype, shape),
                             {y.data(), {3}}, options, execution);
    });
  }
};

}  // namespace

TEST_CASE("fit refuses inputs and targets") {
  Case().fails({"input", "rank 1", "[rows, features]"}, {6});
  Case().fails({"input", "i64", "f64"}, {3, 2}, DType::i64);
  Case().fails({"input", "dim 0 is 0", "rows"}, {0, 2});
  Case().fails({"input", "dim 1 is 0", "features"}, {3, 0});
  Case().fails({"target", "[3]", "2", "rows of input"}, {2, 2});
  for (const double bad : {not_a_number, infinity, -infinity})
    Case{.x = {1, 2, 3, bad, 5, not_a_number}}.fails({"input[1, 1]", "finite"});
  Case{.y = {0, -1, 1}}.fails({"target[1] is -1"});
  Case{.y = {0, 2, 1}, .options = {.classes = 2}}.fails({"target[1] is 2", "0..1"});
  Case{.y = {0, 0, 0}}.fails({"target", "class 0 alone"});
  Case{.y = {0, std::numeric_limits<std::int64_t>::max(), 0}}.fails({"2^48", "target[1]"});
  const std::vector<double> x(6, 1), y(3, 1);
  check_fails(invalid, {"target", "f64", "i64"}, [&] {
    SoftmaxRegression::fit({x.data(), {3, 2}}, {y.data(), {3}});
  });
  const std::vector<std::int64_t> column(3, 1);
  check_fails(invalid, {"target", "rank 2"}, [&] {
    SoftmaxRegression::fit({x.data(), {3, 2}}, {column.data(), {3, 1}});
  });
}

TEST_CASE("fit refuses options") {
  Case{.options = {.classes = 1}}.fails({"classes is 1", "2 or more"});
  Case{.options = {.classes = -5}}.fails({"classes is -5"});
  Case{.options = {.classes = std::int64_t{1} << 48}}.fails({"2^48"});
  for (const double bad : {-1e-300, not_a_number, infinity}) {
    Case{.options = {.l2 = bad}}.fails({"l2", "0 or more"});
    Case{.options = {.tolerance = bad}}.fails({"tolerance", "0 or more"});
    Case{.options = {.label_smoothing = bad}}.fails({"label_smoothing", "0..1"});
  }
  Case{.options = {.label_smoothing = 1.0000001}}.fails({"label_smoothing", "0..1"});
  Case{.options = {.max_iterations = -1}}.fails({"max_iterations is -1"});
  Case{.execution = {.num_threads = 0}}.fails({"num_threads"});
}

TEST_CASE("models and predictions") {
  std::vector<double> w = {1, 2, 3, 4}, b = {0, 1}, x = {1, 2}, out = {7, 7};
  const auto model = [&](const Dims& weight, const Dims& bias) {
    return SoftmaxRegression({w.data(), weight}, {b.data(), bias});
  };
  check_fails(invalid, {"weight", "rank 1"}, [&] { model({4}, {2}); });
  check_fails(invalid, {"weight", "dim 0 is 1", "2 classes"}, [&] { model({1, 4}, {1}); });
  check_fails(invalid, {"bias", "dim 0 is 1", "2"}, [&] { model({2, 2}, {1}); });
  check_fails(invalid, {"bias", "rank 2"}, [&] { model({2, 2}, {2, 1}); });
  w[2] = not_a_number;
  check_fails(invalid, {"weight[1, 0]", "finite"}, [&] { model({2, 2}, {2}); });
  w[2] = 3;
  b[1] = infinity;
  check_fails(invalid, {"bias[1]", "finite"}, [&] { model({2, 2}, {2}); });
  b[1] = 1;

  SoftmaxRegression good = model({2, 2}, {2});
  const auto predict = [&](const Dims& input, const Dims& output, double temperature = 1) {
    good.predict({x.data(), input}, {out.data(), output}, temperature);
  };
  check_fails(invalid, {"input", "dim 1 is 1", "2", "features"}, [&] { predict({2, 1}, {2, 2}); });
  check_fails(invalid, {"out", "dim 0 is 2", "1"}, [&] { predict({1, 2}, {2, 1}); });
  check_fails(invalid, {"out", "dim 1 is 1", "classes"}, [&] { predict({1, 2}, {1, 1}); });
  for (const double bad : {0., -1., not_a_number, infinity})
    check_fails(invalid, {"temperature", "greater than 0"}, [&] { predict({1, 2}, {1, 2}, bad); });
  check_fails(invalid, {"stride 0"}, [&] {
    good.logits({x.data(), {1, 2}}, {out.data(), {1, 2}, {0, 0}});
  });
  x[1] = not_a_number;
  check_fails(invalid, {"input[0, 1]", "finite"}, [&] { predict({1, 2}, {1, 2}); });
  CHECK(out == std::vector<double>{7, 7});

  const SoftmaxRegression moved = std::move(good);
  CHECK(moved.classes() == 2);
  check_fails(invalid, {"moved from"}, [&] { good.classes(); });
  check_fails(invalid, {"moved from"}, [&] { good.weight(); });
  check_fails(invalid, {"moved from"}, [&] { predict({1, 2}, {1, 2}); });
}

TEST_CASE("calibration") {
  std::vector<double> z = {1, 2, 3, 4, 5, 6};
  std::vector<std::int64_t> y = {0, 1, 0};
  const auto calibrate = [&](const Dims& shape, const Dims& target) {
    calibrate_temperature({z.data(), shape}, {y.data(), target});
  };
  check_fails(invalid, {"logits", "rank 1"}, [&] { calibrate({6}, {3}); });
  check_fails(invalid, {"logits", "dim 0 is 0", "rows"}, [&] { calibrate({0, 2}, {0}); });
  check_fails(invalid, {"logits", "dim 1 is 1", "classes"}, [&] { calibrate({3, 1}, {3}); });
  check_fails(invalid, {"target", "rows of logits"}, [&] { calibrate({3, 2}, {2}); });
  y[1] = 2;
  check_fails(invalid, {"target[1] is 2", "0..1"}, [&] { calibrate({3, 2}, {3}); });
  y[1] = 1;
  z[3] = -infinity;
  check_fails(invalid, {"logits[1, 1]", "finite"}, [&] { calibrate({3, 2}, {3}); });

  std::vector<double> p = {0.5, 0.5, 0, 1, 0.25, 0.75};
  const auto bins = [&](std::int64_t count, const Dims& shape = {3, 2}) {
    calibration_bins({p.data(), shape}, {y.data(), {3}}, count);
  };
  check_fails(invalid, {"num_bins is 0"}, [&] { bins(0); });
  check_fails(invalid, {"num_bins"}, [&] { bins(std::numeric_limits<std::int64_t>::max()); });
  check_fails(invalid, {"dim 1 is 0", "classes"}, [&] { bins(15, {3, 0}); });
  for (const double bad : {-1e-9, 1.0000001, not_a_number}) {
    p[4] = bad;
    check_fails(invalid, {"probabilities[2, 0]", "0..1"}, [&] { bins(15); });
  }
}
