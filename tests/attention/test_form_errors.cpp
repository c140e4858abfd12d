// Errors in the tensors that say where sequences and keys lie (offsets, pages, rings, scales), one
// test each: the message names the tensor, and nothing is written.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Three sequences of 2, 0 and 30 queries (or 2 each) and 5, 20 and 37 keys.
Sequences right(KeyForm form, bool ragged_queries = true, DType kv_type = DType::f32) {
  return {.common = {.num_q_heads = 4,
                     .num_kv_heads = 2,
                     .head_dim = 8,
                     .v_head_dim = 6,
                     .kv_type = kv_type},
          .q_lens = ragged_queries ? std::vector<std::int64_t>{2, 0, 30}
                                   : std::vector<std::int64_t>{2, 2, 2},
          .kv_lens = {5, 20, 37},
          .ragged_queries = ragged_queries,
          .key_form = form};
}

struct Call {
  AttentionTensors tensors;
  AttentionOptions options;
  Execution execution{};
};
using Change = std::function<void(Call&)>;
using Run = std::function<void(const Call&)>;

void check_error(const std::string& way, const Sequences& sequences, const Run& run,
                 const Change& change, ErrorCode code, const std::vector<std::string>& fragments) {
  Together together(sequences);
  Call call{together.tensors(), {}, {}};
  change(call);
  Error error(ErrorCode::io, "no error");
  try {
    run(call);
  } catch (const Error& thrown) {
    error = thrown;
  }
  INFO(way, ": ", error.what());
  CHECK(error.code() == code);
  CHECK(together.untouched());
  for (const std::string& fragment : fragments) {
    CAPTURE(fragment);
    CHECK(std::string(error.what()).find(fragment) != std::string::npos);
  }
}

/// Errors that only the data shows.
void check_rejected_run(const Sequences& s, const Change& change,
                        const std::vector<std::string>& fragments,
                        ErrorCode code = ErrorCode::invalid_argument) {
  check_error(
      "attention", s,
      [](const Call& call) { attention(call.tensors, call.options, call.execution); }, change, code,
      fragments);
  check_error(
      "attention_reference", s,
      [](const Call& call) { attention_reference(call.tensors, call.options, call.execution); },
      change, code, fragments);
  check_error(
      "attention_unfused", s,
      [](const Call& call) { attention_unfused(call.tensors, call.options, call.execution); },
      change, code, fragments);
}

/// Errors that shapes, types and presence show.
void check_rejected(const Sequences& s, const Change& change,
                    const std::vector<std::string>& fragments,
                    ErrorCode code = ErrorCode::invalid_argument) {
  check_rejected_run(s, change, fragments, code);
  check_error(
      "Plan", s,
      [](const Call& call) { AttentionPlan(call.tensors, call.options, call.execution); }, change,
      code, fragments);
}

TensorView reshaped(const TensorView& view, const Dims& shape) {
  return {view.data, view.dtype, shape};
}

TensorView& pages(Call& c) { return std::get<Paged>(c.tensors.storage.layout).page_table; }
TensorView& starts_of(Call& c) { return std::get<Ring>(c.tensors.storage.layout).starts; }

template <class View>
View retyped(View view, DType dtype) {
  view.dtype = dtype;
  return view;
}

constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                       most = std::numeric_limits<std::int64_t>::max();

}  // namespace

TEST_CASE("The calls are right before they are changed") {
  for (const KeyForm form : key_forms) {
    for (const bool ragged_queries : {false, true}) {
      Together together(right(form, ragged_queries, DType::i8));
      CHECK_NOTHROW(attention(together.tensors()));
    }
  }
}

