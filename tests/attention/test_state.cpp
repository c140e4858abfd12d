// States: merges by their algebra, by their formula in double, and as parts of attention over
// disjoint keys.
#include <attn/error.hpp>
#include <attn/state.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/check.hpp"
#include "support/poison.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr float largest_float = std::numeric_limits<float>::max();
constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr Layout layouts[] = {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim,
                              Layout::reversed};
constexpr double shares_of_empty_rows[] = {0, 0.3, 1};

Dims without_last(const Dims& shape) { return {shape.begin(), shape.rank() - 1}; }

Outputs poisoned_part(DType dtype, const Dims& shape, Layout layout = Layout::bhsd) {
  return {StridedTensor(dtype, shape, layout),
          StridedTensor(DType::f32, without_last(shape), layout)};
}

AttentionState state_of(Outputs& part) { return {part.out.view(), part.lse.view()}; }
ConstAttentionState state_of(const Outputs& part) { return {part.out.view(), part.lse.view()}; }

/// Some rows have no keys, and poison in out.
Outputs random_part(Random& random, DType dtype, const Dims& shape, double empty_rows = 0.3,
                    Layout layout = Layout::bhsd) {
  Outputs part = poisoned_part(dtype, shape, layout);
  for_each_index(part.lse.shape(), [&](const Dims& row) {
    const bool empty = random.chance(empty_rows);
    part.lse.set(row, empty ? -infinity : 3 * random.normal());
    std::vector<std::int64_t> index(row.begin(), row.end());
    index.push_back(0);
    for (std::int64_t& d = index.back(); d < shape[shape.rank() - 1] && !empty; ++d) {
      part.out.set({index.data(), shape.rank()}, random.normal());
    }
  });
  return part;
}

StridedTensor copy_of(const TensorView& view) {
  StridedTensor copy(view.dtype, view.shape);
  copy_into(view, copy.view());
  return copy;
}

/// The same elements elsewhere.
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

