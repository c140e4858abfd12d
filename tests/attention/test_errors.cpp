// One test for each error. Each call has one fault; the message names it, and nothing is written.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/case.hpp"
#include "support/onednn.hpp"

using namespace attn;
using namespace attn::test;

namespace {

Case right() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 3,
          .kv_len = 5,
          .head_dim = 8,
          .v_head_dim = 6,
          .mask = DenseMask{.shape = {2, 4, 3, 5}},
          .alibi = true,
          .sinks = true,
          .kv_lens = {5, 2}};
}

struct Call {
  AttentionTensors tensors;
  AttentionOptions options;
  Execution execution{};
};
using Change = std::function<void(Call&)>;
using Run = std::function<void(const Call&)>;

/// Runs the valid call with one change and returns the error.
Error error_of(const Run& run, const Change& change) {
  const Inputs inputs = make_inputs(right());
  Outputs outputs = make_outputs(right());
  Call call{bind(inputs, outputs), right().options};
  change(call);
  Error error(ErrorCode::io, "no error");
  try {
    run(call);
  } catch (const Error& thrown) {
    error = thrown;
  }
  CHECK(outputs.out.untouched());
  CHECK(outputs.lse.untouched());
  return error;
}

void check_error(const std::string& way, const Run& run, const Change& change,
                 const std::vector<std::string>& fragments) {
  const Error error = error_of(run, change);
  INFO(way, ": ", error.what());
  CHECK(error.code() == ErrorCode::invalid_argument);
  for (const std::string& fragment : fragments) {
    CAPTURE(fragment);
    CHECK(std::string(error.what()).find(fragment) != std::string::npos);
  }
}

/// All functions that take a call report the same errors.
void check_rejected_run(const Change& change, const std::vector<std::string>& fragments) {
  check_error(
      "attention", [](const Call& call) { attention(call.tensors, call.options, call.execution); },
      change, fragments);
  check_error(
      "attention_reference",
      [](const Call& call) { attention_reference(call.tensors, call.options, call.execution); },
      change, fragments);
  check_error(
      "attention_unfused",
      [](const Call& call) { attention_unfused(call.tensors, call.options, call.execution); },
      change, fragments);
}

/// `fragments` are the name of the tensor or option, what was given and what is needed.
void check_rejected(const Change& change, const std::vector<std::string>& fragments) {
  check_rejected_run(change, fragments);
  check_error(
      "Plan", [](const Call& call) { AttentionPlan(call.tensors, call.options, call.execution); },
      change, fragments);
}

TensorView reshaped(TensorView view, const Dims& shape) { return {view.data, view.dtype, shape}; }

template <class View>
View retyped(View view, DType dtype) {
  view.dtype = dtype;
  return view;
}

}  // namespace

TEST_CASE("The call is right before it is changed") {
  const Inputs inputs = make_inputs(right());
  Outputs outputs = make_outputs(right());
  attention(bind(inputs, outputs), right().options);
  CHECK_FALSE(outputs.out.untouched());
  CHECK_FALSE(outputs.lse.untouched());
}

TEST_CASE("q of rank 3") {
  check_rejected(
      [](Call& c) {
        c.tensors.q = reshaped(c.tensors.q, {8, 3, 8});
      },
      {"q", "[8, 3, 8]", "rank"});
}
TEST_CASE("k of rank 5") {
  check_rejected(
      [](Call& c) {
        c.tensors.k = reshaped(c.tensors.k, {1, 2, 2, 5, 8});
      },
      {"k", "[1, 2, 2, 5, 8]", "rank"});
}
TEST_CASE("v of rank 2") {
  check_rejected(
      [](Call& c) {
        c.tensors.v = reshaped(c.tensors.v, {20, 6});
      },
      {"v", "[20, 6]", "rank"});
}
TEST_CASE("out of rank 3") {
  check_rejected(
      [](Call& c) {
        c.tensors.out = {c.tensors.out.data, DType::f32, {8, 3, 6}};
      },
      {"out", "[8, 3, 6]", "rank"});
}
TEST_CASE("q, k or v not given") {
  check_rejected([](Call& c) { c.tensors.q = {}; }, {"q"});
  check_rejected([](Call& c) { c.tensors.k = {}; }, {"k"});
  check_rejected([](Call& c) { c.tensors.v = {}; }, {"v"});
}
TEST_CASE("out not given") {
  check_rejected([](Call& c) { c.tensors.out = {}; }, {"out"});
}

