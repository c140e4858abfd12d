// A plan is made once and run many times: on other data, in other layouts, from several threads.
#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

Case usual() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 45,
          .kv_len = 130,
          .head_dim = 20,
          .options = {.causal = Causal::bottom_right()},
          .kv_lens = {130, 60}};
}

AttentionPlan plan_of(const Case& c) {
  const Inputs inputs = make_inputs(c);
  Outputs outputs = make_outputs(c);
  return AttentionPlan(bind(inputs, outputs), c.options, c.execution);
}

Outputs run(const AttentionPlan& plan, Workspace& workspace, const Inputs& inputs, const Case& c) {
  Outputs outputs = make_outputs(c);
  plan.run(bind(inputs, outputs), workspace);
  return outputs;
}

/// Returns the message of the error that running the plan throws, and checks that nothing was
/// written.
std::string error_of(const AttentionPlan& plan, Workspace& workspace,
                     const AttentionTensors& tensors, const Outputs& outputs) {
  try {
    plan.run(tensors, workspace);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    CHECK(outputs.out.untouched());
    CHECK(outputs.lse.untouched());
    return error.what();
  }
  return "no error";
}

bool mentions(const std::string& text, const std::string& word) {
  return text.find(word) != std::string::npos;
}

}  // namespace

TEST_CASE("A plan runs on other data and in other layouts") {
  Case c = usual();
  const AttentionPlan plan = plan_of(c);
  Workspace workspace(plan.workspace_size());
  for (const Layout layout :
       {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
    c.layout = layout;
    for (const std::uint64_t seed : {1, 2, 3}) {
      c.seed = seed;
      INFO(repeat_line(c));
      const Inputs inputs = make_inputs(c);
      CHECK(bit_difference(run(plan, workspace, inputs, c), test::run(inputs, c)) == "");
    }
  }
}

TEST_CASE("A plan can be made without data") {
  const Case c = usual();
  const Inputs inputs = make_inputs(c);
  Outputs outputs = make_outputs(c);
  AttentionTensors shapes = bind(inputs, outputs);
  for (TensorView* view : {&shapes.q, &shapes.k, &shapes.v, &shapes.kv_lens}) view->data = nullptr;
  shapes.out.data = shapes.lse.data = nullptr;
  const AttentionPlan plan(shapes, c.options, c.execution);
  Workspace workspace(plan.workspace_size());
  CHECK(bit_difference(run(plan, workspace, inputs, c), test::run(inputs, c)) == "");
}

TEST_CASE("kv_lens are read when the plan runs") {
  Case c = usual();
  const AttentionPlan plan = plan_of(c);
  Workspace workspace(plan.workspace_size());
  for (const std::int64_t length : {0, 1, 64, 129, 130}) {
    c.kv_lens = {length, 130 - length};
    INFO(repeat_line(c));
    const Inputs inputs = make_inputs(c);
    CHECK(difference(run(plan, workspace, inputs, c), expected_of(c, inputs)) == "");
  }
}

TEST_CASE("Plans share a workspace, one run at a time, and copies of a plan are the same plan") {
  const Case first = usual();
  Case second = usual();
  second.q_len = 7;
  second.kv_len = 300;
  second.kv_lens = {};
  const AttentionPlan plans[] = {plan_of(first), plan_of(second)};
  const AttentionPlan copy = plans[0];
  Workspace workspace(std::max(plans[0].workspace_size(), plans[1].workspace_size()));
  const Inputs inputs[] = {make_inputs(first), make_inputs(second)};
  for (int repeat = 0; repeat < 3; ++repeat) {
    CHECK(bit_difference(run(plans[0], workspace, inputs[0], first), test::run(inputs[0], first)) ==
          "");
    CHECK(bit_difference(run(plans[1], workspace, inputs[1], second),
                         test::run(inputs[1], second)) == "");
    CHECK(bit_difference(run(copy, workspace, inputs[0], first), test::run(inputs[0], first)) ==
          "");
  }
}

TEST_CASE("A plan runs on several threads at once, a workspace each") {
  const Case c = usual();
  const AttentionPlan plan = plan_of(c);
  const Inputs inputs = make_inputs(c);
  const Outputs expected = test::run(inputs, c);
  std::vector<std::string> differences(4);
  std::vector<std::thread> threads;
  for (std::string& difference : differences) {
    threads.emplace_back([&] {
      Workspace workspace(plan.workspace_size());
      for (int repeat = 0; repeat < 5 && difference.empty(); ++repeat) {
        difference = bit_difference(run(plan, workspace, inputs, c), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& difference : differences) CHECK(difference == "");
}

TEST_CASE("Memory handed in has any alignment and content, and is not overstepped") {
  const Case c = usual();
  const Inputs inputs = make_inputs(c);
  const Outputs expected = test::run(inputs, c);
  const AttentionPlan plan = plan_of(c);
  constexpr std::size_t guard = 256;
  for (const std::size_t misaligned : {0, 1, 4, 31, 63}) {
    for (const std::byte content : {std::byte{0}, std::byte{0xff}, std::byte{0x7f}}) {
      std::vector<std::byte> memory(guard + misaligned + plan.workspace_size() + guard, content);
      std::byte* const begin = memory.data() + guard + misaligned;
      Workspace workspace(begin, plan.workspace_size());
      CHECK(workspace.data() == begin);
      CHECK(bit_difference(run(plan, workspace, inputs, c), expected) == "");
      const auto is_content = [&](std::byte byte) { return byte == content; };
      CHECK(std::all_of(memory.data(), begin, is_content));
      CHECK(std::all_of(begin + plan.workspace_size(), memory.data() + memory.size(), is_content));
    }
  }
}

TEST_CASE("A workspace that is too small is an error") {
  const Case c = usual();
  const Inputs inputs = make_inputs(c);
  Outputs outputs = make_outputs(c);
  const AttentionPlan plan = plan_of(c);
  Workspace workspace(plan.workspace_size() - 1);
  CHECK(mentions(error_of(plan, workspace, bind(inputs, outputs), outputs), "workspace"));
}

TEST_CASE("Other shapes, types or optional tensors than planned are errors") {
  const Case c = usual();
  const AttentionPlan plan = plan_of(c);
  Workspace workspace(plan.workspace_size());
  const Inputs inputs = make_inputs(c);
  Outputs outputs = make_outputs(c);
  const auto error_with = [&](auto&& change) {
    AttentionTensors tensors = bind(inputs, outputs);
    change(tensors);
    return error_of(plan, workspace, tensors, outputs);
  };
  CHECK(mentions(error_with([](AttentionTensors& t) { t.q.shape[2] = 44; }), "q"));
  CHECK(mentions(error_with([](AttentionTensors& t) { t.k = t.k.sliced(2, 0, 129); }), "k"));
  CHECK(mentions(error_with([](AttentionTensors& t) { t.v.dtype = DType::bf16; }), "v"));
  CHECK(mentions(error_with([](AttentionTensors& t) { t.out.dtype = DType::f16; }), "out"));
  CHECK(mentions(error_with([](AttentionTensors& t) { t.lse = {}; }), "lse"));
  CHECK(mentions(error_with([](AttentionTensors& t) { t.kv_lens = {}; }), "kv_lens"));
  const std::vector<float> sinks(4);
  CHECK(mentions(error_with([&](AttentionTensors& t) { t.sinks = {sinks.data(), {4}}; }), "sinks"));
  CHECK(mentions(error_with([](AttentionTensors& t) { t.k.data = nullptr; }), "k"));
}

TEST_CASE("A plan says what it does") {
  Case c = usual();
  for (const Isa isa : available_isas()) {
    c.execution.isa = isa;
    c.execution.num_threads = 2;
    const AttentionPlan plan = plan_of(c);
    CHECK(plan.isa() == isa);
    CHECK(plan.num_threads() == 2);
    CHECK(mentions(plan.description(), std::string(name_of(isa))));
  }
  CHECK(!mentions(plan_of(c).description(), "widened"));
  c.q_type = c.kv_type = DType::f16;
  CHECK(mentions(plan_of(c).description(), "f32 multiplied (16-bit operands widened)"));
  c.options = {};
  CHECK(plan_of(c).isa() == default_isa());
  CHECK(plan_of(c).num_threads() >= 1);
}

TEST_CASE("Scratch memory grows with K and V, not with q_len x kv_len") {
  const auto size_of_length = [](std::int64_t length) {
    return plan_of({.q_len = length,
                    .kv_len = length,
                    .head_dim = 8,
                    .execution = {.num_threads = 2},
                    .lse = false})
        .workspace_size();
  };
  CHECK(size_of_length(8192) < 2 * size_of_length(4096) + 65536);
  CHECK(size_of_length(8192) < std::size_t{8192} * 8192);
}
