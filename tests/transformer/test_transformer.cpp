// Attention blocks against a plain program in double.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/plain_block.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr AttentionKernel kernels[] = {AttentionKernel::tiled, AttentionKernel::unfused,
                                       AttentionKernel::reference};
constexpr DType compute_types[] = {DType::f32, DType::bf16};

TensorView x_of(const BlockData& data, std::int64_t begin, std::int64_t end) {
  return data.x.view().sliced(1, begin, end);
}

/// Runs the whole sequence through a block in pieces of `chunk` tokens.
StridedTensor in_chunks(AttentionBlock& block, const BlockData& data, const CacheRef& cache,
                        std::int64_t chunk) {
  StridedTensor y(DType::f32, data.x.shape());
  const std::int64_t seq = data.x.shape()[1];
  for (std::int64_t begin = 0; begin < seq; begin += chunk) {
    const std::int64_t end = std::min(seq, begin + chunk);
    block.forward(x_of(data, begin, end), cache, y.view().sliced(1, begin, end));
  }
  return y;
}

void check_without_cache(const BlockCase& c) {
  for (const DType dtype : compute_types) {
    BlockCase typed = c;
    typed.settings.dtype = dtype;
    const BlockData data(typed);
    const Wanted wanted(typed, data);
    AttentionBlock block(typed.settings, data.weights());
    const std::vector<float> mask(c.mask.begin(), c.mask.end());
    ForwardOptions options;
    if (!mask.empty()) options.mask = {mask.data(), {c.seq, c.seq}};
    if (!c.lengths.empty()) options.kv_lens = {c.lengths.data(), {c.batch}};
    for (const AttentionKernel kernel : kernels) {
      CAPTURE(name_of(dtype));
      CAPTURE(name_of(kernel));
      StridedTensor y(DType::f32, data.x.shape());
      options.kernel = kernel;
      block.forward(data.x.view(), {}, y.view(), options);
      CHECK(wanted.difference(y.values()) == "");
    }
  }
}

KvCache contiguous(const BlockCase& c, std::int64_t capacity, bool rolling = false) {
  return KvCache({.batch = c.batch,
                  .num_kv_heads = c.settings.num_kv_heads,
                  .capacity = capacity,
                  .head_dim = c.settings.head_dim,
                  .dtype = c.settings.dtype,
                  .rolling = rolling});
}

PagedKvCache paged(const BlockCase& c, std::int64_t pages, std::int64_t page_size) {
  return PagedKvCache({.num_pages = pages,
                       .page_size = page_size,
                       .num_kv_heads = c.settings.num_kv_heads,
                       .head_dim = c.settings.head_dim,
                       .dtype = c.settings.dtype});
}

BlockCase full_case() {
  BlockCase c{.biases = true, .qk_norms = true};
  c.settings.rope = RopeSettings{.theta = 100};
  return c;
}

}  // namespace

TEST_CASE(
    "Rows around the boundaries between the micro-kernel and oneDNN, heads of each grouping, odd "
    "sizes") {
  for (const std::int64_t seq : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 64, 77}) {
    CAPTURE(seq);
    BlockCase c{.biases = seq % 2 == 1, .seq = seq};
    check_without_cache(c);
  }
  for (const std::int64_t hidden : {1, 33, 70}) {
    for (const std::int64_t kv_heads : {1, 2, 6}) {
      CAPTURE(hidden);
      CAPTURE(kv_heads);
      BlockCase c{.biases = true, .batch = 2, .seq = 5};
      c.settings.hidden = hidden;
      c.settings.num_q_heads = 6;
      c.settings.num_kv_heads = kv_heads;
      c.settings.head_dim = hidden == 33 ? 20 : hidden == 1 ? 1 : 12;
      check_without_cache(c);
    }
  }
}

TEST_CASE("Norms of q and k, and rotary positions of each kind") {
  for (const bool qk_norms : {false, true}) {
    for (const bool interleaved : {false, true}) {
      for (const std::int64_t rotary_dim : {0, 6, 12}) {
        CAPTURE(interleaved);
        CAPTURE(rotary_dim);
        BlockCase c{.qk_norms = qk_norms, .seq = 13};
        c.settings.qk_norm.epsilon = 0.1f;
        c.settings.rope =
            RopeSettings{.theta = 30, .rotary_dim = rotary_dim, .interleaved = interleaved};
        check_without_cache(c);
      }
    }
  }
}

