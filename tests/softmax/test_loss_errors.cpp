// One test for each error of the losses. Each call has one mistake; the message names it, and
// nothing has been written.
#include <attn/error.hpp>
#include <attn/loss.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/loss_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// The arguments of a valid call, of which a test changes one.
struct Call {
  TensorView x, target, dloss;
  MutableTensorView loss, dx;
  LossOptions options;
  Execution execution;
  float alpha = 1.5f;
};
using Change = std::function<void(Call&)>;

struct Function {
  std::string name;
  std::string x_name;
  bool backward;
  std::function<void(const Call&)> run;
};

const std::vector<Function>& functions() {
  static const std::vector<Function> all{
      {"nll_loss", "log_p", false,
       [](const Call& c) { nll_loss(c.x, c.target, c.loss, c.options, c.execution); }},
      {"cross_entropy", "x", false,
       [](const Call& c) { cross_entropy(c.x, c.target, c.loss, c.options, c.execution); }},
      {"sparsemax_loss", "x", false,
       [](const Call& c) { sparsemax_loss(c.x, c.target, c.loss, c.options, c.execution); }},
      {"entmax_loss", "x", false,
       [](const Call& c) { entmax_loss(c.x, c.target, c.loss, c.alpha, c.options, c.execution); }},
      {"nll_loss_backward", "dlog_p", true,
       [](const Call& c) { nll_loss_backward(c.dloss, c.target, c.dx, c.options, c.execution); }},
      {"cross_entropy_backward", "x", true,
       [](const Call& c) {
         cross_entropy_backward(c.dloss, c.x, c.target, c.dx, c.options, c.execution);
       }},
      {"sparsemax_loss_backward", "x", true,
       [](const Call& c) {
         sparsemax_loss_backward(c.dloss, c.x, c.target, c.dx, c.options, c.execution);
       }},
      {"entmax_loss_backward", "x", true,
       [](const Call& c) {
         entmax_loss_backward(c.dloss, c.x, c.target, c.dx, c.alpha, c.options, c.execution);
       }},
  };
  return all;
}

constexpr float untouched = -7;

/// x [2, 5, 3] and its loss, with classes as targets.
struct Memory {
  std::vector<float> x = std::vector<float>(30, 0.5f), q = std::vector<float>(30, 0.2f),
                     weight = std::vector<float>(5, 1);
  std::vector<std::int64_t> target{0, 1, 2, 3, 4, 0};
  std::vector<float> loss = std::vector<float>(6, untouched), dloss = std::vector<float>(6, 1),
                     dx = std::vector<float>(30, untouched);
  Call call() {
    return {.x = {x.data(), {2, 5, 3}},
            .target = {target.data(), {2, 3}},
            .dloss = {dloss.data(), {2, 3}},
            .loss = {loss.data(), {2, 3}},
            .dx = {dx.data(), {2, 5, 3}},
            .options = {.reduction = Reduction::none},
            .execution = {}};
  }
};

void check_refused(const Function& function, Memory& memory, const Change& change,
                   const std::string& message) {
  Call call = memory.call();
  function.run(call);
  std::fill(memory.loss.begin(), memory.loss.end(), untouched);
  std::fill(memory.dx.begin(), memory.dx.end(), untouched);
  change(call);
  std::string got = "no error";
  try {
    function.run(call);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    got = error.what();
  }
  std::string wanted = message;
  if (const auto at = wanted.find("{x}"); at != std::string::npos)
    wanted.replace(at, 3, function.x_name);
  INFO(function.name);
  CHECK(got == wanted);
  CHECK(memory.loss == std::vector<float>(6, untouched));
  CHECK(memory.dx == std::vector<float>(30, untouched));
}

enum class Which { all, forward, backward, with_x, of_entmax, of_fenchel_young };

bool belongs(const Function& function, Which which) {
  const bool entmax = function.name.starts_with("entmax");
  switch (which) {
    case Which::all: return true;
    case Which::forward: return !function.backward;
    case Which::backward: return function.backward;
    case Which::with_x: return function.x_name == "x";
    case Which::of_entmax: return entmax;
    case Which::of_fenchel_young: return entmax || function.name.starts_with("sparsemax");
  }
  return false;
}