TEST_CASE("Offsets that are none: each is named") {
  const std::int64_t bad[][4] = {{1, 2, 2, 32},        {-1, 2, 2, 32},      {0, 3, 2, 32},
                                 {0, 2, 33, 32},       {0, 2, 2, 31},       {0, 2, 2, 33},
                                 {0, -5, 2, 32},       {0, 40, 2, 32},      {0, 2, least, 32},
                                 {most, least, 2, 32}, {0, most, most, 32}, {0, 2, 2, most},
                                 {least, most, 2, 0}};
  const std::int64_t bad_keys[][4] = {{2, 5, 25, 62}, {0, 30, 25, 62}, {0, 5, 25, 61},
                                      {0, 5, 25, 63}, {0, 5, 25, 25},  {most, least, 0, 62}};
  for (const auto& offsets : bad) {
    check_rejected_run(right(KeyForm::padded),
                       [&](Call& c) {
                         c.tensors.ragged.q_offsets = {offsets, {4}};
                       },
                       {"q_offsets"});
  }
  for (const auto& offsets : bad_keys) {
    check_rejected_run(right(KeyForm::ragged),
                       [&](Call& c) {
                         c.tensors.ragged.kv_offsets = {offsets, {4}};
                       },
                       {"kv_offsets"});
  }
  const std::int32_t narrow[] = {0, 2, 1, 32};
  check_rejected_run(right(KeyForm::padded),
                     [&](Call& c) {
                       c.tensors.ragged.q_offsets = {narrow, {4}};
                     },
                     {"q_offsets[2]", "1", "2"});
}

TEST_CASE("Offsets of another rank, type or length") {
  const Sequences s = right(KeyForm::ragged);
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.ragged.q_offsets = reshaped(c.tensors.ragged.q_offsets, {2, 2});
                 },
                 {"q_offsets", "[2, 2]", "rank"});
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.ragged.kv_offsets = reshaped(c.tensors.ragged.kv_offsets, {4, 1});
                 },
                 {"kv_offsets", "[4, 1]", "rank"});
  check_rejected(s, [](Call& c) { c.tensors.ragged.q_offsets.dtype = DType::f32; },
                 {"q_offsets", "f32", "i32"});
  check_rejected(s, [](Call& c) { c.tensors.ragged.kv_offsets.dtype = DType::boolean; },
                 {"kv_offsets", "boolean", "i32"});
  check_rejected(
      s, [](Call& c) { c.tensors.ragged.q_offsets = reshaped(c.tensors.ragged.q_offsets, {0}); },
      {"q_offsets", "[0]"});
  check_rejected(
      s, [](Call& c) { c.tensors.ragged.kv_offsets = reshaped(c.tensors.ragged.kv_offsets, {0}); },
      {"kv_offsets"});
  check_rejected(
      s, [](Call& c) { c.tensors.ragged.kv_offsets = c.tensors.ragged.kv_offsets.sliced(0, 0, 3); },
      {"kv_offsets", "3", "4"});
}

TEST_CASE("Ragged tensors of another rank or extent") {
  const Sequences s = right(KeyForm::ragged);
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.q = reshaped(c.tensors.q, {1, 4, 32, 8});
                 },
                 {"q", "rank", "q_offsets"});
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.k = reshaped(c.tensors.k, {1, 2, 62, 8});
                 },
                 {"k", "rank", "kv_offsets"});
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.v = reshaped(c.tensors.v, {1, 2, 62, 6});
                 },
                 {"v", "rank", "kv_offsets"});
  check_rejected(s, [](Call& c) { c.tensors.v = c.tensors.v.sliced(0, 0, 61); }, {"v", "61", "62"});
  check_rejected(s, [](Call& c) { c.tensors.out = c.tensors.out.sliced(0, 0, 31); },
                 {"out", "31", "32"});
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.out = {c.tensors.out.data, DType::f32, {1, 4, 32, 6}};
                 },
                 {"out", "rank", "q_offsets"});
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.lse = {c.tensors.lse.data, DType::f32, {1, 4, 32}};
                 },
                 {"lse", "rank", "q_offsets"});
  check_rejected(s, [](Call& c) { c.tensors.lse = c.tensors.lse.sliced(1, 0, 3); },
                 {"lse", "3", "4"});
  check_rejected(s, [](Call& c) { c.tensors.ragged.max_q_len = -1; }, {"max_q_len", "-1"});
  check_rejected(s, [](Call& c) { c.tensors.ragged.max_kv_len = -7; }, {"max_kv_len", "-7"});
}

