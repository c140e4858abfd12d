// A handle of each kind of the C interface, and small calls that are right.
#pragma once

#include <attn/attn.h>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

#include "support/c_calls.hpp"

namespace attn::test {

inline void check_refused(attn_status status, const std::string& message) {
  CHECK(status == ATTN_INVALID_ARGUMENT);
  CHECK(attn_last_error() == message);
}

struct Handles {
  Handles() {
    REQUIRE_OK(attn_options_create(options.out()));
    REQUIRE_OK(attn_execution_create(execution.out()));
    REQUIRE_OK(attn_cache_options_create(cache_options.out()));
    REQUIRE_OK(attn_loss_options_create(loss_options.out()));
    REQUIRE_OK(attn_sample_options_create(sample_options.out()));
    REQUIRE_OK(attn_kv_cache_create(cache.out(), 1, 1, 4, 2, NULL));
    REQUIRE_OK(attn_paged_kv_cache_create(paged.out(), 2, 2, 1, 2, NULL));
    std::int64_t sequence = 0;
    REQUIRE_OK(attn_paged_kv_cache_create_sequence(paged, &sequence));
    REQUIRE_OK(attn_block_mask_from_ranges(mask.out(), nullptr, 0, &sizes));
    const std::int64_t shape[] = {1, 1, 1, 2};
    REQUIRE_OK(attn_dense_tensor(&tensor, numbers, ATTN_F32, 4, shape));
    REQUIRE_OK(attn_dense_tensor(&row, numbers, ATTN_F32, 3, shape));
    REQUIRE_OK(attn_plan_create(plan.out(), forward, 4, NULL, NULL));
    REQUIRE_OK(attn_backward_plan_create(backward_plan.out(), backward, 7, NULL, NULL));
  }

  float numbers[2] = {};
  attn_tensor tensor, row;
  attn_argument forward[4] = {
      {ATTN_ARG_Q, &tensor}, {ATTN_ARG_K, &tensor}, {ATTN_ARG_V, &tensor}, {ATTN_ARG_OUT, &tensor}};
  attn_argument backward[7] = {{ATTN_ARG_Q, &tensor}, {ATTN_ARG_K, &tensor},
                               {ATTN_ARG_V, &tensor}, {ATTN_ARG_OUT, &tensor},
                               {ATTN_ARG_LSE, &row},  {ATTN_ARG_DOUT, &tensor},
                               {ATTN_ARG_DQ, &tensor}};
  attn_block_mask_sizes sizes{4, 4, 1, 1, 2, 2};
  COptions options;
  CExecution execution;
  CCacheOptions cache_options;
  CLossOptions loss_options;
  CSampleOptions sample_options;
  CKvCache cache;
  CPagedKvCache paged;
  CBlockMask mask;
  CPlan plan;
  CBackwardPlan backward_plan;
};

}  // namespace attn::test
