// What the C interface refuses: a status and a message that names the argument, never a crash, and
// nothing written.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/c_calls.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Calls the function once for each name in the list, with NULL as the argument at its place. An
/// empty name stands for an argument that may be NULL, or is no pointer.
template <std::size_t place = 0, class... Parameters>
void check_nulls(attn_status (*function)(Parameters...), const std::vector<std::string>& names,
                 const std::tuple<Parameters...>& valid) {
  if constexpr (place < sizeof...(Parameters)) {
    using Parameter = std::tuple_element_t<place, std::tuple<Parameters...>>;
    if constexpr (std::is_pointer_v<Parameter>) {
      if (place < names.size() && !names[place].empty()) {
        std::tuple<Parameters...> arguments = valid;
        std::get<place>(arguments) = nullptr;
        CHECK(std::apply(function, arguments) == ATTN_INVALID_ARGUMENT);
        CHECK(std::string(attn_last_error()).substr(0, names[place].size() + 8) ==
              names[place] + " is NULL");
      }
    }
    check_nulls<place + 1>(function, names, valid);
  }
}

void check_refused(attn_status status, const std::string& message) {
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

constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();

}  // namespace

TEST_CASE("NULL for handles and options is an error that names the argument") {
  const Handles h;
  const char* text = nullptr;
  std::int32_t number = 0;
  attn_tensor tensor = h.tensor;
  check_nulls(attn_dense_tensor, {"tensor", "", "", "", "shape"},
              {&tensor, nullptr, ATTN_F32, 4, tensor.shape});
  check_nulls(attn_copy, {"source", "destination"}, {&tensor, &tensor});
  check_nulls(attn_task_run, {"task"}, {nullptr});
  check_nulls(attn_execution_create, {"execution"}, {nullptr});
  check_nulls(attn_execution_set_num_threads, {"execution"}, {nullptr, 1});
  check_nulls(attn_execution_set_isa, {"execution"}, {nullptr, 1});
  check_nulls(attn_execution_set_executor, {"execution"}, {nullptr, nullptr, nullptr});
  check_nulls(attn_execution_set_openmp_executor, {"execution"}, {nullptr});
  check_nulls(attn_default_num_threads, {"num_threads"}, {&number});
  check_nulls(attn_default_isa, {"isa"}, {&number});
  check_nulls(attn_isa_available, {"", "available"}, {1, &number});
  check_nulls(attn_isa_name, {"", "name"}, {1, &text});
  check_nulls(attn_info, {"", "text"}, {1, &text});
  check_nulls(attn_options_create, {"options"}, {nullptr});
  check_nulls(attn_options_set_softmax_scale, {"options"}, {nullptr, 1.f});
  check_nulls(attn_options_set_softcap, {"options"}, {nullptr, 1.f});
  check_nulls(attn_options_set_causal, {"options"}, {nullptr, 1});
  check_nulls(attn_options_set_q_position, {"options"}, {nullptr, 1});
  check_nulls(attn_options_set_window, {"options"}, {nullptr, 1, 1});
  check_nulls(attn_options_set_softmax, {"options"}, {nullptr});
  check_nulls(attn_options_set_sigmoid, {"options"}, {nullptr, nullptr});
  check_nulls(attn_options_set_entmax, {"options"}, {nullptr, 1.5f});
  check_nulls(attn_options_set_mask_keys, {"options"}, {nullptr, 0});
  check_nulls(attn_options_set_block_mask, {"options"}, {nullptr, nullptr});
  check_nulls(attn_options_set_score_matmul, {"options"}, {nullptr, 0});
  check_nulls(attn_options_set_max_q_len, {"options"}, {nullptr, 1});
  check_nulls(attn_options_set_max_kv_len, {"options"}, {nullptr, 1});
  check_nulls(attn_options_set_score_mod, {"options"}, {nullptr, nullptr, nullptr});
  check_nulls(attn_options_set_score_mod_gradient, {"options"}, {nullptr, nullptr, nullptr});
  check_nulls(attn_options_set_mask_mod, {"options"}, {nullptr, nullptr, nullptr});
  check_nulls(attn_cache_options_create, {"options"}, {nullptr});
  check_nulls(attn_cache_options_set_v_head_dim, {"options"}, {nullptr, 1});
  check_nulls(attn_cache_options_set_dtype, {"options"}, {nullptr, 1});
  check_nulls(attn_cache_options_set_layout, {"options"}, {nullptr, 1});
  check_nulls(attn_cache_options_set_rolling, {"options"}, {nullptr, 1});
  check_nulls(attn_loss_options_create, {"options"}, {nullptr});
  check_nulls(attn_loss_options_set_weight, {"options"}, {nullptr, nullptr});
  check_nulls(attn_loss_options_set_ignore_index, {"options"}, {nullptr, 1});
  check_nulls(attn_loss_options_set_label_smoothing, {"options"}, {nullptr, 0.f});
  check_nulls(attn_loss_options_set_reduction, {"options"}, {nullptr, 1});
  check_nulls(attn_sample_options_create, {"options"}, {nullptr});
  check_nulls(attn_sample_options_set_temperature, {"options"}, {nullptr, 1.f});
  check_nulls(attn_sample_options_set_top_k, {"options"}, {nullptr, 1});
  check_nulls(attn_sample_options_set_top_p, {"options"}, {nullptr, 1.f});
  check_nulls(attn_sample_options_set_min_p, {"options"}, {nullptr, 1.f});
  check_nulls(attn_sample_options_set_seed, {"options"}, {nullptr, 1, 1});
}