TEST_CASE("A sequence that is longer than announced") {
  const Sequences s = right(KeyForm::ragged);
  check_rejected_run(s, [](Call& c) { c.tensors.ragged.max_q_len = 29; },
                     {"q_offsets", "sequence 2", "30", "29"});
  check_rejected_run(s, [](Call& c) { c.tensors.ragged.max_kv_len = 19; },
                     {"kv_offsets", "sequence 1", "20", "19"});
}

TEST_CASE("A plan of bounded lengths runs what keeps to them, and nothing else") {
  Together together(right(KeyForm::ragged));
  AttentionTensors tensors = together.tensors();
  AttentionTensors limited = tensors;
  limited.ragged.max_q_len = 30;
  limited.ragged.max_kv_len = 37;
  const AttentionPlan bounded(limited), unbounded(tensors);
  CHECK(bounded.workspace_size() <= unbounded.workspace_size());
  Workspace workspace(unbounded.workspace_size());
  const std::int64_t longer_queries[] = {0, 31, 31, 32}, longer_keys[] = {0, 38, 40, 62},
                     other_queries[] = {0, 30, 32, 32};
  const AttentionTensors right_tensors = tensors;
  tensors.ragged.q_offsets = {longer_queries, {4}};
  CHECK_THROWS_WITH_AS(bounded.run(tensors, workspace), doctest::Contains("q_offsets"), Error);
  CHECK_NOTHROW(unbounded.run(tensors, workspace));
  tensors = right_tensors;
  tensors.ragged.kv_offsets = {longer_keys, {4}};
  CHECK_THROWS_WITH_AS(bounded.run(tensors, workspace), doctest::Contains("kv_offsets"), Error);
  CHECK_NOTHROW(unbounded.run(tensors, workspace));
  tensors = right_tensors;
  tensors.ragged.q_offsets = {other_queries, {4}};
  CHECK_NOTHROW(bounded.run(tensors, workspace));
}

TEST_CASE("A mask of ragged queries has their tokens as rows") {
  static const bool elements[4 * 33 * 64] = {};
  const auto with_mask = [](const Dims& shape, MaskKeys keys = MaskKeys::first) {
    return [shape, keys](Call& c) {
      c.tensors.mask = {elements, shape};
      c.options.mask_keys = keys;
    };
  };
  const Sequences ragged = right(KeyForm::ragged), padded = right(KeyForm::padded, false);
  for (const MaskKeys keys : {MaskKeys::first, MaskKeys::last}) {
    check_rejected(ragged, with_mask({1, 1, 32, 37}, keys), {"mask", "rank 4", "[tokens, keys]"});
    check_rejected(ragged, with_mask({31, 37}, keys), {"mask", "dim 0", "31", "32", "tokens"});
    check_rejected(ragged, with_mask({3, 32, 7}, keys), {"mask", "dim 0", "3", "4"});
    check_rejected(ragged, with_mask({32, 63}, keys), {"mask", "63"});
    check_rejected(padded, with_mask({2, 38}, keys), {"mask", "38", "37"});
    check_rejected(padded, with_mask({3, 37}, keys), {"mask", "dim 0", "3", "2"});
  }
  check_rejected(padded, with_mask({2, 3}, static_cast<MaskKeys>(2)), {"mask_keys"});
}

