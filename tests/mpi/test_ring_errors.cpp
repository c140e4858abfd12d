// An error on one rank is an error on all of them, with the same message and without a hang.
#include <attn/error.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <thread>

#include "mpi/cut_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::string error_of(const std::function<void()>& run, ErrorCode code) {
  try {
    run();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "no error";
}

/// Checks that all ranks throw the same message, which has these fragments.
void check_on_all(const std::vector<std::string>& fragments, const std::function<void()>& run,
                  ErrorCode code = ErrorCode::invalid_argument) {
  const std::string own = error_of(run, code);
  CAPTURE(own);
  for (const std::string& fragment : fragments) {
    CAPTURE(fragment);
    CHECK(own.find(fragment) != std::string::npos);
  }
  std::string first = own;
  first.resize(500);
  MPI_Bcast(first.data(), 500, MPI_CHAR, 0, MPI_COMM_WORLD);
  CHECK(first.substr(0, own.size()) == own);
}

bool last_rank() { return mpi_rank() == mpi_size() - 1; }
/// What messages begin with if the last rank alone has failed.
std::string of_last_rank() {
  return mpi_size() == 1 ? "" : fmt::format("rank {}: ", mpi_size() - 1);
}

/// A causal call and this rank's part.
struct Sample {
  Case c{.num_q_heads = 4, .num_kv_heads = 2, .q_len = 40, .kv_len = 40, .lse = true};
  RingCut cut{SequenceCut::even(40, mpi_size()), SequenceCut::even(40, mpi_size())};
  Inputs whole;
  CallPart part;

  Sample() : whole(make_inputs(c)), part(c, whole, cut) { c.options.causal = Causal::top_left(); }
  void make(const std::function<void(AttentionTensors&, AttentionOptions&)>& change) {
    AttentionTensors tensors = part.tensors();
    AttentionOptions options = c.options;
    change(tensors, options);
    RingAttention(MPI_COMM_WORLD, cut, tensors, options);
  }
  /// The plan is right, and one rank runs it wrongly.
  void run(const std::function<void(AttentionTensors&)>& change) {
    AttentionTensors tensors = part.tensors();
    RingAttention ring(MPI_COMM_WORLD, cut, tensors, c.options);
    if (last_rank()) change(tensors);
    ring.run(tensors);
  }
};

}  // namespace

TEST_CASE("A rank with wrong arguments") {
  Sample sample;
  check_on_all({of_last_rank() + "softcap is -1"}, [&] {
    sample.make([](auto&, auto& options) {
      if (last_rank()) options.softcap = -1.f;
    });
  });
  check_on_all({of_last_rank() + "q has shape", "this rank's queries"}, [&] {
    sample.make([](auto& tensors, auto&) {
      if (last_rank()) tensors.q = tensors.q.sliced(2, 0, 1);
    });
  });
  check_on_all({of_last_rank() + "out is absent", "the plan was made for"},
               [&] { sample.run([](auto& tensors) { tensors.out = {}; }); });
  check_on_all({of_last_rank() + "v of shape", "null pointer"},
               [&] { sample.run([](auto& tensors) { tensors.v.data = nullptr; }); });
  CHECK(sample.part.outputs.out.untouched());
}

TEST_CASE("Wrong arguments on all ranks are an error of none in particular") {
  Sample sample;
  check_on_all({"softcap is 0; it needs"},
               [&] { sample.make([](auto&, auto& options) { options.softcap = 0.f; }); });
  check_on_all({"the cut of queries is for", "the communicator has"}, [&] {
    sample.cut.queries = SequenceCut::even(40, mpi_size() + 1);
    sample.make([](auto&, auto&) {});
  });
}

TEST_CASE("What is not supported says so") {
  Sample sample;
  const auto refuse = [&](const std::string& what, const auto& change) {
    check_on_all(
        {what}, [&] { sample.make(change); }, ErrorCode::unsupported);
  };
  refuse("normalizer is sparsemax",
         [](auto&, auto& options) { options.normalizer = Normalizer::sparsemax(); });
  refuse("block_mask is given", [](auto&, auto& options) {
    options.block_mask = BlockMask::from_ranges({}, {.q_len = 40, .kv_len = 40});
  });
  refuse("q_offsets or kv_offsets",
         [](auto& tensors, auto&) { tensors.ragged.q_offsets = tensors.lse; });
  refuse("k has type i8", [](auto& tensors, auto&) { tensors.k.dtype = DType::i8; });
  refuse("ring or paged", [](auto& tensors, auto&) { tensors.storage.layout = Ring{}; });
}

TEST_CASE("Options that differ between ranks") {
  if (mpi_size() == 1) return;
  Sample sample;
  const std::string ranks = fmt::format(" on rank 0 and 30 on rank {}", mpi_size() - 1);
  check_on_all({"softcap is none" + ranks, "the same on all ranks"}, [&] {
    sample.make([](auto&, auto& options) {
      if (last_rank()) options.softcap = 30.f;
    });
  });
  check_on_all({"window left is 3", "and none"}, [&] {
    sample.make([](auto&, auto& options) {
      if (!last_rank()) options.window = Window{3, {}};
    });
  });
  check_on_all({"the type of k and v is f32 on rank 0 and bf16"}, [&] {
    sample.make([](auto& tensors, auto&) {
      if (last_rank()) tensors.k.dtype = tensors.v.dtype = DType::bf16;
    });
  });
  check_on_all({"the cut of queries is"}, [&] {
    if (last_rank()) {
      sample.cut.queries = SequenceCut::zigzag(40, mpi_size());
      CallPart other(sample.c, sample.whole, sample.cut);
      sample.part = std::move(other);
    }
    sample.make([](auto&, auto&) {});
  });
}

