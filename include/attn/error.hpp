// Errors: what every function of the library throws when it cannot do what it was asked.
#pragma once

#include <stdexcept>
#include <string>

namespace attn {

enum class ErrorCode {
  invalid_argument,  // the call contradicts itself or its tensors: change the call
  unsupported,       // the call is well formed, but this build or processor cannot run it
  exhausted,         // a cache is full: free something, or make it larger
  io,                // a file cannot be read or written, or does not hold what it says
};

/// Thrown before anything has been written. The message names the tensor or option, the dimension,
/// what it got and what it needs.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace attn
