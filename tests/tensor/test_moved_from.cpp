// What is left of an object that was moved from: it is empty, or its functions throw. Nothing reads
// or writes memory that belongs to another object now.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void check_moved(const std::function<void()>& run) {
  check_fails(ErrorCode::invalid_argument, {"moved from"}, run);
}

struct Call {
  std::vector<float> memory = std::vector<float>(4096, 1);
  TensorView q{memory.data(), {1, 2, 3, 8}}, kv{memory.data(), {1, 2, 50, 8}};
  MutableTensorView out{memory.data() + 2048, {1, 2, 3, 8}};
  AttentionTensors tensors{.q = q, .k = kv, .v = kv, .out = out};
};

struct Weights {
  std::vector<float> memory = std::vector<float>(1024, 0.25f);
  TensorView square{memory.data(), {8, 8}}, vector{memory.data(), {8}},
      embedding{memory.data(), {16, 8}};
  AttentionSettings settings{
      .hidden = 8, .num_q_heads = 2, .num_kv_heads = 2, .head_dim = 4, .max_positions = 16};
  AttentionParameters parameters{.q = {square}, .k = {square}, .v = {square}, .out = {square}};
  LayerSettings layer_settings{.attention = settings, .mlp = MlpKind::gelu, .mlp_width = 8};
  LayerWeights layer{.attention_norm = {vector},
                     .attention = parameters,
                     .mlp_norm = {vector},
                     .mlp = {.up = {square}, .down = {square}}};
};

}  // namespace

TEST_CASE("a tensor") {
  Tensor first(DType::f32, {2, 3});
  const void* const data = first.data();
  Tensor second = std::move(first);
  CHECK(second.data() == data);
  CHECK(first.data() == nullptr);
  CHECK(first.size() == 0);
  CHECK(first.size_in_bytes() == 0);
  CHECK(first.view().size() == 0);
  first = std::move(second);
  CHECK(first.shape() == Dims{2, 3});
  CHECK(second.size() == 0);
  Tensor& same = first;
  first = std::move(same);
  CHECK(first.data() == data);
  CHECK(first.shape() == Dims{2, 3});
}

TEST_CASE("a workspace") {
  Call call;
  const AttentionPlan plan(call.tensors);
  Workspace first(plan.workspace_size());
  Workspace second = std::move(first);
  CHECK(first.size() == 0);
  CHECK(first.data() == nullptr);
  check_fails(ErrorCode::invalid_argument, {"workspace has 0 bytes"},
              [&] { plan.run(call.tensors, first); });
  plan.run(call.tensors, second);
  first = std::move(second);
  CHECK(second.size() == 0);
  CHECK(second.data() == nullptr);
  plan.run(call.tensors, first);
  std::vector<std::byte> memory(plan.workspace_size());
  Workspace borrowed(memory.data(), memory.size());
  const Workspace moved = std::move(borrowed);
  CHECK(moved.data() == memory.data());
  CHECK(borrowed.size() == 0);
}

TEST_CASE("a workspace without memory") {
  check_fails(ErrorCode::invalid_argument, {"workspace of 64 bytes", "null pointer"},
              [] { Workspace(nullptr, 64); });
  CHECK(Workspace(nullptr, 0).size() == 0);
}

TEST_CASE("a plan") {
  Call call;
  AttentionPlan first(call.tensors);
  Workspace workspace(first.workspace_size());
  const AttentionPlan second = std::move(first);
  check_moved([&] { first.run(call.tensors, workspace); });
  check_moved([&] { static_cast<void>(first.workspace_size()); });
  check_moved([&] { static_cast<void>(first.num_threads()); });
  check_moved([&] { static_cast<void>(first.isa()); });
  check_moved([&] { static_cast<void>(first.description()); });
  second.run(call.tensors, workspace);
  first = second;
  first.run(call.tensors, workspace);
}

TEST_CASE("a contiguous cache") {
  Call call;
  KvCache first({.num_kv_heads = 2, .capacity = 64, .head_dim = 8});
  KvCache second = std::move(first);
  check_moved([&] { first.append(call.kv, call.kv); });
  check_moved([&] { first.append_to(0, call.kv, call.kv); });
  check_moved([&] { static_cast<void>(first.length(0)); });
  check_moved([&] { static_cast<void>(first.position(0)); });
  check_moved([&] { static_cast<void>(first.settings()); });
  check_moved([&] { static_cast<void>(first.size_in_bytes()); });
  check_moved([&] { first.truncate(0, 0); });
  check_moved([&] { first.clear(); });
  check_moved([&] { first.bind({.q = call.q, .out = call.out}); });
  second.append(call.kv, call.kv);
  first = std::move(second);
  CHECK(first.length(0) == 50);
}

