// The call, its gradients and plans of both by the C interface: the bits of the C++ library.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "support/block_masks.hpp"
#include "support/c_calls.hpp"
#include "support/random_backward_case.hpp"
#include "support/seeds.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void check_same(const Outputs& got, const Outputs& wanted) {
  CHECK(got.out.bits() == wanted.out.bits());
  CHECK(got.lse.bits() == wanted.lse.bits());
  CHECK(got.out.gaps_untouched());
}

BackwardCase case_of(std::uint64_t seed) {
  BackwardCase c = random_backward_case(seed);
  c.call.options.block_mask.reset();
  if (c.call.options.normalizer.kind() == Normalizer::Kind::softmax) c.call.lse = true;
  return c;
}

/// A call with everything that a small test needs.
struct SmallCall {
  explicit SmallCall(Case c = {.num_q_heads = 2, .q_len = 9, .kv_len = 37})
      : inputs(make_inputs(c)), outputs(make_outputs(c)), wanted(run(inputs, c)) {}
  CArguments arguments() { return CArguments(bind(inputs, outputs)); }

  Inputs inputs;
  Outputs outputs, wanted;
};

}  // namespace

TEST_CASE("The version is that of the library") {
  CHECK(std::string(attn_version_string()) == build_info().version);
  CHECK(attn_version() == ATTN_VERSION);
}

TEST_CASE("Random calls and their gradients have the bits of the C++ library") {
  for (const std::uint64_t seed : seeds(1, 150)) {
    const BackwardCase c = case_of(seed);
    CAPTURE(repeat_command(seed));
    const Inputs inputs = make_inputs(c.call);
    const Outputs wanted = run(inputs, c.call);
    Outputs got = make_outputs(c.call);
    const CCall call(bind(inputs, got), c.call.options, c.call.execution);
    REQUIRE_OK(
        attn_attention(call.arguments.data(), call.arguments.size(), call.options, call.execution));
    check_same(got, wanted);

    const GradientInputs gradients = make_gradient_inputs(c);
    GradientOutputs all_wanted = make_gradient_outputs(c), all_got = make_gradient_outputs(c);
    attention_backward(bind(inputs, got), bind(gradients, all_wanted), c.call.options,
                       c.call.execution);
    const CCall backward(bind(inputs, got), bind(gradients, all_got), c.call.options,
                         c.call.execution);
    REQUIRE_OK(attn_attention_backward(backward.arguments.data(), backward.arguments.size(),
                                       backward.options, backward.execution));
    CHECK(bit_difference(all_got, all_wanted) == "");
  }
}

TEST_CASE("The textbook has the bits of the C++ library") {
  for (const std::uint64_t seed : seeds(1, 10)) {
    const BackwardCase c = with_gradients_in_double(case_of(seed));
    CAPTURE(repeat_command(seed));
    const Inputs inputs = make_inputs(c.call);
    Outputs wanted = make_outputs(c.call), got = make_outputs(c.call);
    attention_reference(bind(inputs, wanted), c.call.options);
    const CCall call(bind(inputs, got), c.call.options, {});
    REQUIRE_OK(
        attn_attention_reference(call.arguments.data(), call.arguments.size(), call.options, NULL));
    check_same(got, wanted);

    const GradientInputs gradients = make_gradient_inputs(c);
    const GradientOutputs all_wanted = run_backward_reference(c, inputs, gradients);
    GradientOutputs all_got = make_gradient_outputs(c);
    const CCall backward(bind(inputs, got), bind(gradients, all_got), c.call.options, {});
    REQUIRE_OK(attn_attention_backward_reference(
        backward.arguments.data(), backward.arguments.size(), backward.options, NULL));
    CHECK(bit_difference(all_got, all_wanted) == "");
  }
}

