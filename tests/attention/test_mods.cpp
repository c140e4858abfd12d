// score_mod and mask_mod: functions of the user give the same results as built-in features.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

Case usual() {
  return {
      .batch = 2, .num_q_heads = 6, .num_kv_heads = 2, .q_len = 50, .kv_len = 210, .head_dim = 18};
}

/// ALiBi as a score_mod.
ScoreMod alibi(std::vector<float> slopes) {
  return [slopes = std::move(slopes)](const KeyRun& run, float* scores) {
    const float slope = slopes[static_cast<std::size_t>(run.q_head)];
    for (std::int64_t n = 0; n < run.count; ++n) {
      scores[n] -= slope * static_cast<float>(std::abs(run.q_position - (run.key_begin + n)));
    }
  };
}

/// Several documents follow one another in one sequence; a token sees only its own document.
std::vector<int> documents(std::int64_t length, std::uint64_t seed) {
  Random random(seed);
  std::vector<int> document(static_cast<std::size_t>(length));
  for (std::size_t n = 1; n < document.size(); ++n)
    document[n] = document[n - 1] + random.chance(0.1);
  return document;
}

MaskMod same_document(std::vector<int> document) {
  return [document = std::move(document)](const KeyRun& run, bool* visible) {
    const int own = document[static_cast<std::size_t>(run.q_position)];
    for (std::int64_t n = 0; n < run.count; ++n)
      visible[n] = document[static_cast<std::size_t>(run.key_begin + n)] == own;
  };
}

/// Returns "" if this run of keys is one that the call may have; else what is wrong.
std::string fault(const KeyRun& run, const Case& c, std::int64_t causal_offset) {
  const auto within = [](std::int64_t value, std::int64_t end) {
    return 0 <= value && value < end;
  };
  if (!within(run.batch, c.batch) || !within(run.q_head, c.num_q_heads) ||
      !within(run.q_index, c.q_len))
    return "row out of range";
  if (run.kv_head != run.q_head / (c.num_q_heads / c.num_kv_heads))
    return fmt::format("kv_head {} for q_head {}", run.kv_head, run.q_head);
  if (run.q_position != run.q_index + causal_offset)
    return fmt::format("position {} of query {}", run.q_position, run.q_index);
  if (run.count < 1 || run.key_begin < 0 || run.key_begin + run.count > c.kv_len) {
    return fmt::format("keys {} + {}", run.key_begin, run.count);
  }
  return "";
}

}  // namespace

TEST_CASE("ALiBi as a score_mod equals the built-in") {
  for (const auto& causal : {std::optional<Causal>{}, std::optional(Causal::bottom_right()),
                             std::optional(Causal::with_offset(7))}) {
    Case built_in = usual();
    built_in.options.causal = causal;
    built_in.alibi = true;
    Inputs inputs = make_inputs(built_in);
    const Expected expected = expected_of(built_in, inputs);
    const std::vector<double> slopes = inputs.alibi_slopes.values();
    inputs.alibi_slopes = {};
    Case as_mod = built_in;
    as_mod.options.score_mod = alibi({slopes.begin(), slopes.end()});
    INFO(repeat_line(as_mod));
    for (const Isa isa : available_isas())
      CHECK(difference(run(inputs, as_mod, isa), expected) == "");
  }
}

TEST_CASE("Documents as a mask_mod give the bits of the dense mask") {
  for (const bool causal : {false, true}) {
    Case c = usual();
    c.q_len = c.kv_len;
    if (causal) c.options.causal = Causal::bottom_right();
    const std::vector<int> document = documents(c.kv_len, c.seed);
    Case dense = c;
    dense.mask = DenseMask{.shape = {c.q_len, c.kv_len}};
    Inputs inputs = make_inputs(dense);
    for_each_index(inputs.mask.shape(), [&](const Dims& at) {
      inputs.mask.set(at, document[static_cast<std::size_t>(at[0])] ==
                              document[static_cast<std::size_t>(at[1])]);
    });
    check_inputs(dense, inputs);
    Inputs without_mask = inputs;
    without_mask.mask = {};
    Case as_mod = c;
    as_mod.options.mask_mod = same_document(document);
    INFO(repeat_line(as_mod));
    for (const Isa isa : available_isas())
      CHECK(bit_difference(run(without_mask, as_mod, isa), run(inputs, dense, isa)) == "");
  }
}

TEST_CASE("Mods come after everything else that touches scores, and may do as they like") {
  Case c = usual();
  c.options.softcap = 3.f;
  c.options.causal = Causal::bottom_right();
  c.alibi = c.sinks = true;
  c.mask = DenseMask{.dtype = DType::f32, .shape = {c.q_len, c.kv_len}};
  c.options.score_mod = [](const KeyRun& run, float* scores) {
    for (std::int64_t n = 0; n < run.count; ++n) scores[n] = std::sin(3.f * scores[n]);
  };
  check_case(c);
  c.options.mask_mod = [](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n)
      visible[n] = (run.key_begin + n) % 3 == run.q_head % 3;
  };
  check_case(c);
}