TEST_CASE("a paged cache") {
  Call call;
  PagedKvCache first({.num_pages = 4, .num_kv_heads = 2, .head_dim = 8});
  const auto sequence = first.create();
  PagedKvCache second = std::move(first);
  const TensorView keys(call.memory.data(), {2, 3, 8});
  check_moved([&] { first.append(sequence, keys, keys); });
  check_moved([&] { first.create(); });
  check_moved([&] { first.fork(sequence); });
  check_moved([&] { first.remove(sequence); });
  check_moved([&] { first.truncate(sequence, 0); });
  check_moved([&] { static_cast<void>(first.length(sequence)); });
  check_moved([&] { static_cast<void>(first.pages(sequence)); });
  check_moved([&] { static_cast<void>(first.free_pages()); });
  check_moved([&] { static_cast<void>(first.settings()); });
  check_moved([&] { static_cast<void>(first.size_in_bytes()); });
  check_moved([&] { first.bind({}, {&sequence, 1}); });
  second.append(sequence, keys, keys);
  CHECK(second.length(sequence) == 3);
}

TEST_CASE("blocks, layers and decoders, and the caches of a forward") {
  const Weights weights;
  std::array<float, 24> x{}, y{};
  const MutableTensorView tokens(x.data(), {1, 3, 8});
  AttentionBlock block(weights.settings, weights.parameters);
  AttentionBlock block_here = std::move(block);
  check_moved([&] { block.forward(tokens, {}, {y.data(), {1, 3, 8}}); });
  check_moved([&] { static_cast<void>(block.settings()); });
  check_moved([&] { static_cast<void>(block.size_in_bytes()); });
  TransformerLayer layer(weights.layer_settings, weights.layer);
  TransformerLayer layer_here = std::move(layer);
  check_moved([&] { layer.forward(tokens, {}); });
  check_moved([&] { static_cast<void>(layer.settings()); });
  check_moved([&] { static_cast<void>(layer.size_in_bytes()); });
  Decoder decoder(
      {.layers = {weights.layer_settings}, .vocab_size = 16},
      {.embedding = weights.embedding, .layers = {weights.layer}, .final_norm = {weights.vector}});
  const Decoder decoder_here = std::move(decoder);
  const std::int64_t id = 1;
  const CacheRef none;
  check_moved([&] { decoder.forward({&id, {1, 1}}, {&none, 1}, {}); });
  check_moved([&] { static_cast<void>(decoder.settings()); });
  check_moved([&] { static_cast<void>(decoder.bytes_read_per_step()); });

  KvCache cache({.num_kv_heads = 2, .capacity = 8, .head_dim = 4});
  const KvCache cache_here = std::move(cache);
  check_moved([&] { block_here.forward(tokens, cache, {y.data(), {1, 3, 8}}); });
  check_moved([&] { layer_here.forward(tokens, cache); });
}

TEST_CASE("the scratch of a forward begins anew") {
  const Weights weights;
  const auto scratch = std::make_shared<ForwardScratch>();
  AttentionBlock block(weights.settings, weights.parameters, {}, scratch);
  std::array<float, 24> x{}, y{}, again{};
  for (std::size_t n = 0; n < x.size(); ++n) x[n] = static_cast<float>(n);
  const TensorView tokens(x.data(), {1, 3, 8});
  block.forward(tokens, {}, {y.data(), {1, 3, 8}});
  const ForwardScratch other = std::move(*scratch);
  CHECK(scratch->size_in_bytes() == 0);
  block.forward(tokens, {}, {again.data(), {1, 3, 8}});
  CHECK(y == again);
  CHECK(scratch->size_in_bytes() > 0);
}

TEST_CASE("tables of RoPE") {
  RopeTables first({}, 8, 16);
  const RopeTables second = std::move(first);
  CHECK(first.rope().cos.data == nullptr);
  std::array<float, 8> x{};
  check_fails(ErrorCode::invalid_argument, {"tables.cos", "rank"}, [&] {
    rope({x.data(), {1, 1, 1, 8}}, first.rope(), {}, {x.data(), {1, 1, 1, 8}});
  });
}
