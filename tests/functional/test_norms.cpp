// rms_norm and layer_norm against their definitions in double.
#include <attn/functional.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <optional>

#include "support/check_fails.hpp"
#include "support/functional.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

enum class Norm { rms, layer };

struct NormCase {
  Norm norm = Norm::layer;
  Dims shape{2, 3};
  int dim = -1;
  float epsilon = 1e-5f;
  DType in = DType::f32, out = DType::f32;
  Layout in_layout = Layout::bhsd, out_layout = Layout::bhsd;
  Execution execution{};

  int first_dim() const { return dim < 0 ? dim + shape.rank() : dim; }
  Dims row_shape() const { return Dims(shape.begin() + first_dim(), shape.rank() - first_dim()); }
  Dims statistics_shape() const {
    Dims ones = shape;
    for (int n = first_dim(); n < shape.rank(); ++n) ones[n] = 1;
    return ones;
  }
  std::string to_string() const {
    return fmt::format("{} of {} from dim {}: {} {} to {} {}", norm == Norm::rms ? "rms" : "layer",
                       shape.to_string(), dim, name_of(in), name_of(in_layout), name_of(out),
                       name_of(out_layout));
  }
};

struct Operands {
  StridedTensor x, scale, bias;
};
struct Results {
  std::vector<double> y, mean, inverse_deviation;
  std::vector<double> tolerances;  // of y before it is rounded to its type
};

/// The value that each element of a row gets from a tensor that broadcasts to the row.
std::vector<double> broadcast(const StridedTensor& tensor, const Dims& row_shape,
                              double if_absent) {
  std::vector<double> row;
  const TensorView view = tensor.view_if_made();
  const std::vector<double> values = view.absent() ? std::vector{if_absent} : tensor.values();
  for_each_index(row_shape, [&](const Dims& index) {
    std::int64_t at = 0;
    for (int dim = 0; dim < view.rank(); ++dim) {
      const std::int64_t n = index[dim + row_shape.rank() - view.rank()];
      at = at * view.shape[dim] + (view.shape[dim] == 1 ? 0 : n);
    }
    row.push_back(values[static_cast<std::size_t>(at)]);
  });
  return row;
}

/// The normalized value, its product with the scale and the sum with the bias are each rounded
/// once: 3 units in all. Sums in double add no error that counts; those of floats of similar size
/// are exact. But the mean is rounded to a double, which shows where it is large compared with the
/// deviation.
void add_row(const NormCase& c, const double* x, const std::vector<double>& scale,
             const std::vector<double>& bias, Results& results) {
  const auto extent = static_cast<double>(scale.size());
  // In long double, whose own error does not count even where x is 1e8 times its deviation.
  long double sum = 0, squares = 0;
  for (std::size_t n = 0; n < scale.size(); ++n) sum += x[n];
  const long double mean = c.norm == Norm::rms ? 0 : sum / extent;
  for (std::size_t n = 0; n < scale.size(); ++n) squares += (x[n] - mean) * (x[n] - mean);
  const long double factor = 1 / std::sqrt(squares / extent + c.epsilon);
  const auto mean_error = static_cast<double>(std::fabs(mean) * factor) * 0x1p-53;
  for (std::size_t n = 0; n < scale.size(); ++n) {
    const auto normal = static_cast<double>((x[n] - mean) * factor);
    results.y.push_back(normal * scale[n] + bias[n]);
    const double size = std::fabs(normal * scale[n]) + std::fabs(bias[n]);
    results.tolerances.push_back(3 * float_unit * size + mean_error * std::fabs(scale[n]) +
                                 0x1p-149);
  }
  results.mean.push_back(static_cast<double>(mean));
  results.inverse_deviation.push_back(static_cast<double>(factor));
}

Results exact_results(const NormCase& c, const Operands& operands) {
  const std::vector<double> x = operands.x.values();
  const std::vector<double> scale = broadcast(operands.scale, c.row_shape(), 1);
  const std::vector<double> bias = broadcast(operands.bias, c.row_shape(), 0);
  Results results;
  for (std::int64_t row = 0; row < c.statistics_shape().product(); ++row) {
    add_row(c, x.data() + row * std::ssize(scale), scale, bias, results);
  }
  return results;
}

void run(const NormCase& c, const Operands& operands, const MutableTensorView& y,
         const LayerNormStatistics& statistics = {}) {
  const NormOptions options{.dim = c.dim, .epsilon = c.epsilon};
  if (c.norm == Norm::rms)
    return rms_norm(operands.x.view(), operands.scale.view_if_made(), y, options, c.execution);
  layer_norm(operands.x.view(), operands.scale.view_if_made(), operands.bias.view_if_made(), y,
             options, statistics, c.execution);
}

