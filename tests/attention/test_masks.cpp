// Each kind of mask against the reference.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "support/check.hpp"
#include "support/masks.hpp"

using namespace attn;
using namespace attn::test;

namespace {

struct Lengths {
  std::int64_t q_len, kv_len;
};
/// q_len and kv_len: shorter, longer, equal; the last pair is more than one block of rows and of
/// keys.
constexpr Lengths lengths[] = {{11, 40}, {40, 11}, {23, 23}, {1, 30}, {30, 1}, {210, 330}};

Case case_of(Lengths sizes) {
  return {.batch = 2,
          .num_q_heads = 2,
          .num_kv_heads = 1,
          .q_len = sizes.q_len,
          .kv_len = sizes.kv_len,
          .head_dim = 12};
}

}  // namespace

TEST_CASE("causal: presets and offsets") {
  for (const Lengths sizes : lengths) {
    Case c = case_of(sizes);
    for (const auto& causal : causal_masks(c.q_len, c.kv_len)) {
      c.options.causal = causal;
      check_case(c);
    }
    for (const std::int64_t offset : {-c.q_len - 50, -c.q_len + 1, std::int64_t{-1},
                                      std::int64_t{1}, c.kv_len - 1, c.kv_len + 50}) {
      c.options.causal = Causal::with_offset(offset);
      check_case(c);
    }
  }
}

TEST_CASE("window: every shape, with and without causal") {
  for (const Lengths sizes : lengths) {
    Case c = case_of(sizes);
    c.batch = 1;
    for (const auto& window : windows()) {
      c.options.window = window;
      for (const auto& causal : {std::optional<Causal>{}, std::optional(Causal::bottom_right()),
                                 std::optional(Causal::with_offset(5))}) {
        c.options.causal = causal;
        check_case(c);
      }
    }
  }
}

TEST_CASE("A window wider than any tensor is none") {
  Case c = case_of({20, 30});
  constexpr std::int64_t widest = std::numeric_limits<std::int64_t>::max() / 2;
  c.options.window = Window{widest, widest};
  check_case(c);
  c.options.causal = Causal::top_left();
  check_case(c);
}

TEST_CASE("Dense masks: boolean and additive, every rank and every broadcast, whole and short") {
  Case c{.batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 13, .kv_len = 75, .head_dim = 8};
  for (const Dims& shape : mask_shapes(c)) {
    for (const DType dtype : {DType::boolean, DType::f32}) {
      c.mask = {.dtype = dtype, .shape = shape};
      check_case(c);
    }
  }
}

TEST_CASE("Dense masks over several blocks, from dense to sparse to empty") {
  for (const double hidden : {0.0, 0.02, 0.5, 0.98, 1.0}) {
    for (const DType dtype : {DType::boolean, DType::f32}) {
      Case c = case_of({100, 300});
      c.mask = {.dtype = dtype, .shape = {c.q_len, c.kv_len}, .hidden = hidden};
      check_case(c);
      c.options.causal = Causal::bottom_right();
      c.sinks = true;
      check_case(c);
    }
  }
}

TEST_CASE("Additive masks in 16 bits, and every layout of a mask") {
  for (const Layout layout :
       {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
    for (const DType dtype : {DType::boolean, DType::f32, DType::bf16, DType::f16}) {
      Case c = case_of({25, 150});
      c.layout = layout;
      c.mask = {.dtype = dtype, .shape = {2, 2, 25, 150}};
      check_case(c);
      c.mask->shape = {2, 1, 25, 111};
      check_case(c);
    }
  }
}

TEST_CASE("kv_lens, 0 included, in both integer types") {
  for (const DType dtype : {DType::i32, DType::i64}) {
    for (const Lengths sizes : lengths) {
      Case c = case_of(sizes);
      c.batch = 3;
      c.kv_lens_type = dtype;
      c.kv_lens = {0, sizes.kv_len / 2, sizes.kv_len};
      for (const auto& causal : causal_masks(c.q_len, c.kv_len)) {
        c.options.causal = causal;
        check_case(c);
      }
    }
  }
}

TEST_CASE("kv_lens moves the bottom-right corner and the window with it") {
  Case c = case_of({17, 64});
  c.batch = 4;
  c.kv_lens = {5, 17, 33, 64};
  for (const auto& window : windows()) {
    c.options.window = window;
    for (const bool causal : {false, true}) {
      c.options.causal = causal ? std::optional(Causal::bottom_right()) : std::nullopt;
      check_case(c);
    }
  }
}

TEST_CASE("Rows that see nothing, with and without a sink") {
  for (const bool sinks : {false, true}) {
    Case c = case_of({40, 20});
    c.sinks = sinks;
    c.options.causal = Causal::bottom_right();
    check_case(c);
    c.options.causal = Causal::with_offset(-40);
    check_case(c);
    c.options.window = Window{0, 0};
    check_case(c);
    c.options = {};
    c.mask = {.shape = {40, 20}, .hidden = 1.0};
    check_case(c);
    c.mask->dtype = DType::f32;
    check_case(c);
    c.mask.reset();
    c.kv_lens = {0, 20};
    check_case(c);
  }
}

TEST_CASE("Keys hidden in whole blocks, first, last and between") {
  struct Seen {
    std::ptrdiff_t begin, end;
  };
  Case c{.num_q_heads = 2, .q_len = 30, .kv_len = 900, .head_dim = 64, .v_head_dim = 64};
  for (const DType dtype : {DType::boolean, DType::f32}) {
    c.mask = {.dtype = dtype, .shape = {1, c.kv_len}};
    Inputs inputs = make_inputs(c);
    for (const Seen seen :
         {Seen{0, 10}, Seen{890, 900}, Seen{450, 460}, Seen{511, 513}, Seen{0, 0}}) {
      std::vector<double> mask(
          static_cast<std::size_t>(c.kv_len),
          dtype == DType::boolean ? 0 : -std::numeric_limits<double>::infinity());
      std::fill(mask.begin() + seen.begin, mask.begin() + seen.end,
                dtype == DType::boolean ? 1 : 0);
      inputs.mask.assign(mask);
      INFO("keys ", seen.begin, " to ", seen.end);
      check_inputs(c, inputs);
    }
  }
}
