// What sample() refuses, before it writes anything; tensors without elements.
#include <attn/error.hpp>
#include <attn/sample.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("tensors without elements are legal") {
  const float logits[] = {1, 2};
  std::int64_t untouched = -7;
  sample({logits, {0, 2}}, {&untouched, {0, 1}});
  sample({logits, {1, 2}}, {&untouched, {1, 0}});
  sample({logits, {0, 0}}, {&untouched, {0, 1}});
  CHECK(untouched == -7);
}

TEST_CASE("what does not fit is refused, and nothing is written") {
  StridedTensor logits(DType::f32, {2, 3, 4});
  StridedTensor indices(DType::i64, {2, 3, 5});
  logits.assign(std::vector<double>(24, 1));
  const auto check = [&](const std::vector<std::string>& fragments, const SampleOptions& options,
                         const Execution& execution = {}) {
    check_fails(ErrorCode::invalid_argument, fragments,
                [&] { sample(std::as_const(logits).view(), indices.view(), options, execution); });
    CHECK(indices.untouched());
  };
  const auto float_nan = static_cast<float>(not_a_number);
  const auto float_infinity = static_cast<float>(infinity);
  for (const float bad : {-1.f, float_nan, float_infinity})
    check({"temperature is", "at least 0"}, {.temperature = bad});
  check({"top_k is -3", "0 (off) or more"}, {.top_k = -3});
  for (const float bad : {-0.5f, 1.5f, float_nan}) check({"top_p is", "0..1"}, {.top_p = bad});
  for (const float bad : {-0.1f, 1.1f, float_nan}) check({"min_p is", "0..1"}, {.min_p = bad});
  check({"num_threads is 0"}, {}, {.num_threads = 0});

  for (const double bad : {not_a_number, infinity}) {
    for (const SampleOptions& options : {SampleOptions{}, SampleOptions{.temperature = 0}}) {
      logits.set({1, 0, 2}, bad);
      logits.set({1, 2, 0}, bad);
      check({"logits[1, 0] holds NaN, +inf or nothing but -inf"}, options);
    }
    logits.set({1, 0, 2}, 1);
    check({"logits[1, 2]"}, {});
    logits.set({1, 2, 0}, 1);
  }
  for (std::int64_t n = 0; n < 4; ++n) logits.set({0, 1, n}, -infinity);
  check({"logits[0, 1]"}, {});
  const float row[] = {0, float_nan};
  std::int64_t index = 0;
  check_fails(ErrorCode::invalid_argument, {"logits holds NaN"}, [&] {
    sample({row, {2}}, {&index, {1}});
  });

  const float numbers[8] = {};
  std::int64_t written[8] = {};
  const auto refuse = [&](const std::vector<std::string>& fragments, const TensorView& from,
                          const MutableTensorView& to) {
    check_fails(ErrorCode::invalid_argument, fragments, [&] { sample(from, to); });
  };
  refuse({"logits has rank 0"}, {numbers, Dims()}, {written, Dims()});
  refuse({"logits has type i64"}, {written, {2, 2}}, {written, {2, 1}});
  refuse({"logits", "no data"}, {nullptr, DType::f32, {2, 2}}, {written, {2, 1}});
  refuse({"logits has shape [2, 0]", "dim 1 is 0", "classes"}, {numbers, {2, 0}},
         {written, {2, 1}});
  refuse({"indices has shape [2] of rank 1", "rank 2"}, {numbers, {2, 2}}, {written, {2}});
  refuse({"indices has shape [3, 1]", "dim 0 is 3"}, {numbers, {2, 2}}, {written, {3, 1}});
  refuse({"indices has type f32", "i64"}, {numbers, {2, 2}},
         MutableTensorView(written, DType::f32, {2, 1}));
  refuse({"indices", "no data"}, {numbers, {2, 2}}, {nullptr, DType::i64, {2, 1}});
  refuse({"indices has strides", "stride 0"}, {numbers, {2, 2}},
         MutableTensorView(written, {2, 1}, {0, 1}));
}