/// Checks y against what add_row says, with the rounding to its type, and the statistics with the
/// rounding to f32 and to their type.
void check_results_of_one_isa(const NormCase& c, const Operands& operands) {
  CAPTURE(c.to_string());
  StridedTensor y(c.out, c.shape, c.out_layout);
  StridedTensor mean(c.in, c.statistics_shape(), c.in_layout),
      inverse_deviation(DType::f32, c.statistics_shape(), c.out_layout);
  run(c, operands, y.view(), {mean.view(), inverse_deviation.view()});
  const Results wanted = exact_results(c, operands);
  const double slack = 1 + 1e-6;
  CHECK(first_difference(y.values(), wanted.y, [&](std::size_t n) {
          const double own = c.out == DType::f32 ? 0 : rounding_to(c.out, wanted.y[n]);
          return slack * (wanted.tolerances[n] + own);
        }) == "");
  CHECK(y.gaps_untouched());
  if (c.norm == Norm::rms) return;
  CHECK(first_difference(mean.values(), wanted.mean, [&](std::size_t n) {
          const double own = c.in == DType::f32 ? 0 : rounding_to(c.in, wanted.mean[n]);
          return slack * (rounding_to(DType::f32, wanted.mean[n]) + own);
        }) == "");
  CHECK(first_difference(inverse_deviation.values(), wanted.inverse_deviation, [&](std::size_t n) {
          return slack * rounding_to(DType::f32, wanted.inverse_deviation[n]);
        }) == "");
  CHECK(mean.gaps_untouched());
  CHECK(inverse_deviation.gaps_untouched());
}

/// Checks the results of each instruction set.
void check_results(NormCase c, const Operands& operands) {
  for (const Isa isa : available_isas()) {
    CAPTURE(name_of(isa));
    c.execution.isa = isa;
    check_results_of_one_isa(c, operands);
  }
}

/// A scale or bias: absent, in the shape of the row, or in one that broadcasts to it.
StridedTensor random_factors(Random& random, const Dims& row_shape) {
  if (random.chance(0.2)) return {};
  const int first = static_cast<int>(random.integer(0, row_shape.rank()));
  Dims shape(row_shape.begin() + first, row_shape.rank() - first);
  for (int dim = 0; dim < shape.rank(); ++dim) {
    if (random.chance(0.3)) shape[dim] = 1;
  }
  return tensor_of(random.pick(float_types), shape, random.pick(all_layouts),
                   normal_values(random, shape.product(), 0.5));
}

Operands random_operands(Random& random, const NormCase& c, double mean = 0.3,
                         double deviation = 1) {
  return {.x = tensor_of(c.in, c.shape, c.in_layout,
                         normal_values(random, c.shape.product(), mean, deviation)),
          .scale = random_factors(random, c.row_shape()),
          .bias = c.norm == Norm::rms ? StridedTensor{} : random_factors(random, c.row_shape())};
}

constexpr std::initializer_list<Norm> norms = {Norm::rms, Norm::layer};

/// One f32 row from dim 0 on, without scale and bias.
Operands row_of(const std::vector<double>& values) {
  return {tensor_of(DType::f32, {std::ssize(values)}, Layout::bhsd, values), {}, {}};
}

}  // namespace

TEST_CASE("Random shapes, dims, types, layouts, scales and biases") {
  for (const std::uint64_t seed : seeds(0, 1500)) {
    INFO(repeat_command(seed));
    Random random(seed);
    Dims shape = random.pick<Dims>({{1}, {1, 1}, {1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1, 1}});
    for (int dim = 0; dim < shape.rank(); ++dim)
      shape[dim] = random.pick<std::int64_t>({1, 2, 3, 5, 8, 17, 33});
    if (shape.product() > 40000) shape[0] = shape[1] = 2;
    const NormCase c{.norm = random.pick(norms),
                     .shape = shape,
                     .dim = static_cast<int>(random.integer(-shape.rank(), shape.rank() - 1)),
                     .epsilon = random.pick({0.1f, 1e-5f, 1e-12f}),
                     .in = random.pick(float_types),
                     .out = random.pick(float_types),
                     .in_layout = random.pick(all_layouts),
                     .out_layout = random.pick(all_layouts),
                     .execution = {.num_threads = random.pick({1, 2, 3}), .isa = {}}};
    check_results(c, random_operands(random, c));
  }
}

