// clear and merge: the algebra of states (identity, commutative, associative), the formula in
// double, values that are not finite, types, layouts, ranks and views.
#include <attn/state.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "support/check.hpp"
#include "support/poison.hpp"
#include "support/states.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr float largest_float = std::numeric_limits<float>::max();
constexpr double shares_of_empty_rows[] = {0, 0.3, 1};

/// The same state in memory of another layout.
Outputs laid_out(const Outputs& part, Layout layout) {
  Outputs copy = poisoned_part(part.out.dtype(), part.out.shape(), layout);
  copy_into(part.out.view(), copy.out.view());
  copy_into(part.lse.view(), copy.lse.view());
  return copy;
}

Outputs merged(const Outputs& a, const Outputs& b, DType dtype, Layout layout = Layout::bhsd) {
  Outputs into = poisoned_part(dtype, a.out.shape(), layout);
  merge(state_of(a), state_of(b), state_of(into));
  return into;
}
Outputs merged(const Outputs& a, const Outputs& b) { return merged(a, b, a.out.dtype()); }

/// The result for all keys, computed from all parts at once by the formula in double.
Expected whole_of(const std::vector<Outputs>& parts, DType coarsest) {
  Expected whole;
  whole.lse.resize(parts[0].lse.values().size(), -infinity);
  whole.out.resize(parts[0].out.values().size());
  const std::size_t dim = whole.out.size() / whole.lse.size();
  double largest_out = 0;
  for (std::size_t row = 0; row < whole.lse.size(); ++row) {
    double largest = -infinity, sum = 0;
    for (const Outputs& part : parts) largest = std::max(largest, part.lse.values()[row]);
    if (largest == -infinity) continue;
    for (const Outputs& part : parts) sum += std::exp(part.lse.values()[row] - largest);
    whole.lse[row] = largest + std::log(sum);
    for (const Outputs& part : parts) {
      const double share = std::exp(part.lse.values()[row] - whole.lse[row]);
      const std::vector<double> out = part.out.values();
      for (std::size_t n = row * dim; n < (row + 1) * dim && share > 0; ++n)
        whole.out[n] += share * out[n];
    }
  }
  for (const Outputs& part : parts)
    largest_out = std::max(largest_out, largest_finite(part.out.values()));
  double largest_lse = largest_finite(whole.lse);
  for (const Outputs& part : parts)
    largest_lse = std::max(largest_lse, largest_finite(part.lse.values()));
  const MergeTolerance tolerance(parts.size() - 1, coarsest, largest_out, largest_lse);
  whole.out_tolerance = tolerance.out;
  whole.lse_tolerance = tolerance.lse;
  return whole;
}

/// A state of one row.
Outputs one_row(const std::vector<double>& out, double lse, DType dtype = DType::f32) {
  Outputs part = poisoned_part(dtype, {static_cast<std::int64_t>(out.size())});
  part.out.assign(out);
  part.lse.assign({lse});
  return part;
}

std::vector<ConstAttentionState> states_of(const std::vector<Outputs>& parts) {
  std::vector<ConstAttentionState> states;
  for (const Outputs& part : parts) states.push_back(state_of(part));
  return states;
}

template <class T>
T taken_from(std::vector<T>& all, Random& random) {
  const std::int64_t place = random.integer(0, static_cast<std::int64_t>(all.size()) - 1);
  std::swap(all[static_cast<std::size_t>(place)], all.back());
  T taken = std::move(all.back());
  all.pop_back();
  return taken;
}

}  // namespace

TEST_CASE("Clearing makes the identity, and touches elements alone") {
  for (const DType dtype : types) {
    for (const Layout layout : layouts) {
      for (const Dims& shape : {Dims{5}, Dims{3, 4}, Dims{2, 3, 4, 5}}) {
        Outputs part = poisoned_part(dtype, shape, layout);
        clear(state_of(part));
        CHECK(part.out.bits() ==
              std::vector<std::uint64_t>(static_cast<std::size_t>(shape.product()), 0));
        for (const double lse : part.lse.values()) CHECK(lse == -infinity);
        CHECK(part.out.gaps_untouched());
        CHECK(part.lse.gaps_untouched());
      }
    }
  }
}

