// Calls of sparsemax, entmax and their gradients: layouts, types, threads, extents and errors.
#include <attn/error.hpp>
#include <attn/softmax.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Doubles = std::vector<double>;

Doubles random_values(const Dims& shape, std::uint64_t seed) {
  Random random(seed);
  Doubles values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = random.normal();
  return values;
}

Dims remove_dim(const Dims& shape, int dim) {
  std::vector<std::int64_t> rest;
  for (int n = 0; n < shape.rank(); ++n) {
    if (n != dim) rest.push_back(shape[n]);
  }
  return Dims(rest.data(), static_cast<int>(rest.size()));
}

/// All outputs of calls for slices along one dim.
struct Outputs {
  StridedTensor y, tau, support, dx, dalpha;
};

struct Setting {
  DType in = DType::f32, out = DType::f32;
  Layout in_layout = Layout::bhsd, out_layout = Layout::bhsd;
};

Outputs call(const Doubles& values, const Dims& shape, int dim, float alpha, const Setting& setting,
             const Execution& execution = {}) {
  const int counted = dim < 0 ? dim + shape.rank() : dim;
  const Dims rest = remove_dim(shape, counted);
  StridedTensor x(setting.in, shape, setting.in_layout), dy(setting.in, shape, setting.in_layout);
  x.assign(values);
  dy.assign(random_values(shape, 77));
  Outputs out{{setting.out, shape, setting.out_layout},
              {DType::f32, rest, setting.out_layout},
              {DType::i64, rest, setting.out_layout},
              {setting.out, shape, setting.out_layout},
              {setting.out, rest, setting.out_layout}};
  const Threshold threshold{out.tau.view(), out.support.view()};
  entmax(x.view(), out.y.view(), alpha, dim, threshold, execution);
  // The gradient is computed from y in f32, as rounding to a 16-bit type may shrink the support.
  StridedTensor y(DType::f32, shape, setting.in_layout);
  entmax(x.view(), y.view(), alpha, dim, {}, execution);
  entmax_backward(dy.view(), y.view(), out.dx.view(), alpha, dim, execution);
  entmax_backward_alpha(dy.view(), y.view(), out.dalpha.view(), alpha, dim, execution);
  for (const StridedTensor* tensor : {&out.y, &out.tau, &out.support, &out.dx, &out.dalpha})
    CHECK(tensor->gaps_untouched());
  return out;
}

/// The values after rounding to a type.
Doubles rounded(const Doubles& values, const Dims& shape, DType dtype) {
  StridedTensor tensor(dtype, shape);
  tensor.assign(values);
  return tensor.values();
}

/// The places of the elements of slice `number` in the whole tensor.
std::vector<std::size_t> places_of(const Dims& shape, int dim, std::int64_t number) {
  std::int64_t step = 1;
  for (int n = dim + 1; n < shape.rank(); ++n) step *= shape[n];
  std::vector<std::size_t> places;
  for (std::int64_t n = 0; n < shape[dim]; ++n) {
    places.push_back(
        static_cast<std::size_t>((number / step * shape[dim] + n) * step + number % step));
  }
  return places;
}

/// Each slice of a call has the bits that it has when it is computed alone, rounded to the type of
/// the output.
void check_slices(const Dims& shape, int dim, float alpha, const Setting& setting) {
  CAPTURE(shape.to_string());
  CAPTURE(dim);
  CAPTURE(alpha);
  CAPTURE(name_of(setting.in_layout));
  const Doubles values = rounded(random_values(shape, 5), shape, setting.in);
  const Doubles dy = rounded(random_values(shape, 77), shape, setting.in);
  const Outputs got = call(values, shape, dim, alpha, setting);
  const Dims row{shape[dim]};
  for (std::int64_t number = 0; number < remove_dim(shape, dim).product(); ++number) {
    const std::vector<std::size_t> places = places_of(shape, dim, number);
    std::vector<float> x, gradient, y(places.size()), dx(places.size());
    for (const std::size_t place : places) {
      x.push_back(static_cast<float>(values[place]));
      gradient.push_back(static_cast<float>(dy[place]));
    }
    float tau = 0, dalpha = 0;
    std::int64_t support = 0;
    entmax(TensorView(x.data(), row), MutableTensorView(y.data(), row), alpha, 0,
           {MutableTensorView(&tau, Dims{}), MutableTensorView(&support, Dims{})});
    entmax_backward(TensorView(gradient.data(), row), TensorView(y.data(), row),
                    MutableTensorView(dx.data(), row), alpha);
    entmax_backward_alpha(TensorView(gradient.data(), row), TensorView(y.data(), row),
                          MutableTensorView(&dalpha, Dims{}), alpha);
    const auto of = static_cast<std::size_t>(number);
    for (std::size_t n = 0; n < places.size(); ++n) {
      CHECK(got.y.values()[places[n]] == rounded({y[n]}, {1}, setting.out)[0]);
      CHECK(got.dx.values()[places[n]] == rounded({dx[n]}, {1}, setting.out)[0]);
    }
    CHECK(got.tau.values()[of] == tau);
    CHECK(got.support.values()[of] == static_cast<double>(support));
    CHECK(got.dalpha.values()[of] == rounded({dalpha}, {1}, setting.out)[0]);
  }
}

