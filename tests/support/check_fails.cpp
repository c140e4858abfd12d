#include "support/check_fails.hpp"

#include <doctest/doctest.h>

namespace attn::test {

void check_fails(ErrorCode code, const std::vector<std::string>& fragments,
                 const std::function<void()>& run) {
  Error error(ErrorCode::io, "no error");
  try {
    run();
  } catch (const Error& thrown) {
    error = thrown;
  }
  const std::string message = error.what();
  CAPTURE(message);
  CHECK(error.code() == code);
  for (const std::string& fragment : fragments) {
    CAPTURE(fragment);
    CHECK(message.find(fragment) != std::string::npos);
  }
}

std::string refusal(const std::function<void()>& run, ErrorCode code) {
  try {
    run();
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(error.code() == code);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return {};
}

}  // namespace attn::test