TEST_CASE("Merging with a part without keys keeps every bit, whatever that part holds") {
  Random random(1);
  for (const DType dtype : types) {
    for (const DType empty_type : types) {
      Outputs part = random_part(random, dtype, {6, 9}, 0);
      for (const std::uint64_t bits : poisons(dtype))
        part.out.set_bits({random.integer(0, 5), random.integer(0, 8)}, bits);
      part.out.set({5, 8}, -0.0);
      for (const std::uint64_t bits : {0x7fc01234, 0x7f800000, 0x7f7fffff})
        part.lse.set_bits({random.integer(0, 5)}, bits);
      Outputs empty = poisoned_part(empty_type, {6, 9});
      empty.lse.assign(std::vector<double>(6, -infinity));
      CHECK(bit_difference(merged(part, empty), part) == "");
      CHECK(bit_difference(merged(empty, part, dtype), part) == "");
      Outputs into = part;
      merge(state_of(into), state_of(empty));
      CHECK(bit_difference(into, part) == "");
    }
  }
}

TEST_CASE("Merging into a cleared state rounds to its type once") {
  for (const DType from : types) {
    for (const DType to : types) {
      const Outputs part = one_row(
          {1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1p-11, 1 + 0x3p-11, 65519, 1e-7, -3, 0x1.fep15}, 2, from);
      Outputs into = poisoned_part(to, part.out.shape());
      StridedTensor rounded = into.out;
      copy_into(part.out.view(), rounded.view());
      clear(state_of(into));
      merge(state_of(into), state_of(part));
      CHECK(into.out.bits() == rounded.bits());
      CHECK(into.lse.bits() == part.lse.bits());
    }
  }
}

TEST_CASE("Two parts without keys make the identity, whatever they hold") {
  for (const DType dtype : types) {
    Outputs empty = poisoned_part(dtype, {4, 7}), identity = empty;
    empty.lse.assign(std::vector<double>(4, -infinity));
    clear(state_of(identity));
    CHECK(bit_difference(merged(empty, empty), identity) == "");
    merge(state_of(empty), state_of(identity));
    CHECK(bit_difference(empty, identity) == "");
  }
}

TEST_CASE("Two parts of any types make the whole of the formula") {
  Random random(2);
  for (const DType a_type : types) {
    for (const DType b_type : types) {
      for (const DType into_type : types) {
        for (const std::int64_t dim : {1, 5, 64, 255, 256, 257, 600}) {
          const std::vector<Outputs> parts{random_part(random, a_type, {2, 3, dim}),
                                           random_part(random, b_type, {2, 3, dim})};
          CAPTURE(dim);
          CHECK(difference(merged(parts[0], parts[1], into_type), whole_of(parts, into_type)) ==
                "");
        }
      }
    }
  }
}

TEST_CASE("Merging commutes") {
  Random random(3);
  for (const DType dtype : types) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      const std::vector<Outputs> parts{random_part(random, dtype, {8, 19}),
                                       random_part(random, dtype, {8, 19})};
      // Each order is rounded on its own.
      Expected other = whole_of(parts, dtype);
      const Outputs swapped = merged(parts[1], parts[0]);
      other.out = swapped.out.values();
      other.lse = swapped.lse.values();
      other.out_tolerance *= 2;
      other.lse_tolerance *= 2;
      CHECK(difference(merged(parts[0], parts[1]), other) == "");
    }
  }
}

