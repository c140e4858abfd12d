// Calls with block masks: the same bits as the same call with a dense mask that hides the same
// keys; what calls refuse.
#include <attn/attention_backward.hpp>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/backward_check.hpp"
#include "support/block_masks.hpp"
#include "support/check.hpp"
#include "support/check_fails.hpp"
#include "support/onednn.hpp"
#include "support/random_backward_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// The number of keys that the mask of a case has, or all.
std::int64_t mask_kv_len(const Case& c) {
  if (!c.mask || c.options.mask_keys == MaskKeys::last) return c.kv_len;
  const std::int64_t last = c.mask->shape[c.mask->shape.rank() - 1];
  return last == 1 ? c.kv_len : last;
}

/// The element of a case's mask for a query and a key; what changes nothing where there is none.
double mask_element(const Case& c, const std::vector<double>& values, Dims at) {
  const Dims& shape = c.mask->shape;
  if (c.options.mask_keys == MaskKeys::last) {
    const std::int64_t kv_len =
        c.kv_lens.empty() ? c.kv_len : c.kv_lens[static_cast<std::size_t>(at[0])];
    at[3] -= kv_len - shape[shape.rank() - 1];
    if (at[3] < 0 || at[3] >= shape[shape.rank() - 1]) return c.mask->dtype == DType::boolean;
  }
  std::int64_t offset = 0;
  for (int dim = 0; dim < shape.rank(); ++dim)
    offset = offset * shape[dim] + (shape[dim] == 1 ? 0 : at[4 - shape.rank() + dim]);
  return values[static_cast<std::size_t>(offset)];
}

/// What a case's masks say of a row, by the words of block_mask.hpp.
class RowMasks {
 public:
  RowMasks(const Case& c, const Dims& row)
      : c_(c),
        by_mod_(new bool[static_cast<std::size_t>(c.kv_len)]),
        by_block_(new bool[static_cast<std::size_t>(c.kv_len)]) {
    KeyRun run{};
    run.batch = row[0];
    run.q_head = row[1];
    run.kv_head = row[1] / (c.num_q_heads / c.num_kv_heads);
    run.q_index = row[2];
    run.count = c.kv_len;
    std::fill_n(by_mod_.get(), c.kv_len, true);
    if (c.options.mask_mod) c.options.mask_mod(run, by_mod_.get());
    c.options.block_mask->visible_keys(run, by_block_.get());
  }

  /// Whether key at[3] is visible, if `by_mask` is what a boolean mask says.
  bool visible(const Dims& at, bool by_mask) const {
    const BlockMask& mask = *c_.options.block_mask;
    const BlockSize& block = mask.sizes().block;
    const bool full = mask.kind(at[0], at[1], at[2] / block.q, at[3] / block.kv) == BlockKind::full;
    if (!by_block_[at[3]]) return false;
    return (by_mod_[at[3]] || (full && mask.stands_for_mask_mod())) &&
           (by_mask || (full && mask.stands_for_mask()));
  }

 private:
  const Case& c_;
  std::unique_ptr<bool[]> by_mod_, by_block_;
};

struct DenseCall {
  Case c;
  Inputs inputs;
};

/// The same call without its block mask and mask_mod, with a mask of [batch, heads, q_len, kv_len].
DenseCall with_dense_mask(const Case& c, const Inputs& inputs) {
  const bool additive = c.mask && c.mask->dtype != DType::boolean;
  const std::vector<double> given = c.mask ? inputs.mask.values() : std::vector<double>{};
  const Dims shape{c.batch, c.num_q_heads, c.q_len, mask_kv_len(c)};
  std::vector<double> values;
  for_each_index({c.batch, c.num_q_heads, c.q_len}, [&](const Dims& row) {
    const RowMasks masks(c, row);
    for (std::int64_t j = 0; j < shape[3]; ++j) {
      const Dims at{row[0], row[1], row[2], j};
      const double element = c.mask ? mask_element(c, given, at) : 1;
      const bool visible = masks.visible(at, additive || element != 0);
      values.push_back(!additive ? visible
                       : visible ? element
                                 : -std::numeric_limits<double>::infinity());
    }
  });
  DenseCall dense{c, inputs};
  dense.c.options.block_mask.reset();
  dense.c.options.mask_mod = {};
  dense.c.options.mask_keys = MaskKeys::first;
  dense.c.mask = DenseMask{.dtype = additive ? c.mask->dtype : DType::boolean, .shape = shape};
  dense.inputs.mask = StridedTensor(dense.c.mask->dtype, shape, c.layout);
  dense.inputs.mask.assign(values);
  return dense;
}