TEST_CASE("Causal or not, windows, softcap, sinks, ALiBi, an additive mask, padding") {
  const std::vector<std::function<void(BlockCase&)>> changes = {
      [](BlockCase&) {},
      [](BlockCase& c) {
        c.settings.options.window = Window{3, {}};
      },
      [](BlockCase& c) { c.settings.options.softcap = 1.5f; },
      [](BlockCase& c) { c.settings.options.softmax_scale = 0.5f; },
      [](BlockCase& c) { c.sinks = true; },
      [](BlockCase& c) { c.alibi = true; },
      [](BlockCase& c) {
        Random random(5);
        c.mask = normal_values(random, c.seq * c.seq);
      },
      [](BlockCase& c) {
        c.lengths = {11, 4, 0};
        c.settings.rope = RopeSettings{};
      },
      [](BlockCase& c) {
        c.lengths = {11, 4, 7};
        c.alibi = true;
        c.settings.options.window = Window{2, c.settings.options.causal ? 0 : 1};
      },
  };
  for (std::size_t change = 0; change < changes.size(); ++change) {
    for (const bool causal : {true, false}) {
      CAPTURE(change);
      CAPTURE(causal);
      BlockCase c{.batch = 3, .seq = 11};
      if (!causal) c.settings.options.causal.reset();
      changes[change](c);
      check_without_cache(c);
    }
  }
}

TEST_CASE(
    "Prefill, chunks and single tokens through every cache give what the whole sequence does") {
  for (const DType dtype : compute_types) {
    BlockCase c = full_case();
    c.settings.dtype = dtype;
    c.batch = 2;
    c.seq = 21;
    const BlockData data(c);
    const Wanted wanted(c, data);
    AttentionBlock block(c.settings, data.weights());
    for (const std::int64_t chunk : {21, 8, 3, 1}) {
      CAPTURE(chunk);
      KvCache cache = contiguous(c, 21);
      CHECK(wanted.difference(in_chunks(block, data, cache, chunk).values()) == "");
      KvCache one_by_one = contiguous(c, 30);
      StridedTensor y(DType::f32, data.x.shape());
      for (const std::int64_t sequence : {1, 0}) {  // sequences of one cache, each by itself
        for (std::int64_t begin = 0; begin < c.seq; begin += chunk) {
          const std::int64_t end = std::min(c.seq, begin + chunk);
          block.forward(x_of(data, begin, end).sliced(0, sequence, sequence + 1),
                        CacheRef(one_by_one, sequence),
                        y.view().sliced(1, begin, end).sliced(0, sequence, sequence + 1));
        }
      }
      CHECK(wanted.difference(y.values()) == "");
      for (const std::int64_t page_size : {1, 4, 16}) {
        PagedKvCache pages = paged(c, 60, page_size);
        pages.create();  // so that sequence numbers differ from batch entries
        const std::array sequences{pages.create(), pages.create()};
        CHECK(wanted.difference(in_chunks(block, data, {pages, sequences}, chunk).values()) == "");
      }
    }
  }
}

TEST_CASE("A rolling cache with a window gives what the whole sequence does") {
  BlockCase c = full_case();
  c.seq = 40;
  c.settings.options.window = Window{5, {}};
  const BlockData data(c);
  const Wanted wanted(c, data);
  AttentionBlock block(c.settings, data.weights());
  for (const std::int64_t chunk : {9, 4, 1}) {
    KvCache cache = contiguous(c, 5 + chunk, true);
    CHECK(wanted.difference(in_chunks(block, data, cache, chunk).values()) == "");
  }
}

TEST_CASE("Fused and transposed weights of each type have the bits of separate dense ones") {
  for (const DType dtype : compute_types) {
    for (const std::int64_t seq : {3, 11}) {
      BlockCase c{.biases = true, .seq = seq};
      c.settings.dtype = dtype;
      const BlockData data(c);
      const auto y_with = [&](const AttentionParameters& weights) {
        StridedTensor y(DType::f32, data.x.shape());
        AttentionBlock(c.settings, weights).forward(data.x.view(), {}, y.view());
        return y.bits();
      };
      const auto bits = y_with(data.weights());
      const auto join = [](std::vector<double> a, const std::vector<double>& b,
                           const std::vector<double>& d) {
        a.insert(a.end(), b.begin(), b.end());
        a.insert(a.end(), d.begin(), d.end());
        return a;
      };
      const std::int64_t q = c.q_width(), kv = c.kv_width(), hidden = c.settings.hidden;
      StridedTensor fused = tensor_of(DType::f32, {q + 2 * kv, hidden}, Layout::padded,
                                      join(data.q.values(), data.k.values(), data.v.values()));
      StridedTensor bias =
          tensor_of(DType::f32, {q + 2 * kv}, Layout::strided_dim,
                    join(data.q_bias.values(), data.k_bias.values(), data.v_bias.values()));
      const LinearWeights all{fused.view(), bias.view()};
      AttentionParameters weights = data.weights();
      weights.q = part_of(all, 0, q), weights.k = part_of(all, q, q + kv),
      weights.v = part_of(all, q + kv, q + 2 * kv);
      CHECK(y_with(weights) == bits);
      Tensor transposed(DType::f32, {q, hidden});
      const TensorView in_out = data.out.view().permuted({1, 0});
      copy_into(in_out, transposed.view());
      weights.out.weight = transposed.view().permuted({1, 0});
      CHECK(y_with(weights) == bits);
    }
  }
}