TEST_CASE("Many parts at once make the whole, with the same bits for any number of threads") {
  for (const std::uint64_t seed : seeds(5000, 40)) {
    INFO(repeat_command(seed));
    Random random(seed);
    const Dims shape{random.integer(1, 40), random.integer(1, 9), random.integer(1, 300)};
    std::vector<Outputs> parts;
    for (std::int64_t count = random.integer(0, 12); count > 0; --count)
      parts.push_back(
          random_part(random, random.pick({DType::f32, DType::bf16, DType::f16}), shape));
    const std::vector<ConstAttentionState> states = states_of(parts);
    const DType dtype = random.pick({DType::f32, DType::bf16, DType::f16});
    Outputs whole = poisoned_part(dtype, shape), identity = whole;
    merge(states, state_of(whole), {.num_threads = 1});
    if (parts.empty()) {
      clear(state_of(identity));
      CHECK(bit_difference(whole, identity) == "");
      continue;
    }
    // Rounded once: the tolerance of one merge, which has the rounding of lse once.
    Expected expected = whole_of(parts, dtype);
    if (parts.size() > 1) {
      expected.out_tolerance /= static_cast<double>(parts.size() - 1);
      expected.lse_tolerance /= static_cast<double>(parts.size() - 1);
      CHECK(difference(whole, expected) == "");
    }
    Outputs again = poisoned_part(dtype, shape);
    merge(states, state_of(again), {.num_threads = 4});
    CHECK(bit_difference(whole, again) == "");
    if (parts.size() == 2) CHECK(bit_difference(whole, merged(parts[0], parts[1], dtype)) == "");
  }
}

TEST_CASE("With an lse of f64, parts that come one after another are merged as those at once") {
  Random random(7);
  std::vector<Outputs> parts;
  for (int n = 0; n < 200; ++n) {
    parts.push_back(random_part(random, DType::f32, {6, 5}));
    for (std::int64_t row = 0; row < 6; ++row) {
      const double lse = parts.back().lse.values()[static_cast<std::size_t>(row)];
      parts.back().lse.set({row}, lse + 5000);
    }
  }
  const std::vector<ConstAttentionState> states = states_of(parts);
  Outputs at_once = poisoned_part(DType::f32, {6, 5});
  merge(states, state_of(at_once));
  StridedTensor sum(DType::f32, {6, 5}), lse(DType::f64, {6});
  const AttentionState one_after_another{sum.view(), lse.view()};
  clear(one_after_another);
  for (const ConstAttentionState& state : states) merge(one_after_another, state);
  Outputs rounded = poisoned_part(DType::f32, {6, 5});
  const ConstAttentionState result[] = {one_after_another};
  merge(result, state_of(rounded));
  CHECK(rounded.lse.bits() == at_once.lse.bits());
  // Each merge rounds O to f32; that of an lse of f32 would be off by up to 5000 times as much.
  CHECK(difference(rounded.out.values(), at_once.out.values(), 50 * eps) == "");
}

TEST_CASE("Any order and any brackets make the whole") {
  for (const std::uint64_t seed : seeds(0, 300)) {
    INFO(repeat_command(seed));
    Random random(seed);
    const DType dtype = random.pick({DType::f32, DType::bf16, DType::f16});
    std::vector<Outputs> parts;
    for (std::int64_t count = random.integer(2, 9); count > 0; --count)
      parts.push_back(random_part(random, dtype, {5, 11}));
    const Expected whole = whole_of(parts, dtype);
    while (parts.size() > 1) {
      Outputs a = taken_from(parts, random), b = taken_from(parts, random);
      if (random.chance(0.5)) {
        merge(state_of(a), state_of(b));
        parts.push_back(a);
      } else {
        parts.push_back(merged(a, b));
      }
    }
    CHECK(difference(parts[0], whole) == "");
  }
}

TEST_CASE("Shares are right however large scores are") {
  struct Row {
    float a, b;
    double share_of_a;
    float lse;
  };
  const double e = std::exp(1.0);
  const Row rows[] = {
      {0, 0, 0.5, 0.693147181f},
      {1e6f, 1e6f - 1, e / (1 + e),
       static_cast<float>(1e6 + std::log(1 + 1 / e))},  // lse has a spacing of 1/16 here
      {-1e6f, -1e6f - 1, e / (1 + e), static_cast<float>(-1e6 + std::log(1 + 1 / e))},
      {0, -80, 1, 0},
      {0, -104, 1, 0},  // the least float above 0 is exp(-103.3)
      {0, -800, 1, 0},  // and the least double exp(-744.4)
      {1e30f, 1e30f, 0.5, 1e30f},
      {-1e30f, -1e30f, 0.5, -1e30f},
      {1e30f, std::nextafter(1e30f, 0.f), 1, 1e30f},
      {1e30f, -1e30f, 1, 1e30f},
      {3e38f, -3e38f, 1, 3e38f},  // floats have no room for the difference
      {3e38f, 0, 1, 3e38f},
      {-3e38f, 0, 0, 0},
      {largest_float, largest_float, 0.5, largest_float},
      {-largest_float, -largest_float, 0.5, -largest_float},
  };
  for (const Row& row : rows) {
    CAPTURE(row.a);
    CAPTURE(row.b);
    const Outputs a = one_row({1, 0, 1}, row.a), b = one_row({0, 1, 1}, row.b);
    for (const bool swapped : {false, true}) {
      const Outputs whole = swapped ? merged(b, a) : merged(a, b);
      const double share = row.share_of_a;
      CHECK(difference(whole.out.values(), {share, 1 - share, 1}, 2 * eps) == "");
      CHECK(difference(whole.lse.values(), {row.lse}, eps / 2) == "");
    }
  }
}