TEST_CASE("A mask that is cut on some ranks alone") {
  if (mpi_size() == 1) return;
  Sample sample;
  StridedTensor one(DType::boolean, {1, 40}), own(DType::boolean, {40 / mpi_size(), 40});
  if (40 % mpi_size() != 0) return;
  check_on_all({"mask has one row for all queries on some ranks"}, [&] {
    sample.make(
        [&](auto& tensors, auto&) { tensors.mask = last_rank() ? one.view() : own.view(); });
  });
}

TEST_CASE("Data that differs between ranks") {
  if (mpi_size() == 1) return;
  Sample sample;
  sample.c.sinks = true;
  sample.part = CallPart(sample.c, sample.whole = make_inputs(sample.c), sample.cut);
  AttentionTensors tensors = sample.part.tensors();
  RingAttention ring(MPI_COMM_WORLD, sample.cut, tensors, sample.c.options);
  if (last_rank()) sample.part.inputs.sinks.set({1}, 5);
  check_on_all({"sinks is"}, [&] { ring.run(tensors); });
  CHECK(sample.part.outputs.out.untouched());
}

TEST_CASE("Ranks that call different functions") {
  if (mpi_size() == 1) return;
  Sample sample;
  AttentionTensors tensors = sample.part.tensors();
  RingAttention ring(MPI_COMM_WORLD, sample.cut, tensors, sample.c.options);
  ring.run(tensors);
  StridedTensor dq(DType::f32, tensors.q.shape);
  check_on_all({"the function is RingAttention::run on rank 0 and RingAttention::run_backward"},
               [&] {
                 if (last_rank())
                   ring.run_backward(tensors, {.dout = tensors.out, .dq = dq.view()});
                 else
                   ring.run(tensors);
               });
}

TEST_CASE("A function that throws on one rank stops all of them") {
  Sample sample;
  for (const int thrower : {0, mpi_size() - 1}) {
    std::atomic<bool> throws{true};
    sample.c.options.mask_mod = [&](const KeyRun& run, bool* visible) {
      // In the middle of the ring, while the others compute.
      if (throws && mpi_rank() == thrower) throw std::runtime_error("the model is gone");
      for (std::int64_t n = 0; n < run.count; ++n) visible[n] = true;
    };
    AttentionTensors tensors = sample.part.tensors();
    RingAttention ring(MPI_COMM_WORLD, sample.cut, tensors, sample.c.options);
    const std::string message =
        (mpi_size() == 1 ? "" : fmt::format("rank {}: ", thrower)) + "the model is gone";
    check_on_all({message}, [&] { ring.run(tensors); });
    StridedTensor dk(DType::f32, tensors.k.shape), dv(DType::f32, tensors.v.shape);
    check_on_all({message}, [&] {
      ring.run_backward(tensors, {.dout = tensors.out, .dk = dk.view(), .dv = dv.view()});
    });
    // The plan is as good as before.
    throws = false;
    ring.run(tensors);
  }
}

TEST_CASE("Others stop computing soon after a rank has failed") {
  if (mpi_size() == 1) return;
  // Entries of lengths of their own are pieces of their own. All of them would take seconds.
  Case c{.batch = 40, .q_len = 64, .kv_len = 64};
  c.kv_lens.assign(40, 64);
  const RingCut cut{SequenceCut::even(64, mpi_size()), SequenceCut::even(64, mpi_size())};
  std::atomic<std::int64_t> reached{0};
  c.options.mask_mod = [&](const KeyRun& run, bool* visible) {
    if (last_rank()) throw std::runtime_error("gone");
    reached = std::max(reached.load(), run.batch);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = true;
  };
  CallPart part(c, make_inputs(c), cut);
  AttentionTensors tensors = part.tensors();
  RingAttention ring(MPI_COMM_WORLD, cut, tensors, c.options, {.num_threads = 1});
  check_on_all({"gone"}, [&] { ring.run(tensors); });
  CHECK(reached < c.batch - 1);
}

TEST_CASE("Cuts that contradict themselves") {
  const auto refused = [](std::vector<std::vector<TokenRange>> ranges) {
    return error_of([&] { SequenceCut cut(std::move(ranges)); }, ErrorCode::invalid_argument);
  };
  CHECK(refused({{{0, 3}}, {{4, 5}}}).find("token 3 is owned by no rank") != std::string::npos);
  CHECK(refused({{{0, 3}}, {{2, 5}}}).find("token 2 is owned by two ranks") != std::string::npos);
  CHECK(refused({{{3, 5}, {0, 3}}}).find("need to ascend") != std::string::npos);
  CHECK(refused({{{1, 3}}}).find("token 0 is owned by no rank") != std::string::npos);
  CHECK(refused({}).find("it needs 1 or more") != std::string::npos);
  CHECK_THROWS_AS(SequenceCut::even(-1, 2), Error);
  CHECK_THROWS_AS(SequenceCut::zigzag(4, 0), Error);
  CHECK_THROWS_AS(SequenceCut::even(4, 2).ranges(2), Error);
  CHECK_THROWS_AS(SequenceCut::even(4, 2).truncate(5), Error);
}