double largest_finite(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

/// Half an ulp as a part of the number.
double rounding(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : eps / 2;
}

/// How far some merges may lead from the whole of given parts.
/// A merge: its shares, its products and its sum are each rounded once, 3/2 eps max|O|, and the sum
/// to its type; lse is rounded, too. Rounded lse that differ by 2 t shift no more than t between
/// the shares of a merge; with n merges t is n eps/2 max|lse|.
struct MergeTolerance {
  double out, lse;

  MergeTolerance(std::size_t merges, DType coarsest, double largest_out, double largest_lse) {
    const auto count = static_cast<double>(merges);
    lse = count * eps / 2 * std::max(1.0, largest_lse);
    out = count * (1.5 * eps + rounding(coarsest) + lse) * largest_out +
          (coarsest == DType::f16 ? count * 0x1p-25 : 0);
  }
};

/// The whole by its formula in double, of all parts at once.
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

/// A row of out and its lse.
Outputs one_row(const std::vector<double>& out, double lse, DType dtype = DType::f32) {
  Outputs part = poisoned_part(dtype, {static_cast<std::int64_t>(out.size())});
  part.out.assign(out);
  part.lse.assign({lse});
  return part;
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

TEST_CASE("Any order and any brackets make the whole") {
  for (const std::uint64_t seed : seeds(0, 300)) {
    CAPTURE(seed);
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

namespace {

struct Operands {
  AttentionState a, b, into;
};
using Change = std::function<void(Operands&)>;

/// Runs with one change and checks that the error names what is wrong before anything is written.
void check_refused(const std::function<void(const Operands&)>& run, const Change& change,
                   const std::vector<std::string>& words) {
  Random random(9);
  const Dims shape{2, 3, 4};
  Outputs a = random_part(random, DType::f32, shape), b = random_part(random, DType::bf16, shape);
  Outputs into = poisoned_part(DType::f16, shape);
  Operands operands{state_of(a), state_of(b), state_of(into)};
  change(operands);
  std::string message = "no error";
  try {
    run(operands);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    message = error.what();
  }
  CHECK(into.out.untouched());
  CHECK(into.lse.untouched());
  CAPTURE(message);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(message.find(word) != std::string::npos);
  }
}

/// The state alone is wrong, wherever it is given.
void check_state_refused(const std::function<void(AttentionState&)>& change,
                         const std::string& tensor, const std::vector<std::string>& words) {
  const auto named = [&](const std::string& state) {
    std::vector<std::string> all = words;
    all.push_back(state + "." + tensor + " ");
    return all;
  };
  const auto merge_three = [](const Operands& o) { merge(o.a, o.b, o.into); };
  const auto merge_two = [](const Operands& o) { merge(o.into, o.b); };
  check_refused(
      merge_three, [&](Operands& o) { change(o.a); }, named("a"));
  check_refused(
      merge_three, [&](Operands& o) { change(o.b); }, named("b"));
  check_refused(
      merge_three, [&](Operands& o) { change(o.into); }, named("into"));
  check_refused(
      merge_two, [&](Operands& o) { change(o.into); }, named("into"));
  check_refused(
      merge_two, [&](Operands& o) { change(o.b); }, named("part"));
  check_refused([](const Operands& o) { clear(o.into); }, [&](Operands& o) { change(o.into); },
                named("state"));
}

}  // namespace

TEST_CASE("A state that contradicts itself is refused") {
  for (const DType dtype : {DType::f64, DType::i8, DType::i32, DType::i64, DType::boolean}) {
    check_state_refused([&](AttentionState& s) { s.out.dtype = dtype; }, "out",
                        {std::string(name_of(dtype)), "f32, bf16 or f16"});
  }
  for (const DType dtype : {DType::f64, DType::bf16, DType::f16, DType::i32}) {
    check_state_refused([&](AttentionState& s) { s.lse.dtype = dtype; }, "lse",
                        {std::string(name_of(dtype)), "needs f32"});
  }
  check_state_refused([](AttentionState& s) { s.out = {}; }, "out",
                      {"rank 0", "rank 1 or more", "[..., v_head_dim]"});
  check_state_refused([](AttentionState& s) { s.lse = {}; }, "lse",
                      {"[]", "rank 0", "rank 2", "but the last"});
  check_state_refused(
      [](AttentionState& s) {
        s.lse = {s.lse.data, DType::f32, {2, 3, 4}};
      },
      "lse", {"[2, 3, 4]", "rank 3", "rank 2"});
  check_state_refused([](AttentionState& s) { s.lse = s.lse.sliced(1, 0, 2); }, "lse",
                      {"[2, 2]", "dim 1 is 2", "needs 3"});
  check_state_refused([](AttentionState& s) { s.lse = s.lse.sliced(0, 0, 0); }, "lse",
                      {"[0, 3]", "dim 0 is 0", "needs 2"});
  check_state_refused([](AttentionState& s) { s.out.data = nullptr; }, "out",
                      {"[2, 3, 4]", "no data"});
  check_state_refused([](AttentionState& s) { s.lse.data = nullptr; }, "lse",
                      {"[2, 3]", "no data"});
  check_state_refused(
      [](AttentionState& s) {
        s = {{s.out.data, s.out.dtype, {4}}, {nullptr, DType::f32, Dims{}}};
      },
      "lse", {"[]", "no data"});
}

TEST_CASE("Parts of another shape than into's are refused") {
  const auto merge_three = [](const Operands& o) { merge(o.a, o.b, o.into); };
  const auto narrower = [](AttentionState& s) { s.out = s.out.sliced(2, 0, 3); };
  const auto shorter = [](AttentionState& s) {
    s = {s.out.sliced(0, 1, 2), s.lse.sliced(0, 1, 2)};
  };
  const auto flatter = [](AttentionState& s) {
    s = {{s.out.data, s.out.dtype, {6, 4}}, {s.lse.data, DType::f32, {6}}};
  };
  const std::vector<std::string> narrow{"[2, 3, 3]", "dim 2 is 3", "needs 4", "into.out"},
      flat{"[6, 4]", "rank 2", "rank 3", "into.out"};
  check_refused(merge_three, [&](Operands& o) { narrower(o.a); },
                {"a.out", narrow[0], narrow[1], narrow[2], narrow[3]});
  check_refused(merge_three, [&](Operands& o) { shorter(o.b); },
                {"b.out", "[1, 3, 4]", "dim 0 is 1", "needs 2", "into.out"});
  check_refused(merge_three, [&](Operands& o) { flatter(o.b); },
                {"b.out", flat[0], flat[1], flat[2], flat[3]});
  check_refused([](const Operands& o) { merge(o.into, o.b); }, [&](Operands& o) { narrower(o.b); },
                {"part.out", narrow[1], narrow[2]});
}

namespace {

/// A call on keys begin to end - 1 alone. Positions count from the first of them.
struct KeyRange {
  Case c;
  Inputs inputs;          // those keys, copied
  TensorView k, v, mask;  // those keys, where they lie

  KeyRange(const Case& whole, const Inputs& all, std::int64_t begin, std::int64_t end,
           bool with_sinks)
      : c(whole) {
    c.kv_len = end - begin;
    c.sinks = with_sinks;
    if (c.options.causal)
      c.options.causal = Causal::with_offset(*c.options.causal->position->offset - begin);
    for (std::int64_t& length : c.kv_lens)
      length = std::clamp<std::int64_t>(length - begin, 0, c.kv_len);

    k = all.k.view().sliced(2, begin, end);
    v = all.v.view().sliced(2, begin, end);
    mask = all.mask.view_if_made();
    if (!mask.absent()) mask = mask.sliced(mask.rank() - 1, begin, end);
    inputs.q = copy_of(all.q.view());
    inputs.k = copy_of(k);
    inputs.v = copy_of(v);
    if (!mask.absent()) inputs.mask = copy_of(mask);
    if (c.alibi) inputs.alibi_slopes = copy_of(all.alibi_slopes.view());
    if (c.sinks) inputs.sinks = copy_of(all.sinks.view());
    if (!c.kv_lens.empty()) {
      inputs.kv_lens = StridedTensor(c.kv_lens_type, {c.batch});
      inputs.kv_lens.assign({c.kv_lens.begin(), c.kv_lens.end()});
    }
  }

  Outputs run(Isa isa) const {
    Outputs part = make_outputs(c);
    AttentionTensors tensors = bind(inputs, part);
    tensors.k = k;
    tensors.v = v;
    tensors.mask = mask;
    Execution execution = c.execution;
    execution.isa = isa;
    attention(tensors, c.options, execution);
    return part;
  }
};

using Cuts = std::vector<std::int64_t>;

Cuts every(std::int64_t step, std::int64_t kv_len) {
  Cuts cuts;
  for (std::int64_t key = 0; key < kv_len; key += step) cuts.push_back(key);
  cuts.push_back(kv_len);
  return cuts;
}

/// The reference's result for all keys, and how far from it the merge of parts may lie: parts are
/// off by their own tolerances, which an average does not raise; lse off by t shift no more than 2
/// t between the shares; and merging is rounded.
Expected expected_of_parts(const Case& c, const Inputs& inputs, const std::vector<KeyRange>& parts,
                           DType into_type) {
  Expected expected = expected_of(c, inputs);
  const double largest_value = largest_finite(inputs.v.values());
  double largest_lse = largest_finite(expected.lse), out_tolerance = 0, lse_tolerance = 0;
  for (const KeyRange& range : parts) {
    const Expected part = expected_of(range.c, range.inputs);
    largest_lse = std::max(largest_lse, largest_finite(part.lse));
    out_tolerance = std::max(out_tolerance, part.out_tolerance);
    lse_tolerance = std::max(lse_tolerance, part.lse_tolerance);
  }
  const MergeTolerance merging(parts.size(), into_type, largest_value, largest_lse);
  expected.out_tolerance = out_tolerance + 2 * lse_tolerance * largest_value + merging.out;
  expected.lse_tolerance = lse_tolerance + merging.lse;
  return expected;
}

/// Whether some part has a row without keys, and another row with some.
bool some_rows_without_keys(const Outputs& part) {
  const std::vector<double> lse = part.lse.values();
  const auto empty = std::count(lse.begin(), lse.end(), -infinity);
  return empty > 0 && empty < static_cast<std::int64_t>(lse.size());
}

/// Attention over ranges of keys, merged, is attention over all keys. Returns how many parts had
/// rows with and without keys.
int check_parts(const Case& c, const Cuts& cuts, std::size_t part_with_sinks = 0,
                DType into_type = DType::f32) {
  INFO(repeat_line(c));
  const Inputs inputs = make_inputs(c);
  std::vector<KeyRange> ranges;
  for (std::size_t n = 0; n + 1 < cuts.size(); ++n) {
    ranges.emplace_back(c, inputs, cuts[n], cuts[n + 1], c.sinks && n == part_with_sinks);
  }
  const Expected expected = expected_of_parts(c, inputs, ranges, into_type);
  int mixed = 0;
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    Outputs whole =
        poisoned_part(into_type, {c.batch, c.num_q_heads, c.q_len, c.value_dim()}, c.layout);
    clear(state_of(whole));
    for (const KeyRange& range : ranges) {
      const Outputs part = range.run(isa);
      mixed += some_rows_without_keys(part);
      merge(state_of(whole), state_of(part));
    }
    CHECK(difference(whole, expected) == "");
  }
  return mixed;
}

Case usual() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 9,
          .kv_len = 97,
          .head_dim = 24,
          .v_head_dim = 17};
}

}  // namespace