TEST_CASE("The largest outputs do not overflow on the way") {
  const Outputs a = one_row({1e38, -1e38, 3e38, 3e38}, 0),
                b = one_row({1e38, 1e38, 3e38, -3e38}, 0);
  CHECK(difference(merged(a, b).out.values(), {1e38, 0, 3e38, 0}, 3e38 * 2 * eps) == "");
}

TEST_CASE("NaN and infinities stay in their own row, or element") {
  constexpr std::int64_t dim = 300;
  Random random(4);
  for (const DType dtype : types) {
    const Outputs healthy = random_part(random, dtype, {6, dim}, 0),
                  other = random_part(random, dtype, {6, dim}, 0);
    Outputs ill = healthy;
    ill.lse.set({1}, not_a_number);
    ill.lse.set({2}, infinity);
    ill.out.set({3, 280}, not_a_number);
    ill.out.set({4, 7}, infinity);
    const std::vector<double> expected = merged(healthy, other).out.values();
    for (const bool swapped : {false, true}) {
      const Outputs got = swapped ? merged(other, ill) : merged(ill, other);
      const std::vector<double> out = got.out.values(), lse = got.lse.values();
      std::int64_t wrong = 0;
      for (std::int64_t n = 0; n < 6 * dim; ++n) {
        const bool nan = n / dim == 1 || n / dim == 2 || n == 3 * dim + 280;
        const double value = out[static_cast<std::size_t>(n)];
        const double healthy_value =
            n == 4 * dim + 7 ? infinity : expected[static_cast<std::size_t>(n)];
        wrong += nan ? !std::isnan(value)
                     : !(std::abs(value - healthy_value) <= rounding(dtype) * 8 ||
                         value == healthy_value);
      }
      CHECK(wrong == 0);
      for (const std::size_t row : {0u, 3u, 4u, 5u}) CHECK(std::isfinite(lse[row]));
      for (const std::size_t row : {1u, 2u}) CHECK(std::isnan(lse[row]));
    }
  }
}

TEST_CASE("Infinite outputs follow IEEE 754") {
  const Outputs a = one_row({infinity, infinity, -infinity, infinity}, 1),
                b = one_row({1, -infinity, -infinity, not_a_number}, 1);
  CHECK(difference(merged(a, b).out.values(), {infinity, not_a_number, -infinity, not_a_number},
                   0) == "");
}

TEST_CASE("A part may be merged in place, and a state with itself") {
  Random random(5);
  for (const DType dtype : types) {
    for (const DType other_type : types) {
      for (const Layout layout : layouts) {
        for (const double empty_rows : shares_of_empty_rows) {
          const Outputs part = random_part(random, dtype, {2, 3, 2, 520}, empty_rows, layout);
          const Outputs other = random_part(random, other_type, {2, 3, 2, 520}, 0.3, layout);
          Outputs into = part;
          merge(state_of(into), state_of(other));
          CHECK(bit_difference(into, merged(part, other)) == "");
          into = part;
          merge(state_of(into), state_of(other), state_of(into));
          CHECK(bit_difference(into, merged(part, other)) == "");
          into = part;
          merge(state_of(other), state_of(into), state_of(into));
          CHECK(bit_difference(into, merged(other, part, dtype)) == "");
          into = part;
          merge(state_of(into), state_of(into), state_of(into));
          CHECK(bit_difference(into, merged(part, part)) == "");
          CHECK(into.out.gaps_untouched());
          CHECK(into.lse.gaps_untouched());
        }
      }
    }
  }
}

