// gelu and silu against their definitions in double, for all 16-bit floats and for all exponents of
// f32.
#include <attn/functional.hpp>

#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "support/check_fails.hpp"
#include "support/functional.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double pi = 3.14159265358979323846;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

struct Activation {
  const char* name;
  std::function<void(const TensorView&, const MutableTensorView&, const Execution&)> run;
  std::function<double(double)> exact;  // for finite x, computed without cancellation
  double tolerance;                     // relative, as the header says
};

double gelu_tanh_exact(double x) {
  return x / (1 + std::exp(-2 * std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
}

const std::array activations = {
    Activation{"gelu erf",
               [](auto& x, auto& y, auto& execution) { gelu(x, y, GeluForm::erf, execution); },
               [](double x) { return x / 2 * std::erfc(-x / std::sqrt(2.)); }, 1e-6},
    Activation{"gelu tanh",
               [](auto& x, auto& y, auto& execution) { gelu(x, y, GeluForm::tanh, execution); },
               gelu_tanh_exact, 5e-7},
    Activation{"silu", [](auto& x, auto& y, auto& execution) { silu(x, y, execution); },
               [](double x) { return x / (1 + std::exp(-x)); }, 5e-7},
};

/// The limits at plus and minus infinity.
double exact_at(const Activation& activation, double x) {
  if (std::isnan(x)) return not_a_number;
  if (std::isinf(x)) return x > 0 ? infinity : 0;
  return activation.exact(x);
}

/// A result below this magnitude may be 0, as the header says.
constexpr double vanishing = 2e-36;

/// Checks y against the exact value for x as rounded to its own type, within the tolerance of the
/// header and the rounding to the type of y.
void check_values(const Activation& activation, DType dtype, const std::vector<double>& x,
                  const std::vector<double>& y) {
  CAPTURE(activation.name);
  std::vector<double> wanted;
  for (const double value : x) wanted.push_back(exact_at(activation, value));
  CHECK(first_difference(y, wanted, [&](std::size_t n) {
          const double exact = wanted[n];
          const double rounding = dtype == DType::f32 ? 0 : rounding_to(dtype, exact);
          return std::max(activation.tolerance * std::fabs(exact), vanishing) + rounding;
        }) == "");
}

void check_on(const Activation& activation, StridedTensor& x, DType out_type,
              const Execution& execution) {
  StridedTensor y(out_type, x.shape());
  activation.run(x.view(), y.view(), execution);
  check_values(activation, out_type, x.values(), y.values());
}

std::vector<double> floats_of_each_exponent() {
  Random random(1);
  std::vector<double> values;
  for (std::uint32_t top = 0; top < 512; ++top) {
    constexpr std::uint32_t mantissas = 1u << 23;
    for (const std::uint32_t mantissa : {0u, 1u, mantissas / 2, mantissas - 1}) {
      values.push_back(std::bit_cast<float>(top << 23 | mantissa));
    }
    for (int n = 0; n < 200; ++n)
      values.push_back(
          std::bit_cast<float>(top << 23 | static_cast<std::uint32_t>(random.bits()) % mantissas));
  }
  return values;
}

std::vector<std::uint64_t> numbers_up_to(std::uint64_t count) {
  std::vector<std::uint64_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  return numbers;
}

}  // namespace

TEST_CASE("Every 16-bit float has its exact value, rounded") {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    StridedTensor x(dtype, {1 << 16});
    for (const std::uint64_t bits : numbers_up_to(1 << 16))
      x.set_bits({static_cast<std::int64_t>(bits)}, bits);
    for (const Activation& activation : activations) {
      for (const Isa isa : available_isas()) {
        check_on(activation, x, dtype, {.isa = isa});
        check_on(activation, x, DType::f32, {.isa = isa});
      }
    }
  }
}

TEST_CASE("Floats of each exponent, and many where the functions bend, with each instruction set") {
  std::vector<double> values = floats_of_each_exponent();
  Random random(2);
  for (int n = 0; n < 200000; ++n)
    values.push_back(static_cast<float>(-15 + 25 * random.uniform()));
  for (int n = 0; n < 100000; ++n)
    values.push_back(static_cast<float>(-110 + 220 * random.uniform()));
  StridedTensor x = tensor_of(DType::f32, {std::ssize(values)}, Layout::bhsd, values);
  for (const Isa isa : available_isas()) {
    for (const Activation& activation : activations)
      check_on(activation, x, DType::f32, {.isa = isa});
  }
}

