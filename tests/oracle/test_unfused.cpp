// The unfused baseline against the reference.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/select.hpp"
#include "oracle/unfused_primitives.hpp"
#include "support/random.hpp"
#include "support/reference_examples.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// A random example in another type, with outputs in f32 or in that type.
struct Narrowed {
  Narrowed(const Example& example, DType dtype)
      : shape(example.shape),
        q(copy_as(example.tensors.q, dtype)),
        k(copy_as(example.tensors.k, dtype)),
        v(copy_as(example.tensors.v, dtype)),
        out(dtype, example.out.shape()),
        lse(DType::f32, example.lse.shape()),
        tensors(example.tensors),
        options(example.options),
        execution(example.execution) {
    tensors.q = q.view();
    tensors.k = k.view();
    tensors.v = v.view();
    tensors.out = out.view();
    tensors.lse = lse.view();
  }

  void run() { attention_unfused(tensors, options, execution); }
  std::int64_t rows() const { return shape.batch * shape.num_q_heads * shape.q_len; }

  Shape shape;
  Tensor q, k, v, out, lse;
  AttentionTensors tensors;
  AttentionOptions options;
  Execution execution;
};

std::vector<double> values_of(const Tensor& tensor) {
  const Tensor in_double = copy_as(tensor.view(), DType::f64);
  return {in_double.data<double>(), in_double.data<double>() + in_double.size()};
}

/// The number of unfused results that differ from the reference on the same inputs.
std::int64_t count_wrong(Narrowed& call, double tolerance) {
  call.run();
  const std::vector<double> out = values_of(call.out), lse = values_of(call.lse);
  attention_reference(call.tensors, call.options, call.execution);
  const std::vector<double> wanted_out = values_of(call.out), wanted_lse = values_of(call.lse);
  std::int64_t wrong = 0;
  for (std::size_t n = 0; n < out.size(); ++n)
    wrong += !(std::abs(out[n] - wanted_out[n]) <= tolerance);
  for (std::size_t n = 0; n < lse.size(); ++n)
    wrong += !(lse[n] == wanted_lse[n] || std::abs(lse[n] - wanted_lse[n]) <= 1e-5);
  return wrong;
}

/// Whether the row sees the key, by the reference.
std::vector<bool> visibility(const Narrowed& call) {
  Tensor scores(DType::f64,
                {call.shape.batch, call.shape.num_q_heads, call.shape.q_len, call.shape.kv_len});
  reference_scores(call.tensors, call.options, ScoreStage::masked, scores.view(), call.execution);
  std::vector<bool> visible;
  for (const double score : values_of(scores)) visible.push_back(score != -infinity);
  return visible;
}

