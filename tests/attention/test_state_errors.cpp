// States that clear and merge refuse: the message names the tensor, and nothing is written.
#include <attn/error.hpp>
#include <attn/state.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

#include "support/states.hpp"

using namespace attn;
using namespace attn::test;

namespace {

struct Operands {
  AttentionState a, b, into;
};
using Change = std::function<void(Operands&)>;

/// Runs with one change and checks that the error names what is wrong before anything is written.
void check_refused(const std::function<void(const Operands&)>& run, const Change& change,
                   const std::vector<std::string>& fragments) {
  Random random(9);
  const Dims shape{2, 3, 4};
  Outputs a = random_part(random, DType::f32, shape), b = random_part(random, DType::bf16, shape);
  Outputs into = poisoned_part(DType::f16, shape);
  Operands operands{state_of(a), state_of(b), state_of(into)};
  change(operands);
  std::string message = "no error";
  try {
    run(operands);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    message = error.what();
  }
  CHECK(into.out.untouched());
  CHECK(into.lse.untouched());
  CAPTURE(message);
  for (const std::string& fragment : fragments) {
    CAPTURE(fragment);
    CHECK(message.find(fragment) != std::string::npos);
  }
}

/// The state alone is wrong, wherever it is given.
void check_state_refused(const std::function<void(AttentionState&)>& change,
                         const std::string& tensor, const std::vector<std::string>& fragments) {
  const auto named = [&](const std::string& state) {
    std::vector<std::string> all = fragments;
    all.push_back(state + "." + tensor + " ");
    return all;
  };
  const auto merge_three = [](const Operands& o) { merge(o.a, o.b, o.into); };
  const auto merge_two = [](const Operands& o) { merge(o.into, o.b); };
  check_refused(
      merge_three, [&](Operands& o) { change(o.a); }, named("a"));
  check_refused(
      merge_three, [&](Operands& o) { change(o.b); }, named("b"));
  check_refused(
      merge_three, [&](Operands& o) { change(o.into); }, named("into"));
  check_refused(
      merge_two, [&](Operands& o) { change(o.into); }, named("into"));
  check_refused(
      merge_two, [&](Operands& o) { change(o.b); }, named("part"));
  check_refused([](const Operands& o) { clear(o.into); }, [&](Operands& o) { change(o.into); },
                named("state"));
}

}  // namespace

TEST_CASE("A state that contradicts itself is refused") {
  for (const DType dtype : {DType::f64, DType::i8, DType::i32, DType::i64, DType::boolean}) {
    check_state_refused([&](AttentionState& s) { s.out.dtype = dtype; }, "out",
                        {std::string(name_of(dtype)), "f32, bf16 or f16"});
  }
  for (const DType dtype : {DType::bf16, DType::f16, DType::i32, DType::i64}) {
    check_state_refused([&](AttentionState& s) { s.lse.dtype = dtype; }, "lse",
                        {std::string(name_of(dtype)), "needs f32"});
  }
  check_state_refused([](AttentionState& s) { s.out = {}; }, "out",
                      {"rank 0", "rank 1 or more", "[..., v_head_dim]"});
  check_state_refused([](AttentionState& s) { s.lse = {}; }, "lse",
                      {"[]", "rank 0", "rank 2", "but the last"});
  check_state_refused(
      [](AttentionState& s) {
        s.lse = {s.lse.data, DType::f32, {2, 3, 4}};
      },
      "lse", {"[2, 3, 4]", "rank 3", "rank 2"});
  check_state_refused([](AttentionState& s) { s.lse = s.lse.sliced(1, 0, 2); }, "lse",
                      {"[2, 2]", "dim 1 is 2", "needs 3"});
  check_state_refused([](AttentionState& s) { s.lse = s.lse.sliced(0, 0, 0); }, "lse",
                      {"[0, 3]", "dim 0 is 0", "needs 2"});
  check_state_refused([](AttentionState& s) { s.out.data = nullptr; }, "out",
                      {"[2, 3, 4]", "no data"});
  check_state_refused([](AttentionState& s) { s.lse.data = nullptr; }, "lse",
                      {"[2, 3]", "no data"});
  check_state_refused(
      [](AttentionState& s) {
        s = {{s.out.data, s.out.dtype, {4}}, {nullptr, DType::f32, Dims{}}};
      },
      "lse", {"[]", "no data"});
}

TEST_CASE("Parts of another shape than into's are refused") {
  const auto merge_three = [](const Operands& o) { merge(o.a, o.b, o.into); };
  const auto narrower = [](AttentionState& s) { s.out = s.out.sliced(2, 0, 3); };
  const auto shorter = [](AttentionState& s) {
    s = {s.out.sliced(0, 1, 2), s.lse.sliced(0, 1, 2)};
  };
  const auto flatter = [](AttentionState& s) {
    s = {{s.out.data, s.out.dtype, {6, 4}}, {s.lse.data, DType::f32, {6}}};
  };
  const std::vector<std::string> narrow{"[2, 3, 3]", "dim 2 is 3", "needs 4", "into.out"},
      flat{"[6, 4]", "rank 2", "rank 3", "into.out"};
  check_refused(merge_three, [&](Operands& o) { narrower(o.a); },
                {"a.out", narrow[0], narrow[1], narrow[2], narrow[3]});
  check_refused(merge_three, [&](Operands& o) { shorter(o.b); },
                {"b.out", "[1, 3, 4]", "dim 0 is 1", "needs 2", "into.out"});
  check_refused(merge_three, [&](Operands& o) { flatter(o.b); },
                {"b.out", flat[0], flat[1], flat[2], flat[3]});
  check_refused([](const Operands& o) { merge(o.into, o.b); }, [&](Operands& o) { narrower(o.b); },
                {"part.out", narrow[1], narrow[2]});
}

TEST_CASE("Of many parts, the one that does not fit is named") {
  check_refused(
      [](const Operands& o) {
        const ConstAttentionState parts[] = {o.a, o.b};
        merge(parts, o.into);
      },
      [](Operands& o) { o.b.out = o.b.out.sliced(2, 0, 3); },
      {"parts[1].out", "dim 2 is 3", "needs 4"});
  check_refused(
      [](const Operands& o) {
        const ConstAttentionState parts[] = {o.a, o.b};
        merge(parts, o.into, {.num_threads = 0});
      },
      [](Operands&) {}, {"num_threads is 0"});
}