TEST_CASE("The tanh form is that of the tanh, and nearly that of erf") {
  for (double x = -3; x <= 12; x += 0.01) {
    const double by_tanh = x / 2 * (1 + std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
    CHECK(std::fabs(gelu_tanh_exact(x) - by_tanh) < 1e-14);
    CHECK(std::fabs(gelu_tanh_exact(x) - activations[0].exact(x)) < 1e-3);
  }
}

TEST_CASE("Zeros keep their sign, -inf gives -0, +inf itself, and a NaN touches nothing else") {
  const std::vector<double> values = {0.,    -0.,  infinity, -infinity, not_a_number,
                                      -1e30, 1e30, 1,        -1e-30};
  for (const Isa isa : available_isas()) {
    for (const Activation& activation : activations) {
      CAPTURE(activation.name);
      StridedTensor x = tensor_of(DType::f32, {9}, Layout::bhsd, values), y(DType::f32, {9});
      activation.run(x.view(), y.view(), {.isa = isa});
      const std::vector<double> got = y.values();
      CHECK((got[0] == 0 && !std::signbit(got[0])));
      CHECK((got[1] == 0 && std::signbit(got[1])));
      CHECK(got[2] == infinity);
      CHECK((got[3] == 0 && std::signbit(got[3])));
      CHECK(std::isnan(got[4]));
      CHECK((got[5] == 0 && std::signbit(got[5])));
      CHECK(got[6] == static_cast<float>(1e30));
      CHECK(std::fabs(got[7] - activation.exact(1)) < 1e-6);
      CHECK(std::fabs(got[8] + 5e-31) < 1e-36);
    }
  }
}

TEST_CASE(
    "Any rank, type and layout gives the bits of a dense row, also in place and on any number of "
    "threads") {
  Random random(3);
  for (const Dims& shape : {Dims{}, Dims{0}, Dims{1}, Dims{33}, Dims{3, 0, 2}, Dims{5, 7},
                            Dims{2, 3, 5, 17}, Dims{3, 40, 50, 9}, Dims{2, 1, 3, 2, 1, 2, 2, 3}}) {
    for (const Layout layout : all_layouts) {
      for (const DType dtype : float_types) {
        for (const Activation& activation : activations) {
          const std::string place = fmt::format("{} of {} {} {}", activation.name,
                                                shape.to_string(), name_of(layout), name_of(dtype));
          CAPTURE(place);
          StridedTensor x =
              tensor_of(dtype, shape, layout, normal_values(random, shape.product(), 0, 3));
          StridedTensor row = tensor_of(dtype, {shape.product()}, Layout::bhsd, x.values()),
                        wanted(DType::f32, {shape.product()});
          activation.run(row.view(), wanted.view(), {.num_threads = 1});
          StridedTensor y(DType::f32, shape, random.pick(all_layouts));
          activation.run(x.view(), y.view(), {.num_threads = 3});
          CHECK(y.bits() == wanted.bits());
          CHECK(y.gaps_untouched());
          StridedTensor in_place = x, rounded = tensor_of(dtype, shape, layout, wanted.values());
          activation.run(in_place.view(), in_place.view(), {});
          CHECK(in_place.bits() == rounded.bits());
          CHECK(in_place.gaps_untouched());
        }
      }
    }
  }
}

TEST_CASE(
    "An element has the same bits wherever it lies, and a broadcast input is read again and "
    "again") {
  Random random(4);
  const std::vector<double> values = normal_values(random, 97, 0, 4);
  for (const Activation& activation : activations) {
    StridedTensor x = tensor_of(DType::f32, {97}, Layout::bhsd, values), y(DType::f32, {97}),
                  z(DType::f32, {97});
    activation.run(x.view(), y.view(), {});
    for (std::int64_t begin = 0; begin < 97; ++begin) {
      activation.run(x.view().sliced(0, begin, std::min<std::int64_t>(begin + 5, 97)),
                     z.view().sliced(0, begin, std::min<std::int64_t>(begin + 5, 97)), {});
    }
    CHECK(y.bits() == z.bits());
    StridedTensor many(DType::f32, {4, 97});
    activation.run(TensorView(x.view().data, DType::f32, {4, 97}, {0, 1}), many.view(), {});
    const std::vector<std::uint64_t> once = y.bits(), bits = many.bits();
    for (std::size_t n = 0; n < bits.size(); ++n) CHECK(bits[n] == once[n % 97]);
  }
}

TEST_CASE("What does not fit is refused before anything is written") {
  StridedTensor x(DType::f32, {2, 3}), y(DType::f32, {2, 3}), integers(DType::i32, {2, 3}),
      other(DType::f32, {3, 2});
  const MutableTensorView repeated(y.view().data, DType::f32, {2, 3}, {0, 1});
  for (const Activation& activation : activations) {
    const auto refused = [&](const std::vector<std::string>& fragments, const TensorView& from,
                             const MutableTensorView& to, const Execution& execution = {}) {
      check_fails(ErrorCode::invalid_argument, fragments,
                  [&] { activation.run(from, to, execution); });
    };
    refused({"x has type i32"}, integers.view(), y.view());
    refused({"x of shape []", "no data"}, {}, y.view());
    refused({"y has type i32"}, x.view(), integers.view());
    refused({"y has shape [3, 2]", "[2, 3]"}, x.view(), other.view());
    refused({"y has shape []"}, x.view(), {});
    refused({"y of shape [2, 3] has no data"}, x.view(),
            {static_cast<void*>(nullptr), DType::f32, {2, 3}});
    refused({"y has strides [0, 1]"}, x.view(), repeated);
    refused({"num_threads is 0"}, x.view(), y.view(), {.num_threads = 0});
    CHECK(y.untouched());
  }
}

TEST_CASE(
    "swiglu is silu of the gate times up, in any layout and type, in place, on any number of "
    "threads") {
  Random random(6);
  for (const Dims& shape : {Dims{}, Dims{0}, Dims{1}, Dims{5, 7}, Dims{3, 0}, Dims{3, 40, 50, 9}}) {
    for (const Layout layout : all_layouts) {
      for (const DType dtype : float_types) {
        const std::string place =
            fmt::format("{} {} {}", shape.to_string(), name_of(layout), name_of(dtype));
        CAPTURE(place);
        StridedTensor gate =
            tensor_of(dtype, shape, layout, normal_values(random, shape.product(), 0, 3));
        StridedTensor up = tensor_of(random.pick(float_types), shape, random.pick(all_layouts),
                                     normal_values(random, shape.product()));
        StridedTensor y(DType::f32, shape, random.pick(all_layouts)), again(DType::f32, shape);
        swiglu(gate.view(), up.view(), y.view(), {.num_threads = 1});
        swiglu(gate.view(), up.view(), again.view(), {.num_threads = 3});
        CHECK(y.bits() == again.bits());
        CHECK(y.gaps_untouched());
        const std::vector<double> gates = gate.values(), ups = up.values();
        std::vector<double> wanted(gates.size());
        for (std::size_t n = 0; n < wanted.size(); ++n)
          wanted[n] = activations[2].exact(gates[n]) * ups[n];
        // The error of silu and the rounding of the product.
        CHECK(first_difference(y.values(), wanted, [&](std::size_t n) {
                return (activations[2].tolerance + float_unit) * std::fabs(wanted[n]) + vanishing;
              }) == "");
        StridedTensor over_up = up, rounded = tensor_of(dtype, shape, layout, y.values());
        const StridedTensor up_rounded = tensor_of(up.dtype(), shape, Layout::bhsd, y.values());
        swiglu(gate.view(), over_up.view(), over_up.view());
        CHECK(over_up.bits() == up_rounded.bits());
        swiglu(gate.view(), up.view(), gate.view());
        CHECK(gate.bits() == rounded.bits());
        CHECK(gate.gaps_untouched());
      }
    }
  }
}

TEST_CASE("geglu is gelu of the gate times up, in any layout and type, in place") {
  Random random(7);
  for (const GeluForm form : {GeluForm::erf, GeluForm::tanh}) {
    const Activation& exact = activations[form == GeluForm::erf ? 0 : 1];
    for (const Dims& shape : {Dims{}, Dims{0}, Dims{5, 7}, Dims{3, 40, 50}}) {
      for (const DType dtype : float_types) {
        CAPTURE(name_of(dtype));
        StridedTensor gate = tensor_of(dtype, shape, random.pick(all_layouts),
                                       normal_values(random, shape.product(), 0, 3));
        StridedTensor up = tensor_of(dtype, shape, random.pick(all_layouts),
                                     normal_values(random, shape.product()));
        StridedTensor y(DType::f32, shape, random.pick(all_layouts)), again(DType::f32, shape);
        geglu(gate.view(), up.view(), y.view(), form, {.num_threads = 1});
        geglu(gate.view(), up.view(), again.view(), form, {.num_threads = 3});
        CHECK(y.bits() == again.bits());
        CHECK(y.gaps_untouched());
        const std::vector<double> gates = gate.values(), ups = up.values();
        std::vector<double> wanted(gates.size());
        for (std::size_t n = 0; n < wanted.size(); ++n) wanted[n] = exact.exact(gates[n]) * ups[n];
        CHECK(first_difference(y.values(), wanted, [&](std::size_t n) {
                return (exact.tolerance + float_unit) * std::fabs(wanted[n]) + vanishing;
              }) == "");
        const StridedTensor rounded = tensor_of(dtype, shape, Layout::bhsd, y.values());
        StridedTensor over_up = up;
        geglu(gate.view(), over_up.view(), over_up.view(), form);
        CHECK(over_up.bits() == rounded.bits());
        geglu(gate.view(), up.view(), gate.view(), form);
        CHECK(gate.bits() == rounded.bits());
      }
    }
  }
}

TEST_CASE("swiglu of what is not finite, with each instruction set") {
  const std::vector<double> gates = {infinity, -infinity, not_a_number, 1,    2,
                                     0,        infinity,  -infinity,    -200, 3};
  const std::vector<double> ups = {2, 3, 1, not_a_number, -infinity, infinity, 0, infinity, 4, -1};
  for (const Isa isa : available_isas()) {
    StridedTensor gate = tensor_of(DType::f32, {10}, Layout::bhsd, gates),
                  up = tensor_of(DType::f32, {10}, Layout::bhsd, ups);
    StridedTensor y(DType::f32, {10});
    swiglu(gate.view(), up.view(), y.view(), {.isa = isa});
    const std::vector<double> got = y.values();
    CHECK(got[0] == infinity);
    CHECK((got[1] == 0 && std::signbit(got[1])));
    for (const std::size_t n : {2, 3, 5, 6, 7}) CHECK(std::isnan(got[n]));
    CHECK(got[4] == -infinity);
    CHECK((std::fabs(got[8]) < vanishing && std::signbit(got[8])));
    CHECK(std::fabs(got[9] + 3 / (1 + std::exp(-3.))) < 3e-6);
  }
}

TEST_CASE("What swiglu refuses") {
  StridedTensor gate(DType::f32, {2, 3}), up(DType::f32, {2, 3}), y(DType::f32, {2, 3}),
      other(DType::f32, {3, 2}), integers(DType::i32, {2, 3});
  const auto refused = [&](const std::vector<std::string>& fragments, const TensorView& a,
                           const TensorView& b, const MutableTensorView& to) {
    check_fails(ErrorCode::invalid_argument, fragments, [&] { swiglu(a, b, to); });
  };
  refused({"gate has type i32"}, integers.view(), up.view(), y.view());
  refused({"up has shape [3, 2]", "[2, 3] (the shape of gate)"}, gate.view(), other.view(),
          y.view());
  refused({"up has type i32"}, gate.view(), integers.view(), y.view());
  refused({"y has shape [3, 2]", "[2, 3]"}, gate.view(), up.view(), other.view());
  refused({"gate of shape []", "no data"}, {}, up.view(), y.view());
  CHECK(y.untouched());
}