/// A random call with a block mask, in the sizes of `like`.
Case random_call(std::uint64_t seed, const Case& like) {
  Random random(seed);
  Case c = like;
  c.seed = seed;
  choose_types(random, c);
  choose_options(random, c);
  choose_side_tensors(random, c);
  if (c.mask && c.mask->shape[c.mask->shape.rank() - 1] == 1 && c.kv_len == 1) c.mask.reset();
  choose_normalizer(random, c);
  c.options.block_mask = random_block_mask(random, c);
  return c;
}

void check_against_dense(const Case& c) {
  INFO(repeat_line(c));
  const Inputs inputs = make_inputs(c);
  const DenseCall dense = with_dense_mask(c, inputs);
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    CHECK(bit_difference(run(inputs, c, isa), run(dense.inputs, dense.c, isa)) == "");
  }
}

}  // namespace

TEST_CASE("the bits of a dense mask: many rows, softmax and full rows") {
  const Case like{
      .batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 45, .kv_len = 170, .head_dim = 20};
  for (const std::uint64_t seed : seeds(1, 60)) check_against_dense(random_call(seed, like));
}

TEST_CASE("the bits of a dense mask: several blocks of keys and of queries") {
  const Case like{.num_q_heads = 2, .q_len = 150, .kv_len = 700, .head_dim = 16};
  for (const std::uint64_t seed : seeds(1, 16)) check_against_dense(random_call(seed, like));
}

TEST_CASE("the bits of a dense mask: decode, with splits of the keys") {
  const Case like{
      .batch = 2, .num_q_heads = 6, .num_kv_heads = 2, .q_len = 2, .kv_len = 2600, .head_dim = 16};
  for (const std::uint64_t seed : seeds(1, 24)) check_against_dense(random_call(seed, like));
}

TEST_CASE("the bits of a dense mask: gradients") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    BackwardCase c = random_backward_case(seed);
    if (!c.call.options.block_mask) {
      Random random(seed);
      c.call.options.block_mask = random_block_mask(random, c.call);
    }
    c.left_out = {Gradient::dmask};  // it has the shape of the mask
    INFO(repeat_line(c));
    const Inputs inputs = make_inputs(c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    const DenseCall dense = with_dense_mask(c.call, inputs);
    BackwardCase with_dense = c;
    with_dense.call = dense.c;
    for (const Isa isa : available_isas()) {
      CAPTURE(std::string(name_of(isa)));
      c.call.execution.isa = with_dense.call.execution.isa = isa;
      const Outputs forward = run_forward(c, inputs);
      CHECK(bit_difference(run_backward(c, inputs, gradients, forward),
                           run_backward(with_dense, dense.inputs, gradients, forward)) == "");
    }
  }
}

TEST_CASE("a block mask of the call's own masks changes nothing") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    const Case like{
        .batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 45, .kv_len = 170, .head_dim = 8};
    Case c = random_call(seed, like);
    c.options.block_mask.reset();
    INFO(repeat_line(c));
    const Inputs inputs = make_inputs(c);
    Random random(seed);
    const BlockMaskSizes sizes{.q_len = c.q_len,
                               .kv_len = c.kv_len,
                               .batch = c.batch,
                               .num_q_heads = c.num_q_heads,
                               .block = random_block_size(random)};
    const Outputs expected = run(inputs, c);
    if (c.options.mask_mod) {
      c.options.block_mask = BlockMask::from_mask_mod(c.options.mask_mod, sizes, {.group_size = 2});
      CHECK(bit_difference(run(inputs, c), expected) == "");
    }
    if (c.mask && c.options.mask_keys == MaskKeys::first) {
      c.options.block_mask = BlockMask::from_mask(inputs.mask.view(), sizes);
      CHECK(bit_difference(run(inputs, c), expected) == "");
    }
  }
}

