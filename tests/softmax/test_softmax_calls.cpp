// softmax, log_softmax and logsumexp as calls: layouts, types, dims, threads, broadcast inputs,
// tensors larger than the caches, and what they refuse.
#include <attn/error.hpp>
#include <attn/isa.hpp>
#include <attn/softmax.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/softmax_formulas.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Applies f to each slice of x and returns the results as one dense array: f(slice) returns as
/// many values as the slice has, or one.
Values by_slices(const Values& x, const Dims& shape, int dim,
                 const std::function<Values(const Values&)>& f) {
  std::int64_t inner = 1, extent = shape[dim];
  for (int n = dim + 1; n < shape.rank(); ++n) inner *= shape[n];
  const std::int64_t outer =
      extent == 0 || inner == 0 ? 0 : static_cast<std::int64_t>(x.size()) / extent / inner;
  Values result;
  bool reduced = false;
  std::vector<Values> slices;
  for (std::int64_t slice = 0; slice < outer * inner; ++slice) {
    Values one;
    for (std::int64_t n = 0; n < extent; ++n)
      one.push_back(
          x[static_cast<std::size_t>((slice / inner * extent + n) * inner + slice % inner)]);
    slices.push_back(f(one));
    reduced = slices.back().size() == 1 && extent != 1;
  }
  if (reduced || extent == 1) {
    for (const Values& one : slices) result.push_back(one[0]);
    return result;
  }
  result.resize(x.size());
  for (std::int64_t slice = 0; slice < outer * inner; ++slice) {
    for (std::int64_t n = 0; n < extent; ++n) {
      result[static_cast<std::size_t>((slice / inner * extent + n) * inner + slice % inner)] =
          slices[static_cast<std::size_t>(slice)][static_cast<std::size_t>(n)];
    }
  }
  return result;
}

/// Half an ulp of a type, relative.
double rounding_of(DType dtype) {
  return dtype == DType::f32 ? 0 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
}

}  // namespace

