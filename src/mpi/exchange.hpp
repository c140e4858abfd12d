// The messages of a run of the ring: blocks that go round, and the notice that a rank has failed.
#pragma once

#include <attn/mpi.hpp>

#include <mpi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "mpi/agreement.hpp"

namespace attn::mpi {

/// Messages to and from other ranks that are on their way together. What is large is divided, since
/// MPI counts with int. A rank that has failed sends empty messages in their place.
class Messages {
 public:
  /// With `timed`, the time until they have arrived counts as communication.
  Messages(MPI_Comm comm, RingStatistics& statistics, bool timed = true)
      : comm_(comm), statistics_(statistics), timed_(timed) {}
  /// Their memory is in use until all have arrived.
  ~Messages() { wait(); }
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;

  void send(int rank, int tag, const void* from, std::int64_t bytes, bool empty);
  void receive(int rank, int tag, void* to, std::int64_t bytes);
  /// Whether all have arrived.
  bool test();
  void wait();
  /// Whether an empty message came in the place of one with content.
  bool missed() const noexcept { return missed_; }

 private:
  void note_end();

  MPI_Comm comm_;
  RingStatistics& statistics_;
  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> statuses_;
  std::vector<std::int64_t> expected_;  // bytes of what is received; -1 for what is sent
  bool timed_;
  double started_ = 0;
  bool missed_ = false;
};

/// Whether a rank has failed in this run, and how the others come to know.
class Alarm {
 public:
  explicit Alarm(MPI_Comm comm) : comm_(comm) {}

  /// Tells all ranks, once.
  void raise(Failure failure);
  /// Looks for notices of others.
  void poll();
  /// Something that another rank has failed to send.
  void note_missing() noexcept { stop_ = true; }
  /// Pieces of work look here.
  const std::atomic<bool>& stop() const noexcept { return stop_; }
  /// The end of the run on all ranks: throws the Error of the first rank that has failed.
  void conclude();

 private:
  MPI_Comm comm_;
  std::optional<Failure> failure_;
  std::atomic<bool> stop_{false};
  std::vector<MPI_Request> notices_;
};

/// Seconds since some time in the past.
double seconds() noexcept;

/// Adds the time until it ends to a number.
class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), started_(seconds()) {}
  ~Stopwatch() { total_ += seconds() - started_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_;
  double started_;
};

}  // namespace attn::mpi