TEST_CASE("Threads, and what else is in the batch, do not change bits") {
  for (const DType dtype : compute_types) {
    for (const std::int64_t seq : {2, 40}) {
      BlockCase c{.batch = 3, .seq = seq};
      c.settings = {.hidden = 320,
                    .num_q_heads = 8,
                    .num_kv_heads = 2,
                    .head_dim = 40,
                    .rope = RopeSettings{},
                    .max_positions = 64,
                    .dtype = dtype};
      BlockData data(c);
      const auto y_on = [&](int threads) {
        StridedTensor y(DType::f32, data.x.shape());
        AttentionBlock(c.settings, data.weights(), {.num_threads = threads})
            .forward(data.x.view(), {}, y.view());
        return y.bits();
      };
      const std::vector<std::uint64_t> bits = y_on(1);
      CHECK(y_on(2) == bits);
      CHECK(y_on(3) == bits);
      for (std::int64_t n = 0; n < seq; ++n) data.x.set({1, n, 7}, n % 2 == 0 ? 1e30 : NAN);
      const std::vector<std::uint64_t> changed = y_on(2);
      const std::ptrdiff_t third = std::ssize(bits) / 3;
      CHECK(std::equal(bits.begin(), bits.begin() + third, changed.begin()));
      CHECK(std::equal(bits.end() - third, bits.end(), changed.end() - third));
      CHECK_FALSE(changed == bits);
    }
  }
}

TEST_CASE("x and y of each type and layout, and in place") {
  for (const DType dtype : compute_types) {
    BlockCase c = full_case();
    c.settings.dtype = dtype;
    c.batch = 2;
    BlockData data(c);
    for (double value = 0; const DType x_type : {DType::bf16, DType::f16, DType::f32}) {
      for (const Layout layout : all_layouts) {
        // Values that all three types represent exactly, so that the oracle gets the same input.
        std::vector<double> values(static_cast<std::size_t>(data.x.shape().product()));
        for (double& x : values) x = std::fmod(value += 0.625, 4) - 2;
        data.x = tensor_of(DType::f32, data.x.shape(), Layout::bhsd, values);
        const Wanted wanted(c, data);
        AttentionBlock block(c.settings, data.weights());
        StridedTensor x = tensor_of(x_type, data.x.shape(), layout, values);
        for (const DType y_type : float_types) {
          StridedTensor y(y_type, x.shape(), layout);
          block.forward(x.view(), {}, y.view());
          CHECK(wanted.difference(y.values(), y_type) == "");
          CHECK(y.gaps_untouched());
        }
        block.forward(x.view(), {}, x.view());
        CHECK(wanted.difference(x.values(), x_type) == "");
        CHECK(x.gaps_untouched());
      }
    }
  }
}

TEST_CASE("Memory that is aligned to bytes") {
  BlockCase c;
  c.settings.dtype = DType::bf16;
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  std::vector<std::byte> memory(static_cast<std::size_t>(data.x.shape().product()) * 2 + 2),
      result(memory.size() * 2);
  const TensorView x(memory.data() + 2, DType::bf16, data.x.shape());
  copy_into(data.x.view(), {memory.data() + 2, DType::bf16, data.x.shape()});
  block.forward(x, {}, {result.data() + 1, DType::f32, data.x.shape()});
  StridedTensor y(DType::f32, data.x.shape());
  block.forward(data.x.view(), {}, y.view());
  std::vector<double> got;
  for (std::size_t n = 0; n < static_cast<std::size_t>(data.x.shape().product()); ++n) {
    float value;
    std::memcpy(&value, result.data() + 1 + 4 * n, sizeof value);
    got.push_back(value);
  }
  CHECK(got == y.values());
}

TEST_CASE("No tokens, and no sequences, change nothing") {
  BlockCase c;
  c.seq = 0;
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  KvCache cache = contiguous(c, 4);
  StridedTensor y(DType::f32, {1, 0, 40}), none(DType::f32, {0, 3, 40});
  block.forward(y.view(), cache, y.view());
  CHECK(cache.position(0) == 0);
  block.forward(none.view(), {}, none.view());
  PagedKvCache pages = paged(c, 2, 2);
  block.forward(none.view(), {pages, {}}, none.view());
  CHECK(pages.free_pages() == 2);
}

TEST_CASE("A padded forward after a cached one of the same shapes is as if it were the first") {
  BlockCase c;
  c.batch = 2;
  c.seq = 6;
  const BlockData data(c);
  const std::vector<std::int64_t> lengths{6, 3};
  const ForwardOptions padded{.kv_lens = {lengths.data(), {c.batch}}};
  StridedTensor first(DType::f32, data.x.shape()), later(DType::f32, data.x.shape());
  AttentionBlock(c.settings, data.weights()).forward(data.x.view(), {}, first.view(), padded);
  AttentionBlock block(c.settings, data.weights());
  KvCache cache = contiguous(c, c.seq);
  block.forward(data.x.view(), cache, later.view());
  block.forward(data.x.view(), {}, later.view(), padded);
  CHECK(later.values() == first.values());
}
