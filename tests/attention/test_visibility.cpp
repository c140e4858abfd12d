// Which keys a row sees, exactly. With q = 0 all visible keys have the same probability, and
// indicator columns in V show which keys they are: O[i][j] is 1 / (number of visible keys) if query
// i sees key j, else 0.
#include <attn/error.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "oracle/plain_float.hpp"
#include "support/check.hpp"
#include "support/masks.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void fill(StridedTensor& tensor, double value) {
  tensor.assign(std::vector<double>(static_cast<std::size_t>(tensor.shape().product()), value));
}

/// An additive mask of 0 and -inf, so that the probabilities of visible keys stay equal.
void keep_only_infinities(StridedTensor& mask) {
  std::vector<double> values = mask.values();
  for (double& value : values) value = std::isinf(value) ? value : 0;
  mask.assign(values);
}

/// Column n of V is 1 for key first + n, else 0.
void indicate_keys_from(std::int64_t first, StridedTensor& v) {
  fill(v, 0);
  for_each_index({v.shape()[0], v.shape()[1], v.shape()[3]}, [&](const Dims& at) {
    if (first + at[2] < v.shape()[2]) v.set({at[0], at[1], first + at[2], at[2]}, 1);
  });
}

/// The expected visibility, 0 or 1, as [batch, num_q_heads, q_len, kv_len].
std::vector<std::uint8_t> expected_visibility(const Case& c, const AttentionTensors& tensors) {
  std::vector<std::uint8_t> seen;
  for_each_index({c.batch, c.num_q_heads, c.q_len}, [&](const Dims& at) {
    const std::vector<bool> row = detail::visible_keys(tensors, c.options, at[0], at[1], at[2]);
    seen.insert(seen.end(), row.begin(), row.end());
  });
  return seen;
}

/// Returns "" or the first row that sees a key too many or too few.
std::string wrongly_seen(const Case& c, const Outputs& got, const std::vector<std::uint8_t>& seen,
                         std::int64_t first_key) {
  std::string wrong;
  const std::vector<double> out = got.out.values();
  for_each_index({c.batch, c.num_q_heads, c.q_len}, [&](const Dims& at) {
    if (!wrong.empty()) return;
    const std::int64_t row = (at[0] * c.num_q_heads + at[1]) * c.q_len + at[2];
    const std::int64_t count =
        std::count(seen.begin() + row * c.kv_len, seen.begin() + (row + 1) * c.kv_len, 1);
    for (std::int64_t n = 0; n < c.value_dim() && first_key + n < c.kv_len; ++n) {
      const bool expected = seen[static_cast<std::size_t>(row * c.kv_len + first_key + n)];
      const double weight = out[static_cast<std::size_t>(row * c.value_dim() + n)];
      const double wanted = expected ? 1.0 / static_cast<double>(count) : 0;
      if (std::abs(weight - wanted) <= 1e-6 * wanted) continue;
      wrong = fmt::format("batch {} head {} query {}: key {} has weight {} instead of {}", at[0],
                          at[1], at[2], first_key + n, weight, wanted);
      return;
    }
  });
  return wrong;
}

void check_visibility_in_type(const Case& c) {
  INFO(repeat_line(c));
  Inputs inputs = make_inputs(c);
  fill(inputs.q, 0);
  if (c.mask && c.mask->dtype != DType::boolean) keep_only_infinities(inputs.mask);
  Outputs outputs = make_outputs(c);
  const std::vector<std::uint8_t> seen = expected_visibility(c, bind(inputs, outputs));
  for (std::int64_t first_key = 0; first_key < c.kv_len; first_key += c.value_dim()) {
    indicate_keys_from(first_key, inputs.v);
    for (const Isa isa : available_isas()) {
      CAPTURE(std::string(name_of(isa)));
      CHECK(wrongly_seen(c, run(inputs, c, isa), seen, first_key) == "");
    }
  }
}

/// Runs f32, and bf16, which may be multiplied in pairs of dims and of keys. 0, 1 and equal
/// probabilities are exact in both.
void check_visibility(Case c) {
  check_visibility_in_type(c);
  c.q_type = c.kv_type = DType::bf16;
  check_visibility_in_type(c);
}

void every_third_key_hidden(const KeyRun& run, bool* seen) {
  for (std::int64_t n = 0; n < run.count; ++n) seen[n] = (run.key_begin + n + run.q_index) % 3 != 0;
}

