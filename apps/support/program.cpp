#include "program.hpp"

#include <attn/error.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

namespace attn::apps {
namespace {

constexpr int wrong_usage_or_input = 2;

/// Puts /dev/null in the place of standard streams that are closed. The next file to be opened
/// would otherwise become standard output or standard error, and receive what is printed there. As
/// before, what is written to such a stream fails, since it is opened for reading only.
void occupy_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(stream, F_GETFD) != -1 || errno != EBADF) continue;
    if (open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY) != stream)
      throw Error(ErrorCode::io, "a standard stream is closed, and /dev/null cannot be opened");
  }
}

/// Prints the message as exactly one line, whatever names of files or tensors it quotes.
int fail(const char* name, std::string message) {
  const auto control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  std::replace_if(message.begin(), message.end(), control, ' ');
  print_notice(fmt::format("{}: error: {}\n", name, message));
  return wrong_usage_or_input;
}

int run_or_fail(const char* name, int (*program)(int, char**), int argc, char** argv) {
  try {
    occupy_closed_streams();
    // A pipe that nobody reads and a file that may not grow are outputs that cannot be written, and
    // not reasons to be killed.
    for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
    const int code = program(argc, argv);
    flush_output();
    return code;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    return fail(name, error.what());
  }
}

}  // namespace

int run_program(const char* name, int (*program)(int argc, char** argv), int argc, char** argv) {
  try {
    return run_or_fail(name, program, argc, argv);
  } catch (const std::bad_alloc&) {
    // Memory can also run out while another error is put into words. This line needs none.
    std::fprintf(stderr, "%s: error: out of memory\n", name);
    return wrong_usage_or_input;
  }
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw Error(ErrorCode::io, "cannot write to standard output");
}

void print_notice(const std::string& text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace attn::apps
