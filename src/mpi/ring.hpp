// One run of the ring on one rank. In step s the rank has the block of the rank s places before it,
// sends it to the next rank, and receives the next block from the rank before:
//
//   for s = 0, 1, ...
//     send block s on, if a later rank needs it; receive block s + 1, if this rank or a later one
//     does compute with block s meanwhile wait
//
// A received block lies in one of two buffers in turn: the block of step s is sent and read from
// the one while that of step s + 1 arrives in the other.
//
// In the backward pass, dK and dV of a block follow it, a step behind: they are complete only when
// the rank has computed with the block. A rank's share of those of its own block stays at home.
//
//     for s = 1, 2, ...
//       compute the rank's share of dK and dV of block s
//       add what the rank before has sent, and send the sum to the next rank, or home from the last
//
// So that each message has a computation to hide behind, a rank computes with half of the heads of
// its own block first, while the first block is on its way, and with the other half last, while dK
// and dV are on their way home.
#pragma once

#include <attn/mpi.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "mpi/call.hpp"
#include "mpi/compute.hpp"
#include "mpi/exchange.hpp"
#include "mpi/pieces.hpp"

namespace attn::mpi {

/// Memory that a plan keeps from run to run.
struct RingMemory {
  Tensor blocks[2];     // K and V that came by
  Tensor gradients[5];  // of dK and dV
  Tensor& block(std::size_t number, std::int64_t bytes);
  Tensor& gradient(std::size_t number, std::int64_t count);
};

/// What all steps of a run have in common.
struct RingRun {
  /// `lengths` are those of kv_lens, if the call has any.
  RingRun(MPI_Comm communicator, const RingCut& whole, const CutCall& checked,
          std::vector<std::int64_t> lengths);
  RingRun(const RingRun&) = delete;
  RingRun& operator=(const RingRun&) = delete;

  MPI_Comm comm;
  int rank, size;
  const RingCut& cut;
  const CutCall& call;
  CallGeometry geometry;  // with the lengths of the run
  std::vector<int> last;  // for each owner of a block, the last step at which it is needed
  Alarm alarm;
  RingStatistics statistics{};

  int owner(int step) const noexcept { return (rank + size - step % size) % size; }
  int next() const noexcept { return (rank + 1) % size; }
  int previous() const noexcept { return (rank + size - 1) % size; }
  /// The last step at which the block of this step is needed.
  int last_of(int step) const noexcept { return last[static_cast<std::size_t>(owner(step))]; }
  /// Whether the block of a step comes by: this rank or a later one needs it.
  bool has_block(int step) const noexcept { return step < size && step <= last_of(step); }
  /// What this rank computes with the block of a step.
  std::vector<Piece> pieces(int step, std::int64_t least = 1) const {
    return pieces_of(units_of(geometry, cut.queries.ranges(rank), cut.keys.ranges(owner(step))),
                     call.heads, least);
  }
  /// Runs f; a failure is told to all ranks.
  template <class F>
  void guarded(F&& f) {
    if (std::optional<Failure> failure = attempt(std::forward<F>(f)))
      alarm.raise(std::move(*failure));
  }
};

/// Blocks of K and V on their way round.
class BlockRing {
 public:
  BlockRing(RingRun& run, RingMemory& memory, const TensorView& k, const TensorView& v);

  /// The block of the present step.
  const KeyBlock& block() const noexcept { return block_; }
  /// Starts to send the block of a step on and to receive the next one.
  void start(int step, Messages& messages);
  /// After start() and the arrival of all messages: the next block is the present one.
  void advance(int step);

 private:
  /// K, then V, of a rank in a buffer.
  KeyBlock block_in(std::size_t buffer, int owner) const;
  void hold(bool more);

  RingRun& run_;
  RingMemory& memory_;
  TensorView k_, v_;  // for types and dims
  KeyBlock block_;
  bool in_buffer_ = false;  // the present block
  std::int64_t held_ = 0;   // buffers in use
};

/// Sums of dK and dV on their way round and home.
class GradientRing {
 public:
  GradientRing(RingRun& run, RingMemory& memory, bool dk, bool dv);

  /// The rank's share of its own block: zeros at first.
  KeyGradients own();
  /// Zeros, for the rank's share of the block of a step from 1 on.
  KeyGradients start(int step);
  /// Adds what the rank before has sent, and sends the sum on.
  void finish(int step);
  /// Adds what the other ranks have sent home to the rank's own share, which is then complete.
  void come_home();
  void poll();

 private:
  /// Numbers of RingMemory::gradients. What has been computed in a step is sent during the next.
  enum Place : std::size_t { even_step, odd_step, from_before, from_others, at_home };
  float* values(std::size_t place) { return memory_.gradients[place].data<float>(); }
  KeyGradients views(const Tensor& memory, int owner) const;
  std::int64_t count_of(int owner) const;

  RingRun& run_;
  RingMemory& memory_;
  bool dk_, dv_;
  Messages incoming_, outgoing_, homecoming_;
};

/// A run of which everything is checked and allocated. After the agreement of all ranks, steps()
/// takes part in all communication whatever happens.
class ForwardRun {
 public:
  ForwardRun(RingRun& run, RingMemory& memory, const AttentionTensors& tensors);
  void steps();

 private:
  RingRun& run_;
  const AttentionTensors& tensors_;
  BlockRing ring_;
  ForwardSum sum_;
};

class BackwardRun {
 public:
  BackwardRun(RingRun& run, RingMemory& memory, const AttentionTensors& tensors,
              const AttentionGradients& gradients, bool mask_has_own_rows);
  void steps();
  /// Sums gradients that all ranks share, in the order of the ranks, when none has failed.
  void reduce();

 private:
  void step(int step, std::span<const Piece> pieces, const KeyGradients& share);
  /// Computes pieces of a block, and polls meanwhile.
  void compute(std::span<const Piece> pieces, const KeyBlock& block, const KeyGradients& share,
               Messages& messages);

  RingRun& run_;
  const AttentionGradients& gradients_;
  bool mask_has_own_rows_;
  KeyBlock own_block_;
  BlockRing ring_;
  GradientRing key_gradients_;
  BackwardSum sum_;
  std::vector<double> dsinks_;
};

}  // namespace attn::mpi
