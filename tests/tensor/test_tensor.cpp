// Shapes, views, owned memory, and copies between element types and layouts.
#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"

using namespace attn;

namespace {

constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();
constexpr std::array all_types{DType::f32, DType::bf16, DType::f16,    DType::f64,
                               DType::i32, DType::i64,  DType::boolean};

std::string refusal(const std::function<void()>& run) {
  return test::refusal(run, ErrorCode::invalid_argument);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Tensor counted(const Dims& shape) {
  Tensor tensor(DType::i64, shape);
  std::iota(tensor.data<std::int64_t>(), tensor.data<std::int64_t>() + tensor.size(), 0);
  return tensor;
}

std::vector<std::int64_t> values(const TensorView& view) {
  const Tensor dense = copy_as(view, DType::i64);
  return {dense.data<std::int64_t>(), dense.data<std::int64_t>() + dense.size()};
}

template <class To, class From>
To converted(From value) {
  const Tensor result = copy_as(TensorView(&value, Dims{}), dtype_of<To>());
  return *result.data<To>();
}

/// A 16-bit float format by its definition: the value of each bit pattern.
struct Format {
  int mantissa_bits;
  int max_exponent;

  int infinity() const { return 0x7fff >> mantissa_bits << mantissa_bits; }
  bool is_nan(int bits) const { return (bits & 0x7fff) > infinity(); }
  double value(int bits) const {
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const int significand = exponent == 0 ? mantissa : mantissa | 1 << mantissa_bits;
    const double magnitude =
        std::ldexp(significand, std::max(exponent, 1) - max_exponent - mantissa_bits);
    return bits & 0x8000 ? -magnitude : magnitude;
  }
};
constexpr Format bf16_format{7, 127};
constexpr Format f16_format{10, 15};

template <class Half>
void check_widening(const Format& format) {
  int wrong = 0;
  for (int bits = 0; bits < 0x10000; ++bits) {
    const float value = converted<float>(Half{static_cast<std::uint16_t>(bits)});
    if (format.is_nan(bits)) {
      wrong += !std::isnan(value);
    } else if ((bits & 0x7fff) == format.infinity()) {
      wrong += !std::isinf(value) || std::signbit(value) != (bits >= 0x8000);
    } else {
      wrong += value != format.value(bits) || std::signbit(value) != (bits >= 0x8000);
    }
  }
  CHECK(wrong == 0);
}

/// Checks that converting to float or double and back keeps the bits, except that signaling NaNs
/// become quiet.
template <class Half, class Wide>
void check_round_trip(const Format& format) {
  Tensor all(dtype_of<Half>(), {0x10000});
  for (int bits = 0; bits < 0x10000; ++bits)
    all.data<Half>()[bits] = {static_cast<std::uint16_t>(bits)};
  const Tensor wide = copy_as(all.view(), dtype_of<Wide>());
  const Tensor back = copy_as(wide.view(), dtype_of<Half>());
  int wrong = 0;
  for (int bits = 0; bits < 0x10000; ++bits) {
    const int quiet = format.is_nan(bits) ? 1 << (format.mantissa_bits - 1) : 0;
    wrong += back.data<Half>()[bits].bits != (bits | quiet);
  }
  CHECK(wrong == 0);
}

/// Checks the values half-way between neighbors and just beside them, where rounding twice would
/// give another result.
template <class Half, class Wide>
void check_rounding(const Format& format) {
  const auto rounded = [](double value) {
    return static_cast<int>(converted<Half>(static_cast<Wide>(value)).bits);
  };
  const auto hair = [](double value, double toward) {
    return static_cast<double>(std::nextafter(static_cast<Wide>(value), static_cast<Wide>(toward)));
  };
  int wrong = 0;
  for (int low = 0; low < format.infinity(); ++low) {
    const int high = low + 1;
    // The successor of the largest finite value is the power of two that infinity's bits would
    // encode.
    const double middle = (format.value(low) + format.value(high)) / 2;
    const int even = low % 2 == 0 ? low : high;
    for (const int sign : {0, 0x8000}) {
      const double signed_middle = sign ? -middle : middle;
      wrong += rounded(signed_middle) != (even | sign);
      wrong += rounded(hair(signed_middle, 0)) != (low | sign);
      wrong += rounded(hair(signed_middle, 2 * signed_middle)) != (high | sign);
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("dims") {
  CHECK(Dims{}.rank() == 0);
  CHECK(Dims{}.product() == 1);
  CHECK(Dims{2, 3, 4}.product() == 24);
  CHECK(Dims{2, 3, 4}.to_string() == "[2, 3, 4]");
  CHECK(Dims{}.to_string() == "[]");
  CHECK(Dims{2, 3} == Dims{2, 3});
  CHECK(Dims{2, 3} != Dims{2, 3, 1});
  CHECK(Dims{2, 3} != Dims{2, 4});
  CHECK(Dims{1, 2, 3, 4, 5, 6, 7, 8}.rank() == 8);
  CHECK(contains(refusal([] { Dims{1, 2, 3, 4, 5, 6, 7, 8, 9}; }), "rank 9"));
  CHECK(contains(refusal([] { Dims(nullptr, -1); }), "rank -1"));
}

TEST_CASE("products of huge extents do not wrap around") {
  CHECK(Dims{huge, huge}.product() == huge);
  CHECK(Dims{huge, huge, 0}.product() == 0);
  CHECK(dense_strides({2, huge, 4}) == Dims{huge, 4, 1});
}

TEST_CASE("dense strides") {
  CHECK(dense_strides({2, 3, 4}) == Dims{12, 4, 1});
  CHECK(dense_strides({}) == Dims{});
}

TEST_CASE("names and sizes of types") {
  std::string names;
  std::size_t size = 0;
  for (const DType dtype : all_types) {
    names += std::string(name_of(dtype)) + " ";
    size += size_of(dtype);
  }
  CHECK(names == "f32 bf16 f16 f64 i32 i64 boolean ");
  CHECK(size == 4 + 2 + 2 + 8 + 4 + 8 + 1);
}

TEST_CASE("views check what they are made from") {
  float memory[6] = {};
  CHECK(TensorView().absent());
  CHECK_FALSE(TensorView(memory, {2, 3}).absent());
  CHECK_FALSE(TensorView(static_cast<const float*>(nullptr), {0, 3}).absent());
  CHECK(contains(refusal([&] { TensorView(memory, {2, -3}); }), "[2, -3]"));
  CHECK(contains(refusal([&] { TensorView(memory, {2, 3}, {1}); }), "as many strides"));
}

TEST_CASE("permuted") {
  const Tensor tensor = counted({2, 3});
  const TensorView permuted = tensor.view().permuted({1, 0});
  CHECK(permuted.shape == Dims{3, 2});
  CHECK(values(permuted) == std::vector<std::int64_t>{0, 3, 1, 4, 2, 5});
  for (const Dims& wrong : {Dims{0}, Dims{0, 0}, Dims{0, 2}, Dims{-1, 0}, Dims{0, 1, 2}}) {
    CHECK(contains(refusal([&] { tensor.view().permuted(wrong); }), wrong.to_string()));
  }
}

TEST_CASE("sliced") {
  const Tensor tensor = counted({3, 4});
  CHECK(values(tensor.view().sliced(0, 1, 3).sliced(1, 2, 3)) == std::vector<std::int64_t>{6, 10});
  CHECK(tensor.view().sliced(1, 4, 4).shape == Dims{3, 0});
  CHECK(TensorView(static_cast<const float*>(nullptr), {4}).sliced(0, 1, 2).data == nullptr);
  CHECK(contains(refusal([&] { tensor.view().sliced(2, 0, 1); }), "dim 2"));
  CHECK(contains(refusal([&] { tensor.view().sliced(-1, 0, 1); }), "dim -1"));
  for (const auto& [begin, end] : {std::pair{-1, 2}, {0, 5}, {3, 2}}) {
    CHECK(contains(refusal([&, b = begin, e = end] { tensor.view().sliced(1, b, e); }), "dim 1"));
  }
  for (const std::int64_t stride :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(),
        -(std::int64_t{1} << 60), (std::int64_t{1} << 48) + 1}) {
    TensorView astray = tensor.view();
    astray.strides[0] = stride;
    CHECK(astray.sliced(0, 0, 3).data == tensor.data());
    CHECK(contains(refusal([&] { astray.sliced(0, 1, 3); }), "2^48"));
  }
}

TEST_CASE("tensors own zeroed, aligned memory") {
  for (const DType dtype : all_types) {
    Tensor tensor(dtype, {3, 5});
    CHECK(tensor.size_in_bytes() == 15 * size_of(dtype));
    CHECK(std::bit_cast<std::uintptr_t>(tensor.data()) % 64 == 0);
    const auto* bytes = static_cast<const unsigned char*>(tensor.data());
    CHECK(std::count(bytes, bytes + tensor.size_in_bytes(), 0) ==
          static_cast<std::ptrdiff_t>(tensor.size_in_bytes()));
  }
  CHECK(Tensor().size() == 0);
  CHECK(Tensor(DType::f32, {}).size() == 1);
  CHECK(Tensor(DType::f32, {0, 3}).data() != nullptr);
  CHECK_FALSE(Tensor(DType::f32, {0, 3}).view().absent());
}

TEST_CASE("tensors refuse sizes that do not exist and types that are not theirs") {
  CHECK(contains(refusal([] { Tensor(DType::f32, {2, -1}); }), "[2, -1]"));
  CHECK(contains(refusal([] { Tensor(DType::f32, {huge}); }), "overflows"));
  CHECK(contains(refusal([] {
                   Tensor(DType::boolean, {std::int64_t{1} << 32, std::int64_t{1} << 31});
                 }),
                 "overflows"));
  CHECK(contains(refusal([] { Tensor(DType::f64, {0, huge, huge}); }), "overflows"));
  CHECK(contains(refusal([] { Tensor(DType::f32, {1}).data<double>(); }), "f64"));
}

TEST_CASE("every bit pattern of bf16 and f16 means its value") {
  check_widening<bf16>(bf16_format);
  check_widening<f16>(f16_format);
}

TEST_CASE("every bit pattern of bf16 and f16 survives a round trip") {
  check_round_trip<bf16, float>(bf16_format);
  check_round_trip<bf16, double>(bf16_format);
  check_round_trip<f16, float>(f16_format);
  check_round_trip<f16, double>(f16_format);
}

TEST_CASE("floats round once, to nearest even") {
  check_rounding<bf16, float>(bf16_format);
  check_rounding<bf16, double>(bf16_format);
  check_rounding<f16, float>(f16_format);
  check_rounding<f16, double>(f16_format);
}

TEST_CASE("known conversions to 16 bits") {
  CHECK(converted<f16>(1.0f).bits == 0x3c00);
  CHECK(converted<f16>(-2.0f).bits == 0xc000);
  CHECK(converted<f16>(65504.0f).bits == 0x7bff);
  CHECK(converted<f16>(65519.99f).bits == 0x7bff);
  CHECK(converted<f16>(65520.0f).bits == 0x7c00);
  CHECK(converted<f16>(0x1p-24f).bits == 1);
  CHECK(converted<f16>(0x1p-25f).bits == 0);
  CHECK(converted<f16>(0x1.000002p-25f).bits == 1);
  CHECK(converted<f16>(-0.0f).bits == 0x8000);
  CHECK(converted<f16>(std::numeric_limits<double>::denorm_min()).bits == 0);
  CHECK(converted<f16>(-std::numeric_limits<double>::max()).bits == 0xfc00);
  CHECK(converted<f16>(std::int32_t{2049}).bits == 0x6800);  // 2048: 2049 lies half-way
  CHECK(converted<f16>(std::int64_t{1} << 40).bits == 0x7c00);
  CHECK(converted<bf16>(1.0f).bits == 0x3f80);
  CHECK(converted<bf16>(0x1.01p0f).bits == 0x3f80);
  CHECK(converted<bf16>(0x1.03p0f).bits == 0x3f82);
  CHECK(converted<bf16>(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(converted<bf16>(-std::numeric_limits<float>::infinity()).bits == 0xff80);
  CHECK(converted<bf16>(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK(converted<bf16>(true).bits == 0x3f80);
  CHECK(converted<bf16>(std::bit_cast<float>(0x7f800001u)).bits ==
        0x7fc0);  // a NaN whose payload bits would all be truncated
  CHECK(converted<f16>(std::bit_cast<float>(0xff800001u)).bits == 0xfe00);
  CHECK(converted<bf16>(f16{0x3c01}).bits == 0x3f80);
}

TEST_CASE("doubles to floats") {
  CHECK(converted<float>(0.1) == 0.1f);
  CHECK(std::isinf(converted<float>(1e300)));
  CHECK(std::isnan(converted<float>(std::nan(""))));
}

TEST_CASE("floats to integers truncate, and refuse what does not fit") {
  CHECK(converted<std::int32_t>(-1.9f) == -1);
  CHECK(converted<std::int32_t>(2147483647.9) == 2147483647);
  CHECK(converted<std::int32_t>(-2147483648.9) == std::numeric_limits<std::int32_t>::min());
  CHECK(converted<std::int64_t>(-0x1p63) == std::numeric_limits<std::int64_t>::min());
  CHECK(converted<std::int64_t>(f16{0x7bff}) == 65504);
  CHECK(converted<std::int32_t>(std::int64_t{-5}) == -5);
  CHECK(contains(refusal([] { converted<std::int32_t>(2147483648.0); }), "i32"));
  CHECK(contains(refusal([] { converted<std::int32_t>(0x1p31f); }), "i32"));
  CHECK(contains(refusal([] { converted<std::int32_t>(-2147483649.0); }), "i32"));
  CHECK(contains(refusal([] { converted<std::int64_t>(0x1p63); }), "i64"));
  CHECK(contains(refusal([] { converted<std::int64_t>(std::nan("")); }), "nan does not fit"));
  CHECK(contains(refusal([] { converted<std::int32_t>(f16{0xfc00}); }), "-inf does not fit"));
  CHECK(contains(refusal([] { converted<std::int32_t>(std::int64_t{1} << 31); }), "2147483648"));
}

TEST_CASE("a refused copy leaves the destination as it was") {
  const double source[] = {1, 2, std::nan("")};
  std::int32_t destination[] = {7, 7, 7};
  CHECK_FALSE(refusal([&] {
                copy_into(TensorView(source, {3}), MutableTensorView(destination, {3}));
              }).empty());
  CHECK(std::count(destination, destination + 3, 7) == 3);
}

TEST_CASE("anything but zero is true") {
  CHECK(converted<bool>(0.5f));
  CHECK(converted<bool>(std::nan("")));
  CHECK_FALSE(converted<bool>(-0.0f));
  CHECK(converted<bool>(f16{1}));
  CHECK_FALSE(converted<bool>(bf16{0x8000}));
  CHECK(converted<bool>(std::int64_t{1} << 40));
  const unsigned char bytes[] = {0, 1, 2, 255};
  const Tensor copied = copy_as(TensorView(bytes, DType::boolean, Dims{4}), DType::boolean);
  const unsigned char normal[] = {0, 1, 1, 1};
  CHECK(std::memcmp(copied.data(), normal, sizeof normal) == 0);
  CHECK(values(TensorView(bytes, DType::boolean, Dims{4})) ==
        std::vector<std::int64_t>{0, 1, 1, 1});
}

TEST_CASE("small whole numbers pass through every pair of types") {
  const std::int64_t source[] = {0, 1, 1, 0, 1};
  for (const DType from : all_types) {
    for (const DType to : all_types) {
      CAPTURE(std::string(name_of(from)));
      CAPTURE(std::string(name_of(to)));
      const Tensor first = copy_as(TensorView(source, {5}), from);
      CHECK(values(copy_as(first.view(), to).view()) ==
            std::vector<std::int64_t>(source, source + 5));
    }
  }
}

TEST_CASE("a copy in the same type keeps the bits") {
  Tensor source(DType::f16, {0x10000});
  for (int bits = 0; bits < 0x10000; ++bits)
    source.data<f16>()[bits] = {static_cast<std::uint16_t>(bits)};
  const Tensor copied = copy_as(source.view(), DType::f16);
  CHECK(std::memcmp(source.data(), copied.data(), source.size_in_bytes()) == 0);
}

TEST_CASE("copies read any strides") {
  const Tensor tensor = counted({2, 3, 4});
  const auto* first = tensor.data<std::int64_t>();
  CHECK(values(TensorView(first + 3, {4}, {-1})) == std::vector<std::int64_t>{3, 2, 1, 0});
  CHECK(values(TensorView(first + 23, {2, 2}, {-12, -4})) ==
        std::vector<std::int64_t>{23, 19, 11, 7});
  CHECK(values(TensorView(first, {2, 3}, {0, 4})) == std::vector<std::int64_t>{0, 4, 8, 0, 4, 8});
  CHECK(values(TensorView(first + 5, {3}, {0})) == std::vector<std::int64_t>{5, 5, 5});
  CHECK(values(TensorView(first + 5, Dims{})) == std::vector<std::int64_t>{5});
  CHECK(values(tensor.view().permuted({2, 0, 1}).sliced(0, 1, 2)) ==
        std::vector<std::int64_t>{1, 5, 9, 13, 17, 21});
}

TEST_CASE("copies write any strides") {
  const Tensor tensor = counted({2, 3});
  std::array<std::int32_t, 12> destination;
  destination.fill(-1);
  copy_into(tensor.view(), MutableTensorView(destination.data() + 11, {2, 3}, {-1, -4}));
  CHECK(destination == std::array<std::int32_t, 12>{-1, -1, 5, 2, -1, -1, 4, 1, -1, -1, 3, 0});
}

TEST_CASE("copies of eight dims") {
  const Tensor tensor = counted({2, 1, 3, 2, 1, 2, 3, 2});
  const Dims order{7, 6, 5, 4, 3, 2, 1, 0};
  const Tensor permuted = copy_as(tensor.view().permuted(order), DType::i64);
  CHECK(permuted.data<std::int64_t>()[1] == 72);
  CHECK(values(permuted.view().permuted(order)) == values(tensor.view()));
}

TEST_CASE("copies accept unaligned memory") {
  std::array<unsigned char, 9> bytes{};
  const float pair[] = {1.5f, -2.5f};
  std::memcpy(bytes.data() + 1, pair, sizeof pair);
  const Tensor copied = copy_as(TensorView(bytes.data() + 1, DType::f32, {2}), DType::f64);
  CHECK(copied.data<double>()[0] == 1.5);
  CHECK(copied.data<double>()[1] == -2.5);
}

TEST_CASE("copies of nothing, and copies that cannot be") {
  CHECK(copy_as(TensorView(static_cast<const float*>(nullptr), {3, 0}), DType::bf16).shape() ==
        Dims{3, 0});
  float memory[6] = {};
  CHECK(contains(refusal([&] {
                   copy_into(TensorView(memory, {2, 3}), MutableTensorView(memory, {3, 2}));
                 }),
                 "[3, 2]"));
  CHECK(contains(refusal([] { copy_as(TensorView(), DType::f32); }),
                 "source of shape [] has no data"));
  CHECK(contains(refusal([&] {
                   copy_into(TensorView(memory, {6}), MutableTensorView(nullptr, DType::f32, {6}));
                 }),
                 "destination of shape [6] has no data"));
}