/// Combines every kind of mask with every other.
void check_all_combinations(const Case& sizes) {
  const std::optional<DenseMask> masks[] = {
      std::nullopt,
      DenseMask{.shape = {sizes.q_len, sizes.kv_len}},
      DenseMask{.shape = {sizes.batch, 1, sizes.q_len, sizes.kv_len - sizes.kv_len / 4}},
      DenseMask{.dtype = DType::f32, .shape = {sizes.num_q_heads, sizes.q_len, sizes.kv_len}},
  };
  for (const auto& causal : causal_masks(sizes.q_len, sizes.kv_len)) {
    for (const auto& window :
         {std::optional<Window>{}, std::optional(Window{0, 0}), std::optional(Window{2, 1}),
          std::optional(Window{{}, 0}), std::optional(Window{3, {}})}) {
      for (const auto& mask : masks) {
        for (const int companions : {0, 1, 2, 3}) {
          Case c = sizes;
          c.options.causal = causal;
          c.options.window = window;
          c.execution.num_threads = 1;
          c.mask = mask;
          if (companions & 1) c.kv_lens = {sizes.kv_len / 2, sizes.kv_len};
          if (companions & 2) c.options.mask_mod = every_third_key_hidden;
          check_visibility(c);
        }
      }
    }
  }
}

Case small(std::int64_t q_len, std::int64_t kv_len) {
  return {.batch = 2,
          .num_q_heads = 2,
          .num_kv_heads = 1,
          .q_len = q_len,
          .kv_len = kv_len,
          .head_dim = 4,
          .v_head_dim = kv_len,
          .lse = false};
}

/// More than one block of rows and of keys.
Case large() {
  return {.num_q_heads = 2,
          .num_kv_heads = 1,
          .q_len = 130,
          .kv_len = 600,
          .head_dim = 4,
          .v_head_dim = 100,
          .lse = false};
}

}  // namespace

TEST_CASE("All combinations, q_len shorter than kv_len") { check_all_combinations(small(7, 19)); }
TEST_CASE("All combinations, q_len longer than kv_len") { check_all_combinations(small(19, 7)); }
TEST_CASE("All combinations, q_len as long as kv_len") { check_all_combinations(small(9, 9)); }

TEST_CASE("Every causal mask over several blocks") {
  for (const auto& causal : causal_masks(large().q_len, large().kv_len)) {
    Case c = large();
    c.options.causal = causal;
    check_visibility(c);
  }
}

TEST_CASE("Every window over several blocks") {
  for (const auto& window : windows()) {
    Case c = large();
    c.options.window = window;
    c.v_head_dim = 300;
    check_visibility(c);
  }
}

TEST_CASE("Every broadcast of a dense mask") {
  Case c{.batch = 2,
         .num_q_heads = 4,
         .num_kv_heads = 2,
         .q_len = 8,
         .kv_len = 70,
         .head_dim = 4,
         .v_head_dim = 70,
         .lse = false};
  for (const Dims& shape : mask_shapes(c)) {
    for (const DType dtype : {DType::boolean, DType::f32, DType::bf16, DType::f16}) {
      c.mask = {.dtype = dtype, .shape = shape};
      check_visibility(c);
    }
  }
}

TEST_CASE("Dense masks over several blocks") {
  for (const DType dtype : {DType::boolean, DType::f32}) {
    for (const double hidden : {0.1, 0.9, 0.999}) {
      Case c = large();
      c.mask = {.dtype = dtype, .shape = {c.q_len, c.kv_len}, .hidden = hidden};
      check_visibility(c);
      c.options.causal = Causal::bottom_right();
      c.kv_lens = {555};
      check_visibility(c);
    }
  }
}

TEST_CASE("Features of the scores hide nothing") {
  Case c = small(7, 19);
  c.options.softmax_scale = -3.f;
  c.options.softcap = 2.f;
  check_visibility(c);
  c.options.softmax_scale = 0.f;
  c.options.causal = Causal::bottom_right();
  check_visibility(c);
}

TEST_CASE(
    "q_position places windows and ALiBi without a causal mask, and a causal mask with them") {
  for (const std::int64_t offset : {-3, 0, 5, 40}) {
    for (const bool causal : {false, true}) {
      CAPTURE(offset);
      CAPTURE(causal);
      Case c{.batch = 2, .num_q_heads = 2, .num_kv_heads = 1, .q_len = 7, .kv_len = 33};
      c.options.window = Window{6, 2};
      c.options.q_position = QueryPosition::at(offset);
      c.alibi = true;
      c.kv_lens = {33, 20};
      if (causal) c.options.causal = Causal{};
      check_case(c);
      if (!causal) continue;
      // The same position, given by the causal mask.
      Case named = c;
      named.options.q_position.reset();
      named.options.causal = Causal::with_offset(offset);
      const Inputs inputs = make_inputs(c);
      CHECK(bit_difference(run(inputs, c), run(inputs, named)) == "");
    }
  }
}

TEST_CASE("q_position and causal must agree") {
  Case c{.q_len = 2, .kv_len = 5};
  const Inputs inputs = make_inputs(c);
  c.options.q_position = QueryPosition::at(3);
  for (const Causal& causal : {Causal{}, Causal::bottom_right(), Causal::with_offset(3)}) {
    c.options.causal = causal;
    CHECK_NOTHROW(run(inputs, c));
  }
  c.options.causal = Causal::top_left();
  CHECK_THROWS_WITH_AS(run(inputs, c), doctest::Contains("q_position is 3, but causal says 0"),
                       Error);
}
