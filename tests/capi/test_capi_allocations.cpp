// Runs of plans by the C interface allocate nothing.
#include <attn/attn.h>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/allocations.hpp"
#include "support/backward_case.hpp"
#include "support/c_calls.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::vector<std::byte> memory(std::int64_t bytes) {
  return std::vector<std::byte>(static_cast<std::size_t>(bytes));
}

}  // namespace

TEST_CASE("Running a plan, forward or backward, allocates nothing") {
  for (const std::int64_t q_len : {1, 90}) {
    CAPTURE(q_len);
    const BackwardCase c{.call = {.num_q_heads = 4,
                                  .num_kv_heads = 2,
                                  .q_len = q_len,
                                  .kv_len = 200,
                                  .head_dim = 32,
                                  .options = {.causal = Causal::bottom_right()},
                                  .mask = DenseMask{.shape = {q_len, 200}}}};
    const Inputs inputs = make_inputs(c.call);
    Outputs outputs = run(inputs, c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    GradientOutputs gradient_outputs = make_gradient_outputs(c);
    const CCall forward(bind(inputs, outputs), c.call.options, {});
    const CCall backward(bind(inputs, outputs), bind(gradients, gradient_outputs), c.call.options,
                         {});
    CPlan plan;
    CBackwardPlan backward_plan;
    REQUIRE_OK(attn_plan_create(plan.out(), forward.arguments.data(), forward.arguments.size(),
                                forward.options, nullptr));
    REQUIRE_OK(attn_backward_plan_create(backward_plan.out(), backward.arguments.data(),
                                         backward.arguments.size(), backward.options, nullptr));
    std::int64_t bytes = 0, backward_bytes = 0;
    REQUIRE_OK(attn_plan_workspace_size(plan, &bytes));
    REQUIRE_OK(attn_backward_plan_workspace_size(backward_plan, &backward_bytes));
    std::vector<std::byte> workspace = memory(bytes), backward_workspace = memory(backward_bytes);
    std::int64_t before = 0;
    for (int call = 0; call < 3; ++call) {  // The first starts threads.
      if (call == 1) before = allocations();
      REQUIRE_OK(attn_plan_run(plan, forward.arguments.data(), forward.arguments.size(),
                               workspace.data(), bytes));
      REQUIRE_OK(attn_backward_plan_run(backward_plan, backward.arguments.data(),
                                        backward.arguments.size(), backward_workspace.data(),
                                        backward_bytes));
    }
    CHECK(allocations() == before);
  }
}

TEST_CASE("Allocations of the library are counted") {
  const std::int64_t before = allocations();
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));
  CHECK(allocations() > before);
}