TEST_CASE("Forms that contradict each other") {
  const std::int64_t offsets[] = {0, 5, 25, 62}, starts[] = {0, 0, 0};
  const std::int32_t pages[] = {0, 0, 0};
  const Sequences paged = right(KeyForm::paged, false), ragged = right(KeyForm::ragged),
                  ring = right(KeyForm::ring);
  check_rejected(paged,
                 [&](Call& c) {
                   c.tensors.ragged.kv_offsets = {offsets, {4}};
                 },
                 {"page_table", "kv_offsets"});
  check_rejected(paged, [](Call& c) { c.tensors.storage.layout = Paged{}; }, {"page_table"});
  check_rejected(ring, [](Call& c) { c.tensors.storage.layout = Ring{}; }, {"starts"});
  check_rejected(ragged, [&](Call& c) { c.tensors.storage.layout = Ring{TensorView(starts, {3})}; },
                 {"kv_offsets", "starts"});
  check_rejected(ragged,
                 [&](Call& c) {
                   c.tensors.storage.layout = Paged{TensorView(pages, {3, 1})};
                 },
                 {"kv_offsets", "page_table"});
  check_rejected(ragged,
                 [&](Call& c) {
                   c.tensors.kv_lens = {starts, {3}};
                 },
                 {"kv_offsets", "kv_lens"});
  check_rejected(paged, [](Call& c) { c.tensors.kv_lens = {}; }, {"page_table", "kv_lens"});
  check_rejected(ring, [](Call& c) { c.tensors.kv_lens = {}; }, {"starts", "kv_lens"});
}

TEST_CASE("page_table of another rank, batch or type, and pools that do not fit") {
  const Sequences s = right(KeyForm::paged);
  check_rejected(s, [](Call& c) { pages(c) = reshaped(c.tensors.storage.page_table(), {12}); },
                 {"page_table", "[12]", "rank"});
  check_rejected(s, [](Call& c) { pages(c) = c.tensors.storage.page_table().sliced(0, 0, 2); },
                 {"page_table", "2", "3"});
  check_rejected(s, [](Call& c) { pages(c).dtype = DType::i64; }, {"page_table", "i64", "i32"});
  check_rejected(s, [](Call& c) { c.tensors.k = c.tensors.k.sliced(2, 0, 0); }, {"k", "page_size"});
  check_rejected(s, [](Call& c) { c.tensors.v = c.tensors.v.sliced(2, 0, 15); },
                 {"v", "15", "16", "page_size"});
  check_rejected(s, [](Call& c) { c.tensors.v = c.tensors.v.sliced(0, 0, 1); }, {"v", "num_pages"});
  check_rejected(s,
                 [](Call& c) {
                   c.tensors.k = reshaped(c.tensors.k, {8, 2, 128});
                 },
                 {"k", "rank", "page_table"});
}

TEST_CASE("Pages that are not in the pool, where they are used") {
  const std::int64_t lens[] = {16, 17, 0};
  const auto with = [&](const std::int32_t* pages) {
    return [&lens, pages](Call& c) {
      c.tensors.kv_lens = {lens, {3}};
      c.tensors.storage.layout = Paged{TensorView(pages, {3, 2})};
    };
  };
  const std::int32_t negative[] = {-1, 0, 0, 0, 0, 0}, beyond[] = {0, 0, 0, 99, 0, 0},
                     unused[] = {0, -1, 0, 1, 99, -7};
  check_rejected_run(right(KeyForm::paged), with(negative), {"page_table[0, 0]", "-1"});
  check_rejected_run(right(KeyForm::paged), with(beyond), {"page_table[1, 1]", "99"});
  Together together(right(KeyForm::paged));
  Call call{together.tensors(), {}, {}};
  with(unused)(call);
  CHECK_NOTHROW(attention(call.tensors));
}

