// Kernels that work element by element: transforms of scores, conversions, entmax, norms, RoPE and
// activations. Every length up to a few vectors is compared with a loop in double.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/guarded.hpp"

using namespace attn;
using namespace attn::test;
using kernels::Kernels;

namespace {

constexpr double eps = 0x1p-23;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Calls test(kernels, count) for every length up to nine vectors and one.
template <class Test>
void for_each_length(Test test) {
  for_each_isa([&](const Kernels& kernels) {
    for (std::int64_t count = 0; count <= 9 * kernels.vector_width + 1; ++count) {
      CAPTURE(count);
      test(kernels, count);
    }
  });
}

/// Applies `kernel` to x and compares with f, within the relative error of each element.
template <class Kernel, class F>
void check_map(std::int64_t count, double relative, Kernel kernel, F f) {
  Random random(static_cast<std::uint64_t>(count));
  Guarded<float> x(count), y(count);
  for (std::int64_t n = 0; n < count; ++n) x[n] = static_cast<float>(12 * random.uniform() - 6);
  x.remember();
  y.remember();
  kernel(x.data(), y.data());
  bool good = true;
  for (std::int64_t n = 0; n < count; ++n) {
    const double expected = f(static_cast<double>(x[n]), n);
    good &= std::fabs(y[n] - expected) <= relative * std::fabs(expected);
  }
  CHECK(good);
  CHECK(y.only_changed(1, 0, count));
  CHECK(x.only_changed(0, 0, 0));
  // In place, and to the same bits.
  kernel(x.data(), x.data());
  CHECK(std::memcmp(x.data(), y.data(), static_cast<std::size_t>(count) * sizeof(float)) == 0);
}

/// For kernels that work in place alone.
template <class Kernel>
auto in_place(std::int64_t count, Kernel kernel) {
  return [=](const float* src, float* dst) {
    std::vector<float> copy(src, src + count);
    std::copy(copy.begin(), copy.end(), dst);
    kernel(dst);
  };
}

/// The value of 16 bits with `exponent_bits` of exponent, for finite ones.
double value_of(std::uint32_t bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1));
  const int exponent = static_cast<int>(bits & 0x7fff) >> mantissa_bits;
  const int units = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
  const double magnitude = std::ldexp(units, std::max(exponent, 1) - bias - mantissa_bits);
  return bits & 0x8000 ? -magnitude : magnitude;
}

/// All finite numbers of a type: widened, narrowed back, and the midpoints of neighbors, which are
/// exact in f32 and round to the even one.
template <class Widen, class Narrow>
void check_all_halves(int exponent_bits, Widen widen, Narrow narrow) {
  const std::uint32_t finite = 0x7fffu & ~((1u << (15 - exponent_bits)) - 1);
  std::vector<std::uint16_t> bits, evens;
  std::vector<float> midpoints;
  for (std::uint32_t sign : {0u, 0x8000u}) {
    for (std::uint32_t n = 0; n < finite; ++n) {
      bits.push_back(static_cast<std::uint16_t>(sign | n));
      if (n + 1 == finite) continue;
      const double sum =
          value_of(sign | n, exponent_bits) + value_of(sign | (n + 1), exponent_bits);
      midpoints.push_back(static_cast<float>(sum / 2));
      evens.push_back(static_cast<std::uint16_t>(sign | (n + n % 2)));
    }
  }
  std::vector<float> wide(bits.size());
  std::vector<std::uint16_t> narrowed(bits.size());
  widen(bits.data(), static_cast<std::int64_t>(bits.size()), wide.data());
  bool good = true;
  for (std::size_t n = 0; n < bits.size(); ++n)
    good &= static_cast<double>(wide[n]) == value_of(bits[n], exponent_bits);
  narrow(wide.data(), static_cast<std::int64_t>(wide.size()), narrowed.data());
  good &= narrowed == bits;
  narrowed.resize(evens.size());
  narrow(midpoints.data(), static_cast<std::int64_t>(midpoints.size()), narrowed.data());
  good &= narrowed == evens;
  CHECK(good);
  const float special[] = {infinity, -infinity, __builtin_nanf(""), 3.4e38f};
  std::uint16_t out[4];
  float back[4];
  narrow(special, 4, out);
  widen(out, 4, back);
  CHECK(
      (back[0] == infinity && back[1] == -infinity && std::isnan(back[2]) && back[3] == infinity));
}

}  // namespace

