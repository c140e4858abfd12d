#include "ring.hpp"

#include <attn/mpi.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <vector>

#include "apps/support/options.hpp"
#include "apps/support/quantities.hpp"
#include "apps/support/random.hpp"
#include "apps/support/timing.hpp"

namespace attn::apps::bench {
namespace {

const MPI_Comm comm = MPI_COMM_WORLD;

int own_rank() {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}
int num_ranks() {
  int size = 1;
  MPI_Comm_size(comm, &size);
  return size;
}

/// This rank's part of a case: random values.
class Part {
 public:
  Part(const Case& shape, const RingCut& cut)
      : q_(random(
            {shape.batch, shape.num_q_heads, cut.queries.num_tokens(own_rank()), shape.head_dim},
            shape, 1)),
        k_(random(
            {shape.batch, shape.num_kv_heads, cut.keys.num_tokens(own_rank()), shape.head_dim},
            shape, 2)),
        v_(random(
            {shape.batch, shape.num_kv_heads, cut.keys.num_tokens(own_rank()), shape.v_head_dim},
            shape, 3)),
        dout_(random(
            {shape.batch, shape.num_q_heads, cut.queries.num_tokens(own_rank()), shape.v_head_dim},
            shape, 4)),
        out_(shape.dtype, dout_.shape()),
        lse_(DType::f32, {shape.batch, shape.num_q_heads, q_.shape()[2]}),
        dq_(shape.dtype, q_.shape()),
        dk_(shape.dtype, k_.shape()),
        dv_(shape.dtype, v_.shape()) {}

  AttentionTensors tensors() {
    return {.q = std::as_const(q_).view(),
            .k = std::as_const(k_).view(),
            .v = std::as_const(v_).view(),
            .out = out_.view(),
            .lse = lse_.view()};
  }
  AttentionGradients gradients() {
    return {
        .dout = std::as_const(dout_).view(), .dq = dq_.view(), .dk = dk_.view(), .dv = dv_.view()};
  }
  std::int64_t bytes_of_block() const {
    return static_cast<std::int64_t>(k_.size_in_bytes() + v_.size_in_bytes());
  }

 private:
  static Tensor random(const Dims& shape, const Case& of, std::uint64_t stream) {
    return normal_tensor(shape, of.dtype, 10 * static_cast<std::uint64_t>(own_rank()) + stream);
  }

