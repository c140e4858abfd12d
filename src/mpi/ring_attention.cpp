// The story of a call over a cut sequence:
//
//   check      shapes, types and options, on each rank                call.cpp
//   agree      that no rank has failed, and that all mean the same    agreement.cpp
//   divide     pairs of stretches become calls of their own           division.cpp, pieces.cpp
//   steps      blocks go round; each rank computes with what it has   ring.cpp, exchange.cpp
//   add up     results and gradients                                  compute.cpp
//   conclude   that no rank has failed                                exchange.cpp
#include <attn/mpi.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "mpi/ring.hpp"
#include "tensor/checks.hpp"

namespace attn {
namespace {

using namespace mpi;

void require_ranks(MPI_Comm comm, const RingCut& cut) {
  for (const auto& [name, part] :
       {std::pair{"queries", &cut.queries}, std::pair{"keys", &cut.keys}}) {
    if (part->num_ranks() == mpi::size_of(comm)) continue;
    detail::reject(fmt::format("the cut of {} is for {} ranks; the communicator has {}", name,
                               part->num_ranks(), mpi::size_of(comm)));
  }
}

std::string presence_of(const AttentionGradients& gradients) {
  std::string text;
  for (const auto& [name, tensor] :
       {std::pair{"dlse", TensorView(gradients.dlse)}, std::pair{"dq", TensorView(gradients.dq)},
        std::pair{"dk", TensorView(gradients.dk)}, std::pair{"dv", TensorView(gradients.dv)},
        std::pair{"dmask", TensorView(gradients.dmask)},
        std::pair{"dalibi", TensorView(gradients.dalibi)},
        std::pair{"dsinks", TensorView(gradients.dsinks)}}) {
    if (!tensor.absent()) text += (text.empty() ? "" : ", ") + std::string(name);
  }
  return text.empty() ? "none" : text;
}

}  // namespace

double RingStatistics::hidden_share() const noexcept {
  if (communication_seconds <= 0) return 1;
  return std::clamp(1 - wait_seconds / communication_seconds, 0.0, 1.0);
}

struct RingAttention::Parts {
  MPI_Comm comm = MPI_COMM_NULL;
  RingCut cut;
  CutCall call;
  bool mask_has_own_rows = true;
  RingMemory memory{};
  RingStatistics statistics{};

  Parts(const RingCut& whole, CutCall checked) : cut(whole), call(std::move(checked)) {}
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;
  ~Parts() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (comm != MPI_COMM_NULL && finalized == 0) MPI_Comm_free(&comm);
  }

  int rank() const { return rank_of(comm); }
  /// Checks the data, and prepares what the steps of a run have in common. Throws Error.
  void start(const AttentionTensors& tensors, std::optional<RingRun>& run) const {
    check_data(call, tensors);
    run.emplace(comm, cut, call, lengths_of(call, tensors));
  }
};

RingAttention::RingAttention(MPI_Comm comm, const RingCut& cut, const AttentionTensors& tensors,
                             const AttentionOptions& options, const Execution& execution) {
  Terms terms;
  std::optional<Failure> failure = attempt([&] {
    require_ranks(comm, cut);
    const PartOfCut part{cut, rank_of(comm), rank_of(comm)};
    parts_ = std::make_unique<Parts>(
        cut, checked_call(tensors, options, execution, part, KeyTypes::floats));
    terms = terms_of("RingAttention", parts_->call, part);
  });
  const Exchange exchange(comm, std::move(failure), std::move(terms));
  exchange.conclude();
  if (exchange.facts() == (mask_has_own_rows | mask_has_one_row)) {
    detail::reject(
        "mask has one row for all queries on some ranks, and rows of their own queries on others");
  }
  // One row beside one query on every rank is the row of that query.
  parts_->mask_has_own_rows =
      (exchange.facts() & mask_has_one_row) == 0 && parts_->call.tensors.mask.rank() >= 2;
  MPI_Comm_dup(comm, &parts_->comm);
}

RingAttention::RingAttention(RingAttention&&) noexcept = default;
RingAttention& RingAttention::operator=(RingAttention&&) noexcept = default;
RingAttention::~RingAttention() = default;

RingAttention::Parts& RingAttention::parts() const {
  return detail::not_moved_from("ring attention", parts_);
}

void RingAttention::run(const AttentionTensors& tensors) {
  Parts& own = parts();
  std::optional<RingRun> run;
  std::optional<ForwardRun> forward;
  Terms terms;
  std::optional<Failure> failure = attempt([&] {
    own.start(tensors, run);
    forward.emplace(*run, own.memory, tensors);
    terms.add("the function", "RingAttention::run");
    add_data_terms(tensors, terms);
  });
  agree(own.comm, std::move(failure), std::move(terms));
  forward->steps();
  own.statistics = run->statistics;
  run->alarm.conclude();
}

void RingAttention::run_backward(const AttentionTensors& tensors,
                                 const AttentionGradients& gradients) {
  Parts& own = parts();
  std::optional<RingRun> run;
  std::optional<BackwardRun> backward;
  Terms terms;
  std::optional<Failure> failure = attempt([&] {
    check_gradients(own.call, gradients, {own.cut, own.rank(), own.rank()});
    check_data(gradients);
    own.start(tensors, run);
    backward.emplace(*run, own.memory, tensors, gradients, own.mask_has_own_rows);
    terms.add("the function", "RingAttention::run_backward");
    add_data_terms(tensors, terms);
    terms.add("the set of gradients", presence_of(gradients));
  });
  agree(own.comm, std::move(failure), std::move(terms));
  backward->steps();
  own.statistics = run->statistics;
  run->alarm.conclude();
  backward->reduce();
}

const RingStatistics& RingAttention::statistics() const { return parts().statistics; }

void run_collectively(MPI_Comm comm, const std::function<void()>& work) {
  Terms terms;
  terms.add("the function", "run_collectively");
  std::optional<Failure> failure = attempt(work);
  agree(comm, std::move(failure), std::move(terms));
}

void ring_attention(MPI_Comm comm, const RingCut& cut, const AttentionTensors& tensors,
                    const AttentionOptions& options, const Execution& execution) {
  RingAttention(comm, cut, tensors, options, execution).run(tensors);
}

}  // namespace attn
