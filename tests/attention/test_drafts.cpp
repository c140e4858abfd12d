// Masks of the last keys of each sequence, as trees of drafted tokens need them: a token sees the
// keys before the drafts, and of the drafts those that it follows.
#include <attn/kv_cache.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Token n follows token parents[n], which is less than n; -1: it follows the keys before.
struct Tree {
  std::vector<std::int64_t> parents;

  Tree(Random& random, std::int64_t count) {
    for (std::int64_t n = 0; n < count; ++n) parents.push_back(random.integer(-1, n - 1));
  }
  std::int64_t count() const { return static_cast<std::int64_t>(parents.size()); }
  /// The tokens from the first one that a token follows to the token itself.
  std::vector<std::int64_t> path_to(std::int64_t token) const {
    std::vector<std::int64_t> path;
    for (; token >= 0; token = parents[static_cast<std::size_t>(token)]) path.push_back(token);
    std::reverse(path.begin(), path.end());
    return path;
  }
};

/// Appends the rows of a tree to a mask of `columns` last keys, where shorter trees are at the end:
/// 1 or 0, or what is to be added.
void append_rows(const Tree& tree, std::int64_t columns, DType dtype, std::vector<double>& mask) {
  const double visible = dtype == DType::boolean ? 1 : 0;
  const double hidden = dtype == DType::boolean ? 0 : -std::numeric_limits<double>::infinity();
  const std::int64_t before = columns - tree.count();
  for (std::int64_t token = 0; token < tree.count(); ++token) {
    std::vector<double> row(static_cast<std::size_t>(columns), hidden);
    std::fill_n(row.begin(), before, visible);
    for (const std::int64_t seen : tree.path_to(token))
      row[static_cast<std::size_t>(before + seen)] = visible;
    mask.insert(mask.end(), row.begin(), row.end());
  }
}

/// Sequences whose queries are trees of drafts at the end of their keys. Where queries are padded,
/// all have the same tree.
Sequences drafts(Random& random, const std::vector<std::int64_t>& sizes, KeyForm form,
                 DType mask_type) {
  Sequences s{.common = {.num_q_heads = 6,
                         .num_kv_heads = 2,
                         .head_dim = 40,
                         .options = {.softcap = 9.f,
                                     .window = Window{600, {}},
                                     .mask_keys = MaskKeys::last},
                         .sinks = true,
                         .seed = random.bits() % 1000},
              .q_lens = sizes,
              .key_form = form};
  const std::int64_t largest = *std::max_element(sizes.begin(), sizes.end());
  for (const std::int64_t size : sizes)
    s.kv_lens.push_back(size + random.pick<std::int64_t>({0, 1, 30, 130, 700, 1300}));
  s.ragged_queries = std::count(sizes.begin(), sizes.end(), largest) != s.count();
  std::int64_t rows = 0;
  for (const std::int64_t size : sizes) {
    if (rows > 0 && !s.ragged_queries) break;
    append_rows(Tree(random, size), largest, mask_type, s.mask);
    rows += size;
  }
  s.common.mask = DenseMask{.dtype = mask_type, .shape = {rows, largest}};
  return s;
}

/// Each sequence gets the bits of a call of its own with an ordinary mask, for any threads.
void check_bits(const Sequences& s) {
  INFO(to_string(s));
  Together together(s);
  for (const Isa isa : available_isas()) {
    std::vector<Outputs> alone;
    for (const Alone& each : together.alone()) alone.push_back(run(each.inputs, each.c, isa));
    for (const int num_threads : {1, 2, 3, 7}) {
      attention(together.tensors(), together.options(), {.num_threads = num_threads, .isa = isa});
      CHECK(together.gaps_untouched());
      for (std::int64_t b = 0; b < s.count(); ++b) {
        CAPTURE(b);
        CHECK(bit_difference(together.outputs(b), alone[static_cast<std::size_t>(b)]) == "");
      }
    }
  }
}