TEST_CASE("NULL for calls, plans and block masks is an error that names the argument") {
  const Handles h;
  for (const auto call : {attn_attention, attn_attention_backward, attn_attention_reference,
                          attn_attention_backward_reference})
    check_nulls(call, {"arguments"}, {h.forward, 4, nullptr, nullptr});
  std::int64_t number = 0;
  std::int32_t small = 0;
  const char* text = nullptr;
  CPlan plan;
  check_nulls(attn_plan_create, {"plan", "arguments"}, {plan.out(), h.forward, 4, NULL, NULL});
  check_nulls(attn_plan_workspace_size, {"plan", "bytes"}, {h.plan, &number});
  check_nulls(attn_plan_num_threads, {"plan", "num_threads"}, {h.plan, &small});
  check_nulls(attn_plan_isa, {"plan", "isa"}, {h.plan, &small});
  check_nulls(attn_plan_description, {"plan", "description"}, {h.plan, &text});
  check_nulls(attn_plan_run, {"plan", "arguments"}, {h.plan, h.forward, 4, NULL, 0});
  CBackwardPlan backward;
  check_nulls(attn_backward_plan_create, {"plan", "arguments"},
              {backward.out(), h.backward, 7, NULL, NULL});
  check_nulls(attn_backward_plan_workspace_size, {"plan", "bytes"}, {h.backward_plan, &number});
  check_nulls(attn_backward_plan_num_threads, {"plan", "num_threads"}, {h.backward_plan, &small});
  check_nulls(attn_backward_plan_isa, {"plan", "isa"}, {h.backward_plan, &small});
  check_nulls(attn_backward_plan_description, {"plan", "description"}, {h.backward_plan, &text});
  check_nulls(attn_backward_plan_run, {"plan", "arguments"},
              {h.backward_plan, h.backward, 7, NULL, 0});

  const attn_state state{&h.tensor, &h.row}, without_lse{&h.tensor, nullptr};
  check_nulls(attn_clear, {"state"}, {&state});
  check_nulls(attn_merge, {"a", "b", "into"}, {&state, &state, &state});
  check_refused(attn_merge(&state, &without_lse, &state), "b->lse is NULL");

  CBlockMask mask;
  const attn_mask_mod function = [](void*, const attn_key_run*, std::uint8_t*) {
    return std::int32_t{0};
  };
  check_nulls(attn_block_mask_from_mask_mod, {"mask", "function", "", "sizes"},
              {mask.out(), function, nullptr, &h.sizes, nullptr, nullptr});
  check_nulls(attn_block_mask_from_mask, {"mask", "dense_mask", "sizes"},
              {mask.out(), &h.tensor, &h.sizes, nullptr});
  check_nulls(attn_block_mask_from_documents, {"mask", "q_documents", "kv_documents"},
              {mask.out(), &h.row, &h.row, 1, 1});
  const attn_visible_range range{0, 1, 0, 1};
  check_nulls(attn_block_mask_from_ranges, {"mask", "ranges", "", "sizes"},
              {mask.out(), &range, 1, &h.sizes});
  const attn_block_lists lists{};
  check_nulls(attn_block_mask_from_lists, {"mask", "full", "partial", "sizes"},
              {mask.out(), &lists, &lists, &h.sizes});
  attn_block_mask_sizes sizes{};
  double density = 0;
  std::uint8_t visible = 0;
  const attn_key_run run{0, 0, 0, 0, 0, 0, 1};
  check_nulls(attn_block_mask_get_sizes, {"mask", "sizes"}, {h.mask, &sizes});
  check_nulls(attn_block_mask_count, {"mask", "", "count"}, {h.mask, 0, &number});
  check_nulls(attn_block_mask_get_kind, {"mask", "", "", "", "", "kind"},
              {h.mask, 0, 0, 0, 0, &small});
  check_nulls(attn_block_mask_density, {"mask", "density"}, {h.mask, &density});
  check_nulls(attn_block_mask_visible_keys, {"mask", "run", "visible"}, {h.mask, &run, &visible});
}