TEST_CASE("starts of another length, rank or type, or out of range") {
  const Sequences s = right(KeyForm::ring);
  check_rejected(s, [](Call& c) { starts_of(c) = c.tensors.storage.starts().sliced(0, 0, 2); },
                 {"starts", "2", "3"});
  check_rejected(s,
                 [](Call& c) {
                   starts_of(c) = reshaped(c.tensors.storage.starts(), {1, 3});
                 },
                 {"starts", "[1, 3]", "rank"});
  check_rejected(s, [](Call& c) { starts_of(c).dtype = DType::f32; }, {"starts", "f32", "i32"});
  const std::int64_t beyond[] = {0, 37, 0}, negative[] = {0, 0, -1};
  check_rejected_run(s, [&](Call& c) { starts_of(c).data = beyond; }, {"starts[1]", "37", "36"});
  check_rejected_run(s, [&](Call& c) { starts_of(c).data = negative; }, {"starts[2]", "-1"});
}

TEST_CASE("Lengths beyond the capacity of pages or rings") {
  const std::int64_t too_long[] = {5, 65, 1};
  check_rejected_run(right(KeyForm::paged), [&](Call& c) { c.tensors.kv_lens.data = too_long; },
                     {"kv_lens[1]", "65", "64"});
  check_rejected_run(right(KeyForm::ring), [&](Call& c) { c.tensors.kv_lens.data = too_long; },
                     {"kv_lens[1]", "65", "37"});
}

TEST_CASE("i8 without scales, scales without i8, and scales that do not fit") {
  for (const KeyForm form : key_forms) {
    const Sequences s = right(form, true, DType::i8), floats = right(form);
    const float scale[] = {1};
    check_rejected(s, [](Call& c) { c.tensors.storage.k_scales = {}; }, {"k", "i8", "k_scales"});
    check_rejected(s, [](Call& c) { c.tensors.storage.v_scales = {}; }, {"v", "i8", "v_scales"});
    check_rejected(floats,
                   [&](Call& c) {
                     c.tensors.storage.k_scales = {scale, {1}};
                   },
                   {"k_scales", "f32", "i8"});
    check_rejected(floats,
                   [&](Call& c) {
                     c.tensors.storage.v_scales = {scale, {1}};
                   },
                   {"v_scales", "f32", "i8"});
    check_rejected(s, [](Call& c) { c.tensors.storage.k_scales.dtype = DType::f16; },
                   {"k_scales", "f16", "f32"});
    check_rejected(
        s, [](Call& c) { c.tensors.storage.v_scales = reshaped(c.tensors.storage.v_scales, {1}); },
        {"v_scales", "rank"});
    check_rejected(
        s, [](Call& c) { c.tensors.storage.k_scales = c.tensors.storage.k_scales.sliced(1, 0, 1); },
        {"k_scales", "dim 1", "2"});
  }
}

TEST_CASE("i8 where it has no place") {
  const Sequences s = right(KeyForm::padded);
  check_rejected(s, [](Call& c) { c.tensors.q.dtype = DType::i8; }, {"q", "i8", "f32"});
  check_rejected(s, [](Call& c) { c.tensors.out = retyped(c.tensors.out, DType::i8); },
                 {"out", "i8", "f32"});
  check_rejected(s, [](Call& c) { c.tensors.v.dtype = DType::i8; }, {"v", "i8"});
}

TEST_CASE("Null data where there are elements") {
  const Sequences ragged = right(KeyForm::ragged, true, DType::i8);
  check_rejected_run(ragged, [](Call& c) { c.tensors.ragged.q_offsets.data = nullptr; },
                     {"q_offsets", "null"});
  check_rejected_run(ragged, [](Call& c) { c.tensors.ragged.kv_offsets.data = nullptr; },
                     {"kv_offsets", "null"});
  check_rejected_run(ragged, [](Call& c) { c.tensors.storage.k_scales.data = nullptr; },
                     {"k_scales", "null"});
  check_rejected_run(ragged, [](Call& c) { c.tensors.storage.v_scales.data = nullptr; },
                     {"v_scales", "null"});
  check_rejected_run(right(KeyForm::paged), [](Call& c) { pages(c).data = nullptr; },
                     {"page_table", "null"});
  check_rejected_run(right(KeyForm::ring), [](Call& c) { starts_of(c).data = nullptr; },
                     {"starts", "null"});
}
