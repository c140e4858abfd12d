#include <attn/mpi.hpp>

#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "mpi/compute.hpp"
#include "tensor/checks.hpp"

namespace attn {
namespace {

using namespace mpi;

/// The states of all ranks, each of which has its lse in f64, then its rows of O in f32.
class GatheredStates {
 public:
  GatheredStates(MPI_Comm comm, const Dims& out_shape)
      : comm_(comm), shape_(out_shape), rows_(out_shape.begin(), out_shape.rank() - 1) {
    // MPI counts with int, so a row is an element.
    if (rows_.product() > std::numeric_limits<int>::max() ||
        bytes_of_row() > std::numeric_limits<int>::max()) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("q has {} rows; tree_attention exchanges at most 2^31 - 1 rows of as "
                              "many bytes",
                              rows_.product()));
    }
    bytes_ = rows_.product() * bytes_of_row();
    memory_ = Tensor(DType::i8, {bytes_ * mpi::size_of(comm)});
  }

  /// Each rank's state goes to all. A collective call.
  void gather(const AttentionState& own) {
    const AttentionState to = state(rank_of(comm_));
    copy_into(own.out, to.out);
    copy_into(own.lse, to.lse);
    MPI_Datatype row = MPI_DATATYPE_NULL;
    MPI_Type_contiguous(static_cast<int>(bytes_of_row()), MPI_BYTE, &row);
    MPI_Type_commit(&row);
    const int rows = static_cast<int>(rows_.product());
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, memory_.data(), rows, row, comm_);
    MPI_Type_free(&row);
  }

  AttentionState state(int rank) {
    auto* const first = static_cast<std::byte*>(memory_.data()) + rank * bytes_;
    return {MutableTensorView(first + rows_.product() * 8, DType::f32, shape_),
            MutableTensorView(first, DType::f64, rows_)};
  }

 private:
  /// Of O and lse; a multiple of 8, so that the lse of the next rank is aligned.
  std::int64_t bytes_of_row() const noexcept { return (shape_[3] + 1) / 2 * 8 + 8; }

  MPI_Comm comm_;
  Dims shape_, rows_;
  std::int64_t bytes_ = 0;  // of a rank
  Tensor memory_;
};

/// q_len is the same on all ranks.
RingCut cut_of(const SequenceCut& keys, const AttentionTensors& tensors) {
  const std::int64_t q_len = tensors.q.rank() == 4 ? tensors.q.shape[2] : 0;
  std::vector<std::vector<TokenRange>> first_has_all(static_cast<std::size_t>(keys.num_ranks()));
  first_has_all[0] = {{0, q_len}};
  return {SequenceCut(std::move(first_has_all)), keys};
}

}  // namespace

void tree_attention(MPI_Comm comm, const SequenceCut& keys, const AttentionTensors& tensors,
                    const AttentionOptions& options, const Execution& execution) {
  std::optional<CutCall> call;
  std::optional<ForwardSum> sum;
  std::optional<GatheredStates> states;
  Terms terms;
  std::optional<Failure> failure = attempt([&] {
    if (keys.num_ranks() != mpi::size_of(comm))
      detail::reject(fmt::format("the cut of keys is for {} ranks; the communicator has {}",
                                 keys.num_ranks(), mpi::size_of(comm)));
    const RingCut cut = cut_of(keys, tensors);
    const PartOfCut part{cut, 0, rank_of(comm)};
    call.emplace(checked_call(tensors, options, execution, part, KeyTypes::any));
    check_data(*call, tensors);
    call->geometry.kv_lens = lengths_of(*call, tensors);
    terms = terms_of("tree_attention", *call, part);
    add_data_terms(tensors, terms);
    sum.emplace(*call, tensors);
    states.emplace(comm, call->out_shape());
    // What the rank computes is its own, and a failure of it still is known before the exchange.
    const KeyBlock block{.k = tensors.k,
                         .v = tensors.v,
                         .k_scales = tensors.storage.k_scales,
                         .v_scales = tensors.storage.v_scales};
    const std::atomic<bool> never{false};
    const std::vector<Unit> units =
        units_of(call->geometry, cut.queries.ranges(0), keys.ranges(rank_of(comm)));
    sum->add(pieces_of(units, call->heads), block, never);
  });
  agree(comm, std::move(failure), std::move(terms));
  states->gather(sum->state());
  std::vector<ConstAttentionState> parts;
  parts.reserve(static_cast<std::size_t>(mpi::size_of(comm)));
  for (int rank = 0; rank < mpi::size_of(comm); ++rank) parts.push_back(states->state(rank));
  merge_with_sinks(std::move(parts), tensors, call->execution);
}

}  // namespace attn