/// In messages, {x} stands for the tensor that has the classes.
void check_refused(Which which, const Change& change, const std::string& message) {
  for (const Function& function : functions()) {
    if (!belongs(function, which)) continue;
    Memory memory;
    check_refused(function, memory, change, message);
  }
}

void check_refused_target(std::int64_t value, std::size_t at,
                          std::optional<std::int64_t> ignore_index, const std::string& message) {
  for (const Function& function : functions()) {
    Memory memory;
    const Change change = [&](Call& call) {
      memory.target[at] = value;
      call.options.ignore_index = ignore_index;
    };
    check_refused(function, memory, change, message);
  }
}

}  // namespace

TEST_CASE("Targets that are no class") {
  check_refused_target(5, 0, {}, "target[0, 0] is 5; it needs to lie in 0..4 (classes of {x})");
  check_refused_target(-1, 5, {}, "target[1, 2] is -1; it needs to lie in 0..4 (classes of {x})");
  check_refused_target(
      7, 4, -100,
      "target[1, 1] is 7; it needs to lie in 0..4 (classes of {x}), or be ignore_index, -100");
  check_refused_target(
      -1, 3, 2,
      "target[1, 0] is -1; it needs to lie in 0..4 (classes of {x}), or be ignore_index, 2");
  check_refused_target(
      std::numeric_limits<std::int64_t>::min(), 1, {},
      "target[0, 1] is -9223372036854775808; it needs to lie in 0..4 (classes of {x})");
}

TEST_CASE("The first of many wrong targets is named, for any number of threads") {
  const std::int64_t slices = 200000;
  std::vector<std::int32_t> target(static_cast<std::size_t>(slices));
  for (const std::size_t wrong : {70001u, 70002u, 150000u, 199999u}) target[wrong] = 3;
  const std::vector<float> x(static_cast<std::size_t>(2 * slices));
  float loss = untouched;
  for (const int threads : {1, 2, 5}) {
    CHECK_THROWS_WITH_AS(cross_entropy({x.data(), {slices, 2}}, {target.data(), {slices}},
                                       {&loss, Dims()}, {}, {.num_threads = threads}),
                         "target[70001] is 3; it needs to lie in 0..1 (classes of x)", Error);
  }
  CHECK(loss == untouched);
}

TEST_CASE("The target of a single slice") {
  const float x = 0;
  const std::int64_t target = 2;
  float loss = untouched;
  CHECK_THROWS_WITH_AS(
      cross_entropy({&x, DType::f32, {2}, {0}}, {&target, Dims()}, {&loss, Dims()}),
      "target is 2; it needs to lie in 0..1 (classes of x)", Error);
  CHECK(loss == untouched);
}

TEST_CASE("x") {
  check_refused(
      Which::with_x, [](Call& c) { c.x = {}; }, "x has rank 0; it needs rank 1 or more");
  check_refused(
      Which::with_x, [](Call& c) { c.x.dtype = DType::f64; },
      "x has type f64; it needs f32, bf16 or f16");
  check_refused(
      Which::with_x, [](Call& c) { c.x.data = nullptr; },
      "x of shape [2, 5, 3] has no data (null pointer)");
}

TEST_CASE("target") {
  Memory memory;
  check_refused(
      Which::all, [](Call& c) { c.target.dtype = DType::boolean; },
      "target has type boolean; it needs i32 or i64 (classes), or f32, bf16 or f16 (distributions "
      "over classes)");
  check_refused(
      Which::all,
      [](Call& c) {
        c.target = c.target.permuted({1, 0});
      },
      "target has shape [3, 2]; it needs [2, 3] (the shape of {x} without dim 1, the classes)");
  check_refused(
      Which::all, [](Call& c) { c.target.data = nullptr; },
      "target of shape [2, 3] has no data (null pointer)");
  check_refused(
      Which::all,
      [&](Call& c) {
        c.target = {memory.q.data(), {2, 3}};
      },
      "target has shape [2, 3]; it needs [2, 5, 3] (the shape of {x})");
  check_refused(
      Which::all,
      [&](Call& c) {
        c.target = {memory.q.data(), {2, 5, 3}};
        c.options.ignore_index = -100;
      },
      "ignore_index is -100, but target is of type f32: distributions over classes are not ignored "
      "by an index");
}