  Tensor q_, k_, v_, dout_, out_, lse_, dq_, dk_, dv_;
};

/// Seconds of a call on the slowest rank, at least one and as often as fits into min_time.
std::vector<double> time_on_all(const std::function<void()>& call, double min_time) {
  std::vector<double> seconds;
  double total = 0;
  do {
    MPI_Barrier(comm);
    const double started = MPI_Wtime();
    call();
    double own = MPI_Wtime() - started, slowest = 0;
    MPI_Allreduce(&own, &slowest, 1, MPI_DOUBLE, MPI_MAX, comm);
    seconds.push_back(slowest);
    total += slowest;
  } while (total < min_time);
  return seconds;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The messages of a ring without the computation: each rank's block goes all the way round.
double seconds_of_messages(std::int64_t bytes, double min_time) {
  const int size = num_ranks();
  if (size == 1) return 0;
  std::int64_t most = 0;
  MPI_Allreduce(&bytes, &most, 1, MPI_INT64_T, MPI_MAX, comm);
  constexpr std::int64_t at_once = 1 << 30;
  Tensor from(DType::i8, {most}), to(DType::i8, {most});
  const int next = (own_rank() + 1) % size, previous = (own_rank() + size - 1) % size;
  return median(time_on_all(
      [&] {
        for (int step = 0; step + 1 < size; ++step) {
          for (std::int64_t first = 0; first < most; first += at_once) {
            const auto count = static_cast<int>(std::min(at_once, most - first));
            MPI_Sendrecv(from.data<std::int8_t>() + first, count, MPI_BYTE, next, 0,
                         to.data<std::int8_t>() + first, count, MPI_BYTE, previous, 0, comm,
                         MPI_STATUS_IGNORE);
          }
        }
      },
      min_time));
}

/// What a rank did in a run, as numbers that MPI can send.
using Numbers = std::array<double, 8>;
Numbers numbers_of(const RingStatistics& s) {
  return {s.compute_seconds,
          s.wait_seconds,
          s.communication_seconds,
          static_cast<double>(s.bytes_sent),
          static_cast<double>(s.blocks_computed),
          static_cast<double>(s.blocks_skipped),
          static_cast<double>(s.most_blocks_held),
          s.hidden_share()};
}

struct Report {
  std::vector<double> seconds;
  double messages = 0;         // seconds of them alone
  std::vector<Numbers> ranks;  // of the last run
};

void print_json(const Case& shape, const Settings& settings, const Report& report, double gflops) {
  nlohmann::ordered_json line = {
      {"name", shape.name},
      {"dtype", name_of(shape.dtype)},
      {"ranks", num_ranks()},
      {"threads", settings.num_threads},
      {"median_ms", 1e3 * median(report.seconds)},
      {"min_ms", 1e3 * *std::min_element(report.seconds.begin(), report.seconds.end())},
      {"gflops", gflops},
      {"messages_alone_ms", 1e3 * report.messages}};
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const Numbers& n = report.ranks[rank];
    const auto whole = [](double number) { return static_cast<std::int64_t>(number); };
    line["per_rank"].push_back({{"rank", rank},
                                {"compute_ms", 1e3 * n[0]},
                                {"wait_ms", 1e3 * n[1]},
                                {"communication_ms", 1e3 * n[2]},
                                {"bytes_sent", whole(n[3])},
                                {"blocks_computed", whole(n[4])},
                                {"blocks_skipped", whole(n[5])},
                                {"most_blocks_held", whole(n[6])},
                                {"hidden_share", n[7]}});
  }
  fmt::print("{}\n", line.dump());
}

void print_table(const Case& shape, const Settings& settings, const Report& report, double gflops) {
  fmt::print("{}, {} ranks of {}: {:.3f} ms, {:.1f} GFLOP/s; the messages alone {:.3f} ms\n\n",
             shape.name, num_ranks(), format_threads(settings.num_threads),
             1e3 * median(report.seconds), gflops, 1e3 * report.messages);
  fmt::print("{:>4}{:>13}{:>10}{:>12}{:>10}{:>9}{:>9}\n", "rank", "compute ms", "wait ms", "sent",
             "computed", "skipped", "hidden");
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const Numbers& n = report.ranks[rank];
    fmt::print("{:>4}{:>13.3f}{:>10.3f}{:>12}{:>10.0f}{:>9.0f}{:>7.0f} %\n", rank, 1e3 * n[0],
               1e3 * n[1], format_bytes(n[3]), n[4], n[5], 100 * n[7]);
  }
}

void require_served(const Case& shape) {
  if (shape.kernel != Kernel::tiled || shape.cache || shape.documents ||
      shape.normalizer != Normalizer::softmax())
    reject(
        "--ring goes with --shape, --causal, --window, --backward and --dtype; --kernel, "
        "--kv-dtype, --page-size, --layout, --documents and --normalizer are for one process");
}

double flops_of(const Case& shape) {
  double pairs = 0;
  for (std::int64_t row = 0; row < shape.q_len; ++row) {
    const auto [begin, end] = shape.visible_keys(0, row);
    pairs += static_cast<double>(std::max<std::int64_t>(0, end - begin));
  }
  const auto heads = static_cast<double>(shape.batch * shape.num_q_heads);
  const auto dims = static_cast<double>(shape.head_dim + shape.v_head_dim);
  return (shape.backward ? 5.0 : 2.0) * heads * dims * pairs;
}

}  // namespace

void add_ring_option(CLI::App& app, bool& ring) {
  app.add_flag(
      "--ring", ring,
      "under mpirun: the sequence is cut over the ranks; what each computes, waits for and "
      "sends");
}

void measure_ring(const Case& shape, const Settings& settings, bool json) {
  require_served(shape);
  const auto cut_of = [&](std::int64_t length) {
    return shape.causal ? SequenceCut::zigzag(length, num_ranks())
                        : SequenceCut::even(length, num_ranks());
  };
  const RingCut cut{cut_of(shape.q_len), cut_of(shape.kv_len)};
  Part part(shape, cut);
  AttentionOptions options{.score_matmul = shape.score_matmul};
  if (shape.causal) options.causal = Causal::bottom_right();
  options.window = shape.window;
  RingAttention plan(
      comm, cut, part.tensors(), options,
      {.num_threads = settings.num_threads, .isa = settings.isa, .executor = settings.executor});
  plan.run(part.tensors());
  const auto call = [&] {
    if (shape.backward) return plan.run_backward(part.tensors(), part.gradients());
    plan.run(part.tensors());
  };
  call();
  Report report;
  report.seconds = time_on_all(call, settings.min_time);
  const Numbers own = numbers_of(plan.statistics());
  report.messages = seconds_of_messages(part.bytes_of_block(), settings.min_time / 2);
  report.ranks.resize(static_cast<std::size_t>(num_ranks()));
  MPI_Gather(own.data(), own.size(), MPI_DOUBLE, report.ranks.data(), own.size(), MPI_DOUBLE, 0,
             comm);
  if (own_rank() != 0) return;
  const double gflops = 1e-9 * flops_of(shape) / median(report.seconds);
  json ? print_json(shape, settings, report, gflops) : print_table(shape, settings, report, gflops);
}

}  // namespace attn::apps::bench
