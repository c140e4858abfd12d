// Sequences of different lengths in one call, with queries and keys in every form. Each sequence
// gets the result of the reference for it alone, and the same bits as in a call of its own.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/onednn.hpp"
#include "support/random_case.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Sequences without queries, with a few and with many.
std::int64_t random_q_len(Random& random) {
  if (random.chance(0.15)) return 0;
  if (random.chance(0.5)) return random.integer(1, 4);
  return random.chance(0.5) ? random.integer(5, 40) : random.integer(41, 150);
}

std::int64_t random_kv_len(Random& random) {
  if (random.chance(0.1)) return 0;
  if (random.chance(0.8)) return random.integer(1, 150);
  return random.chance(0.9) ? random.integer(151, 700) : random.integer(701, 2500);
}

Sequences random_sequences(std::uint64_t seed) {
  Random random(seed);
  Sequences s{.common = {.seed = seed}};
  Case& c = s.common;
  const std::int64_t count = random.integer(1, 6), common_q_len = random_q_len(random);
  s.ragged_queries = random.chance(0.6);
  for (std::int64_t b = 0; b < count; ++b) {
    s.q_lens.push_back(s.ragged_queries ? random_q_len(random) : common_q_len);
    s.kv_lens.push_back(random_kv_len(random));
  }
  c.num_kv_heads = random.integer(1, 3);
  c.num_q_heads = c.num_kv_heads * random.pick<std::int64_t>({1, 1, 2, 4, 5});
  c.head_dim = random.integer(1, 70);
  if (random.chance(0.4)) c.v_head_dim = random.integer(1, 70);
  c.layout = random.pick({Layout::bhsd, Layout::bhsd, Layout::bshd, Layout::padded,
                          Layout::strided_dim, Layout::reversed});
  s.key_form = random.pick(key_forms);
  s.page_size = random.pick<std::int64_t>({1, 3, 16, 64, 100});
  s.offsets_type = random.pick({DType::i32, DType::i64});
  choose_types(random, c);
  c.batch = count;
  c.q_len = *std::max_element(s.q_lens.begin(), s.q_lens.end());
  c.kv_len = *std::max_element(s.kv_lens.begin(), s.kv_lens.end());
  choose_options(random, c);
  std::optional<std::int64_t> tokens;
  if (s.ragged_queries) tokens = std::accumulate(s.q_lens.begin(), s.q_lens.end(), std::int64_t{0});
  choose_side_tensors(random, c, tokens);
  c.kv_lens.clear();
  c.lse = true;
  c.options.score_matmul = ScoreMatmul::built_in;  // ragged batches always use it
  choose_normalizer(random, c);
  return s;
}

/// Sequences of many and of few rows, one block of keys and several, long enough to be split.
Sequences mixture(KeyForm form) {
  return {.common = {.num_q_heads = 4,
                     .num_kv_heads = 2,
                     .head_dim = 64,
                     .options = {.causal = Causal::bottom_right(),
                                 .score_matmul = ScoreMatmul::built_in},
                     .seed = 3},
          .q_lens = {1, 60, 0, 7, 1, 130},
          .kv_lens = {1100, 300, 20, 7, 0, 600},
          .key_form = form};
}

/// A plain call of batch 1 as a ragged one. It owns the offsets.
struct OneSequence {
  explicit OneSequence(const Case& c) : q_offsets{0, c.q_len}, kv_offsets{0, c.kv_len} {}

  AttentionTensors tensors(AttentionTensors plain) const {
    const auto tokens = [](auto view) {
      return at_first(view.permuted(view.rank() == 4 ? Dims{0, 2, 1, 3} : Dims{0, 2, 1}));
    };
    plain.q = tokens(plain.q);
    plain.k = tokens(plain.k);
    plain.v = tokens(plain.v);
    plain.out = tokens(plain.out);
    plain.lse = tokens(plain.lse);
    plain.ragged.q_offsets = {q_offsets, {2}};
    plain.ragged.kv_offsets = {kv_offsets, {2}};
    return plain;
  }

  /// The view without its first dim.
  template <class View>
  static View at_first(const View& view) {
    return {view.data,
            view.dtype,
            {view.shape.begin() + 1, view.rank() - 1},
            {view.strides.begin() + 1, view.rank() - 1}};
  }

  std::int64_t q_offsets[2], kv_offsets[2];
};