TEST_CASE("batch of k, v or out differs from q's") {
  check_rejected([](Call& c) { c.tensors.k = c.tensors.k.sliced(0, 0, 1); },
                 {"k", "dim 0", "1", "2", "batch"});
  check_rejected([](Call& c) { c.tensors.v = c.tensors.v.sliced(0, 0, 1); },
                 {"v", "dim 0", "1", "2", "batch"});
  check_rejected([](Call& c) { c.tensors.out = c.tensors.out.sliced(0, 0, 1); },
                 {"out", "dim 0", "1", "2", "batch"});
}
TEST_CASE("heads of v differ from k's") {
  check_rejected([](Call& c) { c.tensors.v = c.tensors.v.sliced(1, 0, 1); },
                 {"v", "dim 1", "num_kv_heads"});
}
TEST_CASE("heads of out differ from q's") {
  check_rejected([](Call& c) { c.tensors.out = c.tensors.out.sliced(1, 0, 3); },
                 {"out", "dim 1", "3", "4", "num_q_heads"});
}
TEST_CASE("num_q_heads is no multiple of num_kv_heads") {
  check_rejected([](Call& c) { c.tensors.q = c.tensors.q.sliced(1, 0, 3); },
                 {"q", "k", "3", "2", "multiple"});
}
TEST_CASE("queries without keys' heads") {
  check_rejected(
      [](Call& c) {
        c.tensors.k = c.tensors.k.sliced(1, 0, 0);
        c.tensors.v = c.tensors.v.sliced(1, 0, 0);
      },
      {"k", "0", "num_kv_heads"});
}
TEST_CASE("kv_len of v differs from k's") {
  check_rejected([](Call& c) { c.tensors.v = c.tensors.v.sliced(2, 0, 4); },
                 {"v", "dim 2", "4", "5", "kv_len"});
}
TEST_CASE("q_len of out differs from q's") {
  check_rejected([](Call& c) { c.tensors.out = c.tensors.out.sliced(2, 0, 2); },
                 {"out", "dim 2", "2", "3", "q_len"});
}
TEST_CASE("head_dim of k differs from q's") {
  check_rejected([](Call& c) { c.tensors.k = c.tensors.k.sliced(3, 0, 7); },
                 {"k", "dim 3", "7", "8", "head_dim"});
}
TEST_CASE("v_head_dim of out differs from v's") {
  check_rejected([](Call& c) { c.tensors.out = c.tensors.out.sliced(3, 0, 5); },
                 {"out", "dim 3", "5", "6", "v_head_dim"});
}
TEST_CASE("head_dim 0") {
  check_rejected(
      [](Call& c) {
        c.tensors.q = c.tensors.q.sliced(3, 0, 0);
        c.tensors.k = c.tensors.k.sliced(3, 0, 0);
      },
      {"q", "head_dim", "0"});
}
TEST_CASE("v_head_dim 0") {
  check_rejected(
      [](Call& c) {
        c.tensors.v = c.tensors.v.sliced(3, 0, 0);
        c.tensors.out = c.tensors.out.sliced(3, 0, 0);
      },
      {"v", "v_head_dim", "0"});
}

TEST_CASE("q, k, v or out of a type that is no float") {
  for (const DType dtype : {DType::i32, DType::i64, DType::boolean}) {
    const std::string got(name_of(dtype));
    check_rejected([&](Call& c) { c.tensors.q.dtype = dtype; }, {"q", got, "f32"});
    check_rejected([&](Call& c) { c.tensors.k.dtype = c.tensors.v.dtype = dtype; },
                   {"k", got, "f32"});
    check_rejected([&](Call& c) { c.tensors.out.dtype = dtype; }, {"out", got, "f32"});
  }
}
TEST_CASE("k and v of different types") {
  check_rejected([](Call& c) { c.tensors.v.dtype = DType::bf16; }, {"v", "bf16", "f32"});
}
TEST_CASE("f64 is the reference's alone") {
  for (const Run& run :
       {Run([](const Call& call) { attention(call.tensors, call.options, call.execution); }),
        Run([](const Call& call) {
          attention_unfused(call.tensors, call.options, call.execution);
        })}) {
    check_error(
        "", run,
        [](Call& c) { c.tensors.q.dtype = c.tensors.k.dtype = c.tensors.v.dtype = DType::f64; },
        {"q", "f64", "f32"});
    check_error("", run, [](Call& c) { c.tensors.out.dtype = DType::f64; }, {"out", "f64", "f32"});
  }
}

