// Plans of shapes that no memory holds. A plan takes shapes whose data is null, and views with a
// stride of 0 make such shapes of little memory: what overflows 64 bits is an Error.
#include <attn/attn.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "support/check_fails.hpp"
#include "support/random.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();

/// A view of no memory.
MutableTensorView shaped(const Dims& shape, DType dtype = DType::f32) {
  MutableTensorView view(nullptr, dtype, Dims{});
  view.shape = view.strides = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) view.strides[dim] = 0;
  return view;
}

AttentionTensors padded(const Dims& q, const Dims& kv, const Dims& out) {
  return {.q = shaped(q), .k = shaped(kv), .v = shaped(kv), .out = shaped(out)};
}

void check_refused(const std::string& name, const AttentionTensors& tensors) {
  CAPTURE(name);
  CHECK_FALSE(refusal([&] { AttentionPlan plan(tensors); }, ErrorCode::invalid_argument).empty());
  CHECK_FALSE(refusal([&] { unfused_scratch_size(tensors); }, ErrorCode::invalid_argument).empty());
}

/// A size that is often nonsense, and otherwise often huge.
std::int64_t any_size(Random& random) {
  return random.pick<std::int64_t>({0, 1, 1, 1, 2, 8, 64, 1 << 20, std::int64_t{1} << 31,
                                    (std::int64_t{1} << 32) + 1, std::int64_t{1} << 40,
                                    std::int64_t{1} << 47, std::int64_t{1} << 62, largest, -1});
}

/// A call whose tensors fit each other, of any layout, with any sizes.
AttentionTensors any_call(Random& random) {
  const auto size = [&] { return any_size(random); };
  const std::int64_t batch = size(), kv_heads = size(), group = random.pick<std::int64_t>({1, 4}),
                     q_len = size(), kv_len = size(), dim = size(), v_dim = size();
  std::int64_t heads = 0;
  if (__builtin_mul_overflow(kv_heads, group, &heads)) heads = kv_heads;
  const DType type = random.pick({DType::f32, DType::bf16, DType::f16});
  AttentionTensors t{.q = shaped({batch, heads, q_len, dim}, type),
                     .k = shaped({batch, kv_heads, kv_len, dim}, type),
                     .v = shaped({batch, kv_heads, kv_len, v_dim}, type),
                     .out = shaped({batch, heads, q_len, v_dim}, type)};
  if (random.chance(0.3)) t.lse = shaped({batch, heads, q_len});
  switch (random.integer(0, 4)) {
    case 0:
      t.ragged.q_offsets = shaped({any_size(random)}, DType::i64);
      t.q = shaped({q_len, heads, dim}, type);
      t.out = shaped({q_len, heads, v_dim}, type);
      t.lse = {};
      if (random.chance(0.5)) t.mask = shaped({q_len, any_size(random)});
      break;
    case 1: {
      const std::int64_t pages = size(), page_size = size();
      t.k = shaped({pages, kv_heads, page_size, dim}, type);
      t.v = shaped({pages, kv_heads, page_size, v_dim}, type);
      t.kv_lens = shaped({batch}, DType::i32);
      t.storage.layout = Paged{shaped({batch, size()}, DType::i32)};
      break;
    }
    case 2:
      t.k = shaped({batch, kv_heads, kv_len, dim}, DType::i8);
      t.v = shaped({batch, kv_heads, kv_len, v_dim}, DType::i8);
      t.storage.k_scales = t.storage.v_scales = shaped({batch, kv_heads, kv_len});
      break;
    default: break;
  }
  return t;
}

}  // namespace

TEST_CASE("sizes that overflow are refused, and named") {
  const std::int64_t many = std::int64_t{1} << 31;
  check_refused("kv_len", padded({1, 1, 1, 8}, {1, 1, largest / 2 + 1, 8}, {1, 1, 1, 8}));
  check_refused("head_dim", padded({1, 1, 1, largest}, {1, 1, 1, largest}, {1, 1, 1, largest}));
  check_refused("all", padded({many, many, many, 8}, {many, many, many, 8}, {many, many, many, 8}));
  check_refused("empty", padded({many, many, 0, 8}, {many, many, 0, 8}, {many, many, 0, 8}));
  check_fails(ErrorCode::invalid_argument, {"q has shape [2147483648, 2147483648, 1, 1]", "2^48"},
              [&] {
                AttentionPlan(padded({many, many, 1, 1}, {many, many, 1, 1}, {1, 1, 1, 1}));
              });
  check_fails(ErrorCode::invalid_argument, {"k has shape [1, 1, -3, 8]", "dim 2 is -3"}, [&] {
    AttentionPlan(padded({1, 1, 1, 8}, {1, 1, -3, 8}, {1, 1, 1, 8}));
  });
}

