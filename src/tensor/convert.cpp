// Copies between element types and layouts. Each pair of types has its own loop over a row, which
// is the last dim.
#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/copy.hpp"
#include "tensor/indexing.hpp"

namespace attn {
using namespace detail;
namespace {

/// A boolean in user memory, where any byte but 0 means true. A C++ bool with a value other than 0
/// and 1 would be undefined behavior.
struct Boolean {
  std::uint8_t byte;
};

template <class F>
void with_element_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(std::type_identity<float>{});
    case DType::bf16: return f(std::type_identity<bf16>{});
    case DType::f16: return f(std::type_identity<f16>{});
    case DType::f64: return f(std::type_identity<double>{});
    case DType::i8: return f(std::type_identity<std::int8_t>{});
    case DType::i32: return f(std::type_identity<std::int32_t>{});
    case DType::i64: return f(std::type_identity<std::int64_t>{});
    case DType::boolean: return f(std::type_identity<Boolean>{});
  }
}

float widen(bf16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }

float widen(f16 value) {
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude < 0x400)
    return std::copysign(static_cast<float>(magnitude) * 0x1p-24f, std::bit_cast<float>(sign));
  const std::uint32_t bias_change = (magnitude < 0x7c00 ? 127 - 15 : 255 - 31) << 23;
  return std::bit_cast<float>(sign | ((magnitude << 13) + bias_change));
}

/// value / 2^shift, rounded to the nearest integer, ties to even.
std::uint64_t round_off(std::uint64_t value, int shift) {
  const std::uint64_t below_half = (std::uint64_t{1} << (shift - 1)) - 1;
  return (value + below_half + (value >> shift & 1)) >> shift;
}

/// Rounds to a 16-bit float with one sign bit, 15 - mantissa_bits exponent bits and mantissa_bits.
/// A double holds every f32 exactly, so numbers of both types are rounded once.
template <int mantissa_bits>
std::uint16_t narrow(double value) {
  constexpr int dropped = 52 - mantissa_bits;
  constexpr int max_exponent = (1 << (14 - mantissa_bits)) - 1;
  constexpr int min_exponent = 1 - max_exponent;
  constexpr std::uint64_t infinity = 0x7fffu >> mantissa_bits << mantissa_bits;
  constexpr std::uint64_t implicit_one = std::uint64_t{1} << 52;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t sign = bits >> 48 & 0x8000;
  const std::uint64_t magnitude = bits & (~std::uint64_t{0} >> 1);
  const int exponent = static_cast<int>(magnitude >> 52) - 1023;
  const auto with_sign = [sign](std::uint64_t rest) {
    return static_cast<std::uint16_t>(sign | rest);
  };

  if (std::isnan(value)) {
    constexpr std::uint64_t quiet = std::uint64_t{1} << (mantissa_bits - 1);
    return with_sign(infinity | quiet | (magnitude >> dropped & (2 * quiet - 1)));
  }
  if (exponent > max_exponent) return with_sign(infinity);
  if (exponent < min_exponent) {
    const int shift = dropped + min_exponent - exponent;
    const std::uint64_t significand = (magnitude & (implicit_one - 1)) | implicit_one;
    return with_sign(shift > 53 ? 0 : round_off(significand, shift));
  }
  // A carry out of the mantissa increases the exponent, up to that of infinity.
  return with_sign(
      round_off(magnitude - std::uint64_t{1023 - max_exponent} * implicit_one, dropped));
}

template <class T>
auto as_number(T value) {
  if constexpr (std::is_same_v<T, Boolean>)
    return std::int32_t{value.byte != 0};
  else if constexpr (std::is_arithmetic_v<T>)
    return value;
  else
    return widen(value);
}

template <class To, class From>
To convert(From value) {
  const auto number = as_number(value);
  if constexpr (std::is_same_v<To, Boolean>)
    return {number != 0};
  else if constexpr (std::is_same_v<To, From>)
    return value;
  else if constexpr (std::is_arithmetic_v<To>)
    return static_cast<To>(number);
  else if constexpr (std::is_same_v<To, bf16>)
    return {narrow<7>(static_cast<double>(number))};
  else
    return {narrow<10>(static_cast<double>(number))};
}