TEST_CASE("keys whose blocks no query of a head sees are not read") {
  constexpr std::int64_t width = 50, columns = 34;
  Random random(4);
  Case c{.batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 130, .kv_len = width * columns};
  c.head_dim = 64;
  const BlockMaskSizes sizes{
      .q_len = c.q_len, .kv_len = c.kv_len, .batch = 2, .num_q_heads = 4, .block = {64, width}};
  // Each KV head of an entry has blocks of its own, the others are NaN.
  Inputs inputs = make_inputs(c), poisoned = inputs;
  std::vector<std::int64_t> offsets{0}, seen;
  for (std::int64_t head = 0; head < 4; ++head) {
    std::vector<std::int64_t> blocks;
    for (std::int64_t block = 0; block < columns; ++block) {
      if (random.chance(0.2)) {
        blocks.push_back(block);
        continue;
      }
      for (std::int64_t j = block * width; j < (block + 1) * width; ++j) {
        for (std::int64_t d = 0; d < c.head_dim; ++d) {
          poisoned.k.set({head / 2, head % 2, j, d}, std::nan(""));
          poisoned.v.set({head / 2, head % 2, j, d}, std::nan(""));
        }
      }
    }
    for (int row = 0; row < 2 * 3; ++row) {  // 2 query heads, 3 blocks of queries
      seen.insert(seen.end(), blocks.begin(), blocks.end());
      offsets.push_back(static_cast<std::int64_t>(seen.size()));
    }
  }
  c.options.block_mask = BlockMask::from_lists({ids_of(offsets), ids_of(seen)}, {}, sizes);
  for (const Normalizer& normalizer :
       {Normalizer::softmax(), Normalizer::sparsemax(), Normalizer::sigmoid()}) {
    for (const ScoreMatmul score_matmul : score_matmuls()) {
      c.options.normalizer = normalizer;
      c.options.score_matmul = score_matmul;
      c.lse = normalizer == Normalizer::softmax();
      CHECK(bit_difference(run(poisoned, c), run(inputs, c)) == "");
    }
    c.options.score_matmul = ScoreMatmul::built_in;
    const BackwardCase backward{.call = c};
    const GradientInputs gradients = make_gradient_inputs(backward);
    const Outputs forward = run_forward(backward, inputs);
    CHECK(bit_difference(run_backward(backward, poisoned, gradients, forward),
                         run_backward(backward, inputs, gradients, forward)) == "");
  }
}

TEST_CASE("mask_mod is asked in partial blocks alone") {
  Case c{.q_len = 60, .kv_len = 90};
  std::atomic<bool> asked_elsewhere = false;
  c.options.mask_mod = [&](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n) {
      const std::int64_t key = run.key_begin + n;
      if (key / 10 != run.q_index / 10) asked_elsewhere = true;
      visible[n] = key <= run.q_index;
    }
  };
  std::vector<std::int64_t> offsets{0}, columns;
  for (std::int64_t row = 0; row < 6; ++row) {
    columns.push_back(row);
    offsets.push_back(row + 1);
  }
  const std::vector<std::int64_t> full_offsets{0, 0, 1, 2, 3, 4, 5}, full{0, 1, 2, 3, 4};
  c.options.block_mask = BlockMask::from_lists({ids_of(full_offsets), ids_of(full)},
                                               {ids_of(offsets), ids_of(columns)},
                                               {.q_len = 60, .kv_len = 90, .block = {10, 10}});
  const Inputs inputs = make_inputs(c);
  for (const int threads : {1, 3}) {
    c.execution.num_threads = threads;
    run(inputs, c);
  }
  CHECK_FALSE(asked_elsewhere);
}

TEST_CASE("pages and rings: key j of a block mask is key j of a sequence") {
  constexpr std::int64_t pages = 6, page_size = 16, dim = 8, q_len = 20;
  Random random(3);
  const Case c{.batch = 2, .q_len = q_len, .kv_len = 3 * page_size, .head_dim = dim};
  const Case pool{.batch = pages, .q_len = q_len, .kv_len = page_size, .head_dim = dim};
  const Inputs queries = make_inputs(c), keys = make_inputs(pool);
  const std::int32_t table[] = {4, 1, 0, 5, 2, 3};
  const std::int64_t lens[] = {41, 48}, starts[] = {5, 47};
  const auto check = [&](AttentionTensors tensors, const AttentionOptions& options) {
    Outputs outputs = make_outputs(c), expected = make_outputs(c);
    tensors.q = queries.q.view();
    tensors.kv_lens = TensorView(lens, {2});
    tensors.out = outputs.out.view();
    attention(tensors, options);
    tensors.out = expected.out.view();
    attention_reference(tensors, options);
    CHECK(difference(outputs.out.values(), expected.out.values(), 1e-5) == "");
    attention_unfused(tensors, options);
    CHECK(difference(outputs.out.values(), expected.out.values(), 1e-5) == "");
  };
  for (int turn = 0; turn < 12; ++turn) {
    AttentionOptions options;
    options.mask_mod = [](const KeyRun& run, bool* visible) {
      for (std::int64_t n = 0; n < run.count; ++n) visible[n] = (run.key_begin + n) % 3 != 1;
    };
    Case like = c;
    like.options.mask_mod = options.mask_mod;
    options.block_mask = random_block_mask(random, like);
    check({.k = keys.k.view(),
           .v = keys.v.view(),
           .storage = {.layout = Paged{TensorView(table, {2, 3})}}},
          options);
    check({.k = queries.k.view(),
           .v = queries.v.view(),
           .storage = {.layout = Ring{TensorView(starts, {2})}}},
          options);
  }
}