TEST_CASE("mask of rank 5") {
  check_rejected(
      [](Call& c) {
        c.tensors.mask = reshaped(c.tensors.mask, {1, 2, 4, 3, 5});
      },
      {"mask", "[1, 2, 4, 3, 5]", "rank"});
}
TEST_CASE("mask of another batch, head count or q_len") {
  check_rejected(
      [](Call& c) {
        c.tensors.mask = reshaped(c.tensors.mask, {3, 4, 3, 5});
      },
      {"mask", "dim 0", "3", "2"});
  check_rejected([](Call& c) { c.tensors.mask = c.tensors.mask.sliced(1, 0, 2); },
                 {"mask", "dim 1", "2", "4"});
  check_rejected([](Call& c) { c.tensors.mask = c.tensors.mask.sliced(2, 0, 2); },
                 {"mask", "dim 2", "2", "3"});
  check_rejected(
      [](Call& c) {
        c.tensors.mask = reshaped(c.tensors.mask, {2, 3, 5});
      },
      {"mask", "dim 0", "2", "4"});
}
TEST_CASE("mask for more keys than there are") {
  check_rejected(
      [](Call& c) {
        c.tensors.mask = reshaped(c.tensors.mask, {3, 6});
      },
      {"mask", "6", "5"});
}
TEST_CASE("mask of integers") {
  check_rejected([](Call& c) { c.tensors.mask.dtype = DType::i32; }, {"mask", "i32", "boolean"});
}

TEST_CASE("alibi_slopes of another length, rank or type") {
  check_rejected([](Call& c) { c.tensors.alibi_slopes = c.tensors.alibi_slopes.sliced(0, 0, 3); },
                 {"alibi_slopes", "3", "4"});
  check_rejected(
      [](Call& c) {
        c.tensors.alibi_slopes = reshaped(c.tensors.alibi_slopes, {2, 2});
      },
      {"alibi_slopes", "[2, 2]", "rank"});
  check_rejected([](Call& c) { c.tensors.alibi_slopes.dtype = DType::bf16; },
                 {"alibi_slopes", "bf16", "f32"});
}
TEST_CASE("sinks of another length, rank or type") {
  check_rejected([](Call& c) { c.tensors.sinks = c.tensors.sinks.sliced(0, 0, 2); },
                 {"sinks", "2", "4"});
  check_rejected(
      [](Call& c) {
        c.tensors.sinks = reshaped(c.tensors.sinks, {1, 4});
      },
      {"sinks", "[1, 4]", "rank"});
  check_rejected([](Call& c) { c.tensors.sinks.dtype = DType::f16; }, {"sinks", "f16", "f32"});
}
TEST_CASE("kv_lens of another length, rank or type") {
  check_rejected([](Call& c) { c.tensors.kv_lens = c.tensors.kv_lens.sliced(0, 0, 1); },
                 {"kv_lens", "1", "2"});
  check_rejected(
      [](Call& c) {
        c.tensors.kv_lens = reshaped(c.tensors.kv_lens, {1, 2});
      },
      {"kv_lens", "[1, 2]", "rank"});
  check_rejected([](Call& c) { c.tensors.kv_lens.dtype = DType::f32; }, {"kv_lens", "f32", "i32"});
}
TEST_CASE("kv_lens out of range: the position is named") {
  const std::int64_t too_long[] = {5, 6}, negative[] = {-1, 5};
  check_rejected_run([&](Call& c) { c.tensors.kv_lens.data = too_long; }, {"kv_lens[1]", "6", "5"});
  check_rejected_run([&](Call& c) { c.tensors.kv_lens.data = negative; },
                     {"kv_lens[0]", "-1", "5"});
  const std::int32_t narrow[] = {0, -7};
  check_rejected_run(
      [&](Call& c) {
        c.tensors.kv_lens = {narrow, {2}};
      },
      {"kv_lens[1]", "-7", "5"});
}