TEST_CASE("A score_mod that makes -inf hides; one that cannot revive what is hidden") {
  Case c = usual();
  c.options.causal = Causal::bottom_right();
  c.options.score_mod = [](const KeyRun& run, float* scores) {
    for (std::int64_t n = 0; n < run.count; ++n) {
      const std::int64_t key = run.key_begin + n;
      if (key > run.q_position || scores[n] == -HUGE_VALF) scores[n] = 1e30f;
      if (key % 2 == 0) scores[n] = -HUGE_VALF;
    }
  };
  check_case(c);
  for (const DType dtype : {DType::boolean, DType::f32}) {
    c.mask = DenseMask{.dtype = dtype, .shape = {c.q_len, c.kv_len}};
    check_case(c);
  }
  c.options.score_mod = [](const KeyRun& run, float* scores) {
    std::fill_n(scores, run.count, -HUGE_VALF);
  };
  check_case(c);
}

TEST_CASE("A run knows its row and keys, and every visible key comes exactly once") {
  for (const bool bottom_right : {false, true}) {
    Case c = usual();
    c.kv_len = 600;
    c.options.causal = bottom_right ? Causal::bottom_right() : Causal::with_offset(300);
    const std::int64_t offset = bottom_right ? c.kv_len - c.q_len : 300;
    INFO(repeat_line(c));
    for (const Isa isa : available_isas()) {
      std::mutex mutex;
      std::string first_fault;
      std::vector<int> times(
          static_cast<std::size_t>(c.batch * c.num_q_heads * c.q_len * c.kv_len));
      const auto note = [&](const KeyRun& run) {
        const std::lock_guard lock(mutex);
        if (first_fault.empty()) first_fault = fault(run, c, offset);
        if (!first_fault.empty()) return;
        const std::int64_t row = (run.batch * c.num_q_heads + run.q_head) * c.q_len + run.q_index;
        for (std::int64_t n = 0; n < run.count; ++n)
          ++times[static_cast<std::size_t>(row * c.kv_len + run.key_begin + n)];
      };
      c.options.score_mod = [&](const KeyRun& run, float*) { note(run); };
      run(make_inputs(c), c, isa);
      CHECK(first_fault == "");
      std::size_t wrong = 0;
      for (std::size_t n = 0; n < times.size(); ++n) {
        const auto key = static_cast<std::int64_t>(n) % c.kv_len,
                   q_index = static_cast<std::int64_t>(n) / c.kv_len % c.q_len;
        wrong += key <= q_index + offset ? times[n] != 1 : times[n] > 1;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("Runs are long, so that a mod's loop is worth vectorizing") {
  Case c = usual();
  std::atomic<std::int64_t> runs{0};
  c.options.mask_mod = [&](const KeyRun& run, bool* visible) {
    ++runs;
    std::fill_n(visible, run.count, true);
  };
  for (const Isa isa : available_isas()) {
    runs = 0;
    run(make_inputs(c), c, isa);
    CHECK(runs <= c.batch * c.num_q_heads * c.q_len * (c.kv_len / 64 + 1));
  }
}

TEST_CASE("With kv_lens, positions count from each entry's own end") {
  Case c = usual();
  c.kv_lens = {210, 90};
  std::atomic<int> wrong{0};
  c.options.mask_mod = [&](const KeyRun& run, bool* visible) {
    const std::int64_t length = run.batch == 0 ? 210 : 90;
    wrong += run.q_position != run.q_index + length - 50;
    std::fill_n(visible, run.count, true);
  };
  check_case(c);
  CHECK(wrong == 0);
}

TEST_CASE("An exception of a mod reaches the caller, and the next call is sound") {
  Case c = usual();
  const Inputs inputs = make_inputs(c);
  const Outputs expected = run(inputs, c);
  for (const int num_threads : {1, 2, 5}) {
    c.execution.num_threads = num_threads;
    const auto throw_late = [](const KeyRun& run) {
      if (run.q_index == 31 && run.q_head == 4) throw std::out_of_range("row 31");
    };
    Case throwing = c;
    throwing.options.score_mod = [&](const KeyRun& run, float*) { throw_late(run); };
    CHECK_THROWS_WITH_AS(run(inputs, throwing), "row 31", std::out_of_range);
    throwing = c;
    throwing.options.mask_mod = [&](const KeyRun& run, bool* visible) {
      throw_late(run);
      std::fill_n(visible, run.count, true);
    };
    CHECK_THROWS_WITH_AS(run(inputs, throwing), "row 31", std::out_of_range);
    CHECK(bit_difference(run(inputs, c), expected) == "");
  }
}

TEST_CASE("A plan is sound after a run that threw") {
  Case c = usual();
  c.execution.num_threads = 2;
  std::atomic<bool> throws{true};
  c.options.score_mod = [&](const KeyRun&, float*) {
    if (throws) throw std::runtime_error("asked for");
  };
  const Inputs inputs = make_inputs(c);
  Outputs outputs = make_outputs(c);
  const AttentionPlan plan(bind(inputs, outputs), c.options, c.execution);
  Workspace workspace(plan.workspace_size());
  CHECK_THROWS_WITH_AS(plan.run(bind(inputs, outputs), workspace), "asked for", std::runtime_error);
  throws = false;
  plan.run(bind(inputs, outputs), workspace);
  CHECK(bit_difference(outputs, run(inputs, c)) == "");
}