TEST_CASE("NULL for caches is an error that names the argument") {
  const Handles h;
  std::int64_t number = 0;
  attn_tensor tensor;
  CKvCache cache;
  CPagedKvCache paged;
  check_nulls(attn_kv_cache_create, {"cache"}, {cache.out(), 1, 1, 1, 1, NULL});
  check_nulls(attn_kv_cache_append, {"cache", "k", "v"}, {h.cache, &h.tensor, &h.tensor, NULL});
  check_nulls(attn_kv_cache_append_to, {"cache", "", "k", "v"}, {h.cache, 0, &h.row, &h.row, NULL});
  check_nulls(attn_kv_cache_length, {"cache", "", "length"}, {h.cache, 0, &number});
  check_nulls(attn_kv_cache_position, {"cache", "", "position"}, {h.cache, 0, &number});
  check_nulls(attn_kv_cache_truncate, {"cache"}, {h.cache, 0, 0});
  check_nulls(attn_kv_cache_clear, {"cache"}, {h.cache});
  check_nulls(attn_kv_cache_size, {"cache", "bytes"}, {h.cache, &number});
  check_nulls(attn_kv_cache_tensor, {"cache", "", "tensor"}, {h.cache, ATTN_ARG_K, &tensor});
  check_nulls(attn_kv_cache_attention, {"cache", "arguments"},
              {h.cache, h.forward, 4, nullptr, nullptr});
  const attn_rope_tables without_sin{&h.tensor, nullptr, 0};
  check_refused(attn_kv_cache_append(h.cache, &h.tensor, &h.tensor, &without_sin), "sin is NULL");

  check_nulls(attn_paged_kv_cache_create, {"cache"}, {paged.out(), 1, 1, 1, 1, NULL});
  check_nulls(attn_paged_kv_cache_create_sequence, {"cache", "sequence"}, {h.paged, &number});
  check_nulls(attn_paged_kv_cache_fork, {"cache", "", "sequence"}, {h.paged, 0, &number});
  check_nulls(attn_paged_kv_cache_remove, {"cache"}, {h.paged, 0});
  check_nulls(attn_paged_kv_cache_append, {"cache", "", "k", "v"},
              {h.paged, 0, &h.row, &h.row, NULL});
  check_nulls(attn_paged_kv_cache_truncate, {"cache"}, {h.paged, 0, 0});
  check_nulls(attn_paged_kv_cache_length, {"cache", "", "length"}, {h.paged, 0, &number});
  check_nulls(attn_paged_kv_cache_free_pages, {"cache", "pages"}, {h.paged, &number});
  check_nulls(attn_paged_kv_cache_size, {"cache", "bytes"}, {h.paged, &number});
  check_nulls(attn_paged_kv_cache_bind, {"cache", "sequences"}, {h.paged, &number, 1});
  check_nulls(attn_paged_kv_cache_tensor, {"cache", "", "tensor"}, {h.paged, ATTN_ARG_K, &tensor});
  check_nulls(attn_paged_kv_cache_attention, {"cache", "sequences", "", "arguments"},
              {h.paged, &number, 1, h.forward, 4, nullptr, nullptr});
}