TEST_CASE("Conversions: every finite number of bf16 and f16, and rounding to even") {
  for_each_isa([](const Kernels& k) {
    check_all_halves(8, k.widen_bf16, k.narrow_bf16);
    check_all_halves(5, k.widen_f16, k.narrow_f16);
  });
}

TEST_CASE("Every integer of i8 is exact in bf16") {
  for_each_isa([](const Kernels& k) {
    Guarded<std::int8_t> integers(256);
    Guarded<std::uint16_t> halves(256);
    for (int n = 0; n < 256; ++n) integers[n] = static_cast<std::int8_t>(n - 128);
    k.i8_to_bf16(integers.data(), 256, halves.data());
    bool good = true;
    for (int n = 0; n < 256; ++n) good &= halves[n] == bf16_of(static_cast<float>(n - 128));
    CHECK(good);
  });
}

TEST_CASE("Transforms of scores") {
  for_each_length([](const Kernels& k, std::int64_t count) {
    check_map(
        count, eps / 2, [&](const float* x, float* y) { k.scale(x, count, 3, y); },
        [](double x, std::int64_t) { return 3 * x; });
    std::vector<float> factors(static_cast<std::size_t>(count));
    for (std::int64_t n = 0; n < count; ++n)
      factors[static_cast<std::size_t>(n)] = static_cast<float>(n % 5) - 2;
    check_map(count, eps / 2,
              in_place(count, [&](float* y) { k.multiply(y, count, factors.data()); }),
              [](double x, std::int64_t n) { return x * static_cast<double>(n % 5 - 2); });
    // tanh is within 2 ulp; the quotient and the product are rounded once each, and an error of the
    // argument is not magnified.
    check_map(count, 4 * eps, in_place(count, [&](float* y) { k.softcap(y, count, 5); }),
              [](double x, std::int64_t) { return 5 * std::tanh(x / 5); });
    // The argument x + bias is rounded, and so is its product with log2(e): the exponential of an
    // argument of at most 8 has a relative error of 8 eps, besides its own 1.3 and two roundings.
    check_map(count, 11 * eps, in_place(count, [&](float* y) { k.sigmoid(y, count, 0.5f); }),
              [](double x, std::int64_t) { return 1 / (1 + std::exp(-(x + 0.5))); });
    std::vector<std::uint8_t> visible(static_cast<std::size_t>(count));
    Guarded<float> mask(count), scores(count);
    for (std::int64_t n = 0; n < count; ++n) {
      visible[static_cast<std::size_t>(n)] = n % 3 != 0;
      mask[n] = n % 3 == 0 ? -infinity : static_cast<float>(n);
      scores[n] = n % 2 == 0 ? __builtin_nanf("") : 1.f;
    }
    scores.remember();
    k.add_mask(scores.data(), count, mask.data());
    bool good = true;
    for (std::int64_t n = 0; n < count; ++n) {
      if (n % 3 == 0)
        good &= scores[n] == -infinity;
      else if (n % 2 == 0)
        good &= std::isnan(scores[n]);
      else
        good &= scores[n] == 1.f + static_cast<float>(n);
      scores[n] = static_cast<float>(n);
    }
    k.alibi(scores.data(), count, 0.5f, 7);
    for (std::int64_t n = 0; n < count; ++n)
      good &= scores[n] == static_cast<float>(n) - 0.5f * static_cast<float>(std::abs(7 - n));
    k.hide(scores.data(), count, visible.data());
    for (std::int64_t n = 0; n < count; ++n) good &= (scores[n] == -infinity) == (n % 3 == 0);
    CHECK(good);
    CHECK(scores.only_changed(1, 0, count));
  });
}