TEST_CASE("Every remainder of a vector") {
  Random random(1);
  for (std::int64_t extent = 1; extent <= 140; ++extent) {
    for (const Norm norm : norms) {
      const NormCase c{.norm = norm, .shape = {3, extent}};
      check_results(c, random_operands(random, c));
    }
  }
}

TEST_CASE("Long rows are as exact as short ones") {
  Random random(2);
  for (const Norm norm : norms) {
    const NormCase c{.norm = norm, .shape = {2, 1'000'003}, .in_layout = Layout::padded};
    check_results(c, random_operands(random, c));
  }
}

TEST_CASE("A mean that is large beside the deviation costs no digits") {
  Random random(3);
  for (const double mean : {1e4, -1e6, 16777216.}) {
    for (const double deviation : {0.01, 1., 8.}) {
      for (const std::int64_t extent : {7, 1000, 40000}) {
        const NormCase c{.shape = {3, extent}, .epsilon = 1e-12f};
        check_results(c, random_operands(random, c, mean, deviation));
      }
    }
  }
}

TEST_CASE("Rows of one number are exactly the bias, however large the number") {
  for (const double value : {0.1, -1234.567, 3e38, 1e-40}) {
    const Operands operands = row_of(std::vector<double>(1001, value));
    for (const Isa isa : available_isas()) {
      StridedTensor y(DType::f32, {1001});
      run({.shape = {1001}, .execution = {.num_threads = {}, .isa = isa}}, operands, y.view());
      CHECK(y.values() == std::vector<double>(1001, 0.));
    }
  }
}

TEST_CASE("Numbers near the ends of the range of floats neither overflow nor vanish") {
  Random random(4);
  for (const double size : {1e38, 1e30, 1e-20, 1e-37}) {
    for (const Norm norm : norms) {
      NormCase c{.norm = norm, .shape = {2, 50}, .epsilon = 0};
      std::vector<double> values = normal_values(random, 100);
      for (double& value : values) value *= size;
      check_results(c, {tensor_of(DType::f32, c.shape, Layout::bhsd, values), {}, {}});
    }
  }
}

TEST_CASE(
    "NaN and infinities fill their own row and no other; epsilon 0 leaves a row of zeros to IEEE") {
  for (const Norm norm : norms) {
    for (const double bad : {not_a_number, infinity, -infinity}) {
      const NormCase c{.norm = norm, .shape = {3, 40}};
      std::vector<double> values(120);
      std::iota(values.begin(), values.end(), -40.);
      values[57] = bad;
      StridedTensor x = tensor_of(DType::f32, c.shape, Layout::bhsd, values),
                    y(DType::f32, c.shape);
      run(c, {x, {}, {}}, y.view());
      const std::vector<double> got = y.values();
      for (std::size_t n = 0; n < 120; ++n) {
        const bool own_row = n / 40 == 1;
        const bool zero = norm == Norm::rms && std::isinf(bad) &&
                          n != 57;  // there a finite number is divided by an infinite deviation
        CHECK(std::isnan(got[n]) == (own_row && !zero));
        if (own_row && zero) CHECK(got[n] == 0);
      }
    }
    StridedTensor y(DType::f32, {4});
    run({.norm = norm, .shape = {4}, .epsilon = 0}, row_of({0, 0, 0, 0}), y.view());
    for (const double value : y.values()) CHECK(std::isnan(value));
  }
}

TEST_CASE("Rows without elements have NaN for statistics, and no rows have none") {
  for (const Dims& shape : {Dims{2, 0}, Dims{0, 2}, Dims{0}, Dims{2, 3, 0, 2}}) {
    for (const Norm norm : norms)
      check_results({.norm = norm, .shape = shape}, {StridedTensor(DType::f32, shape), {}, {}});
  }
  StridedTensor x(DType::f32, {2, 0}), y(DType::f32, {2, 0}), mean(DType::f32, {2, 1}),
      inverse_deviation(DType::f16, {2, 1});
  layer_norm(x.view(), {}, {}, y.view(), {}, {mean.view(), inverse_deviation.view()});
  for (const double value : mean.values()) CHECK(std::isnan(value));
  for (const double value : inverse_deviation.values()) CHECK(std::isnan(value));

  // Steps that lead nowhere, and so do not make one dim of the row.
  const float number = 1;
  const TensorView apart(&number, {2, 3, 0}, {3, 0, 1}), parameter(&number, {3, 1}, {0, 0});
  float none = 0;
  const MutableTensorView nothing(&none, {2, 3, 0}, {8, 4, 1});
  rms_norm(apart, parameter, nothing, {.dim = 1});
  layer_norm(apart, parameter, parameter, nothing, {.dim = 1});
}