TEST_CASE("lse of another shape or rank") {
  check_rejected([](Call& c) { c.tensors.lse = c.tensors.lse.sliced(0, 0, 1); },
                 {"lse", "dim 0", "1", "2"});
  check_rejected([](Call& c) { c.tensors.lse = c.tensors.lse.sliced(1, 0, 2); },
                 {"lse", "dim 1", "2", "4"});
  check_rejected([](Call& c) { c.tensors.lse = c.tensors.lse.sliced(2, 0, 2); },
                 {"lse", "dim 2", "2", "3"});
  check_rejected(
      [](Call& c) {
        c.tensors.lse = {c.tensors.lse.data, DType::f32, {8, 3}};
      },
      {"lse", "[8, 3]", "rank"});
}
TEST_CASE("lse of another type") {
  check_rejected([](Call& c) { c.tensors.lse = retyped(c.tensors.lse, DType::f16); },
                 {"lse", "f16", "f32"});
}

TEST_CASE("softmax_scale that is no finite number") {
  for (const float scale : {NAN, HUGE_VALF, -HUGE_VALF})
    check_rejected([&](Call& c) { c.options.softmax_scale = scale; }, {"softmax_scale"});
}
TEST_CASE("softcap that is not above 0") {
  for (const float softcap : {0.f, -1.f, NAN, HUGE_VALF})
    check_rejected([&](Call& c) { c.options.softcap = softcap; }, {"softcap"});
}
TEST_CASE("causal offset so far out that positions could overflow") {
  for (const std::int64_t offset :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}) {
    check_rejected([&](Call& c) { c.options.causal = Causal::with_offset(offset); },
                   {"causal", std::to_string(offset)});
  }
}
TEST_CASE("window with a negative side") {
  check_rejected([](Call& c) { c.options.window = Window{-1, {}}; }, {"window", "left", "-1"});
  check_rejected([](Call& c) { c.options.window = Window{0, -2}; }, {"window", "right", "-2"});
}
TEST_CASE("num_threads below 1") {
  for (const int threads : {0, -1})
    check_rejected([&](Call& c) { c.execution.num_threads = threads; },
                   {"num_threads", std::to_string(threads)});
}

TEST_CASE("null data where there are elements") {
  check_rejected_run([](Call& c) { c.tensors.q.data = nullptr; }, {"q", "null"});
  check_rejected_run([](Call& c) { c.tensors.k.data = nullptr; }, {"k", "null"});
  check_rejected_run([](Call& c) { c.tensors.v.data = nullptr; }, {"v", "null"});
  check_rejected_run([](Call& c) { c.tensors.out.data = nullptr; }, {"out", "null"});
  check_rejected_run([](Call& c) { c.tensors.mask.data = nullptr; }, {"mask", "null"});
  check_rejected_run([](Call& c) { c.tensors.alibi_slopes.data = nullptr; },
                     {"alibi_slopes", "null"});
  check_rejected_run([](Call& c) { c.tensors.sinks.data = nullptr; }, {"sinks", "null"});
  check_rejected_run([](Call& c) { c.tensors.kv_lens.data = nullptr; }, {"kv_lens", "null"});
  check_rejected_run([](Call& c) { c.tensors.lse.data = nullptr; }, {"lse", "null"});
}

TEST_CASE("An instruction set that this processor lacks is unsupported, not wrong") {
  const std::vector<Isa> available = available_isas();
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    if (std::find(available.begin(), available.end(), isa) != available.end()) continue;
    const Error error =
        error_of([](const Call& call) { attention(call.tensors, call.options, call.execution); },
                 [&](Call& c) { c.execution.isa = isa; });
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(std::string(error.what()).find(name_of(isa)) != std::string::npos);
  }
}

TEST_CASE("Scores by oneDNN are refused by a build without it") {
  if (has_onednn()) return;
  const Error error = error_of([](const Call& c) { attention(c.tensors, c.options, c.execution); },
                               [](Call& c) { c.options.score_matmul = ScoreMatmul::onednn; });
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(std::string(error.what()).starts_with("score_matmul is onednn"));
}

TEST_CASE("Names of instruction sets") {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16})
    CHECK(isa_from_name(name_of(isa)) == isa);
  CHECK_THROWS_WITH_AS(isa_from_name("sse9"), doctest::Contains("sse9"), Error);
  CHECK_THROWS_WITH_AS(isa_from_name(""), doctest::Contains("baseline"), Error);
  const std::vector<Isa> available = available_isas();
  REQUIRE_FALSE(available.empty());
  CHECK(available.front() == Isa::baseline);
  CHECK(std::find(available.begin(), available.end(), default_isa()) != available.end());
}