TEST_CASE("products of sizes of several tensors are refused where they overflow") {
  const std::int64_t many = std::int64_t{1} << 40;
  // The score matrix is q_len x kv_len; the plan needs no such matrix.
  const AttentionTensors square = padded({1, 1, many, 1}, {1, 1, many, 1}, {1, 1, many, 1});
  CHECK(AttentionPlan(square).workspace_size() < std::size_t{1} << 50);
  check_fails(ErrorCode::invalid_argument, {"score matrix", "1099511627776"},
              [&] { unfused_scratch_size(square); });
  // Pages may be shared, so a sequence may be longer than the pool.
  AttentionTensors paged = padded({1, 1, 1, 8}, {1, 1, many, 8}, {1, 1, 1, 8});
  paged.kv_lens = shaped({1}, DType::i64);
  paged.storage.layout = Paged{shaped({1, many}, DType::i32)};
  check_fails(ErrorCode::invalid_argument, {"page_table has shape [1, 1099511627776]"},
              [&] { AttentionPlan plan(paged); });
  // Offsets may have a stride of 0, so there may be more sequences than tokens.
  AttentionTensors ragged = padded({1, many, 1}, {many, many, 1, 1}, {1, many, 1});
  ragged.ragged.q_offsets = shaped({many + 1}, DType::i64);
  ragged.k = ragged.v = shaped({many, 1, 1, 1});
  check_fails(ErrorCode::invalid_argument, {"q_offsets has 1099511627776 sequences"},
              [&] { AttentionPlan plan(ragged); });
}

TEST_CASE("any sizes give a plan or an Error") {
  int planned = 0, refused = 0;
  for (const std::uint64_t seed : seeds(0, 4000)) {
    CAPTURE(repeat_command(seed));
    Random random(seed);
    const AttentionTensors tensors = any_call(random);
    AttentionOptions options;
    if (random.chance(0.3)) options.normalizer = Normalizer::entmax(1.5f);
    if (random.chance(0.3)) options.causal = Causal::bottom_right();
    if (random.chance(0.3)) options.window = Window{.left = any_size(random)};
    const Execution execution{.num_threads = random.pick<int>({1, 2, 64, 1 << 30})};
    try {
      const AttentionPlan plan(tensors, options, execution);
      CHECK(plan.workspace_size() < std::numeric_limits<std::size_t>::max());
      CHECK_FALSE(plan.description().empty());
      ++planned;
      // Offsets and lengths of other layouts are read.
      const bool contiguous = tensors.ragged.q_offsets.absent() && tensors.kv_lens.absent() &&
                              tensors.k.dtype != DType::i8;
      const std::size_t scratch = contiguous ? unfused_scratch_size(tensors) : 0;
      CHECK(scratch < std::size_t{1} << 56);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_argument);
      ++refused;
    }
  }
  const bool few = planned + refused < 1000;  // seeds were asked for
  CHECK((few || (planned > 20 && refused > 20)));
}

TEST_CASE("settings of caches, tables and blocks") {
  for (const std::int64_t size : {std::int64_t{0}, std::int64_t{-1}, largest, largest / 2 + 1}) {
    CAPTURE(size);
    const auto check = [](const std::function<void()>& run) {
      CHECK_FALSE(refusal(run, ErrorCode::invalid_argument).empty());
    };
    check([&] { KvCache({.num_kv_heads = 1, .capacity = size, .head_dim = 8}); });
    check([&] { KvCache({.num_kv_heads = 1, .capacity = 8, .head_dim = size}); });
    check([&] { KvCache({.batch = size, .num_kv_heads = 1, .capacity = 8, .head_dim = 8}); });
    check([&] { PagedKvCache({.num_pages = size, .num_kv_heads = 1, .head_dim = 8}); });
    check([&] {
      PagedKvCache({.num_pages = 1, .page_size = size, .num_kv_heads = 1, .head_dim = 8});
    });
    const AttentionSettings settings{.hidden = size,
                                     .num_q_heads = size,
                                     .num_kv_heads = size,
                                     .head_dim = size,
                                     .max_positions = size};
    check([&] { AttentionBlock(settings, {}); });
    check([&] { Decoder({.layers = {{.attention = settings}}, .vocab_size = size}, {}); });
    if (size != 0) {
      check([&] { rope_frequencies({}, size); });
      check([&] { RopeTables({}, 8, size); });
    }
  }
}
