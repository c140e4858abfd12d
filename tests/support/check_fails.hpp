// Calls that have to be refused.
#pragma once

#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace attn::test {

/// Runs what has to fail, and looks for words in its message.
template <class F>
void check_fails(ErrorCode code, const std::vector<std::string>& words, F&& run) {
  Error error(ErrorCode::io, "no error");
  try {
    run();
  } catch (const Error& thrown) {
    error = thrown;
  }
  const std::string message = error.what();
  CAPTURE(message);
  CHECK(error.code() == code);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(message.find(word) != std::string::npos);
  }
}

}  // namespace attn::test