bool same_bits(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

TEST_CASE("Unfused agrees with the reference on random calls") {
  for (const std::uint64_t seed : seeds(0, 150)) {
    RandomCall random(seed);
    Narrowed call(random.example, DType::f32);
    call.execution.num_threads = 1 + static_cast<int>(seed % 3);
    INFO(repeat_command(seed));
    CHECK(count_wrong(call, 1e-5) == 0);
  }
}

TEST_CASE("Unfused takes 16-bit types and rounds only its output to them") {
  for (const std::uint64_t seed : seeds(0, 20)) {
    RandomCall random(seed);
    Narrowed call(random.example, seed % 2 == 0 ? DType::bf16 : DType::f16);
    INFO(repeat_command(seed));
    CHECK(count_wrong(call, 0.02) == 0);
  }
}

TEST_CASE("Unfused takes any layout") {
  for (const std::uint64_t seed : seeds(0, 20)) {
    RandomCall random(seed);
    Narrowed call(random.example, DType::f32);
    const Shape& shape = call.shape;
    const Dims heads_inside{0, 2, 1, 3};
    Tensor q(DType::f32, {shape.batch, shape.q_len, shape.num_q_heads, shape.head_dim});
    Tensor out(DType::f32, {shape.batch, shape.q_len, shape.num_q_heads, shape.v_head_dim});
    Tensor keys(DType::f32, {shape.batch, shape.num_kv_heads, shape.head_dim, shape.kv_len});
    copy_into(call.tensors.q, q.view().permuted(heads_inside));
    copy_into(call.tensors.k, keys.view().permuted({0, 1, 3, 2}));
    call.run();
    const std::vector<double> dense = values_of(call.out);
    call.tensors.q = q.view().permuted(heads_inside);
    call.tensors.k = keys.view().permuted({0, 1, 3, 2});
    call.tensors.out = out.view().permuted(heads_inside);
    call.run();
    copy_into(call.tensors.out, call.out.view());
    INFO(repeat_command(seed));
    CHECK(values_of(call.out) == dense);
  }
}

TEST_CASE("Unfused calls the user's functions in the order of the reference") {
  for (const std::uint64_t seed : seeds(0, 40)) {
    RandomCall random(seed);
    Narrowed call(random.example, DType::f32);
    call.options.score_mod = [](const KeyRun& run, float* scores) {
      for (std::int64_t n = 0; n < run.count; ++n)
        scores[n] = 0.5f * scores[n] + static_cast<float>((run.key_begin + n + run.q_head) % 3);
    };
    call.options.mask_mod = [](const KeyRun& run, bool* visible) {
      for (std::int64_t n = 0; n < run.count; ++n)
        visible[n] = (run.key_begin + n + run.q_position + run.batch) % 4 != 0;
    };
    INFO(repeat_command(seed));
    CHECK(count_wrong(call, 1e-5) == 0);
  }
}

TEST_CASE(
    "Unfused: NaN and inf of hidden keys change nothing, those of visible keys change the rows "
    "that see them") {
  for (const std::uint64_t seed : seeds(0, 100)) {
    RandomCall random(seed);
    Narrowed call(random.example, DType::f32);
    const Shape& shape = call.shape;
    call.run();
    const std::vector<float> clean(call.out.data<float>(),
                                   call.out.data<float>() + call.out.size());
    const std::vector<bool> visible = visibility(call);
    const std::int64_t key = static_cast<std::int64_t>(seed) % shape.kv_len;
    const float wild = seed % 2 == 0 ? std::nanf("") : std::numeric_limits<float>::infinity();
    // Only V of the first head of the first batch entry holds it.
    std::fill_n(call.v.data<float>() + key * shape.v_head_dim, shape.v_head_dim, wild);
    call.run();
    const std::int64_t rows_of_kv_head = shape.num_q_heads / shape.num_kv_heads * shape.q_len;
    std::int64_t wrong = 0;
    for (std::int64_t row = 0; row < call.rows(); ++row) {
      const bool sees = row < rows_of_kv_head && visible[row * shape.kv_len + key];
      for (std::int64_t d = row * shape.v_head_dim; d < (row + 1) * shape.v_head_dim; ++d) {
        wrong += !same_bits(call.out.data<float>()[d], sees ? wild : clean[d]);
      }
    }
    INFO(repeat_command(seed));
    CHECK(wrong == 0);
  }
}

TEST_CASE("Keys hidden from all rows may hold anything") {
  Shape shape{.batch = 2,
              .num_q_heads = 4,
              .num_kv_heads = 2,
              .q_len = 5,
              .kv_len = 9,
              .head_dim = 8,
              .v_head_dim = 6};
  Example example(shape);
  std::fill_n(example.v.data<double>(), example.v.size(), 3.0);
  Narrowed call(example, DType::f32);
  const std::int32_t lengths[] = {4, 0};
  call.tensors.kv_lens = {lengths, {2}};
  for (std::int64_t head = 0; head < 4; ++head) {
    for (std::int64_t key = head < 2 ? 4 : 0; key < shape.kv_len; ++key) {
      std::fill_n(call.k.data<float>() + (head * shape.kv_len + key) * shape.head_dim,
                  shape.head_dim, std::nanf(""));
      std::fill_n(call.v.data<float>() + (head * shape.kv_len + key) * shape.v_head_dim,
                  shape.v_head_dim, std::nanf(""));
    }
  }
  for (const auto& softcap : {std::optional<float>(), std::optional<float>(2.f)}) {
    call.options.softcap = softcap;
    call.run();
    for (std::int64_t n = 0; n < call.out.size(); ++n)
      CHECK(call.out.data<float>()[n] == (n < call.out.size() / 2 ? 3.f : 0.f));
    for (std::int64_t n = 0; n < call.lse.size() / 2; ++n)
      CHECK(call.lse.data<float>()[n] == doctest::Approx(std::log(4)));
    for (std::int64_t n = call.lse.size() / 2; n < call.lse.size(); ++n)
      CHECK(call.lse.data<float>()[n] == -infinity);
  }
}

TEST_CASE("Undefined rows are NaN and leave the others alone") {
  for (const float score : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    Example example({.q_len = 3, .kv_len = 40, .head_dim = 1, .v_head_dim = 2});
    std::fill_n(example.v.data<double>(), example.v.size(), 3.0);
    std::fill_n(example.k.data<double>(), example.k.size(), 1.0);
    example.q.data<double>()[1] = score;
    Narrowed call(example, DType::f32);
    call.run();
    for (const std::int64_t n : {0, 1, 4, 5})
      CHECK(call.out.data<float>()[n] == doctest::Approx(3));
    for (const std::int64_t n : {2, 3}) CHECK(std::isnan(call.out.data<float>()[n]));
    CHECK(std::isnan(call.lse.data<float>()[1]));
  }
}

TEST_CASE("No keys, no queries or no visible key") {
  Narrowed no_keys(Example({.num_q_heads = 2, .q_len = 3, .kv_len = 0, .v_head_dim = 2}),
                   DType::f32);
  std::fill_n(no_keys.out.data<float>(), no_keys.out.size(), 7.f);
  const float sinks[] = {0.5f, -std::numeric_limits<float>::infinity()};
  no_keys.tensors.sinks = {sinks, {2}};
  no_keys.run();
  for (const double value : values_of(no_keys.out)) CHECK(value == 0);
  CHECK(values_of(no_keys.lse) ==
        std::vector<double>{0.5, 0.5, 0.5, -infinity, -infinity, -infinity});

  Narrowed no_rows(Example({.q_len = 0, .kv_len = 3}), DType::f32);
  CHECK_NOTHROW(no_rows.run());
}

TEST_CASE("Weights of sigmoid that add up to more than 1 overflow only where the result does") {
  constexpr double greatest = std::numeric_limits<float>::max();
  for (const bool masked : {false, true}) {
    Example example({.q_len = 2, .kv_len = 64, .head_dim = 4, .v_head_dim = 2});
    double* const v = example.v.data<double>();
    // In column 0, half of the values cancel the others, but for a rest; column 1 overflows.
    for (std::int64_t j = 0; j < 64; ++j) {
      v[2 * j] = (j < 32 ? 0.25 : -0.25) * greatest;
      v[2 * j + 1] = 0.25 * greatest;
    }
    v[2 * 63] = 0;
    Narrowed call(example, DType::f32);
    call.options.normalizer = Normalizer::sigmoid(0);
    call.tensors.lse = {};
    if (masked) {  // the last key, which must not be read
      call.options.causal = Causal::with_offset(62);
      call.options.window = Window{.right = 0};
      call.v.data<float>()[2 * 63 + 1] = std::nanf("");
    }
    call.run();
    const std::vector<double> out = values_of(call.out);
    CHECK(std::abs(out[0] - 0.125 * greatest) < 1e-6 * greatest);
    CHECK(out[1] == infinity);
  }
}

TEST_CASE("The scratch of unfused is the score matrix and the copies it makes") {
  const Shape shape{
      .num_q_heads = 2, .q_len = 256, .kv_len = 512, .head_dim = 64, .v_head_dim = 64};
  const Example example(shape);
  const std::size_t matrix = 2 * 256 * 512 * sizeof(float);
  const Narrowed in_place(example, DType::f32);
  CHECK(unfused_scratch_size(in_place.tensors) >= matrix);
  CHECK(unfused_scratch_size(in_place.tensors) < matrix + 8192);
  const Narrowed copied(example, DType::bf16);
  CHECK(unfused_scratch_size(copied.tensors) >=
        matrix + (2 * 2 * 256 + 2 * 512) * 64 * sizeof(float));
}

TEST_CASE("Scratch is counted for no strides that lead out of any memory") {
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                         largest = std::numeric_limits<std::int64_t>::max();
  const std::int64_t offsets[] = {0, 1, 2};
  float x[8] = {};
  const Dims shape{2, 1, 4};
  const AttentionTensors ragged{
      .q = {x, shape},
      .k = {x, shape},
      .v = {x, shape},
      .out = {x, shape},
      .ragged = {.q_offsets = {offsets, {3}}, .kv_offsets = {offsets, {3}}}};
  CHECK(unfused_scratch_size(ragged) > 0);
  for (const Dims& strides : {Dims{1, 1, 1, 1, 1, 1, 1, 1}, Dims{4, 1}, Dims{least, 4, 1},
                              Dims{4, least, 1}, Dims{4, 4, largest / 4}}) {
    CAPTURE(strides.to_string());
    for (TensorView AttentionTensors::*view :
         {&AttentionTensors::q, &AttentionTensors::k, &AttentionTensors::v}) {
      AttentionTensors changed = ragged;
      (changed.*view).strides = strides;
      CHECK_THROWS_AS(unfused_scratch_size(changed), Error);
    }
    AttentionTensors changed = ragged;
    changed.out.strides = strides;
    CHECK_THROWS_AS(unfused_scratch_size(changed), Error);
  }
}

TEST_CASE("Unfused refuses what attention refuses") {
  Narrowed call(Example({.kv_len = 3}), DType::f32);
  const float mask[] = {0, 0};
  call.tensors.mask = {mask, {2, 1}};
  CHECK_THROWS_AS(call.run(), Error);
}

namespace {

/// The largest error of C = A B by panels against sums in double, in units of the bound k * eps *
/// sum of |a b|; infinity if anything else is written, or if bits depend on the number of threads.
double error_by_panels(const kernels::Kernels& kernels, const onednn::MatmulShape& shape) {
  Random random(5);
  const auto normal_floats = [&random](std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = static_cast<float>(random.normal());
    return values;
  };
  const std::vector<float> a = normal_floats(shape.batch * shape.m * shape.k),
                           b = normal_floats(shape.batch * shape.k * shape.n);
  std::vector<float> c(static_cast<std::size_t>(shape.batch * shape.m * shape.n) + 64, 0.25f), more;
  for (const int num_threads : {1, 3}) {
    std::swap(c, more);
    c.resize(more.size(), 0.25f);
    detail::multiply_by_panels({kernels, {num_threads}}, shape, a.data(), b.data(), c.data());
  }
  if (c != more || !std::all_of(c.end() - 64, c.end(), [](float x) { return x == 0.25f; }))
    return infinity;
  double worst = 0;
  for (std::int64_t row = 0; row < shape.batch * shape.m; ++row) {
    const std::int64_t matrix = row / shape.m * shape.k * shape.n;
    for (std::int64_t n = 0; n < shape.n; ++n) {
      double sum = 0, magnitude = 0;
      for (std::int64_t k = 0; k < shape.k; ++k) {
        const std::int64_t at = matrix + (shape.b_transposed ? n * shape.k + k : k * shape.n + n);
        const double product = double{a[row * shape.k + k]} * b[at];
        sum += product;
        magnitude += std::abs(product);
      }
      const double bound = static_cast<double>(shape.k) * 0x1p-23 * magnitude;
      worst = std::max(worst, std::abs(c[row * shape.n + n] - sum) / bound);
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("The product that unfused has without oneDNN, over sizes, batches and threads") {
  for (const Isa isa : available_isas()) {
    CAPTURE(name_of(isa));
    for (onednn::MatmulShape shape :
         {onednn::MatmulShape{1, 1, 1}, onednn::MatmulShape{5, 7, 3},
          onednn::MatmulShape{96, 64, 40}, onednn::MatmulShape{200, 130, 33},
          onednn::MatmulShape{7, 17, 1100}}) {
      for (const std::int64_t batch : {1, 3}) {
        for (const bool b_transposed : {false, true}) {
          shape.batch = batch;
          shape.b_transposed = b_transposed;
          CAPTURE(shape.n);
          CHECK(error_by_panels(kernels::kernels_for(isa), shape) <= 1);
        }
      }
    }
  }
}
