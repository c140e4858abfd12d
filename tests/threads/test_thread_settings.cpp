// Calls give the same bits whatever OpenMP's settings are, in whichever thread they are made, and
// for absurd numbers of threads. Most of them multiply by oneDNN, whose threads are not the
// library's. tests/CMakeLists.txt repeats this program under OpenMP's environment variables.
#include <attn/attn.hpp>
#include <attn/reference.hpp>
#include <attn/transformer.hpp>

#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/normal_tensor.hpp"
#include "support/onednn.hpp"
#include "support/plain_block.hpp"
#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Bits = std::vector<std::uint64_t>;

/// Something that is computed with at most so many threads.
struct Computation {
  std::string name;
  std::function<Bits(int num_threads)> bits;
};

/// Attention by one of the kernels. Scores and values are large enough for several threads.
struct AttentionCase {
  StridedTensor q = normal({2, 4, 70, 32}, 1), k = normal({2, 2, 130, 32}, 2),
                v = normal({2, 2, 130, 48}, 3);

  using Kernel = void (*)(const AttentionTensors&, const AttentionOptions&, const Execution&);
  Bits bits(Kernel kernel, const AttentionOptions& options, int num_threads) const {
    StridedTensor out(DType::f32, {2, 4, 70, 48});
    kernel({.q = q.view(), .k = k.view(), .v = v.view(), .out = out.view()}, options,
           {.num_threads = num_threads});
    return out.bits();
  }
};

BlockCase block_case(DType dtype) {
  BlockCase c{.biases = true, .batch = 2, .seq = 33};
  c.settings = {.hidden = 160,
                .num_q_heads = 4,
                .num_kv_heads = 2,
                .head_dim = 40,
                .max_positions = 64,
                .dtype = dtype};
  return c;
}

Bits forward(AttentionBlock& block, const BlockData& data) {
  StridedTensor y(DType::f32, data.x.shape());
  block.forward(data.x.view(), {}, y.view());
  return y.bits();
}

/// Everything that is multiplied by oneDNN, and calls that only the library's threads compute.
std::vector<Computation> computations() {
  static const AttentionCase attention_case;
  static const BlockData f32(block_case(DType::f32)), bf16(block_case(DType::bf16));
  const auto unfused = [](const AttentionOptions& options) {
    return
        [options](int threads) { return attention_case.bits(attention_unfused, options, threads); };
  };
  const auto tiled = [](const AttentionOptions& options) {
    return [options](int threads) { return attention_case.bits(attention, options, threads); };
  };
  const auto block = [](const BlockData& data, DType dtype) {
    return [&data, dtype](int threads) {
      AttentionBlock made(block_case(dtype).settings, data.weights(), {.num_threads = threads});
      return forward(made, data);
    };
  };
  return {
      {"unfused, softmax", unfused({})},
      {"unfused, softcap", unfused({.softcap = 2.f, .causal = Causal::bottom_right()})},
      {"unfused, sparsemax", unfused({.normalizer = Normalizer::sparsemax()})},
      {"tiled, scores by whoever else can", tiled({.score_matmul = score_matmuls().back()})},
      {"tiled", tiled({})},
      {"textbook",
       [](int threads) { return attention_case.bits(attention_reference, {}, threads); }},
      {"projections in f32", block(f32, DType::f32)},
      {"projections in bf16", block(bf16, DType::bf16)},
      {"softmax",
       [](int threads) {
         StridedTensor y(DType::f32, attention_case.k.shape());
         softmax(attention_case.k.view(), y.view(), -1, 1, {.num_threads = threads});
         return y.bits();
       }},
  };
}

/// Calls check(computation, bits on one thread) for each computation.
void for_each_computation(const std::function<void(const Computation&, const Bits&)>& check) {
  static const std::vector<Computation> all = computations();
  for (const Computation& each : all) {
    CAPTURE(each.name);
    check(each, each.bits(1));
  }
}

}  // namespace

TEST_CASE("OpenMP's settings change no bits") {
  const int threads = omp_get_max_threads(), dynamic = omp_get_dynamic(),
            levels = omp_get_max_active_levels();
  const std::vector<std::pair<std::string, std::function<void()>>> settings = {
      {"as they are", [] {}},
      {"dynamic", [] { omp_set_dynamic(1); }},
      {"no parallel levels", [] { omp_set_max_active_levels(0); }},
      {"nested levels", [] { omp_set_max_active_levels(4); }},
      {"one thread", [] { omp_set_num_threads(1); }},
      {"absurdly many threads", [] { omp_set_num_threads(std::numeric_limits<int>::max()); }}};
  for (const auto& setting : settings) {
    CAPTURE(setting.first);
    for_each_computation([&](const Computation& computation, const Bits& expected) {
      setting.second();
      for (const int num_threads : {4, 3}) CHECK(computation.bits(num_threads) == expected);
      omp_set_num_threads(threads);
      omp_set_dynamic(dynamic);
      omp_set_max_active_levels(levels);
    });
  }
}

TEST_CASE("Inside the caller's parallel regions, and in many threads at once") {
  for_each_computation([](const Computation& computation, const Bits& expected) {
    for (const int team : {1, 3}) {
      std::vector<int> same(3, 1);
#pragma omp parallel num_threads(team)
      same[static_cast<std::size_t>(omp_get_thread_num())] = computation.bits(4) == expected;
      CHECK(same == std::vector<int>(3, 1));
    }
    std::vector<int> same(4, 0);
    std::vector<std::thread> threads;
    for (int& each : same) threads.emplace_back([&] { each = computation.bits(2) == expected; });
    for (std::thread& thread : threads) thread.join();
    CHECK(same == std::vector<int>(4, 1));
  });
}

TEST_CASE("A block may be made and run under different settings") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const BlockData data(block_case(dtype));
    const AttentionSettings settings = block_case(dtype).settings;
    AttentionBlock block(settings, data.weights(), {.num_threads = 4});
    const Bits expected = forward(block, data);
    std::vector<int> same(2, 1);
#pragma omp parallel num_threads(2)
    {
#pragma omp critical
      same[static_cast<std::size_t>(omp_get_thread_num())] = forward(block, data) == expected;
    }
    CHECK(same == std::vector<int>(2, 1));
    const int levels = omp_get_max_active_levels();
    omp_set_max_active_levels(0);
    CHECK(forward(block, data) == expected);
    AttentionBlock limited(settings, data.weights(), {.num_threads = 4});
    CHECK(forward(limited, data) == expected);
    omp_set_max_active_levels(levels);
    CHECK(forward(limited, data) == expected);
    CHECK(forward(block, data) == expected);
  }
}

TEST_CASE("A number of threads is an upper limit, however large") {
  for_each_computation([](const Computation& computation, const Bits& expected) {
    for (const int num_threads : {100'000, std::numeric_limits<int>::max()})
      CHECK(computation.bits(num_threads) == expected);
  });
}