Error error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::io, "no error");
}

void check_refused(const std::function<void()>& f, const std::vector<std::string>& fragments) {
  const Error error = error_of(f);
  CHECK(error.code() == ErrorCode::invalid_argument);
  for (const std::string& fragment : fragments) {
    INFO(error.what());
    CAPTURE(fragment);
    CHECK(std::string(error.what()).find(fragment) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("layouts and types, along each dim") {
  const Dims shape{2, 3, 5, 4};
  for (int dim = 0; dim < shape.rank(); ++dim) {
    for (const Layout layout :
         {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
      check_slices(shape, dim, 1.5F, {.in_layout = layout, .out_layout = Layout::padded});
      check_slices(shape, dim, 1.25F, {.in = DType::f16, .in_layout = layout});
    }
    for (const DType in : {DType::f32, DType::bf16, DType::f16}) {
      for (const DType out : {DType::f32, DType::bf16, DType::f16}) {
        check_slices(shape, dim, 2, {.in = in, .out = out, .out_layout = Layout::reversed});
      }
    }
  }
  check_slices({37, 40}, 0, 1.5F, {});
  check_slices({1}, 0, 1.5F, {});
  check_slices({9}, 0, 3, {});
}

TEST_CASE("sparsemax and entmax15 are entmax at 2 and 1.5; dims count from the end, too") {
  const Dims shape{3, 4, 6};
  const Doubles values = random_values(shape, 1);
  StridedTensor x(DType::f32, shape), y(DType::f32, shape), dx(DType::f32, shape);
  x.assign(values);
  sparsemax(x.view(), y.view(), -2);
  sparsemax_backward(x.view(), y.view(), dx.view(), -2);
  const Outputs of_two = call(values, shape, 1, 2, {});
  CHECK(y.bits() == of_two.y.bits());
  StridedTensor wanted(DType::f32, shape);
  entmax_backward(x.view(), y.view(), wanted.view(), 2, 1);
  CHECK(dx.bits() == wanted.bits());
  entmax15(x.view(), y.view(), -3);
  CHECK(y.bits() == call(values, shape, 0, 1.5F, {}).y.bits());
  CHECK(y.bits() == call(values, shape, -3, 1.5F, {}).y.bits());
}

TEST_CASE("any number of threads gives the same bits") {
  for (const float alpha : {1.25F, 1.5F, 2.F}) {
    const Dims shape{50, 3000};
    const Doubles values = random_values(shape, 2);
    const Outputs one = call(values, shape, 1, alpha, {}, {.num_threads = 1});
    for (const int num_threads : {2, 3, 8}) {
      const Outputs many = call(values, shape, 1, alpha, {}, {.num_threads = num_threads});
      CHECK(many.y.bits() == one.y.bits());
      CHECK(many.tau.bits() == one.tau.bits());
      CHECK(many.support.bits() == one.support.bits());
      CHECK(many.dx.bits() == one.dx.bits());
      CHECK(many.dalpha.bits() == one.dalpha.bits());
    }
  }
}

TEST_CASE("in place, and from a broadcast input") {
  const Dims shape{4, 50};
  for (const float alpha : {1.F, 1.25F, 1.5F, 2.F, 3.F}) {
    CAPTURE(alpha);
    const Doubles values = random_values(shape, 3);
    for (const Layout layout : {Layout::bhsd, Layout::strided_dim}) {
      const Outputs apart = call(values, shape, 1, alpha, {.in_layout = layout});
      StridedTensor x(DType::f32, shape, layout), dy(DType::f32, shape, layout);
      x.assign(values);
      dy.assign(random_values(shape, 77));
      entmax(x.view(), x.view(), alpha);
      CHECK(x.bits() == apart.y.bits());
      StridedTensor y = x;
      entmax_backward(dy.view(), y.view(), y.view(), alpha);
      CHECK(y.bits() == apart.dx.bits());
      entmax_backward(dy.view(), x.view(), dy.view(), alpha);
      CHECK(dy.bits() == apart.dx.bits());
    }
    StridedTensor row(DType::f32, {50}), y(DType::f32, shape), one(DType::f32, {50});
    row.assign(random_values({50}, 4));
    entmax(TensorView(row.view().data, DType::f32, shape, {0, 1}), y.view(), alpha);
    entmax(row.view(), one.view(), alpha);
    for (std::size_t n = 0; n < 200; ++n) CHECK(y.values()[n] == one.values()[n % 50]);
  }
}

TEST_CASE("no elements") {
  float tau = 0, dalpha = 1;
  std::int64_t support = 7;
  const MutableTensorView nothing(static_cast<float*>(nullptr), {0});
  entmax(nothing, nothing, 1.5F, 0,
         {MutableTensorView(&tau, Dims{}), MutableTensorView(&support, Dims{})});
  CHECK(tau == -std::numeric_limits<float>::infinity());
  CHECK(support == 0);
  entmax_backward(nothing, nothing, nothing, 1.5F);
  entmax_backward_alpha(nothing, nothing, MutableTensorView(&dalpha, Dims{}), 1.5F);
  CHECK(dalpha == 0);
  const MutableTensorView no_slices(static_cast<float*>(nullptr), {0, 4});
  sparsemax(no_slices, no_slices);
  sparsemax_backward(no_slices, no_slices, no_slices);
}

TEST_CASE("refusals") {
  const Dims shape{2, 3};
  StridedTensor x(DType::f32, shape), y(DType::f32, shape), other(DType::f32, {3, 2}),
      rest(DType::f32, {2}), wide(DType::f64, shape);
  StridedTensor numbers(DType::i64, {2});
  for (const float alpha : {0.5F, -1.F, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    check_refused([&] { entmax(x.view(), y.view(), alpha); }, {"alpha", "1 or more"});
    check_refused([&] { entmax_backward(x.view(), x.view(), y.view(), alpha); },
                  {"alpha", "1 or more"});
    check_refused([&] { entmax_backward_alpha(x.view(), x.view(), rest.view(), alpha); },
                  {"alpha", "1 or more"});
  }
  check_refused([&] { sparsemax(x.view(), y.view(), 2); }, {"dim is 2", "-2..1"});
  check_refused([&] { sparsemax_backward(x.view(), x.view(), y.view(), -3); },
                {"dim is -3", "-2..1"});
  check_refused([&] { entmax15(x.view(), other.view()); }, {"y has shape [3, 2]", "[2, 3]"});
  check_refused([&] { entmax15(wide.view(), y.view()); }, {"x has type f64"});
  check_refused(
      [&] {
        entmax15(x.view(), {y.view().data, DType::f32, shape, {0, 1}});
      },
      {"y", "stride 0"});
  check_refused([&] { entmax15(x.view(), {nullptr, DType::f32, shape}); }, {"y", "no data"});
  check_refused([&] { entmax15(TensorView(x.view().data, DType::f32, Dims{}), y.view()); },
                {"x", "rank 0"});
  check_refused([&] { entmax15(x.view(), y.view(), 0, {.tau = rest.view()}); },
                {"tau has shape [2]", "[3]"});
  check_refused([&] { entmax15(x.view(), y.view(), 1, {.tau = numbers.view()}); },
                {"tau has type i64", "f32"});
  check_refused([&] { entmax15(x.view(), y.view(), 1, {.support = rest.view()}); },
                {"support has type f32", "i64"});
  check_refused([&] { entmax15(x.view(), y.view(), 1, {}, {.num_threads = 0}); }, {"num_threads"});
  check_refused([&] { sparsemax_backward(other.view(), x.view(), y.view()); },
                {"dy has shape [3, 2]"});
  check_refused([&] { sparsemax_backward(x.view(), x.view(), other.view()); },
                {"dx has shape [3, 2]"});
  check_refused([&] { entmax_backward_alpha(x.view(), x.view(), rest.view(), 2, 0); },
                {"dalpha has shape [2]", "[3]"});
  check_refused([&] { entmax_backward_alpha(x.view(), x.view(), numbers.view(), 2); },
                {"dalpha has type i64"});
  for (const StridedTensor* tensor : {&y, &rest, &numbers, &other}) CHECK(tensor->untouched());
}