TEST_CASE("A layout changes no bit, and only the elements of into are written") {
  Random random(6);
  for (const DType dtype : types) {
    const Outputs a = random_part(random, dtype, {2, 3, 4, 21}),
                  b = random_part(random, dtype, {2, 3, 4, 21});
    const Outputs dense = merged(a, b);
    for (const Layout a_layout : layouts) {
      for (const Layout b_layout : layouts) {
        for (const Layout layout : layouts) {
          const Outputs got = merged(laid_out(a, a_layout), laid_out(b, b_layout), dtype, layout);
          CHECK(bit_difference(got, dense) == "");
          CHECK(got.out.gaps_untouched());
          CHECK(got.lse.gaps_untouched());
        }
      }
    }
  }
}

TEST_CASE("Any rank does") {
  Random random(7);
  const Outputs a = random_part(random, DType::f32, {24, 5}),
                b = random_part(random, DType::f32, {24, 5});
  const Outputs rows = merged(a, b);
  for (const Dims& shape :
       {Dims{2, 12, 5}, Dims{2, 3, 4, 5}, Dims{1, 2, 3, 4, 5}, Dims{2, 3, 1, 2, 1, 2, 1, 5}}) {
    Outputs into = poisoned_part(DType::f32, shape);
    const auto reshaped = [&](const Outputs& part) {
      return ConstAttentionState({part.out.view().data, DType::f32, shape},
                                 {part.lse.view().data, DType::f32, without_last(shape)});
    };
    merge(reshaped(a), reshaped(b), state_of(into));
    CHECK(bit_difference(into, rows) == "");
  }
}

TEST_CASE("Views: permuted, sliced, and one lse for all rows") {
  Random random(8);
  Outputs whole = random_part(random, DType::f32, {2, 6, 4, 8}, 0);  // [batch, position, head, dim]
  const auto region_of = [](Outputs& part) {
    return AttentionState{part.out.view().permuted({0, 2, 1, 3}).sliced(1, 1, 4).sliced(2, 3, 5),
                          part.lse.view().permuted({0, 2, 1}).sliced(1, 1, 4).sliced(2, 3, 5)};
  };
  Outputs part = random_part(random, DType::bf16, {2, 3, 2, 8}, 0);
  part.lse.assign(std::vector<double>(12, 0.25));

  Outputs expected = whole;
  const AttentionState region = region_of(expected);
  const Outputs region_merged = merged({copy_of(region.out), copy_of(region.lse)}, part);
  copy_into(region_merged.out.view(), region.out);
  copy_into(region_merged.lse.view(), region.lse);

  const float lse = 0.25f;
  merge(region_of(whole), {part.out.view(), {&lse, DType::f32, {2, 3, 2}, {0, 0, 0}}});
  CHECK(bit_difference(whole, expected) == "");
}

TEST_CASE("Without elements nothing happens, and no data is needed") {
  for (const Dims& shape : {Dims{0, 4}, Dims{2, 0, 4}, Dims{0, 0}}) {
    const AttentionState state{{nullptr, DType::bf16, shape},
                               {nullptr, DType::f32, without_last(shape)}};
    clear(state);
    merge(state, state);
    merge(state, state, state);
  }
  // Rows of no elements have an lse all the same.
  float lse[] = {0, -HUGE_VALF, 1}, zero[] = {0, 0, -HUGE_VALF};
  const AttentionState into{{nullptr, DType::f32, {3, 0}}, {lse, {3}}};
  merge(into, ConstAttentionState({nullptr, DType::f32, {3, 0}}, {zero, {3}}));
  CHECK(lse[0] == doctest::Approx(std::log(2.0)));
  CHECK(lse[1] == 0);
  CHECK(lse[2] == 1);
  clear(into);
  for (const float value : lse) CHECK(value == -HUGE_VALF);
}