TEST_CASE("loss") {
  check_refused(
      Which::forward, [](Call& c) { c.loss.dtype = DType::bf16; },
      "loss has type bf16; it needs f32");
  check_refused(
      Which::forward,
      [](Call& c) {
        c.loss = c.loss.permuted({1, 0});
      },
      "loss has shape [3, 2]; it needs [2, 3] (the shape of {x} without dim 1, the classes)");
  check_refused(
      Which::forward, [](Call& c) { c.loss.strides[1] = 0; },
      "loss has strides [3, 0] for shape [2, 3]: dim 1 has stride 0, but an output needs memory "
      "for each element");
  check_refused(
      Which::forward, [](Call& c) { c.options.reduction = Reduction::mean; },
      "loss has shape [2, 3] of rank 2; it needs rank 0: one number, unless Reduction::none is "
      "asked for");
  check_refused(
      Which::forward,
      [](Call& c) {
        c.loss = {};
        c.options.reduction = Reduction::sum;
      },
      "loss of shape [] has no data (null pointer)");
}

TEST_CASE("dloss and dx") {
  check_refused(
      Which::backward, [](Call& c) { c.dloss.dtype = DType::f16; },
      "dloss has type f16; it needs f32");
  check_refused(
      Which::backward, [](Call& c) { c.dloss = c.dloss.sliced(0, 0, 1); },
      "dloss has shape [1, 3]; it needs [2, 3] (the shape of {x} without dim 1, the classes)");
  check_refused(
      Which::backward, [](Call& c) { c.options.reduction = Reduction::sum; },
      "dloss has shape [2, 3] of rank 2; it needs rank 0: one number, unless Reduction::none is "
      "asked for");
  for (const Function& function : functions()) {
    if (!function.backward) continue;
    const std::string name = function.x_name == "x" ? "dx" : "dlog_p";
    Memory memory;
    check_refused(
        function, memory, [](Call& c) { c.dx.dtype = DType::i32; },
        name + " has type i32; it needs f32, bf16 or f16");
    check_refused(
        function, memory, [](Call& c) { c.dx.strides[0] = 0; },
        name +
            " has strides [0, 3, 1] for shape [2, 5, 3]: dim 0 has stride 0, but an output needs "
            "memory for each element");
    if (name != "dx") continue;
    check_refused(
        function, memory, [](Call& c) { c.dx = c.dx.sliced(1, 0, 4); },
        "dx has shape [2, 4, 3]; it needs [2, 5, 3] (the shape of x)");
  }
}

TEST_CASE("Options") {
  Memory memory;
  const float weight = 1;
  check_refused(
      Which::all,
      [&](Call& c) {
        c.options.weight = {memory.weight.data(), {4}};
      },
      "weight has shape [4]: dim 0 is 4, but it needs 5 (the classes of {x})");
  check_refused(
      Which::all,
      [&](Call& c) {
        c.options.weight = {&weight, Dims()};
      },
      "weight has shape [] of rank 0; it needs rank 1: [classes]");
  check_refused(
      Which::all,
      [&](Call& c) {
        c.options.weight = {memory.weight.data(), DType::f16, {5}};
      },
      "weight has type f16; it needs f32");
  check_refused(
      Which::all, [&](Call& c) { c.options.label_smoothing = -0.5f; },
      "label_smoothing is -0.5; it needs to lie in 0..1");
  check_refused(
      Which::all, [&](Call& c) { c.options.label_smoothing = 1.5f; },
      "label_smoothing is 1.5; it needs to lie in 0..1");
  check_refused(
      Which::all, [&](Call& c) { c.options.label_smoothing = std::nanf(""); },
      "label_smoothing is nan; it needs to lie in 0..1");
  check_refused(
      Which::all, [&](Call& c) { c.execution.num_threads = 0; },
      "num_threads is 0; it needs 1 or more");
  check_refused(
      Which::of_entmax, [&](Call& c) { c.alpha = 0.5f; },
      "alpha is 0.5; it needs a finite number of 1 or more");
  check_refused(
      Which::of_entmax, [&](Call& c) { c.alpha = std::nanf(""); },
      "alpha is nan; it needs a finite number of 1 or more");
  check_refused(
      Which::of_fenchel_young,
      [&](Call& c) {
        c.target = {memory.q.data(), {2, 5, 3}};
        c.options.weight = {memory.weight.data(), {5}};
      },
      "weight is given, but target is of type f32: the weight of a slice is that of its target "
      "class, and a distribution has none");
}