TEST_CASE("a block mask that a call refuses") {
  const auto check = [](ErrorCode code, const std::vector<std::string>& fragments, const Case& c) {
    const Inputs inputs = make_inputs(c);
    Outputs outputs = make_outputs(c);
    check_fails(code, fragments, [&] { attention(bind(inputs, outputs), c.options); });
    CHECK(outputs.out.untouched());
    check_fails(code, fragments, [&] { attention_reference(bind(inputs, outputs), c.options); });
    check_fails(code, fragments, [&] { attention_unfused(bind(inputs, outputs), c.options); });
  };
  const auto ranges = [](std::int64_t q_len, std::int64_t kv_len) {
    return BlockMask::from_ranges({}, {.q_len = q_len, .kv_len = kv_len});
  };
  const auto lists = [](std::int64_t batch, std::int64_t heads) {
    return BlockMask::from_lists({}, {},
                                 {.q_len = 4, .kv_len = 6, .batch = batch, .num_q_heads = heads});
  };
  Case c{.batch = 3, .num_q_heads = 2, .q_len = 4, .kv_len = 6};
  const auto invalid = [&](const BlockMask& mask, const std::vector<std::string>& fragments) {
    c.options.block_mask = mask;
    check(ErrorCode::invalid_argument, fragments, c);
  };
  invalid(ranges(5, 6), {"block_mask", "q_len 5", "4 and 6"});
  invalid(ranges(4, 7), {"block_mask", "kv_len 7", "4 and 6"});
  invalid(lists(2, 1), {"block_mask", "batch 2", "1 or 3"});
  invalid(lists(1, 3), {"block_mask", "num_q_heads 3", "1 or 2"});
  const std::vector<std::int64_t> offsets{0, 1}, columns{0};
  const BlockMaskSizes sizes{.q_len = 4, .kv_len = 6};
  invalid(BlockMask::from_lists({}, {ids_of(offsets), ids_of(columns)}, sizes),
          {"1 partial blocks", "mask_mod or mask is missing"});
  const bool seen[] = {true, false, true, true, true, true};
  const BlockMask of_mask = BlockMask::from_mask(TensorView(seen, DType::boolean, {6}), sizes);
  invalid(of_mask, {"partial", "but mask is missing"});
  c.options.mask_mod = [](const KeyRun& run, bool* visible) {
    std::fill_n(visible, run.count, run.q_index != 0);
  };
  invalid(of_mask, {"partial", "but mask is missing"});
  c.mask = DenseMask{.shape = {4, 6}};
  c.options.mask_keys = MaskKeys::last;
  invalid(of_mask, {"block_mask", "first keys", "mask_keys"});
  c.mask.reset();
  const BlockMask of_mod = BlockMask::from_mask_mod(c.options.mask_mod, sizes);
  c.options.mask_mod = {};
  invalid(of_mod, {"partial", "but mask_mod is missing"});
}

TEST_CASE("ragged batches refuse block masks") {
  const Tensor q(DType::f32, {5, 1, 8}), k(DType::f32, {1, 1, 5, 8});
  Tensor out(DType::f32, {5, 1, 8});
  const std::int64_t offsets[] = {0, 5};
  AttentionOptions options;
  options.block_mask = BlockMask::from_ranges({}, {.q_len = 5, .kv_len = 5});
  const AttentionTensors tensors{.q = q.view(),
                                 .k = k.view(),
                                 .v = k.view(),
                                 .out = out.view(),
                                 .ragged = {.q_offsets = {offsets, {2}}}};
  check_fails(ErrorCode::unsupported, {"block_mask", "q_offsets"},
              [&] { attention(tensors, options); });
}
