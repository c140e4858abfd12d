// Tensors may have any strides, each its own.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr Layout layouts[] = {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim,
                              Layout::reversed};

Case usual() {
  return {.batch = 2,
          .num_q_heads = 6,
          .num_kv_heads = 2,
          .q_len = 17,
          .kv_len = 75,
          .head_dim = 21,
          .v_head_dim = 34,
          .options = {.causal = Causal::bottom_right()}};
}

/// Checks that the result has the same bits as with dense tensors.
void check_layouts(DType dtype, Layout q, Layout kv, Layout out) {
  Case c = usual();
  c.q_type = c.kv_type = dtype;
  const Inputs dense = make_inputs(c);
  Case laid_out = c;
  laid_out.layout = kv;
  Inputs inputs = make_inputs(laid_out);
  laid_out.layout = q;
  inputs.q = make_inputs(laid_out).q;
  laid_out.layout = out;
  INFO("Q ", name_of(q).data(), ", K and V ", name_of(kv).data(), ", O ", name_of(out).data(), ": ",
       repeat_line(c));
  for (const Isa isa : available_isas()) {
    const Outputs got = run(inputs, laid_out, isa);
    CHECK(bit_difference(got, run(dense, c, isa)) == "");
    CHECK(got.out.gaps_untouched());
    CHECK(got.lse.gaps_untouched());
  }
}

std::vector<float> random_floats(std::int64_t count) {
  const Case c{.q_len = 1, .kv_len = 1, .head_dim = count};
  const std::vector<double> values = make_inputs(c).q.values();
  return {values.begin(), values.end()};
}

/// The bits of a dense copy of a view.
std::vector<std::uint64_t> bits_of(const TensorView& view) {
  StridedTensor dense(view.dtype, view.shape);
  copy_into(view, dense.view());
  return dense.bits();
}

}  // namespace

TEST_CASE("Every layout, for all tensors at once") {
  for (const Layout layout : layouts) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      Case c = usual();
      c.layout = layout;
      c.q_type = c.kv_type = c.out_type = dtype;
      c.mask = {.dtype = DType::f32, .shape = {c.num_q_heads, c.q_len, c.kv_len}};
      c.alibi = c.sinks = true;
      c.kv_lens = {75, 60};
      check_case(c);
    }
  }
}

TEST_CASE("A layout changes no bit, and only the output's own elements are written") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Layout q : layouts) {
      for (const Layout kv : layouts) {
        for (const Layout out : layouts) check_layouts(dtype, q, kv, out);
      }
    }
  }
}

TEST_CASE("Q, K and V packed into one tensor [batch, seq, heads + 2 * kv_heads, dim]") {
  constexpr std::int64_t batch = 2, seq = 37, heads = 4, kv_heads = 2, dim = 19;
  const std::vector<float> memory = random_floats(batch * seq * (heads + 2 * kv_heads) * dim);
  const TensorView qkv =
      TensorView(memory.data(), {batch, seq, heads + 2 * kv_heads, dim}).permuted({0, 2, 1, 3});
  const TensorView q = qkv.sliced(1, 0, heads), k = qkv.sliced(1, heads, heads + kv_heads),
                   v = qkv.sliced(1, heads + kv_heads, heads + 2 * kv_heads);
  const Tensor q_copy = copy_as(q, DType::f32), k_copy = copy_as(k, DType::f32),
               v_copy = copy_as(v, DType::f32);
  for (const Isa isa : available_isas()) {
    Tensor packed(DType::f32, {batch, seq, heads, dim}),
        dense(DType::f32, {batch, heads, seq, dim});
    const MutableTensorView out = packed.view().permuted({0, 2, 1, 3});
    attention(q, k, v, out, {}, {.isa = isa});
    attention(q_copy.view(), k_copy.view(), v_copy.view(), dense.view(), {}, {.isa = isa});
    CHECK(bits_of(out) == bits_of(dense.view()));
  }
}

TEST_CASE("Keys and values shared by stride 0, over batch, heads and positions") {
  constexpr std::int64_t batch = 2, heads = 3, q_len = 7, kv_len = 50, dim = 11;
  const std::vector<float> memory = random_floats(batch * heads * q_len * dim);
  const TensorView q(memory.data(), {batch, heads, q_len, dim});
  const Dims shape{batch, heads, kv_len, dim};
  for (const Dims& strides :
       {Dims{0, 0, 1, 2}, Dims{0, 3, 0, 1}, Dims{5, 0, 2, 0}, Dims{0, 0, 0, 0}}) {
    const TensorView kv(memory.data(), DType::f32, shape, strides);
    const Tensor copy = copy_as(kv, DType::f32);
    for (const Isa isa : available_isas()) {
      Tensor shared(DType::f32, {batch, heads, q_len, dim}),
          dense(DType::f32, {batch, heads, q_len, dim});
      attention(q, kv, kv, shared.view(), {}, {.isa = isa});
      attention(q, copy.view(), copy.view(), dense.view(), {}, {.isa = isa});
      CHECK(bits_of(shared.view()) == bits_of(dense.view()));
    }
  }
}