TEST_CASE("any layout, type and dim; thread counts change no bit; gaps are left alone") {
  std::uint64_t seed = 100;
  for (const Dims& shape : {Dims{2, 3, 5, 7}, Dims{1, 4, 33, 21}, Dims{3, 2, 20, 34},
                            Dims{2, 1, 17, 1}, Dims{2, 0, 3, 4}, Dims{1, 5, 2, 530}}) {
    const Values x = normal_values(shape.product(), seed++);
    for (int dim = -4; dim < 4; ++dim) {
      for (const Layout in :
           {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
        const Layout out = in == Layout::bshd     ? Layout::reversed
                           : in == Layout::padded ? Layout::bshd
                                                  : in;
        const DType from = seed % 3 == 0 ? DType::bf16 : seed % 3 == 1 ? DType::f32 : DType::f16;
        const DType to = seed % 4 == 0 ? DType::f16 : seed % 4 == 1 ? DType::bf16 : DType::f32;
        ++seed;
        CAPTURE(shape.to_string());
        CAPTURE(dim);
        CAPTURE(name_of(in));
        StridedTensor source(from, shape, in);
        source.assign(x);
        const int along = dim < 0 ? dim + 4 : dim;
        const Values wanted = by_slices(source.values(), shape, along,
                                        [](const Values& one) { return exact_of(one, 1).softmax; });
        const Values sums = by_slices(source.values(), shape, along, [](const Values& one) {
          return Values{exact_of(one, 1).logsumexp};
        });
        StridedTensor first(to, shape, out), second(to, shape, out);
        softmax(source.view(), first.view(), dim, 1, {.num_threads = 1});
        softmax(source.view(), second.view(), dim, 1, {.num_threads = 3});
        CHECK(wrong_softmax(first.values(), wanted, promised + 1.01 * rounding_of(to),
                            to == DType::f16 ? 0x1p-25 : 1e-36) == "");
        CHECK(first.bits() == second.bits());
        CHECK(first.gaps_untouched());
        if (shape[along] > 1 && shape.product() > 0) {
          std::vector<float> got(sums.size());
          Dims rest{0, 0, 0};
          for (int n = 0, kept = 0; n < 4; ++n) {
            if (n != along) rest[kept++] = shape[n];
          }
          logsumexp(source.view(), {got.data(), rest}, dim);
          CHECK(wrong_log(as_values(got), sums, 3e-7) == "");
        }
        if (from == to) {
          softmax(source.view(), source.view(), dim);
          StridedTensor apart(to, shape, in);
          StridedTensor again(from, shape, in);
          again.assign(x);
          softmax(again.view(), apart.view(), dim);
          CHECK(source.bits() == apart.bits());
        }
      }
    }
  }
}

TEST_CASE("broadcast inputs, rank 1, and extents of 0") {
  const std::vector<float> row = normal_floats(40, 0, 1, 8);
  const Exact exact = exact_of(as_values(row), 1);
  std::vector<float> y(120);
  softmax(TensorView(row.data(), {3, 40}, {0, 1}), {y.data(), {3, 40}});
  for (int n = 0; n < 3; ++n)
    CHECK(wrong_softmax(Values(y.begin() + 40 * n, y.begin() + 40 * (n + 1)), exact.softmax,
                        promised) == "");
  softmax(TensorView(row.data(), {40, 3}, {1, 0}), {y.data(), {40, 3}}, -1);
  CHECK(std::all_of(y.begin(), y.end(), [](float p) { return p == 1.f / 3; }));
  float sum[3] = {};
  logsumexp(TensorView(row.data(), DType::f32, {3, 0}), {sum, {3}});
  CHECK(sum[1] == -std::numeric_limits<float>::infinity());
  softmax(TensorView(nullptr, DType::f32, {0, 5}), MutableTensorView(nullptr, DType::f32, {0, 5}));
}

TEST_CASE("the memory of great tensors is written in full") {
  // More elements than the caches hold, and in place.
  const Dims shape{700, 24001};
  Tensor x(DType::f32, shape), y(DType::f32, shape), one(DType::f32, shape);
  Random random(3);
  for (std::int64_t n = 0; n < x.size(); ++n)
    x.data<float>()[n] = static_cast<float>(random.bits() % 1000) * 0.01f;
  softmax(x.view(), y.view());
  for (std::int64_t row : {0, 1, 350, 699}) {
    const float* const from = x.data<float>() + row * shape[1];
    const float* const got = y.data<float>() + row * shape[1];
    CHECK(wrong_softmax(Values(got, got + shape[1]),
                        exact_of(Values(from, from + shape[1]), 1).softmax, promised) == "");
  }
  softmax(x.view(), one.view(), -1, 1, {.num_threads = 1});
  CHECK(std::equal(y.data<float>(), y.data<float>() + y.size(), one.data<float>()));
  softmax(x.view(), x.view());
  CHECK(std::equal(y.data<float>(), y.data<float>() + y.size(), x.data<float>()));
}

TEST_CASE("calls that do not fit are refused, and write nothing") {
  std::vector<float> x(12, 1.f), y(12, 5.f);
  const TensorView in(x.data(), {3, 4});
  const MutableTensorView out(y.data(), {3, 4});
  const auto refusal = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.code() == ErrorCode::invalid_argument ? error.what() : "another code";
    }
    return "none";
  };
  const auto names = [&](const char* word, const std::function<void()>& call) {
    const std::string message = refusal(call);
    CAPTURE(message);
    CHECK(message.find(word) != std::string::npos);
    CHECK(std::all_of(y.begin(), y.end(), [](float value) { return value == 5; }));
  };
  names("dim", [&] { softmax(in, out, 2); });
  names("dim", [&] { log_softmax(in, out, -3); });
  names("y has shape", [&] { softmax(in, {y.data(), {4, 3}}); });
  names("out has shape", [&] { logsumexp(in, {y.data(), {4}}, -1); });
  names("temperature", [&] { softmax(in, out, -1, 0); });
  names("temperature", [&] { softmax(in, out, -1, -1); });
  names("temperature", [&] {
    logsumexp(in, {y.data(), {3}}, -1, std::numeric_limits<float>::infinity());
  });
  names("temperature", [&] { log_softmax(in, out, -1, std::numeric_limits<float>::quiet_NaN()); });
  names("x has type", [&] { softmax(TensorView(x.data(), DType::i32, {3, 4}), out); });
  names("y has type", [&] { softmax(in, MutableTensorView(y.data(), DType::i32, {3, 4})); });
  names("x of shape", [&] { softmax(TensorView(nullptr, DType::f32, {3, 4}), out); });
  names("stride 0", [&] { softmax(in, MutableTensorView(y.data(), {3, 4}, {0, 1})); });
  names("rank 0",
        [&] { softmax(TensorView(x.data(), Dims{}), MutableTensorView(y.data(), Dims{})); });
  names("num_threads", [&] { softmax(in, out, -1, 1, {.num_threads = 0}); });
  names("y has shape", [&] { softmax_backward(in, {x.data(), {4, 3}}, out); });
  names("dout has shape", [&] { logsumexp_backward(in, in, in, out); });
}
