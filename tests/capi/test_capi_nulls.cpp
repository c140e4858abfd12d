// NULL for each pointer of the C interface that must not be NULL: an error that names the argument.
#include <attn/attn.h>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "capi/each_handle.hpp"
#include "support/c_calls.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void check_null(attn_status status, const std::string& name) {
  CHECK(status == ATTN_INVALID_ARGUMENT);
  CHECK(std::string(attn_last_error()).substr(0, name.size() + 8) == name + " is NULL");
}

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
        check_null(std::apply(function, arguments), names[place]);
      }
    }
    check_nulls<place + 1>(function, names, valid);
  }
}

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