TEST_CASE("A slice of a key cache that holds more keys, heads and entries") {
  constexpr std::int64_t dim = 16;
  const std::vector<float> memory = random_floats(4 * 6 * 100 * dim);
  const TensorView cache(memory.data(), {4, 6, 100, dim});
  const TensorView kv = cache.sliced(0, 1, 3).sliced(1, 2, 4).sliced(2, 0, 63);
  const TensorView q = cache.sliced(0, 0, 2).sliced(1, 0, 4).sliced(2, 90, 95);
  const Tensor q_copy = copy_as(q, DType::f32), kv_copy = copy_as(kv, DType::f32);
  for (const Isa isa : available_isas()) {
    Tensor sliced(DType::f32, {2, 4, 5, dim}), dense(DType::f32, {2, 4, 5, dim});
    attention(q, kv, kv, sliced.view(), {.causal = Causal::bottom_right()}, {.isa = isa});
    attention(q_copy.view(), kv_copy.view(), kv_copy.view(), dense.view(),
              {.causal = Causal::bottom_right()}, {.isa = isa});
    CHECK(bits_of(sliced.view()) == bits_of(dense.view()));
  }
}

namespace {

/// Dense f32 values that begin `misalignment` floats after the start of a cache line.
struct PlacedValues {
  PlacedValues(const std::vector<double>& values, std::int64_t misalignment)
      : memory(values.size() + 32) {
    constexpr std::uintptr_t line = 64;
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    first = memory.data() + (line - address % line) % line / sizeof(float) + misalignment;
    std::transform(values.begin(), values.end(), first,
                   [](double value) { return static_cast<float>(value); });
  }
  std::vector<float> memory;
  float* first;
};

Outputs run_with_values(const Case& c, const Inputs& inputs, const PlacedValues& values, Isa isa) {
  Outputs outputs = make_outputs(c);
  AttentionTensors tensors = bind(inputs, outputs);
  tensors.v = TensorView(values.first, inputs.v.shape());
  Execution execution = c.execution;
  execution.isa = isa;
  attention(tensors, c.options, execution);
  return outputs;
}

/// Values in aligned rows of whole vectors are multiplied in place; other values are packed. Both
/// give the same bits.
void check_placed_values(const Case& c, const std::vector<double>& values) {
  INFO(repeat_line(c));
  const Inputs inputs = make_inputs(c);
  for (const Isa isa : available_isas()) {
    const Outputs packed = run_with_values(c, inputs, PlacedValues(values, 1), isa);
    CHECK(bit_difference(run_with_values(c, inputs, PlacedValues(values, 0), isa), packed) == "");
  }
}

}  // namespace

TEST_CASE("Values give the same bits where they lie and packed, finite or not, seen or hidden") {
  for (const std::int64_t v_head_dim : {16, 64, 80, 144}) {
    for (const std::int64_t kv_len : {64, 75, 700}) {
      Case c{.batch = 2,
             .num_q_heads = 4,
             .num_kv_heads = 2,
             .q_len = 40,
             .kv_len = kv_len,
             .head_dim = 24,
             .v_head_dim = v_head_dim,
             .options = {.causal = Causal::bottom_right(),
                         .window = Window{.left = 50, .right = std::nullopt}},
             .kv_lens = {kv_len, kv_len - 21}};
      const Inputs inputs = make_inputs(c);
      std::vector<double> values = inputs.v.values();
      const Outputs outputs = run_with_values(c, inputs, PlacedValues(values, 0), default_isa());
      CHECK(difference(outputs, expected_of(c, inputs)) == "");
      check_placed_values(c, values);
      // These keys lie beyond the second entry's length, so the bits stay the same.
      std::vector<double> poisoned = values;
      std::fill_n(poisoned.end() - 20 * v_head_dim, 20 * v_head_dim,
                  std::numeric_limits<double>::quiet_NaN());
      CHECK(bit_difference(run_with_values(c, inputs, PlacedValues(poisoned, 0), default_isa()),
                           outputs) == "");
      check_placed_values(c, poisoned);
      // Some rows see these keys, so their block has to be packed.
      poisoned[static_cast<std::size_t>((kv_len - 3) * v_head_dim + 5)] =
          std::numeric_limits<double>::infinity();
      check_placed_values(c, poisoned);
    }
  }
}