std::vector<Outputs> run_alone(const Together& together, Isa isa) {
  std::vector<Outputs> outputs;
  for (const Alone& alone : together.alone()) outputs.push_back(run(alone.inputs, alone.c, isa));
  return outputs;
}

/// Returns "" if the last call wrote what each sequence got in a call of its own, and nothing else.
std::string difference_from_alone(const Together& together, const std::vector<Outputs>& alone) {
  if (!together.gaps_untouched()) return "written between the elements";
  for (std::size_t b = 0; b < alone.size(); ++b) {
    const std::string difference =
        bit_difference(together.outputs(static_cast<std::int64_t>(b)), alone[b]);
    if (!difference.empty()) return fmt::format("sequence {}: {}", b, difference);
  }
  return "";
}

void check_any_number_of_threads(const Sequences& s) {
  INFO(to_string(s));
  Together together(s);
  for (const Isa isa : available_isas()) {
    const std::vector<Outputs> alone = run_alone(together, isa);
    for (const int num_threads : {1, 2, 3, 7}) {
      CAPTURE(num_threads);
      attention(together.tensors(), together.options(), {.num_threads = num_threads, .isa = isa});
      CHECK(difference_from_alone(together, alone) == "");
    }
  }
}

}  // namespace

TEST_CASE(
    "Random sequences in random forms get what the reference gives them, and the bits that they "
    "get alone") {
  for (const std::uint64_t seed : seeds(1, 150)) {
    const Sequences s = random_sequences(seed);
    Together together(s);
    INFO(to_string(s), "\n", repeat_command(seed));
    std::vector<Expected> expected;
    for (const Alone& alone : together.alone())
      expected.push_back(expected_of(alone.c, alone.inputs));
    for (const Isa isa : available_isas()) {
      CAPTURE(std::string(name_of(isa)));
      Execution execution = together.execution();
      execution.isa = isa;
      attention(together.tensors(), together.options(), execution);
      CHECK(difference_from_alone(together, run_alone(together, isa)) == "");
      for (std::size_t b = 0; b < expected.size(); ++b) {
        CAPTURE(b);
        CHECK(difference(together.outputs(static_cast<std::int64_t>(b)), expected[b]) == "");
      }
    }
  }
}

/// The first difference that compare(alone, outputs) finds in a sequence, or "".
template <class Compare>
std::string difference_of(const Together& together, Compare compare) {
  for (std::size_t b = 0; b < together.alone().size(); ++b) {
    const std::string found =
        compare(together.alone()[b], together.outputs(static_cast<std::int64_t>(b)));
    if (!found.empty()) return fmt::format("sequence {}: {}", b, found);
  }
  return "";
}

TEST_CASE("The reference and the unfused baseline take every form, too") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    const Sequences s = random_sequences(seed);
    Together together(s);
    INFO(to_string(s), "\n", repeat_command(seed));
    attention_reference(together.tensors(), together.options());
    CHECK(together.gaps_untouched());
    CHECK(difference_of(together, [](const Alone& alone, const Outputs& outputs) {
            Outputs wanted = make_outputs(alone.c);
            attention_reference(bind(alone.inputs, wanted), alone.c.options, alone.c.execution);
            return bit_difference(outputs, wanted);
          }) == "");
    // The bits of oneDNN's products depend on the sizes of its matrices.
    attention_unfused(together.tensors(), together.options());
    CHECK(together.gaps_untouched());
    CHECK(difference_of(together, [](const Alone& alone, const Outputs& outputs) {
            return difference(outputs, expected_of(alone.c, alone.inputs));
          }) == "");
  }
}

TEST_CASE("The reference dequantizes element by element") {
  Case c{.batch = 2,
         .num_q_heads = 2,
         .q_len = 3,
         .kv_len = 20,
         .head_dim = 9,
         .kv_type = DType::i8,
         .kv_lens = {20, 11}};
  const Inputs inputs = make_inputs(c);
  const Expected expected = expected_of(c, inputs);
  c.out_type = DType::f64;
  Outputs outputs = make_outputs(c);
  attention_reference(bind(inputs, outputs), c.options, c.execution);
  CHECK(difference(outputs.out.values(), expected.out, 1e-14) == "");
}

