// Plans, and threads that share handles or belong to the user, by the C interface.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "capi/compare.hpp"
#include "support/c_calls.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

TEST_CASE("A plan runs on the user's memory, on several threads at a time") {
  for (const std::uint64_t seed : seeds(1, 12)) {
    BackwardCase c = case_of(seed);
    CAPTURE(repeat_command(seed));
    const Inputs inputs = make_inputs(c.call);
    const Outputs wanted = run(inputs, c.call);
    Outputs first = make_outputs(c.call);
    CCall call(bind(inputs, first), c.call.options, c.call.execution);
    CPlan plan;
    {
      // Only shapes count, and nothing of the arguments is kept.
      CArguments shapes(bind(inputs, first));
      shapes[ATTN_ARG_Q].data = nullptr;
      shapes[ATTN_ARG_OUT].data = nullptr;
      REQUIRE_OK(
          attn_plan_create(plan.out(), shapes.data(), shapes.size(), call.options, call.execution));
    }
    std::int64_t bytes = -1;
    REQUIRE_OK(attn_plan_workspace_size(plan, &bytes));
    std::vector<std::thread> threads;
    std::vector<Outputs> outputs(3);
    std::atomic<int> failures{0};
    for (Outputs& each : outputs) {
      each = make_outputs(c.call);
      threads.emplace_back([&, target = &each] {
        const CArguments arguments(bind(inputs, *target));
        std::vector<std::byte> workspace(static_cast<std::size_t>(bytes));
        for (int repeat = 0; repeat < 3; ++repeat) {
          failures += attn_plan_run(plan, arguments.data(), arguments.size(), workspace.data(),
                                    bytes) != ATTN_OK;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(failures == 0);
    for (const Outputs& each : outputs) check_same(each, wanted);

    CHECK(attn_plan_run(plan, call.arguments.data(), call.arguments.size(), nullptr, 0) ==
          (bytes == 0 ? ATTN_OK : ATTN_INVALID_ARGUMENT));
    CHECK(attn_plan_run(plan, call.arguments.data(), call.arguments.size(), nullptr, -1) ==
          ATTN_INVALID_ARGUMENT);
  }
}

TEST_CASE("Several threads call with the same options, execution and cache") {
  const Case c{.num_q_heads = 2, .q_len = 20, .kv_len = 60};
  const Inputs inputs = make_inputs(c);
  const Outputs wanted = run(inputs, c);
  CKvCache cache;
  REQUIRE_OK(attn_kv_cache_create(cache.out(), 1, 1, c.kv_len, c.head_dim, NULL));
  const attn_tensor k = c_tensor(inputs.k.view()), v = c_tensor(inputs.v.view());
  REQUIRE_OK(attn_kv_cache_append(cache, &k, &v, NULL));
  Outputs shared = make_outputs(c);
  const CCall call(bind(inputs, shared), {}, {.num_threads = 2});
  std::vector<Outputs> outputs(4);
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (Outputs& each : outputs) {
    each = make_outputs(c);
    threads.emplace_back([&, target = &each] {
      AttentionTensors tensors = bind(inputs, *target);
      const CArguments all(tensors);
      tensors.k = tensors.v = {};
      const CArguments of_cache(tensors);
      for (int repeat = 0; repeat < 20; ++repeat) {
        failures += attn_attention(all.data(), all.size(), call.options, call.execution) != ATTN_OK;
        failures += attn_kv_cache_attention(cache, of_cache.data(), of_cache.size(), call.options,
                                            call.execution) != ATTN_OK;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == 0);
  for (const Outputs& each : outputs) check_same(each, wanted);
}

TEST_CASE("A plan of gradients") {
  for (const std::uint64_t seed : seeds(1, 12)) {
    const BackwardCase c = case_of(seed);
    CAPTURE(repeat_command(seed));
    const Inputs inputs = make_inputs(c.call);
    Outputs forward = run(inputs, c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    GradientOutputs wanted = make_gradient_outputs(c), got = make_gradient_outputs(c);
    attention_backward(bind(inputs, forward), bind(gradients, wanted), c.call.options);
    const CCall call(bind(inputs, forward), bind(gradients, got), c.call.options, {});
    CBackwardPlan plan;
    REQUIRE_OK(attn_backward_plan_create(plan.out(), call.arguments.data(), call.arguments.size(),
                                         call.options, NULL));
    std::int64_t bytes = -1;
    REQUIRE_OK(attn_backward_plan_workspace_size(plan, &bytes));
    std::vector<std::byte> workspace(static_cast<std::size_t>(bytes));
    REQUIRE_OK(attn_backward_plan_run(plan, call.arguments.data(), call.arguments.size(),
                                      workspace.data(), bytes));
    CHECK(bit_difference(got, wanted) == "");
  }
}

TEST_CASE("Plans say what they chose") {
  SmallCall small;
  const CArguments arguments = small.arguments();
  for (attn_isa isa = ATTN_ISA_BASELINE; isa <= ATTN_ISA_AVX512_BF16; ++isa) {
    std::int32_t available = -1;
    REQUIRE_OK(attn_isa_available(isa, &available));
    CExecution execution;
    REQUIRE_OK(attn_execution_create(execution.out()));
    REQUIRE_OK(attn_execution_set_isa(execution, isa));
    REQUIRE_OK(attn_execution_set_num_threads(execution, 1));
    CPlan plan;
    const attn_status status =
        attn_plan_create(plan.out(), arguments.data(), arguments.size(), NULL, execution);
    CHECK(status == (available != 0 ? ATTN_OK : ATTN_UNSUPPORTED));
    if (available == 0) continue;
    attn_isa chosen = 0;
    std::int32_t num_threads = 0;
    const char *description = nullptr, *name = nullptr;
    REQUIRE_OK(attn_plan_isa(plan, &chosen));
    REQUIRE_OK(attn_plan_num_threads(plan, &num_threads));
    REQUIRE_OK(attn_plan_description(plan, &description));
    REQUIRE_OK(attn_isa_name(isa, &name));
    CHECK(chosen == isa);
    CHECK(num_threads == 1);
    CHECK(std::string(description).find(name) != std::string::npos);
  }
  attn_isa isa = 0;
  REQUIRE_OK(attn_default_isa(&isa));
  const char* name = nullptr;
  REQUIRE_OK(attn_isa_name(isa, &name));
  CHECK(name == name_of(default_isa()));
  std::int32_t num_threads = 0;
  REQUIRE_OK(attn_default_num_threads(&num_threads));
  CHECK(num_threads == build_info().num_threads);
  const char* text = nullptr;
  REQUIRE_OK(attn_info(ATTN_INFO_COMPILER, &text));
  CHECK(text == build_info().compiler);
  REQUIRE_OK(attn_info(ATTN_INFO_ONEDNN_VERSION, &text));
  CHECK(text == build_info().onednn_version);
}

namespace {

/// Runs tasks on threads of its own, some of them when the call has long ended.
struct CExecutor {
  static std::int32_t offer(void* user, std::int32_t num_threads, const attn_task* task) {
    auto& self = *static_cast<CExecutor*>(user);
    if (self.fails) return 5;
    ++self.offers;
    for (int n = 0; n < num_threads; ++n)
      self.threads.emplace_back([copy = *task] { attn_task_run(&copy); });
    return 0;
  }
  ~CExecutor() {
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<std::thread> threads;
  int offers = 0;
  bool fails = false;
};

}  // namespace

TEST_CASE("Threads of the user compute") {
  const Case c{.num_q_heads = 8, .q_len = 200, .kv_len = 200, .head_dim = 32};
  const Inputs inputs = make_inputs(c);
  const Outputs wanted = run(inputs, c);
  Outputs got = make_outputs(c);
  const CArguments arguments(bind(inputs, got));
  CExecutor executor;
  CPlan plan;
  CExecution execution;
  REQUIRE_OK(attn_execution_create(execution.out()));
  REQUIRE_OK(attn_execution_set_num_threads(execution, 3));
  REQUIRE_OK(attn_execution_set_executor(execution, CExecutor::offer, &executor));
  REQUIRE_OK(attn_plan_create(plan.out(), arguments.data(), arguments.size(), NULL, execution));
  // The plan has what it needs of the execution.
  REQUIRE_OK(attn_execution_set_openmp_executor(execution));
  std::int64_t bytes = 0;
  REQUIRE_OK(attn_plan_workspace_size(plan, &bytes));
  std::vector<std::byte> workspace(static_cast<std::size_t>(bytes));
  REQUIRE_OK(attn_plan_run(plan, arguments.data(), arguments.size(), workspace.data(), bytes));
  check_same(got, wanted);
  CHECK(executor.offers > 0);

  Outputs again = make_outputs(c);
  const CArguments others(bind(inputs, again));
  REQUIRE_OK(attn_attention(others.data(), others.size(), NULL, execution));
  check_same(again, wanted);

  executor.fails = true;
  CHECK(attn_plan_run(plan, arguments.data(), arguments.size(), workspace.data(), bytes) ==
        ATTN_CALLBACK_FAILED);
  CHECK(std::string(attn_last_error()) == "offer returned 5");
  const attn_task none{};
  CHECK(attn_task_run(&none) == ATTN_INVALID_ARGUMENT);
}