TEST_CASE("Conversions: exact, and back to the same bits") {
  for_each_length([](const Kernels& k, std::int64_t count) {
    Random random(static_cast<std::uint64_t>(count));
    Guarded<std::uint16_t> bf16(count), f16(count), back(count);
    Guarded<std::int8_t> i8(count);
    Guarded<float> from_bf16(count), from_f16(count), from_i8(count);
    for (std::int64_t n = 0; n < count; ++n) {
      const float x = small_integer(random);
      bf16[n] = bf16_of(x);
      f16[n] = f16_of(x);
      i8[n] = static_cast<std::int8_t>(x);
    }
    from_bf16.remember();
    from_f16.remember();
    from_i8.remember();
    back.remember();
    k.widen_bf16(bf16.data(), count, from_bf16.data());
    k.widen_f16(f16.data(), count, from_f16.data());
    k.widen_i8(i8.data(), count, 0.5f, from_i8.data());
    bool good = true;
    for (std::int64_t n = 0; n < count; ++n) {
      const auto x = static_cast<float>(i8[n]);
      good &= from_bf16[n] == x && from_f16[n] == x && from_i8[n] == x / 2;
    }
    k.narrow_bf16(from_bf16.data(), count, back.data());
    for (std::int64_t n = 0; n < count; ++n) good &= back[n] == bf16[n];
    k.narrow_f16(from_f16.data(), count, back.data());
    for (std::int64_t n = 0; n < count; ++n) good &= back[n] == f16[n];
    CHECK(good);
    CHECK(from_bf16.only_changed(1, 0, count));
    CHECK(from_f16.only_changed(1, 0, count));
    CHECK(from_i8.only_changed(1, 0, count));
    CHECK(back.only_changed(1, 0, count));
  });
}

TEST_CASE("Entmax: elements above a threshold, of multiples of 1/4: sums are exact") {
  for_each_length([](const Kernels& k, std::int64_t count) {
    Random random(static_cast<std::uint64_t>(count));
    Guarded<float> x(count), y(count);
    const kernels::Threshold threshold{1, 0.25f};
    double sum = 0, squares = 0;
    std::int64_t above = 0;
    std::vector<float> kept;
    for (std::int64_t n = 0; n < count; ++n) {
      x[n] = static_cast<float>(random.integer(-8, 24)) / 4;
      const double u = std::max(x[n] - 1.25, 0.0);
      above += u > 0;
      sum += u;
      squares += u * u;
      if (x[n] - 0.5f > 2) kept.push_back(x[n] - 0.5f);
    }
    y.remember();
    const auto sums = k.sums_above_threshold(x.data(), count, threshold);
    CHECK(sums.count == above);
    CHECK(sums.sum == sum);
    CHECK(sums.sum_of_squares == squares);
    REQUIRE(k.compress_above(x.data(), count, 0.5f, 2, y.data()) ==
            static_cast<std::int64_t>(kept.size()));
    CHECK(std::equal(kept.begin(), kept.end(), y.data()));
    bool good = true;
    k.above_threshold(x.data(), count, 0.5f, threshold, y.data());
    for (std::int64_t n = 0; n < count; ++n) good &= y[n] == std::max(x[n] - 1.75f, 0.f);
    k.half_above_threshold_squared(x.data(), count, 0.5f, threshold, y.data());
    for (std::int64_t n = 0; n < count; ++n) {
      const float half = std::max(x[n] - 1.75f, 0.f) / 2;
      good &= y[n] == half * half;
    }
    CHECK(good);
    CHECK(y.only_changed(1, 0, count));
    k.compress_above(x.data(), count, 0.5f, 2, x.data());
    CHECK(std::equal(kept.begin(), kept.end(), x.data()));
  });
}

