#include "mpi/exchange.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace attn::mpi {
namespace {

constexpr std::int64_t most_bytes_at_once = std::int64_t{1} << 30;
constexpr int tag_of_notices = 1;

/// Calls f(offset, bytes) for each message of a large one; once for nothing.
template <class F>
void for_each_message(std::int64_t bytes, F&& f) {
  std::int64_t offset = 0;
  do {
    const std::int64_t count = std::min(most_bytes_at_once, bytes - offset);
    f(offset, count);
    offset += count;
  } while (offset < bytes);
}

}  // namespace

double seconds() noexcept {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Messages::send(int rank, int tag, const void* from, std::int64_t bytes, bool empty) {
  if (requests_.empty()) started_ = seconds();
  for_each_message(bytes, [&](std::int64_t offset, std::int64_t count) {
    MPI_Isend(static_cast<const std::byte*>(from) + offset, empty ? 0 : static_cast<int>(count),
              MPI_BYTE, rank, tag, comm_, &requests_.emplace_back(MPI_REQUEST_NULL));
    expected_.push_back(-1);
    statistics_.bytes_sent += empty ? 0 : count;
  });
}

void Messages::receive(int rank, int tag, void* to, std::int64_t bytes) {
  if (requests_.empty()) started_ = seconds();
  for_each_message(bytes, [&](std::int64_t offset, std::int64_t count) {
    MPI_Irecv(static_cast<std::byte*>(to) + offset, static_cast<int>(count), MPI_BYTE, rank, tag,
              comm_, &requests_.emplace_back(MPI_REQUEST_NULL));
    expected_.push_back(count);
  });
}

bool Messages::test() {
  if (requests_.empty()) return true;
  int arrived = 0;
  statuses_.resize(requests_.size());
  MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &arrived, statuses_.data());
  if (arrived != 0) note_end();
  return arrived != 0;
}

void Messages::wait() {
  if (requests_.empty()) return;
  statuses_.resize(requests_.size());
  MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses_.data());
  note_end();
}

void Messages::note_end() {
  for (std::size_t n = 0; n < requests_.size(); ++n) {
    if (expected_[n] < 0) continue;
    int count = 0;
    MPI_Get_count(&statuses_[n], MPI_BYTE, &count);
    statistics_.bytes_received += count;
    missed_ |= count != expected_[n];
  }
  requests_.clear();
  expected_.clear();
  if (timed_) statistics_.communication_seconds += seconds() - started_;
}

void Alarm::raise(Failure failure) {
  stop_ = true;
  if (failure_) return;
  failure_ = std::move(failure);
  for (int rank = 0; rank < size_of(comm_); ++rank) {
    if (rank == rank_of(comm_)) continue;
    MPI_Isend(nullptr, 0, MPI_BYTE, rank, tag_of_notices, comm_,
              &notices_.emplace_back(MPI_REQUEST_NULL));
  }
}

void Alarm::poll() {
  int there = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, tag_of_notices, comm_, &there, MPI_STATUS_IGNORE);
  if (there != 0) stop_ = true;
}

void Alarm::conclude() {
  const Exchange exchange(comm_, failure_);
  for (int rank = 0; rank < size_of(comm_); ++rank) {
    if (rank == rank_of(comm_) || !exchange.failed(rank)) continue;
    MPI_Recv(nullptr, 0, MPI_BYTE, rank, tag_of_notices, comm_, MPI_STATUS_IGNORE);
  }
  MPI_Waitall(static_cast<int>(notices_.size()), notices_.data(), MPI_STATUSES_IGNORE);
  exchange.conclude();
}

}  // namespace attn::mpi