template <class To, class From>
constexpr bool may_not_fit() {
  using Number = decltype(as_number(From{}));
  return std::is_integral_v<To> &&
         (std::is_floating_point_v<Number> || sizeof(Number) > sizeof(To));
}

template <class To, class Number>
bool fits(Number number) {
  using Limits = std::numeric_limits<To>;
  if constexpr (std::is_floating_point_v<Number>) {
    // -min is a power of 2, exact in every float type; max is not.
    constexpr auto lowest = static_cast<double>(Limits::min());
    const double whole = std::trunc(static_cast<double>(number));
    return whole >= lowest && whole < -lowest;
  } else {
    return number >= Limits::min() && number <= Limits::max();
  }
}

/// A row of the source and of the destination, with steps in bytes.
struct RowPair {
  const std::byte* from;
  std::int64_t from_step;
  std::byte* to;
  std::int64_t to_step;
  std::int64_t count;
};

/// User memory may be unaligned.
template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class From, class To>
void convert_row(const RowPair& row) {
  const auto run = [&row](auto from_step, auto to_step) {
    for (std::int64_t n = 0; n < row.count; ++n) {
      const To value = convert<To>(load<From>(row.from + n * from_step));
      std::memcpy(row.to + n * to_step, &value, sizeof value);
    }
  };
  if (row.from_step == sizeof(From) && row.to_step == sizeof(To)) {
    // Constant steps let the compiler vectorize.
    run(std::integral_constant<std::int64_t, sizeof(From)>{},
        std::integral_constant<std::int64_t, sizeof(To)>{});
  } else {
    run(row.from_step, row.to_step);
  }
}

template <class From, class To>
void check_row(const RowPair& row) {
  for (std::int64_t n = 0; n < row.count; ++n) {
    const auto number = as_number(load<From>(row.from + n * row.from_step));
    if (!fits<To>(number)) {
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("{} does not fit into type {}", number, name_of(dtype_of<To>())));
    }
  }
}

/// Calls f(RowPair) for each index of the dims before the last. A tensor of rank 0 is one row.
template <class F>
void for_each_row(const TensorView& source, const MutableTensorView& destination, F&& f) {
  const Dims& shape = source.shape;
  const int last = shape.rank() - 1;
  RowPair row{.from = nullptr, .from_step = 0, .to = nullptr, .to_step = 0, .count = 1};
  if (last >= 0) {
    row.from_step = source.strides[last] * static_cast<std::int64_t>(size_of(source.dtype));
    row.to_step = destination.strides[last] * static_cast<std::int64_t>(size_of(destination.dtype));
    row.count = shape[last];
  }
  for_each_index(Dims(shape.begin(), std::max(last, 0)), [&](const Dims& index) {
    row.from = address_of(source, index);
    row.to = address_of(destination, index);
    f(row);
  });
}

}  // namespace

namespace detail {

void copy_elements(const TensorView& source, const MutableTensorView& destination) {
  if (source.size() == 0) return;
  with_element_type(source.dtype, [&]<class From>(std::type_identity<From>) {
    with_element_type(destination.dtype, [&]<class To>(std::type_identity<To>) {
      // All values are checked before the first write, so that an error leaves the destination
      // unchanged.
      if constexpr (may_not_fit<To, From>()) for_each_row(source, destination, check_row<From, To>);
      for_each_row(source, destination, convert_row<From, To>);
    });
  });
}

}  // namespace detail

void copy_into(const TensorView& source, const MutableTensorView& destination) {
  if (source.shape != destination.shape) {
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format(
            "a tensor of shape {} was to be copied into one of shape {}: they need to be equal",
            source.shape.to_string(), destination.shape.to_string()));
  }
  require_unaligned_data("source", source);
  require_unaligned_data("destination", destination);
  require_elements_apart("destination", destination);
  copy_elements(source, destination);
}

Tensor copy_as(const TensorView& source, DType dtype) {
  require_unaligned_data("source", source);
  Tensor result(dtype, source.shape);
  copy_into(source, result.view());
  return result;
}

}  // namespace attn