TEST_CASE("Norms and RoPE: small integers, so that everything is exact") {
  for_each_length([](const Kernels& k, std::int64_t count) {
    Random random(static_cast<std::uint64_t>(count));
    Guarded<float> x(count), y(count), scale(count), bias(count), pairs(2 * count);
    for (Guarded<float>* a : {&x, &scale, &bias})
      for (std::int64_t n = 0; n < count; ++n) (*a)[n] = small_integer(random);
    double squares = 0;
    for (std::int64_t n = 0; n < count; ++n) squares += (x[n] - 0.5) * (x[n] - 0.5);
    CHECK(k.row_squares(x.data(), count, 0.5) == squares);
    y.remember();
    bool good = true;
    for (const bool scaled : {false, true}) {
      for (const bool biased : {false, true}) {
        k.normalize({x.data(), count, 0.5, 2, scaled ? scale.data() : nullptr,
                     biased ? bias.data() : nullptr, y.data()});
        for (std::int64_t n = 0; n < count; ++n) {
          good &= y[n] == (2 * x[n] - 1) * (scaled ? scale[n] : 1) + (biased ? bias[n] : 0);
        }
      }
    }
    CHECK(y.only_changed(1, 0, count));
    for (std::int64_t n = 0; n < count; ++n) {
      y[n] = pairs[2 * n + 1] = small_integer(random);
      pairs[2 * n] = x[n];
    }
    const std::vector<float> first(x.data(), x.data() + count), second(y.data(), y.data() + count);
    x.remember();
    y.remember();
    pairs.remember();
    k.rope_half(x.data(), y.data(), scale.data(), bias.data(), count);
    k.rope_interleaved(pairs.data(), scale.data(), bias.data(), count);
    for (std::int64_t n = 0; n < count; ++n) {
      const float a = first[static_cast<std::size_t>(n)], b = second[static_cast<std::size_t>(n)];
      const float u = a * scale[n] - b * bias[n], v = a * bias[n] + b * scale[n];
      good &= x[n] == u && y[n] == v && pairs[2 * n] == u && pairs[2 * n + 1] == v;
    }
    CHECK(good);
    CHECK(x.only_changed(1, 0, count));
    CHECK(y.only_changed(1, 0, count));
    CHECK(pairs.only_changed(1, 0, 2 * count));
  });
}

TEST_CASE("gelu and silu") {
  // The exponential is within 1.3 ulp, and an activation rounds about four times. GELU's exponent
  // and its rational function add about as much again.
  constexpr double silu_error = 4 * eps, gelu_error = 8 * eps;
  for_each_length([](const Kernels& k, std::int64_t count) {
    const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
    check_map(
        count, silu_error, [&](const float* x, float* y) { k.silu(x, count, y); },
        [&](double x, std::int64_t) { return silu(x); });
    Guarded<float> up(count);
    for (std::int64_t n = 0; n < count; ++n) up[n] = static_cast<float>(n % 5);
    check_map(
        count, silu_error, [&](const float* x, float* y) { k.swiglu(x, up.data(), count, y); },
        [&](double x, std::int64_t n) { return silu(x) * static_cast<double>(n % 5); });
    check_map(
        count, gelu_error, [&](const float* x, float* y) { k.gelu_erf(x, count, y); },
        [](double x, std::int64_t) { return x * std::erfc(-x * std::sqrt(0.5)) / 2; });
    check_map(
        count, gelu_error, [&](const float* x, float* y) { k.gelu_tanh(x, count, y); },
        [](double x, std::int64_t) {
          const double t = std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
          return x / (1 + std::exp(-2 * t));
        });
  });
}

TEST_CASE("Scans of masks") {
  for_each_isa([](const Kernels& kernels) {
    Random random(9);
    for (int repeat = 0; repeat < 2000; ++repeat) {
      const std::int64_t count = random.integer(0, 3 * 4 * kernels.vector_width);
      Guarded<std::uint8_t> visible(count);
      Guarded<float> added(count);
      std::int64_t begin = random.integer(0, count), end = random.integer(begin, count);
      if (repeat % 5 == 0) begin = 0, end = count;
      bool plain = true, zeros = true;
      for (std::int64_t n = 0; n < count; ++n) {
        const bool inside = n >= begin && n < end;
        const bool kept = inside && (n == begin || n == end - 1 || !random.chance(0.005));
        visible[n] = static_cast<std::uint8_t>(kept ? random.integer(1, 255) : 0);
        added[n] = kept ? static_cast<float>(random.chance(0.005)) : -infinity;
        plain &= !inside || kept;
        zeros &= !inside || added[n] == 0;
      }
      const auto check = [&](const kernels::MaskScan& scan, bool expected_plain) {
        const bool nothing = begin == end;
        CHECK((scan.begin >= scan.end) == nothing);
        if (nothing) return;
        CHECK(scan.begin == begin);
        CHECK(scan.end == end);
        CHECK(scan.plain == expected_plain);
      };
      check(kernels.scan_boolean(visible.data(), count), plain);
      check(kernels.scan_additive(added.data(), count), zeros);
    }
  });
}