TEST_CASE("Attention over disjoint keys, merged, is attention over all of them") {
  for (const Cuts& cuts : {Cuts{0, 50, 97}, Cuts{0, 1, 97}, Cuts{0, 32, 64, 97},
                           Cuts{0, 0, 40, 40, 97, 97}, every(7, 97), every(1, 97)}) {
    check_parts(usual(), cuts);
    Case sink = usual();
    sink.sinks = true;
    for (std::size_t part = 0; part + 1 < std::min<std::size_t>(cuts.size(), 4); ++part)
      check_parts(sink, cuts, part);
  }
}

TEST_CASE("So it is for a long row of keys") {
  Case c{.num_q_heads = 2, .q_len = 1, .kv_len = 5000, .head_dim = 16};
  c.sinks = true;
  check_parts(c, {0, 1234, 5000});
  check_parts(c, every(613, 5000), 3);
}

TEST_CASE("So it is where parts have rows without keys") {
  for (const Cuts& cuts : {Cuts{0, 50, 97}, Cuts{0, 5, 60, 97}, every(7, 97)}) {
    for (const bool sinks : {false, true}) {
      Case c = usual();
      c.sinks = sinks;
      int mixed = 0;
      for (const DType dtype : {DType::boolean, DType::f32}) {
        c.mask = {.dtype = dtype, .shape = {4, 9, 97}, .hidden = 0.97};
        mixed += check_parts(c, cuts, 1);
      }
      CHECK(mixed > 0);
      c.mask.reset();
      mixed = 0;
      for (const std::int64_t offset : {-4, 3, 45, 88}) {
        c.options.causal = Causal::with_offset(offset);
        mixed += check_parts(c, cuts, 1);
        c.options.window = Window{6, {}};
        mixed += check_parts(c, cuts, 1);
        c.options.window.reset();
      }
      CHECK(mixed > 0);
      c.options.causal.reset();
      c.kv_lens = {0, 55};
      // A part without keys is one with a sink where it has that alone.
      CHECK((check_parts(c, cuts, 1) > 0 || sinks));
    }
  }
}

TEST_CASE("So it is with every feature of scores, in every type and layout") {
  for (const DType dtype : types) {
    for (const DType into_type : types) {
      for (const Layout layout : layouts) {
        Case c = usual();
        c.q_type = c.kv_type = c.out_type = dtype;
        c.layout = layout;
        c.options = {.softcap = 4.f, .causal = Causal::with_offset(70), .window = Window{50, {}}};
        c.mask = {.dtype = DType::f32, .shape = {9, 97}};
        c.alibi = c.sinks = true;
        c.kv_lens = {97, 40};
        check_parts(c, {0, 33, 61, 97}, 2, into_type);
      }
    }
  }
}
