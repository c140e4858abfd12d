// Calls that have to be refused. No templates: a check takes a compiler long, and these stand in
// hundreds of places.
#pragma once

#include <attn/error.hpp>

#include <functional>
#include <string>
#include <vector>

namespace attn::test {

/// Runs what has to fail, and looks for these fragments of its message.
void check_fails(ErrorCode code, const std::vector<std::string>& fragments,
                 const std::function<void()>& run);

/// The message, one line, of the Error with this code that `run` throws. Empty if it throws none.
std::string refusal(const std::function<void()>& run, ErrorCode code = ErrorCode::io);

}  // namespace attn::test