TEST_CASE("Sequences of different lengths, with keys in every form") {
  for (const std::uint64_t seed : seeds(1, 24)) {
    CAPTURE(repeat_command(seed));
    Random random(seed);
    Sequences s{.common = {.num_q_heads = 4, .num_kv_heads = 2, .seed = seed}};
    const bool with_scales = random.chance(0.3);
    if (with_scales) s.common.kv_type = DType::i8;
    s.common.options.causal = Causal::bottom_right();
    s.key_form = std::data(key_forms)[seed % std::size(key_forms)];
    for (int n = 0; n < 3; ++n) {
      s.q_lens.push_back(random.integer(0, 20));
      s.kv_lens.push_back(random.integer(0, 60));
    }
    Together wanted(s), got(s);
    attention(wanted.tensors(), wanted.options());
    const CCall call(got.tensors(), got.options(), {});
    REQUIRE_OK(attn_attention(call.arguments.data(), call.arguments.size(), call.options, NULL));
    for (std::int64_t n = 0; n < s.count(); ++n) check_same(got.outputs(n), wanted.outputs(n));
  }
}

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

TEST_CASE("Options can be set back") {
  SmallCall small;
  const CArguments arguments = small.arguments();
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));
  REQUIRE_OK(attn_options_set_causal(options, 1));
  REQUIRE_OK(attn_options_set_causal(options, 0));
  REQUIRE_OK(attn_options_set_q_position(options, 3));
  REQUIRE_OK(attn_options_set_q_position(options, ATTN_BOTTOM_RIGHT));
  REQUIRE_OK(attn_options_set_window(options, 2, 2));
  REQUIRE_OK(attn_options_set_window(options, ATTN_UNLIMITED, ATTN_UNLIMITED));
  REQUIRE_OK(attn_options_set_entmax(options, 2));
  REQUIRE_OK(attn_options_set_softmax(options));
  REQUIRE_OK(attn_options_set_mask_keys(options, ATTN_MASK_KEYS_LAST));
  REQUIRE_OK(attn_options_set_mask_keys(options, ATTN_MASK_KEYS_FIRST));
  REQUIRE_OK(attn_options_set_score_matmul(options, ATTN_SCORE_MATMUL_AUTOMATIC));
  const attn_score_mod score_mod = [](void*, const attn_key_run*, float*) {
    return std::int32_t{1};
  };
  REQUIRE_OK(attn_options_set_score_mod(options, score_mod, nullptr));
  REQUIRE_OK(attn_options_set_score_mod(options, nullptr, nullptr));
  REQUIRE_OK(attn_attention(arguments.data(), arguments.size(), options, NULL));
  check_same(small.outputs, small.wanted);
}

TEST_CASE("Who multiplies the scores") {
  const Case c{.num_q_heads = 2, .q_len = 100, .kv_len = 300, .head_dim = 32};
  const Inputs inputs = make_inputs(c);
  for (const auto& [number, matmul] : {std::pair{ATTN_SCORE_MATMUL_BUILT_IN, ScoreMatmul::built_in},
                                       std::pair{ATTN_SCORE_MATMUL_ONEDNN, ScoreMatmul::onednn}}) {
    Outputs wanted = make_outputs(c), got = make_outputs(c);
    COptions options;
    REQUIRE_OK(attn_options_create(options.out()));
    REQUIRE_OK(attn_options_set_score_matmul(options, number));
    const CArguments arguments(bind(inputs, got));
    const attn_status status = attn_attention(arguments.data(), arguments.size(), options, NULL);
    if (matmul == ScoreMatmul::onednn && build_info().onednn_version.empty()) {
      CHECK(status == ATTN_UNSUPPORTED);
      continue;
    }
    REQUIRE(status == ATTN_OK);
    attention(bind(inputs, wanted), {.score_matmul = matmul});
    check_same(got, wanted);
  }
}

TEST_CASE("A function of the user ends the call") {
  SmallCall small;
  const CArguments arguments = small.arguments();
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));
  const attn_mask_mod fails = [](void* user, const attn_key_run*, std::uint8_t*) {
    return *static_cast<std::int32_t*>(user);
  };
  std::int32_t returned = -7;
  REQUIRE_OK(attn_options_set_mask_mod(options, fails, &returned));
  CHECK(attn_attention(arguments.data(), arguments.size(), options, NULL) == ATTN_CALLBACK_FAILED);
  CHECK(std::string(attn_last_error()) == "mask_mod returned -7");
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

