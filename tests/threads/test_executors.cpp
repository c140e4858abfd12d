// Execution::executor: every function offers its work to it, and gives the same bits whatever it
// does with that.
#include <attn/attn.hpp>
#include <attn/reference.hpp>
#include <attn/transformer.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/normal_tensor.hpp"
#include "support/plain_block.hpp"
#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Bits = std::vector<std::uint64_t>;

/// Counts what it is asked for.
class Counting : public Executor {
 public:
  void offer(int num_threads, const Task& task) override {
    ++offers;
    most = std::max<int>(most, num_threads);
    run(num_threads, task);
  }
  std::atomic<int> offers{0}, most{0};

 private:
  virtual void run(int num_threads, const Task& task) = 0;
};

/// The calling thread alone, inside offer() or after it.
class Inline final : public Counting {
  void run(int, const Task& task) override { task(); }
};
class Nobody final : public Counting {
  void run(int, const Task&) override {}
};

/// A thread for each task, or for half of them; they are waited for.
class OnThreads final : public Counting {
 public:
  explicit OnThreads(bool half) : half_(half) {}

 private:
  void run(int num_threads, const Task& task) override {
    std::vector<std::thread> threads;
    for (int n = 0; n < (half_ ? num_threads / 2 : num_threads); ++n)
      threads.emplace_back([task] { task(); });
    for (std::thread& thread : threads) thread.join();
  }
  bool half_;
};

/// Threads that the call does not wait for, some of which come when it has ended.
class Detached final : public Counting {
 public:
  ~Detached() override {
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void run(int num_threads, const Task& task) override {
    for (int n = 0; n < num_threads; ++n) {
      threads_.emplace_back([task, n] {
        for (int pass = 0; pass < n; ++pass) std::this_thread::yield();
        task();
        task();
      });
    }
  }
  std::vector<std::thread> threads_;
};

class Refusing final : public Executor {
  void offer(int, const Task&) override { throw std::runtime_error("no threads today"); }
};

/// A function of the library on data that is large enough for several threads.
struct Function {
  std::string name;
  std::function<Bits(const Execution&)> bits;
};

struct Data {
  StridedTensor q = normal({2, 4, 70, 32}, 1), k = normal({2, 2, 130, 32}, 2),
                v = normal({2, 2, 130, 48}, 3), dout = normal({2, 4, 70, 48}, 4),
                keys = normal({1, 2, 5000, 32}, 5), rows = normal({500, 400}, 6);
  TensorView one_query{q.view().sliced(0, 0, 1).sliced(2, 0, 1)};
};
const Data& data() {
  static const Data made;
  return made;
}

using Kernel = void (*)(const AttentionTensors&, const AttentionOptions&, const Execution&);
std::function<Bits(const Execution&)> attend(Kernel kernel, const AttentionOptions& options = {}) {
  return [=](const Execution& execution) {
    StridedTensor out(DType::f32, {2, 4, 70, 48});
    kernel({.q = data().q.view(), .k = data().k.view(), .v = data().v.view(), .out = out.view()},
           options, execution);
    return out.bits();
  };
}

Bits decode(const Execution& execution) {
  StridedTensor out(DType::f32, {1, 4, 1, 32});
  attention(
      {.q = data().one_query, .k = data().keys.view(), .v = data().keys.view(), .out = out.view()},
      {}, execution);
  return out.bits();
}

Bits gradients(const Execution& execution) {
  StridedTensor out(DType::f32, {2, 4, 70, 48}), lse(DType::f32, {2, 4, 70}),
      dq(DType::f32, {2, 4, 70, 32}), dk(DType::f32, {2, 2, 130, 32}),
      dv(DType::f32, {2, 2, 130, 48});
  const AttentionTensors tensors{.q = data().q.view(),
                                 .k = data().k.view(),
                                 .v = data().v.view(),
                                 .out = out.view(),
                                 .lse = lse.view()};
  attention(tensors, {}, {.num_threads = 1});
  attention_backward(
      tensors, {.dout = data().dout.view(), .dq = dq.view(), .dk = dk.view(), .dv = dv.view()}, {},
      execution);
  Bits bits = dq.bits();
  for (const StridedTensor* const each : {&dk, &dv}) {
    const Bits more = each->bits();
    bits.insert(bits.end(), more.begin(), more.end());
  }
  return bits;
}

Bits block(const Execution& execution) {
  BlockCase c{.biases = true, .batch = 2, .seq = 33};
  c.settings = {
      .hidden = 160, .num_q_heads = 4, .num_kv_heads = 2, .head_dim = 40, .max_positions = 64};
  static const BlockData made(c);
  AttentionBlock layer(c.settings, made.weights(), execution);
  StridedTensor y(DType::f32, made.x.shape());
  layer.forward(made.x.view(), {}, y.view());
  return y.bits();
}

std::vector<Function> functions() {
  const auto rowwise = [](auto f) {
    return [f](const Execution& execution) {
      StridedTensor y(DType::f32, data().rows.shape());
      f(data().rows.view(), y.view(), execution);
      return y.bits();
    };
  };
  return {
      {"attention", attend(attention)},
      {"attention with a dense mask, sparsemax",
       attend(attention, {.normalizer = Normalizer::sparsemax()})},
      {"attention of one query", decode},
      {"unfused", attend(attention_unfused)},
      {"reference", attend(attention_reference)},
      {"gradients", gradients},
      {"attention block", block},
      {"softmax", rowwise([](auto x, auto y, auto& e) { softmax(x, y, -1, 1, e); })},
      {"entmax", rowwise([](auto x, auto y, auto& e) { entmax15(x, y, -1, {}, e); })},
      {"rms_norm", rowwise([](auto x, auto y, auto& e) { rms_norm(x, {}, y, {}, e); })},
      {"gelu", rowwise([](auto x, auto y, auto& e) { gelu(x, y, GeluForm::erf, e); })},
  };
}

}  // namespace