/// Which keys a query sees, by the exact probe: q is 0 and the values are indicators of the keys.
std::vector<bool> seen(std::int64_t kv_len, const TensorView& mask, AttentionOptions options) {
  Tensor q(DType::f32, {1, 1, 1, 4}), k(DType::f32, {1, 1, kv_len, 4}),
      v(DType::f32, {1, 1, kv_len, kv_len}), out(DType::f32, {1, 1, 1, kv_len});
  std::fill_n(q.data<float>(), q.size(), 0.f);
  std::fill_n(k.data<float>(), k.size(), 1.f);
  std::fill_n(v.data<float>(), v.size(), 0.f);
  for (std::int64_t j = 0; j < kv_len; ++j) v.data<float>()[j * (kv_len + 1)] = 1;
  attention({.q = q.view(), .k = k.view(), .v = v.view(), .out = out.view(), .mask = mask},
            options);
  return std::vector<bool>(out.data<float>(), out.data<float>() + kv_len);
}

}  // namespace

TEST_CASE("The columns of a mask of last keys") {
  const bool none[] = {false, false, false};
  const AttentionOptions last{.mask_keys = MaskKeys::last};
  using Keys = std::vector<bool>;
  CHECK(seen(5, {none, {1, 3}}, last) == Keys{1, 1, 0, 0, 0});
  CHECK(seen(5, {none, {3}}, last) == Keys{1, 1, 0, 0, 0});
  CHECK(seen(3, {none, {1, 3}}, last) == Keys{0, 0, 0});
  // One column is one key, not all.
  CHECK(seen(5, {none, {1, 1}}, last) == Keys{1, 1, 1, 1, 0});
  CHECK(seen(5, {none, {1}}, last) == Keys{1, 1, 1, 1, 0});
  CHECK(seen(5, {none, {1, 1}}, {}) == Keys{0, 0, 0, 0, 0});
  CHECK(seen(5, {none, {1, 0}}, last) == Keys{1, 1, 1, 1, 1});
  // The other masks hide keys before the columns, too.
  CHECK(seen(5, {none, {1, 2}}, {.window = Window{3, {}}, .mask_keys = MaskKeys::last}) ==
        Keys{0, 1, 1, 0, 0});
  const bool some[] = {true, false, true};
  CHECK(seen(5, {some, {1, 3}}, {.causal = Causal::with_offset(3), .mask_keys = MaskKeys::last}) ==
        Keys{1, 1, 1, 0, 0});
}

TEST_CASE("Columns that a sequence has no keys for are not read") {
  const Case c{.batch = 2,
               .q_len = 1,
               .kv_len = 6,
               .options = {.mask_keys = MaskKeys::last},
               .mask = DenseMask{.dtype = DType::f32, .shape = {2, 1, 1, 4}},
               .kv_lens = {6, 1}};
  Inputs inputs = make_inputs(c);
  const Outputs expected = run(inputs, c);
  for (std::int64_t column = 0; column < 3; ++column)
    inputs.mask.set({1, 0, 0, column}, std::nan(""));
  CHECK(bit_difference(run(inputs, c), expected) == "");
}

TEST_CASE("A token of a tree sees what it would see at the end of its own branch") {
  Random random(5);
  const std::int64_t before = 20, count = 12, dim = 8;
  const Tree tree(random, count);
  std::vector<double> elements;
  append_rows(tree, count, DType::boolean, elements);
  const Case c{.num_q_heads = 2,
               .q_len = count,
               .kv_len = before + count,
               .head_dim = dim,
               .out_type = DType::f64,
               .options = {.mask_keys = MaskKeys::last},
               .mask = DenseMask{.shape = {count, count}}};
  Inputs inputs = make_inputs(c);
  inputs.mask.assign(elements);
  Outputs together = make_outputs(c);
  attention_reference(bind(inputs, together), c.options);
  for (std::int64_t token = 0; token < count; ++token) {
    std::vector<std::int64_t> keys(static_cast<std::size_t>(before));
    std::iota(keys.begin(), keys.end(), 0);
    for (const std::int64_t seen_token : tree.path_to(token)) keys.push_back(before + seen_token);
    Case branch = c;
    branch.mask.reset();
    branch.options = {};
    branch.q_len = 1;
    branch.kv_len = static_cast<std::int64_t>(keys.size());
    Inputs alone = make_inputs(branch);
    copy_into(inputs.q.view().sliced(2, token, token + 1), alone.q.view());
    for (std::int64_t n = 0; n < branch.kv_len; ++n) {
      const std::int64_t key = keys[static_cast<std::size_t>(n)];
      copy_into(inputs.k.view().sliced(2, key, key + 1), alone.k.view().sliced(2, n, n + 1));
      copy_into(inputs.v.view().sliced(2, key, key + 1), alone.v.view().sliced(2, n, n + 1));
    }
    Outputs expected = make_outputs(branch);
    attention_reference(bind(alone, expected), branch.options);
    StridedTensor got(DType::f64, expected.out.shape());
    copy_into(together.out.view().sliced(2, token, token + 1), got.view());
    CAPTURE(token);
    CHECK(difference(got.values(), expected.out.values(), 1e-14) == "");
  }
}