namespace {

attn_block_mask_sizes c_sizes(const BlockMaskSizes& sizes) {
  return {sizes.q_len, sizes.kv_len, sizes.batch, sizes.num_q_heads, sizes.block.q, sizes.block.kv};
}

/// The call with the block mask, by both; besides what the C functions say about the mask.
void check_block_mask(const Case& c, const BlockMask& wanted_mask, const attn_block_mask* mask) {
  const Inputs inputs = make_inputs(c);
  Outputs wanted = make_outputs(c), got = make_outputs(c);
  AttentionOptions with_mask = c.options;
  with_mask.block_mask = wanted_mask;
  attention(bind(inputs, wanted), with_mask);
  const CCall call(bind(inputs, got), c.options, {});
  REQUIRE_OK(attn_options_set_block_mask(call.options, mask));
  REQUIRE_OK(attn_attention(call.arguments.data(), call.arguments.size(), call.options, NULL));
  check_same(got, wanted);

  attn_block_mask_sizes sizes{};
  REQUIRE_OK(attn_block_mask_get_sizes(mask, &sizes));
  const attn_block_mask_sizes needed = c_sizes(wanted_mask.sizes());
  CHECK(std::memcmp(&sizes, &needed, sizeof sizes) == 0);
  std::int64_t counts[3] = {};
  for (attn_block_kind kind = ATTN_BLOCK_EMPTY; kind <= ATTN_BLOCK_FULL; ++kind)
    REQUIRE_OK(attn_block_mask_count(mask, kind, &counts[kind]));
  CHECK(counts[ATTN_BLOCK_EMPTY] == wanted_mask.counts().empty);
  CHECK(counts[ATTN_BLOCK_PARTIAL] == wanted_mask.counts().partial);
  CHECK(counts[ATTN_BLOCK_FULL] == wanted_mask.counts().full);
  double density = -1;
  REQUIRE_OK(attn_block_mask_density(mask, &density));
  CHECK((wanted_mask.density() ? density == *wanted_mask.density() : std::isnan(density)));
  attn_block_kind kind = -1;
  REQUIRE_OK(attn_block_mask_get_kind(mask, 0, 0, 0, 0, &kind));
  CHECK(kind == static_cast<attn_block_kind>(wanted_mask.kind(0, 0, 0, 0)));
  const attn_key_run run{0, 0, 0, 3, 0, 0, 5};
  std::uint8_t visible[5] = {9, 9, 9, 9, 9};
  bool visible_wanted[5] = {};
  REQUIRE_OK(attn_block_mask_visible_keys(mask, &run, visible));
  wanted_mask.visible_keys({.batch = 0,
                            .q_head = 0,
                            .kv_head = 0,
                            .q_index = 3,
                            .q_position = 0,
                            .key_begin = 0,
                            .count = 5},
                           visible_wanted);
  for (int n = 0; n < 5; ++n) CHECK(visible[n] == visible_wanted[n]);
}

}  // namespace