TEST_CASE("NULL for functions of tensors is an error that names the argument") {
  const Handles h;
  const attn_tensor* t = &h.tensor;
  check_nulls(attn_softmax, {"x", "y"}, {t, t, -1, 1.f, NULL});
  check_nulls(attn_log_softmax, {"x", "y"}, {t, t, -1, 1.f, NULL});
  check_nulls(attn_logsumexp, {"x", "out"}, {t, t, -1, 1.f, NULL});
  check_nulls(attn_softmax_backward, {"dy", "y", "dx"}, {t, t, t, -1, 1.f, NULL});
  check_nulls(attn_log_softmax_backward, {"dy", "y", "dx"}, {t, t, t, -1, 1.f, NULL});
  check_nulls(attn_logsumexp_backward, {"dout", "x", "out", "dx"}, {t, t, t, t, -1, 1.f, NULL});
  check_nulls(attn_sparsemax, {"x", "y"}, {t, t, -1, NULL, NULL, NULL});
  check_nulls(attn_entmax15, {"x", "y"}, {t, t, -1, NULL, NULL, NULL});
  check_nulls(attn_entmax, {"x", "y"}, {t, t, 1.5f, -1, NULL, NULL, NULL});
  check_nulls(attn_sparsemax_backward, {"dy", "y", "dx"}, {t, t, t, -1, NULL});
  check_nulls(attn_entmax_backward, {"dy", "y", "dx"}, {t, t, t, 1.5f, -1, NULL});
  check_nulls(attn_entmax_backward_alpha, {"dy", "y", "dalpha"}, {t, t, t, 1.5f, -1, NULL});
  check_nulls(attn_nll_loss, {"log_p", "target", "loss"}, {t, t, t, NULL, NULL});
  check_nulls(attn_cross_entropy, {"x", "target", "loss"}, {t, t, t, NULL, NULL});
  check_nulls(attn_entmax_loss, {"x", "target", "loss"}, {t, t, t, 2.f, NULL, NULL});
  check_nulls(attn_nll_loss_backward, {"dloss", "target", "dlog_p"}, {t, t, t, NULL, NULL});
  check_nulls(attn_cross_entropy_backward, {"dloss", "x", "target", "dx"},
              {t, t, t, t, NULL, NULL});
  check_nulls(attn_entmax_loss_backward, {"dloss", "x", "target", "dx"},
              {t, t, t, t, 2.f, NULL, NULL});
  check_nulls(attn_sample, {"logits", "indices"}, {t, t, NULL, NULL});
  check_nulls(attn_rms_norm, {"x", "", "y"}, {t, NULL, t, -1, 0.f, NULL});
  check_nulls(attn_layer_norm, {"x", "", "", "y"}, {t, NULL, NULL, t, -1, 0.f, NULL});
  check_nulls(attn_gelu, {"x", "y"}, {t, t, ATTN_GELU_ERF, NULL});
  check_nulls(attn_silu, {"x", "y"}, {t, t, NULL});
  check_nulls(attn_swiglu, {"gate", "up", "y"}, {t, t, t, NULL});
  const attn_rope_tables tables{t, t, 0};
  check_nulls(attn_rope, {"x", "tables", "", "y"}, {t, &tables, NULL, t, NULL});
}

TEST_CASE("Destroy functions take NULL") {
  CHECK(attn_execution_destroy(nullptr) == ATTN_OK);
  CHECK(attn_options_destroy(nullptr) == ATTN_OK);
  CHECK(attn_plan_destroy(nullptr) == ATTN_OK);
  CHECK(attn_backward_plan_destroy(nullptr) == ATTN_OK);
  CHECK(attn_block_mask_destroy(nullptr) == ATTN_OK);
  CHECK(attn_cache_options_destroy(nullptr) == ATTN_OK);
  CHECK(attn_kv_cache_destroy(nullptr) == ATTN_OK);
  CHECK(attn_paged_kv_cache_destroy(nullptr) == ATTN_OK);
  CHECK(attn_loss_options_destroy(nullptr) == ATTN_OK);
  CHECK(attn_sample_options_destroy(nullptr) == ATTN_OK);
}

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
