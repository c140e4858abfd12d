#include "mpi/agreement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <new>

namespace attn::mpi {
namespace {

/// All exchanges have the same size, so that ranks that call different functions find out.
constexpr std::size_t first_term = 2, words_of_rank = 40;
constexpr std::size_t longest_value = 200;  // in a message

/// FNV-1a.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// The text of one rank, on all ranks.
std::string broadcast(MPI_Comm comm, int root, std::string text) {
  auto size = static_cast<std::uint64_t>(text.size());
  MPI_Bcast(&size, 1, MPI_UINT64_T, root, comm);
  text.resize(size);
  MPI_Bcast(text.data(), static_cast<int>(size), MPI_CHAR, root, comm);
  return text;
}

std::string shortened(const std::string& value) {
  return value.size() <= longest_value ? value : value.substr(0, longest_value) + "...";
}

}  // namespace

Failure current_failure() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {ErrorCode::exhausted, "out of memory"};
  } catch (const std::exception& error) {
    return {ErrorCode::invalid_argument, error.what()};
  } catch (...) {
    return {ErrorCode::invalid_argument, "an exception that is no std::exception"};
  }
}

Exchange::Exchange(MPI_Comm comm, std::optional<Failure> failure, Terms terms)
    : comm_(comm), failure_(std::move(failure)), terms_(std::move(terms)) {
  std::array<std::uint64_t, words_of_rank> own{};
  own[0] = failure_ ? 1 : 0;
  own[1] = terms_.facts_;
  for (std::size_t n = 0; n < terms_.terms_.size(); ++n)
    own[first_term + n] = hash_of(terms_.terms_[n].first + '=' + terms_.terms_[n].second);
  words_.resize(words_of_rank * static_cast<std::size_t>(size_of(comm)));
  MPI_Allgather(own.data(), words_of_rank, MPI_UINT64_T, words_.data(), words_of_rank, MPI_UINT64_T,
                comm);
}

std::uint64_t Exchange::said(int rank, std::size_t word) const noexcept {
  return words_[static_cast<std::size_t>(rank) * words_of_rank + word];
}

std::uint64_t Exchange::facts() const noexcept {
  std::uint64_t all = 0;
  for (int rank = 0; rank < size_of(comm_); ++rank) all |= said(rank, 1);
  return all;
}

void Exchange::conclude() const {
  const int size = size_of(comm_);
  for (int rank = 0; rank < size; ++rank) {
    if (failed(rank)) throw_failure();
  }
  for (std::size_t term = first_term; term < words_of_rank; ++term) {
    for (int rank = 1; rank < size; ++rank) {
      if (said(rank, term) != said(0, term)) throw_difference(term - first_term, rank);
    }
  }
}

void Exchange::throw_failure() const {
  const int size = size_of(comm_);
  int first = size, count = 0;
  for (int rank = size - 1; rank >= 0; --rank) {
    if (!failed(rank)) continue;
    first = rank;
    ++count;
  }
  const bool own = rank_of(comm_) == first;
  auto code = static_cast<int>(own ? failure_->code : ErrorCode::invalid_argument);
  MPI_Bcast(&code, 1, MPI_INT, first, comm_);
  const std::string message = broadcast(comm_, first, own ? failure_->message : std::string());
  // What all ranks find wrong concerns none of them in particular.
  throw Error(static_cast<ErrorCode>(code),
              count == size ? message : fmt::format("rank {}: {}", first, message));
}

void Exchange::throw_difference(std::size_t term, int rank) const {
  const bool present = term < terms_.terms_.size();
  const std::string value = present ? shortened(terms_.terms_[term].second) : "missing";
  const std::string name = broadcast(comm_, 0, present ? terms_.terms_[term].first : "a term");
  const std::string first = broadcast(comm_, 0, value), other = broadcast(comm_, rank, value);
  throw Error(ErrorCode::invalid_argument,
              fmt::format("{} is {} on rank 0 and {} on rank {}; it needs to be the same on all "
                          "ranks",
                          name, first, other, rank));
}

void agree(MPI_Comm comm, std::optional<Failure> failure, Terms terms) {
  Exchange(comm, std::move(failure), std::move(terms)).conclude();
}

}  // namespace attn::mpi
