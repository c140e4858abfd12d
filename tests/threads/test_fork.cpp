// Calls in forked processes. Threads are not copied to them; the library starts its own again.
#include <attn/attn.hpp>
#include <attn/info.hpp>
#include <attn/reference.hpp>
#include <attn/transformer.hpp>

#include <doctest/doctest.h>
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <thread>
#include <vector>

#include "support/plain_block.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Runs `work` in a forked process, which it must not take more than 20 s, and returns what it
/// returns. -1 if the process was ended by a signal.
int in_child(const std::function<int()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    _exit(work());
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// A call that is large enough for several threads. All of its inputs are 1.
struct Ones {
  std::vector<float> ones = std::vector<float>(8 * 128 * 64, 1);
  TensorView view{ones.data(), {1, 8, 128, 64}};

  using Kernel = void (*)(const AttentionTensors&, const AttentionOptions&, const Execution&);
  bool right(Kernel kernel, int num_threads) const {
    std::vector<float> out(ones.size());
    kernel({.q = view, .k = view, .v = view, .out = {out.data(), view.shape}}, {},
           {.num_threads = num_threads});
    return std::all_of(out.begin(), out.end(), [](float x) { return std::abs(x - 1) < 1e-5f; });
  }
  bool right() const {
    return right(attention, 4) && right(attention_unfused, 4) && right(attention_reference, 4);
  }
};

std::vector<std::uint64_t> forward(AttentionBlock& block, const BlockData& data) {
  StridedTensor y(DType::f32, data.x.shape());
  block.forward(data.x.view(), {}, y.view());
  return y.bits();
}

}  // namespace

// It comes first: later, this process has threads.
TEST_CASE("A child of a process without threads has threads") {
  const std::filesystem::directory_iterator all("/proc/self/task");
  const bool alone = std::distance(begin(all), end(all)) == 1;  // some sanitizers have a thread
  const int threads = build_info().num_threads;
  const auto work = [&] {
    if (alone && build_info().num_threads != threads) return 1;
    return Ones().right() ? 0 : 2;
  };
  CHECK(in_child(work) == 0);
}

TEST_CASE("A child of a process with threads has threads of its own, and the same bits") {
  const Ones call;
  BlockCase c{.batch = 2, .seq = 33};
  c.settings.num_q_heads = 4;
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights(), {.num_threads = 4});
  const std::vector<std::uint64_t> expected = forward(block, data);
  REQUIRE(call.right());
  const int threads = build_info().num_threads;
  const auto work = [&] {
    if (build_info().num_threads != threads) return 1;
    if (!call.right()) return 2;
    return forward(block, data) == expected ? 0 : 3;
  };
  CHECK(in_child(work) == 0);
  CHECK(in_child([&] { return in_child(work); }) == 0);
  CHECK(in_child([&] {
          int result = -1;
          std::thread([&] { result = work(); }).join();
          return result;
        }) == 0);
  // The parent goes on as before.
  CHECK(build_info().num_threads == threads);
  CHECK(call.right());
}

TEST_CASE("A child that is forked in a parallel region, or in another thread") {
  const Ones call;
  const auto work = [&] { return call.right() ? 0 : 1; };
  int from_region = -1, from_thread = -1;
#pragma omp parallel num_threads(2)
#pragma omp single
  from_region = in_child(work);
  CHECK(from_region == 0);
  std::thread([&] { from_thread = in_child(work); }).join();
  CHECK(from_thread == 0);
}