TEST_CASE("In place, by threads and from repeated memory the bits are the same") {
  Random random(5);
  for (const Norm norm : norms) {
    for (const Layout layout : all_layouts) {
      for (const DType dtype : float_types) {
        NormCase c{.norm = norm,
                   .shape = {6, 20, 40, 33},
                   .dim = 2,
                   .in = dtype,
                   .out = dtype,
                   .in_layout = layout,
                   .out_layout = layout};
        const Operands operands = random_operands(random, c);
        CAPTURE(c.to_string());
        StridedTensor wanted(dtype, c.shape, layout);
        c.execution.num_threads = 1;
        run(c, operands, wanted.view());
        Operands in_place = operands;
        c.execution.num_threads = 4;
        run(c, in_place, in_place.x.view());
        CHECK(in_place.x.bits() == wanted.bits());
        CHECK(in_place.x.gaps_untouched());
      }
    }
  }
  StridedTensor row = tensor_of(DType::f32, {9}, Layout::bhsd, normal_values(random, 9)),
                once(DType::f32, {9}), often(DType::f32, {5, 9});
  layer_norm(row.view(), {}, {}, once.view());
  layer_norm(TensorView(row.view().data, DType::f32, {5, 9}, {0, 1}), {}, {}, often.view());
  for (std::size_t n = 0; n < 45; ++n) CHECK(often.bits()[n] == once.bits()[n % 9]);
}

TEST_CASE("What does not fit is refused before anything is written") {
  StridedTensor x(DType::f32, {2, 3, 4}), y(DType::f32, {2, 3, 4}), number(DType::f32, {}),
      integers(DType::i64, {4});
  StridedTensor three(DType::f32, {3}), long_one(DType::f32, {2, 4}), mean(DType::f32, {2, 3, 1}),
      short_mean(DType::f32, {2, 3});
  const auto refused = [&](const std::vector<std::string>& fragments, const auto& f) {
    check_fails(ErrorCode::invalid_argument, fragments, f);
    CHECK(y.untouched());
    CHECK(mean.untouched());
  };
  const auto layer =
      [&](const TensorView& scale, const TensorView& bias, const NormOptions& options = {},
          const LayerNormStatistics& statistics = {}, const Execution& execution = {}) {
        return [&, scale, bias, options, statistics, execution] {
          layer_norm(x.view(), scale, bias, y.view(), options, statistics, execution);
        };
      };
  refused({"x has rank 0"}, [&] { rms_norm(number.view(), {}, number.view()); });
  refused({"x has type i64"}, [&] { rms_norm(integers.view(), {}, y.view()); });
  refused({"y has shape [3]", "[2, 3, 4]"}, [&] { rms_norm(x.view(), {}, three.view()); });
  refused({"scale has shape [3]", "broadcasts to [4]", "dim 2"},
          [&] { rms_norm(x.view(), three.view(), y.view()); });
  refused({"scale has shape [2, 4]", "broadcasts to [4]"}, layer(long_one.view(), {}));
  refused({"scale has shape [2, 4]", "broadcasts to [3, 4]"},
          layer(long_one.view(), {}, {.dim = 1}));
  refused({"bias has shape [3]"}, layer({}, three.view()));
  refused({"bias has type i64"}, layer({}, integers.view()));
  refused({"bias of shape [4] has no data"},
          layer({}, {static_cast<const void*>(nullptr), DType::f32, {4}}));
  refused({"dim is 3", "-3..2"}, layer({}, {}, {.dim = 3}));
  refused({"dim is -4"}, layer({}, {}, {.dim = -4}));
  for (const float epsilon :
       {-1e-5f, static_cast<float>(infinity), static_cast<float>(not_a_number)}) {
    refused({"epsilon is"}, layer({}, {}, {.epsilon = epsilon}));
  }
  refused({"statistics.mean has shape [2, 3]", "[2, 3, 1]"},
          layer({}, {}, {}, {.mean = short_mean.view()}));
  refused({"statistics.inverse_deviation has shape [2, 3]"},
          layer({}, {}, {}, {mean.view(), short_mean.view()}));
  refused({"num_threads is 0"}, layer({}, {}, {}, {mean.view(), {}}, {.num_threads = 0}));
}
