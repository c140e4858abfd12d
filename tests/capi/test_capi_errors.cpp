// What the C interface refuses: a status and a message that names the argument, and nothing
// written.
#include <attn/attn.h>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <thread>

#include "capi/each_handle.hpp"
#include "support/c_calls.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();

}  // namespace

TEST_CASE("Numbers that are no enumerators") {
  const Handles h;
  for (const std::int32_t wrong : {-1, 99, std::numeric_limits<std::int32_t>::min()}) {
    const auto message = [&](const char* name) {
      return std::string(name) + " is " + std::to_string(wrong) + ", which is no value of its type";
    };
    const char* text = nullptr;
    std::int32_t number = 0;
    std::int64_t count = 0;
    attn_tensor tensor;
    check_refused(attn_execution_set_isa(h.execution, wrong), message("isa"));
    check_refused(attn_isa_name(wrong, &text), message("isa"));
    check_refused(attn_isa_available(wrong, &number), message("isa"));
    check_refused(attn_info(wrong, &text), message("key"));
    check_refused(attn_options_set_mask_keys(h.options, wrong), message("keys"));
    check_refused(attn_options_set_score_matmul(h.options, wrong), message("matmul"));
    check_refused(attn_cache_options_set_layout(h.cache_options, wrong), message("layout"));
    check_refused(attn_loss_options_set_reduction(h.loss_options, wrong), message("reduction"));
    check_refused(attn_block_mask_count(h.mask, wrong, &count), message("kind"));
    check_refused(attn_gelu(&h.tensor, &h.tensor, wrong, NULL), message("form"));
    check_refused(attn_kv_cache_tensor(h.cache, wrong, &tensor), message("role"));
    const attn_argument argument{wrong, &h.tensor};
    check_refused(attn_attention(&argument, 1, NULL, NULL), message("role"));
    CHECK(attn_status_name(wrong) == std::string("unknown status"));
    const std::string type =
        "has type " + std::to_string(wrong) + ", which is no value of attn_dtype";
    check_refused(attn_cache_options_set_dtype(h.cache_options, wrong), "cache " + type);
    check_refused(attn_dense_tensor(&tensor, NULL, wrong, 0, NULL), "tensor " + type);
    tensor = h.tensor;
    tensor.dtype = wrong;
    check_refused(attn_silu(&tensor, &h.tensor, NULL), "x " + type);
    tensor = h.tensor;
    tensor.rank = wrong;
    check_refused(attn_silu(&tensor, &h.tensor, NULL),
                  "x has rank " + std::to_string(wrong) + "; it needs 0 to 8");
    check_refused(attn_dense_tensor(&tensor, NULL, ATTN_F32, wrong, h.tensor.shape),
                  "rank is " + std::to_string(wrong) + "; it needs 0 to 8");
  }
  for (attn_status status = ATTN_OK; status <= ATTN_INTERNAL_ERROR; ++status)
    CHECK(attn_status_name(status) != std::string("unknown status"));
}

TEST_CASE("Lists of arguments") {
  Handles h;
  const attn_argument twice[] = {{ATTN_ARG_Q, &h.tensor}, {ATTN_ARG_Q, &h.tensor}};
  check_refused(attn_attention(twice, 2, NULL, NULL), "q is given twice");
  const attn_argument gradient{ATTN_ARG_DQ, &h.tensor};
  check_refused(attn_attention(&gradient, 1, NULL, NULL), "dq is no argument of a forward call");
  check_refused(attn_attention(NULL, 3, NULL, NULL), "arguments is NULL, but num_arguments is 3");
  check_refused(attn_attention(h.forward, -1, NULL, NULL),
                "num_arguments is -1; it needs 0 or more");
  CHECK(attn_attention(h.forward, largest, NULL, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(attn_attention(h.forward, least, NULL, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(attn_attention(NULL, 0, NULL, NULL) == ATTN_INVALID_ARGUMENT);
  const attn_argument places[] = {{ATTN_ARG_RING_STARTS, &h.row}, {ATTN_ARG_PAGE_TABLE, &h.row}};
  check_refused(attn_attention(places, 2, NULL, NULL),
                "ring_starts and page_table are both given, but keys lie in rings or in pages");
  const attn_tensor absent{};
  check_refused(attn_silu(&absent, &h.tensor, NULL),
                "x is absent: its data is NULL and its rank is 0");
  const attn_argument optional[] = {{ATTN_ARG_Q, &absent}, {ATTN_ARG_Q, NULL}};
  CHECK(attn_attention(optional, 2, NULL, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(std::string(attn_last_error()).find("q") == 0);
}

TEST_CASE("A handle that cannot be created is NULL") {
  const Handles h;
  attn_plan* plan = h.plan;
  CHECK(attn_plan_create(&plan, h.forward, 1, NULL, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(plan == nullptr);
  attn_kv_cache* cache = h.cache;
  CHECK(attn_kv_cache_create(&cache, -1, 1, 1, 1, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(cache == nullptr);
}

#ifndef ATTN_TEST_SANITIZED  // Sanitizers end the program when there is not enough memory.
TEST_CASE("Out of memory is a status") {
  attn_kv_cache* cache = nullptr;
  CHECK(attn_kv_cache_create(&cache, 1, 1, std::int64_t{1} << 38, 256, NULL) == ATTN_OUT_OF_MEMORY);
  CHECK(cache == nullptr);
  CHECK(std::string(attn_last_error()) == "out of memory");
  CHECK(attn_kv_cache_create(&cache, 1, 1, 1, 8, NULL) == ATTN_OK);
  attn_kv_cache_destroy(cache);
}
#endif

TEST_CASE("Each thread has its own message") {
  CHECK(attn_options_set_softmax(nullptr) == ATTN_INVALID_ARGUMENT);
  std::string of_new_thread = "?", of_other;
  std::thread([&] {
    of_new_thread = attn_last_error();
    attn_clear(nullptr);
    of_other = attn_last_error();
  }).join();
  CHECK(of_new_thread == "");
  CHECK(of_other == "state is NULL");
  CHECK(std::string(attn_last_error()) == "options is NULL");
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));  // Success leaves the message alone.
  CHECK(std::string(attn_last_error()) == "options is NULL");
}

TEST_CASE("Options of the call are checked by the call") {
  Handles h;
  float out[2] = {3, 3};
  attn_tensor output = h.tensor;
  output.data = out;
  h.forward[3].tensor = &output;
  REQUIRE_OK(attn_options_set_window(h.options, -1, 0));
  CHECK(attn_attention(h.forward, 4, h.options, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(std::string(attn_last_error()).find("window") != std::string::npos);
  REQUIRE_OK(attn_options_set_window(h.options, 0, 0));
  REQUIRE_OK(attn_options_set_softcap(h.options, 0));
  CHECK(attn_attention(h.forward, 4, h.options, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(std::string(attn_last_error()).find("softcap") != std::string::npos);
  REQUIRE_OK(attn_options_set_softcap(h.options, 1));
  REQUIRE_OK(attn_options_set_entmax(h.options, 0.5f));
  CHECK(attn_attention(h.forward, 4, h.options, NULL) == ATTN_INVALID_ARGUMENT);
  CHECK(out[0] == 3);
}