TEST_CASE("Scores of cached keys, and of sequences of keys one after another") {
  for (const KeyForm form : key_forms) {
    Sequences s = mixture(form);
    s.q_lens = {4, 4, 4};
    s.kv_lens = {20, 0, 33};
    s.ragged_queries = false;
    s.common.kv_type = DType::i8;
    Together together(s);
    AttentionTensors tensors = together.tensors();
    const bool paged = form == KeyForm::paged;
    const std::int64_t kv_len = paged ? tensors.storage.page_table().shape[1] * s.page_size : 33;
    for (const ScoreStage stage : {ScoreStage::scaled, ScoreStage::masked, ScoreStage::weights}) {
      Tensor scores(DType::f64, {3, 4, 4, kv_len});
      reference_scores(tensors, together.options(), stage, scores.view());
      for (std::int64_t b = 0; b < 3; ++b) {
        const Alone& alone = together.alone()[static_cast<std::size_t>(b)];
        Outputs outputs = make_outputs(alone.c);
        Tensor wanted(DType::f64, {1, 4, 4, alone.c.kv_len});
        reference_scores(bind(alone.inputs, outputs), alone.c.options, stage, wanted.view());
        const Tensor got =
            copy_as(scores.view().sliced(0, b, b + 1).sliced(3, 0, alone.c.kv_len), DType::f64);
        CHECK(
            std::equal(got.data<double>(), got.data<double>() + got.size(), wanted.data<double>()));
        const Tensor rest = copy_as(
            scores.view().sliced(0, b, b + 1).sliced(3, alone.c.kv_len, kv_len), DType::f64);
        const double hidden = stage == ScoreStage::weights ? 0 : -HUGE_VAL;
        CHECK(std::all_of(rest.data<double>(), rest.data<double>() + rest.size(),
                          [&](double score) { return score == hidden; }));
      }
    }
  }
}

TEST_CASE("Scores of ragged queries are unsupported") {
  Together together(mixture(KeyForm::padded));
  Tensor scores(DType::f32, {6, 4, 130, 1100});
  Error error(ErrorCode::io, "no error");
  try {
    reference_scores(together.tensors(), {}, ScoreStage::masked, scores.view());
  } catch (const Error& thrown) {
    error = thrown;
  }
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(std::string(error.what()).find("q_offsets") != std::string::npos);
}

TEST_CASE("Any number of threads and each instruction set") {
  for (const KeyForm form : key_forms) {
    for (const DType dtype : {DType::f32, DType::i8, DType::bf16}) {
      Sequences s = mixture(form);
      s.common.kv_type = dtype;
      if (dtype == DType::bf16) s.common.q_type = dtype;
      check_any_number_of_threads(s);
    }
  }
}

TEST_CASE("A ragged sequence has the same bits without the others, whichever matmul is asked for") {
  const Sequences all = mixture(KeyForm::ragged);
  Together together(all);
  for (const Isa isa : available_isas()) {
    for (const ScoreMatmul score_matmul : score_matmuls()) {
      AttentionOptions options = together.options();
      options.score_matmul = score_matmul;
      Execution execution = together.execution();
      execution.isa = isa;
      attention(together.tensors(), options, execution);
      for (std::int64_t b = 0; b < all.count(); ++b) {
        const Alone& alone = together.alone()[static_cast<std::size_t>(b)];
        Outputs outputs = make_outputs(alone.c);
        attention(OneSequence(alone.c).tensors(bind(alone.inputs, outputs)), options, execution);
        CHECK(bit_difference(outputs, together.outputs(b)) == "");
      }
    }
  }
}

TEST_CASE("No sequences, or only empty ones") {
  for (const KeyForm form : key_forms) {
    Sequences s = mixture(form);
    s.q_lens = {0, 0};
    s.kv_lens = {5, 0};
    check_any_number_of_threads(s);
    s.q_lens = {30, 2};
    s.kv_lens = {0, 0};
    check_any_number_of_threads(s);
  }
  AttentionTensors none{.q = {nullptr, DType::f32, {0, 2, 8}},
                        .k = {nullptr, DType::f32, {0, 2, 8}},
                        .v = {nullptr, DType::f32, {0, 2, 8}}};
  none.out = {nullptr, DType::f32, {0, 2, 8}};
  const std::int64_t zero = 0;
  none.ragged.q_offsets = none.ragged.kv_offsets = {&zero, {1}};
  CHECK_NOTHROW(attention(none));
  CHECK_NOTHROW(attention_reference(none));
  CHECK_NOTHROW(attention_unfused(none));
}
