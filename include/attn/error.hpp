// The exception that the functions of the library throw.
#pragma once

#include <attn/export.hpp>

#include <stdexcept>
#include <string>

namespace attn {

enum class ErrorCode {
  invalid_argument,  // the arguments contradict each other or are out of range: change the call
  unsupported,       // the call is valid, but this build or processor cannot run it
  exhausted,         // a cache is full: remove sequences from it, or make it larger
  io,                // a file cannot be read or written, or its content is not valid
};

/// The library's error. A function throws it before it writes to any output. The message names the
/// tensor or option, the dim, its value and the value that it needs. Besides, a function throws
/// std::bad_alloc if memory runs out, and passes on what a function of the caller, such as a
/// ScoreMod, throws.
class ATTN_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace attn