TEST_CASE("Every function offers its work, and has the same bits whoever takes it") {
  Inline on_caller;
  Nobody nobody;
  OnThreads all(false), half(true);
  Detached detached;
  for (const Function& function : functions()) {
    CAPTURE(function.name);
    const Bits expected = function.bits({.num_threads = 1});
    CHECK(function.bits({.num_threads = 4}) == expected);
    CHECK(function.bits({.num_threads = 4, .executor = &openmp_executor()}) == expected);
    for (Counting* const executor :
         {static_cast<Counting*>(&on_caller), static_cast<Counting*>(&nobody),
          static_cast<Counting*>(&all), static_cast<Counting*>(&half),
          static_cast<Counting*>(&detached)}) {
      executor->offers = executor->most = 0;
      CHECK(function.bits({.num_threads = 4, .executor = executor}) == expected);
      CHECK(executor->offers > 0);
      CHECK(executor->most <= 3);
      executor->offers = 0;
      CHECK(function.bits({.num_threads = 1, .executor = executor}) == expected);
      CHECK(executor->offers == 0);
    }
  }
}

TEST_CASE("What an executor throws, the call throws") {
  Refusing refusing;
  for (const Function& function : functions()) {
    CAPTURE(function.name);
    CHECK_THROWS_AS(function.bits({.num_threads = 4, .executor = &refusing}), std::runtime_error);
  }
}

TEST_CASE("A score_mod may call the library, and several threads may share an executor") {
  OnThreads all(false);
  const auto modified = [&](Executor* executor) {
    const AttentionOptions options{.score_mod = [executor](const KeyRun& run, float* scores) {
      StridedTensor y(DType::f32, {500, 400});
      if (run.key_begin == 0 && run.q_index == 0)
        softmax(data().rows.view(), y.view(), -1, 1, {.num_threads = 3, .executor = executor});
      scores[0] += run.count > 0 ? static_cast<float>(y.view().size() % 7) : 0.f;
    }};
    return attend(attention, options)({.num_threads = 3, .executor = executor});
  };
  const Bits expected = modified(nullptr);
  std::vector<int> same(6, 0);
  std::vector<std::thread> callers;
  for (std::size_t n = 0; n < same.size(); ++n)
    callers.emplace_back([&, n] { same[n] = modified(n % 2 == 0 ? &all : nullptr) == expected; });
  for (std::thread& caller : callers) caller.join();
  CHECK(same == std::vector<int>(6, 1));
}
