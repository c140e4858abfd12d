// What the ranks of a communicator find out together before and after they compute: whether one of
// them has failed, and whether their arguments are alike. All ranks take part in each exchange,
// those that have failed too, and all of them throw the same Error.
#pragma once

#include <attn/error.hpp>

#include <mpi.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace attn::mpi {

inline int rank_of(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}
inline int size_of(MPI_Comm comm) {
  int size = 1;
  MPI_Comm_size(comm, &size);
  return size;
}

/// An exception, in a form that can be sent.
struct Failure {
  ErrorCode code = ErrorCode::invalid_argument;
  std::string message;
};

/// The exception that is being handled.
Failure current_failure() noexcept;

/// Runs f and returns what it throws.
template <class F>
std::optional<Failure> attempt(F&& f) noexcept {
  try {
    std::forward<F>(f)();
    return std::nullopt;
  } catch (...) {
    return current_failure();
  }
}

/// Arguments that have to be the same on all ranks, by name, as texts. All ranks add the same names
/// in the same order; the first term names the function, so that different functions are found.
class Terms {
 public:
  void add(const char* name, std::string value) { terms_.emplace_back(name, std::move(value)); }
  /// Facts as bits, which ranks may see or not; the exchange unites those of all ranks.
  void add_facts(std::uint64_t bits) { facts_ |= bits; }

 private:
  friend class Exchange;

  std::vector<std::pair<std::string, std::string>> terms_;
  std::uint64_t facts_ = 0;
};

/// One MPI_Allgather of a few hundred bytes.
class Exchange {
 public:
  Exchange(MPI_Comm comm, std::optional<Failure> failure, Terms terms = {});

  bool failed(int rank) const noexcept { return said(rank, 0) != 0; }
  /// What any rank has seen.
  std::uint64_t facts() const noexcept;
  /// If a rank has failed, throws its Error on all ranks, the first rank's if several have; else
  /// throws if a term differs. A collective call.
  void conclude() const;

 private:
  /// A word that a rank has sent: whether it failed, its facts, then the hash of each term.
  std::uint64_t said(int rank, std::size_t word) const noexcept;
  [[noreturn]] void throw_failure() const;
  [[noreturn]] void throw_difference(std::size_t term, int rank) const;

  MPI_Comm comm_;
  std::optional<Failure> failure_;
  Terms terms_;
  std::vector<std::uint64_t> words_;
};

/// One exchange, concluded.
void agree(MPI_Comm comm, std::optional<Failure> failure, Terms terms = {});

}  // namespace attn::mpi
