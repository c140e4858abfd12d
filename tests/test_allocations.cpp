// A prepared plan takes no memory when run.
#include <attn/attention.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "support/allocations.hpp"
#include "support/case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t q_len = 120, kv_len = 300;

Case sized() { return {.batch = 2, .num_q_heads = 4, .num_kv_heads = 4, .q_len = q_len, .kv_len = kv_len, .head_dim = 32}; }

/// What a run takes once OpenMP has its threads.
std::int64_t allocations_of_run(const Plan& plan, const Tensors& tensors) {
  Workspace workspace(plan.workspace_size());
  plan.run(tensors, workspace);
  const std::int64_t before = allocations();
  for (int repeat = 0; repeat < 3; ++repeat) plan.run(tensors, workspace);
  return allocations() - before;
}

void check_allocation_free(Case c, const Inputs& inputs) {
  c.options.score_matmul = ScoreMatmul::built_in;
  for (const Isa isa : available_isas()) {
    c.options.isa = isa;
    INFO(repeat_line(c));
    Outputs outputs = make_outputs(c);
    const Tensors tensors = bind(inputs, outputs);
    CHECK(allocations_of_run(Plan(tensors, c.options), tensors) == 0);
  }
}

void check_allocation_free(const Case& c) { check_allocation_free(c, make_inputs(c)); }

}  // namespace

TEST_CASE("Memory is counted") {
  const std::int64_t before = allocations();
  const Inputs inputs = make_inputs(sized());
  CHECK(allocations() > before);
}

TEST_CASE("plain") { check_allocation_free(sized()); }

TEST_CASE("default options") {
  const Inputs inputs = make_inputs(sized());
  Outputs outputs = make_outputs(sized());
  const Tensors tensors = bind(inputs, outputs);
  const Plan plan(tensors);
  const bool by_onednn = plan.description().find("oneDNN") != std::string::npos;  // which allocates a little
  if (!by_onednn) CHECK(allocations_of_run(plan, tensors) == 0);
}

TEST_CASE("causal, with each number of threads") {
  Case c = sized();
  c.options.causal = Causal::bottom_right();
  for (const int num_threads : {1, 2, 3}) {
    c.options.num_threads = num_threads;
    check_allocation_free(c);
  }
}

TEST_CASE("dense masks") {
  for (const DType dtype : {DType::boolean, DType::f32, DType::bf16}) {
    Case c = sized();
    c.mask = {.dtype = dtype, .shape = {q_len, kv_len}};
    check_allocation_free(c);
  }
}

TEST_CASE("ALiBi, softcap, sinks, lengths and a window") {
  Case c = sized();
  c.alibi = c.sinks = true;
  c.options.softcap = 10.f;
  c.options.window = Window{50, 50};
  c.kv_lens = {kv_len, 77};
  check_allocation_free(c);
}

TEST_CASE("score_mod and mask_mod") {
  Case c = sized();
  c.options.score_mod = [](const KeyRun& run, float* scores) {
    for (std::int64_t n = 0; n < run.count; ++n) scores[n] += 1.f;
  };
  c.options.mask_mod = [](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = run.key_begin + n <= run.q_index;
  };
  check_allocation_free(c);
}

TEST_CASE("shared heads, 16 bits, strides, one query") {
  Case c = sized();
  c.num_kv_heads = 2;
  c.q_type = c.kv_type = c.out_type = DType::bf16;
  c.layout = Layout::strided_dim;
  check_allocation_free(c);
  c.q_len = 1;
  check_allocation_free(c);
}

TEST_CASE("Values that are not finite") {
  Case c = sized();
  Inputs inputs = make_inputs(c);
  inputs.v.set({1, 2, 30, 4}, HUGE_VAL);
  check_allocation_free(c, inputs);
}
