// Rows whose scores are all large, as padding rows of a mask of -1e9 or of the lowest float: their
// lse has no digits left for the logarithm of a sum, but their probabilities still add up to 1.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/random.hpp"

using namespace attn;
using attn::test::Random;

namespace {

constexpr std::int64_t q_len = 40, kv_len = 50, dim = 8, large_rows = 5;

Tensor normal(const Dims& shape, std::uint64_t seed) {
  Random random(seed);
  Tensor tensor(DType::f32, shape);
  for (std::int64_t n = 0; n < tensor.size(); ++n)
    tensor.data<float>()[n] = static_cast<float>(random.normal());
  return tensor;
}

/// A call whose first rows have `added` in the mask of all keys.
struct Call {
  explicit Call(float added) : mask(DType::f32, {q_len, kv_len}) {
    std::fill_n(mask.data<float>(), mask.size(), 0.f);
    std::fill_n(mask.data<float>(), large_rows * kv_len, added);
  }

  AttentionTensors tensors(std::int64_t first, std::int64_t end) const {
    return {.q = q.view(),
            .k = k.view().sliced(2, first, end),
            .v = v.view().sliced(2, first, end),
            .mask = mask.view().sliced(1, first, end)};
  }

  Tensor q = normal({1, 1, q_len, dim}, 1), k = normal({1, 1, kv_len, dim}, 2),
         v = normal({1, 1, kv_len, dim}, 3), dout = normal({1, 1, q_len, dim}, 4);
  Tensor mask;
};

struct Gradients {
  Tensor dq{DType::f32, {1, 1, q_len, dim}}, dk{DType::f32, {1, 1, kv_len, dim}},
      dv{DType::f32, {1, 1, kv_len, dim}};

  AttentionGradients of(const Call& call, std::int64_t first, std::int64_t end) const {
    const auto writable = [](const TensorView& view) {
      return MutableTensorView(const_cast<void*>(view.data), view.dtype, view.shape, view.strides);
    };
    return {.dout = call.dout.view(),
            .dq = writable(dq.view()),
            .dk = writable(dk.view().sliced(2, first, end)),
            .dv = writable(dv.view().sliced(2, first, end))};
  }
};

/// The sum of each column of a dense tensor.
std::vector<double> column_sums(const Tensor& tensor) {
  std::vector<double> sums(dim);
  for (std::int64_t n = 0; n < tensor.size(); ++n)
    sums[static_cast<std::size_t>(n % dim)] += static_cast<double>(tensor.data<float>()[n]);
  return sums;
}

bool all_finite(const Tensor& tensor) {
  return std::all_of(tensor.data<float>(), tensor.data<float>() + tensor.size(),
                     [](float x) { return std::isfinite(x); });
}

Gradients differentiate(const Call& call, const Execution& execution) {
  Tensor out(DType::f32, {1, 1, q_len, dim}), lse(DType::f32, {1, 1, q_len});
  AttentionTensors tensors = call.tensors(0, kv_len);
  tensors.out = out.view();
  tensors.lse = lse.view();
  attention(tensors, {}, execution);
  Gradients gradients;
  attention_backward(tensors, gradients.of(call, 0, kv_len), {}, execution);
  return gradients;
}

}  // namespace

TEST_CASE("Probabilities add up to 1 whatever is added to all scores of a row") {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  for (const float added : {0.f, -1e4f, 1e6f, -1e9f, lowest}) {
    for (const Isa isa : available_isas()) {
      CAPTURE(added);
      CAPTURE(std::string(name_of(isa)));
      const Call call(added);
      const Gradients gradients = differentiate(call, {.num_threads = 1, .isa = isa});
      // dV is P^T dout, and each row of P adds up to 1.
      const std::vector<double> got = column_sums(gradients.dv), expected = column_sums(call.dout);
      for (std::size_t n = 0; n < dim; ++n) CHECK(std::fabs(got[n] - expected[n]) < 1e-4);
      CHECK(all_finite(gradients.dq));
      CHECK(all_finite(gradients.dk));
      const Gradients again = differentiate(call, {.num_threads = 3, .isa = isa});
      CHECK(std::equal(gradients.dq.data<float>(), gradients.dq.data<float>() + gradients.dq.size(),
                       again.dq.data<float>()));
    }
  }
}

TEST_CASE("Gradients of a part of the keys are finite where the lse of all keys is large") {
  for (const float added : {-1e9f, std::numeric_limits<float>::lowest()}) {
    CAPTURE(added);
    const Call call(added);
    Tensor out(DType::f32, {1, 1, q_len, dim}), lse(DType::f32, {1, 1, q_len});
    AttentionTensors all = call.tensors(0, kv_len);
    all.out = out.view();
    all.lse = lse.view();
    attention(all);
    for (float* x = lse.data<float>(); x < lse.data<float>() + large_rows; ++x) *x = added * 0.5f;
    AttentionTensors part = call.tensors(0, kv_len / 2);
    part.out = out.view();
    part.lse = lse.view();
    Gradients gradients;
    attention_backward(part, gradients.of(call, 0, kv_len / 2));
    CHECK(all_finite(gradients.dq));
    const auto first = gradients.dv.data<float>();
    CHECK(std::all_of(first, first + kv_len / 2 * dim, [](float x) { return std::fabs(x) < 60; }));
  }
}