TEST_CASE("Block masks of every kind") {
  Random random(5);
  Case c{.num_q_heads = 2, .num_kv_heads = 1, .q_len = 70, .kv_len = 90};
  const BlockMaskSizes sizes{.q_len = c.q_len, .kv_len = c.kv_len, .block = {16, 32}};
  const attn_block_mask_sizes sizes_in_c = c_sizes(sizes);

  SUBCASE("of documents") {
    const auto q_documents = random_documents(random, c.q_len);
    const auto kv_documents = random_documents(random, c.kv_len);
    const attn_tensor q = c_tensor(ids_of(q_documents)), kv = c_tensor(ids_of(kv_documents));
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_documents(mask.out(), &q, &kv, 16, 32));
    check_block_mask(
        c, BlockMask::from_documents(ids_of(q_documents), ids_of(kv_documents), sizes.block), mask);
  }
  SUBCASE("of ranges") {
    const auto ranges = random_ranges(random, c.q_len, c.kv_len);
    std::vector<attn_visible_range> in_c;
    for (const VisibleRange& range : ranges)
      in_c.push_back({range.q_begin, range.q_end, range.key_begin, range.key_end});
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_ranges(mask.out(), in_c.data(),
                                           static_cast<std::int64_t>(in_c.size()), &sizes_in_c));
    check_block_mask(c, BlockMask::from_ranges(ranges, sizes), mask);
  }
  SUBCASE("of a mask_mod") {
    c.options.mask_mod = [](const KeyRun& run, bool* visible) {
      for (std::int64_t n = 0; n < run.count; ++n)
        visible[n] = run.key_begin + n <= run.q_position && run.kv_head == 0;
    };
    const MaskModContext context{.group_size = 2, .q_position = QueryPosition::top_left()};
    c.options.q_position = context.q_position;
    const attn_mask_mod_context in_c{2, ATTN_TOP_LEFT};
    const attn_mask_mod function = [](void*, const attn_key_run* run, std::uint8_t* visible) {
      for (std::int64_t n = 0; n < run->count; ++n)
        visible[n] = run->key_begin + n <= run->q_position && run->kv_head == 0 ? 2 : 0;
      return std::int32_t{0};
    };
    attn_block_mask_sizes with_heads = sizes_in_c;
    with_heads.num_q_heads = 2;
    CBlockMask mask;
    REQUIRE_OK(
        attn_block_mask_from_mask_mod(mask.out(), function, nullptr, &with_heads, &in_c, NULL));
    BlockMaskSizes wanted_sizes = sizes;
    wanted_sizes.num_q_heads = 2;
    check_block_mask(c, BlockMask::from_mask_mod(c.options.mask_mod, wanted_sizes, context), mask);
  }
  SUBCASE("of a dense mask") {
    c.mask = {.shape = {c.q_len, c.kv_len}, .hidden = 0.9};
    const Inputs inputs = make_inputs(c);
    const attn_tensor dense = c_tensor(inputs.mask.view());
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_mask(mask.out(), &dense, &sizes_in_c, NULL));
    check_block_mask(c, BlockMask::from_mask(inputs.mask.view(), sizes), mask);
  }
  SUBCASE("of lists") {
    const RandomLists lists(random, 5, 3, false);
    const attn_tensor offsets = c_tensor(ids_of(lists.full_offsets));
    const attn_tensor columns = c_tensor(ids_of(lists.full));
    const attn_block_lists full{&offsets, &columns}, partial{nullptr, nullptr};
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_lists(mask.out(), &full, &partial, &sizes_in_c));
    check_block_mask(
        c, BlockMask::from_lists({ids_of(lists.full_offsets), ids_of(lists.full)}, {}, sizes),
        mask);
  }
}

TEST_CASE("States are cleared and merged") {
  const Case c{.num_q_heads = 2, .q_len = 5, .kv_len = 40};
  const Inputs inputs = make_inputs(c);
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    Outputs outputs = make_outputs(c);
    AttentionTensors tensors = bind(inputs, outputs);
    tensors.k = tensors.k.sliced(2, begin, end);
    tensors.v = tensors.v.sliced(2, begin, end);
    attention(tensors);
    return outputs;
  };
  Outputs a = part(0, 13), b = part(13, 40), wanted = make_outputs(c), got = make_outputs(c);
  merge({a.out.view(), a.lse.view()}, {b.out.view(), b.lse.view()},
        {wanted.out.view(), wanted.lse.view()});
  const auto c_state = [](Outputs& outputs, attn_tensor(&tensors)[2]) {
    tensors[0] = c_tensor(outputs.out.view());
    tensors[1] = c_tensor(outputs.lse.view());
    return attn_state{&tensors[0], &tensors[1]};
  };
  attn_tensor of_a[2], of_b[2], of_got[2];
  const attn_state state_a = c_state(a, of_a), state_b = c_state(b, of_b);
  const attn_state state_got = c_state(got, of_got);
  REQUIRE_OK(attn_merge(&state_a, &state_b, &state_got));
  check_same(got, wanted);
  REQUIRE_OK(attn_clear(&state_got));
  CHECK(got.lse.values() == std::vector<double>(10, -std::numeric_limits<double>::infinity()));
  REQUIRE_OK(attn_merge(&state_got, &state_a, &state_got));
  check_same(got, a);
}
