// The same call gives the same bits for any number of threads, any other entries of the batch, and
// when it is made from a parallel region or from several threads at once.
#include <doctest/doctest.h>

#include <omp.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// A call with every feature of scores.
Case full_case() {
  return {.batch = 3,
          .num_q_heads = 6,
          .num_kv_heads = 2,
          .q_len = 70,
          .kv_len = 260,
          .head_dim = 24,
          .options = {.softcap = 8.f, .causal = Causal::bottom_right(), .window = Window{150, {}}},
          .mask = DenseMask{.dtype = DType::f32, .shape = {3, 1, 70, 260}},
          .alibi = true,
          .sinks = true,
          .kv_lens = {260, 100, 0}};
}

/// Calls without masks: prefill with one and with several blocks of keys, one and many heads.
std::vector<Case> prefill_cases() {
  return {{.q_len = 230, .kv_len = 230, .head_dim = 16},
          {.num_q_heads = 4, .q_len = 100, .kv_len = 600, .head_dim = 64},
          {.batch = 2,
           .num_q_heads = 8,
           .num_kv_heads = 8,
           .q_len = 90,
           .kv_len = 130,
           .head_dim = 32,
           .options = {.causal = Causal{}}}};
}

/// Calls of few queries, whose keys are split between threads.
std::vector<Case> decode_cases() {
  return {
      {.batch = 4, .num_q_heads = 8, .num_kv_heads = 2, .q_len = 1, .kv_len = 700, .head_dim = 64},
      {.batch = 2,
       .num_q_heads = 6,
       .num_kv_heads = 2,
       .q_len = 3,
       .kv_len = 3100,
       .head_dim = 64,
       .kv_lens = {3100, 1500}},
      {.batch = 2,
       .num_q_heads = 2,
       .num_kv_heads = 1,
       .q_len = 2,
       .kv_len = 2100,
       .head_dim = 64,
       .kv_type = DType::i8,
       .sinks = true}};
}

std::vector<Case> cases() {
  std::vector<Case> all = prefill_cases();
  for (const Case& c : decode_cases()) all.push_back(c);
  all.push_back(full_case());
  Case bf16 = full_case();
  bf16.q_type = bf16.kv_type = bf16.out_type = DType::bf16;
  all.push_back(bf16);
  Case sparse = full_case();
  sparse.lse = false;
  sparse.options.normalizer = Normalizer::sparsemax();
  all.push_back(sparse);
  all.push_back({.num_q_heads = 4,
                 .q_len = 100,
                 .kv_len = 600,
                 .head_dim = 64,
                 .options = {.normalizer = Normalizer::sigmoid()},
                 .lse = false});
  return all;
}

template <class F>
void for_each_case_and_isa(F&& f) {
  for (Case c : cases()) {
    for (const Isa isa : available_isas()) {
      c.execution.isa = isa;
      INFO(repeat_line(c));
      f(c);
    }
  }
}

/// Batch entry b of a case, alone.
StridedTensor entry(const StridedTensor& tensor, std::int64_t b) {
  if (tensor.view_if_made().absent()) return {};
  const TensorView part = tensor.view().sliced(0, b, b + 1);
  StridedTensor copy(tensor.dtype(), part.shape);
  copy_into(part, copy.view());
  return copy;
}

Inputs entry(const Inputs& inputs, std::int64_t b) {
  Inputs one = inputs;
  for (StridedTensor Inputs::*member : {&Inputs::q, &Inputs::k, &Inputs::v, &Inputs::mask,
                                        &Inputs::kv_lens, &Inputs::k_scales, &Inputs::v_scales}) {
    one.*member = entry(inputs.*member, b);
  }
  return one;
}

}  // namespace

TEST_CASE("Any number of threads, and again") {
  for_each_case_and_isa([](Case c) {
    const Inputs inputs = make_inputs(c);
    c.execution.num_threads = 1;
    const Outputs expected = run(inputs, c);
    for (const int num_threads : {1, 2, 3, 7, 40, 2}) {
      c.execution.num_threads = num_threads;
      CHECK(bit_difference(run(inputs, c), expected) == "");
    }
    c.execution.num_threads.reset();
    CHECK(bit_difference(run(inputs, c), expected) == "");
  });
}

TEST_CASE("A batch entry alone, or with others") {
  for_each_case_and_isa([](Case c) {
    const Inputs inputs = make_inputs(c);
    const Outputs together = run(inputs, c);
    Case alone = c;
    alone.batch = 1;
    for (std::int64_t b = 0; b < c.batch; ++b) {
      const Outputs expected{entry(together.out, b), entry(together.lse, b)};
      CHECK(bit_difference(run(entry(inputs, b), alone), expected) == "");
    }
  });
}

TEST_CASE("Inside a caller's own parallel region") {
  for_each_case_and_isa([](const Case& c) {
    const Inputs inputs = make_inputs(c);
    const Outputs expected = run(inputs, c);
    std::vector<std::string> differences(4);
#pragma omp parallel num_threads(4)
    {
      const auto thread = static_cast<std::size_t>(omp_get_thread_num());
      differences[thread] = bit_difference(run(inputs, c), expected);
    }
    for (const std::string& difference : differences) CHECK(difference == "");
  });
}

TEST_CASE("From several threads at once") {
  for_each_case_and_isa([](const Case& c) {
    const Inputs inputs = make_inputs(c);
    const Outputs expected = run(inputs, c);
    std::vector<std::string> differences(3);
    std::vector<std::thread> threads;
    for (std::string& difference : differences) {
      threads.emplace_back([&] {
        for (int repeat = 0; repeat < 2 && difference.empty(); ++repeat)
          difference = bit_difference(run(inputs, c), expected);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& difference : differences) CHECK(difference == "");
  });
}