TEST_CASE("Trees of any sizes in one call have the bits of calls with masks of all keys") {
  Random random(1);
  for (const KeyForm form : key_forms) {
    const DType mask_type =
        form == KeyForm::padded || form == KeyForm::paged ? DType::boolean : DType::f32;
    check_bits(drafts(random, {5, 0, 9, 1, 5}, form, mask_type));  // few rows, read in place
    check_bits(drafts(random, {40, 3, 17}, form, mask_type));      // packed and in place
    check_bits(drafts(random, {7, 7, 7}, form, DType::boolean));   // padded queries
  }
}

TEST_CASE("Trees over keys of every type, and with other normalizers") {
  Random random(2);
  for (const DType type : {DType::i8, DType::bf16, DType::f16}) {
    Sequences s = drafts(random, {4, 12, 60}, KeyForm::paged, DType::boolean);
    s.common.kv_type = type;
    if (type == DType::bf16) s.common.q_type = type;
    check_bits(s);
  }
  for (const Normalizer& normalizer : {Normalizer::sigmoid(), Normalizer::sparsemax()}) {
    Sequences s = drafts(random, {4, 12, 60}, KeyForm::ring, DType::bf16);
    s.common.options.normalizer = normalizer;
    s.common.lse = s.common.sinks = false;
    check_bits(s);
  }
}

TEST_CASE("Drafts in a paged cache: the mask of the tree goes to the bound call as it is") {
  Random random(3);
  const std::int64_t heads = 2, dim = 16, drafted = 6;
  PagedKvCache cache({.num_pages = 40, .page_size = 4, .num_kv_heads = heads, .head_dim = dim});
  std::vector<PagedKvCache::Sequence> sequences;
  std::vector<Inputs> alone;
  std::vector<double> elements;
  for (const std::int64_t before : {9, 0, 31}) {
    const Case c{.num_q_heads = 4,
                 .num_kv_heads = heads,
                 .q_len = drafted,
                 .kv_len = before + drafted,
                 .head_dim = dim,
                 .seed = static_cast<std::uint64_t>(before) + 1};
    alone.push_back(make_inputs(c));
    sequences.push_back(cache.create());
    const auto tokens = [](const StridedTensor& tensor) {
      const TensorView all = tensor.view();
      return TensorView(all.data, all.dtype, {all.shape[1], all.shape[2], all.shape[3]},
                        {all.strides[1], all.strides[2], all.strides[3]});
    };
    cache.append(sequences.back(), tokens(alone.back().k), tokens(alone.back().v));
    append_rows(Tree(random, drafted), drafted, DType::boolean, elements);
  }
  StridedTensor q(DType::f32, {3, 4, drafted, dim}), out(DType::f32, {3, 4, drafted, dim}),
      mask(DType::boolean, {3, 1, drafted, drafted});
  mask.assign(elements);
  for (std::int64_t b = 0; b < 3; ++b)
    copy_into(alone[static_cast<std::size_t>(b)].q.view(), q.view().sliced(0, b, b + 1));
  attention(cache.bind({.q = q.view(), .out = out.view(), .mask = mask.view()}, sequences),
            {.mask_keys = MaskKeys::last});
  for (std::int64_t b = 0; b < 3; ++b) {
    const Inputs& each = alone[static_cast<std::size_t>(b)];
    StridedTensor expected(DType::f32, {1, 4, drafted, dim}), got = expected;
    attention({.q = each.q.view(),
               .k = each.k.view(),
               .v = each.v.view(),
               .out = expected.view(),
               .mask = mask.view().sliced(0, b, b + 1)},
              {.mask_keys = MaskKeys::last});
    copy_into(out.view().sliced(0, b, b + 1), got.view());
    CAPTURE(b);
    CHECK(got.bits() == expected.bits());
  }
}
