#include "outputs.hpp"

#include <attn/io.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>

#include "apps/support/options.hpp"

namespace attn::apps::demo {

namespace {

/// Whether outputs are being renamed to their names, of which all are to appear or none.
std::atomic<bool> committing{false};
std::atomic<int> pending_signal{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

/// Ends the program as the signal would have ended it: its own action is the default again, and it
/// is delivered when this function returns.
void end_by_signal(int signal) {
  if (committing && signal != SIGSEGV && signal != SIGBUS && signal != SIGABRT) {
    pending_signal = signal;
    return;
  }
  remove_unfinished_outputs();
  raise(signal);
}

/// In a .safetensors file a tensor has the name of its option, with underscores.
std::string tensor_name(const char* option) {
  std::string name(option + std::string_view("--").size());
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace

void remove_outputs_on_signals() {
  constexpr std::array ends_programs = {SIGHUP,  SIGINT,  SIGQUIT,  SIGABRT, SIGBUS,
                                        SIGSEGV, SIGTERM, SIGALRM,  SIGUSR1, SIGUSR2,
                                        SIGXCPU, SIGPROF, SIGVTALRM};
  struct sigaction action {};
  action.sa_handler = end_by_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigfillset(&action.sa_mask);
  for (const int signal : ends_programs) {
    struct sigaction present {};
    const bool by_default =
        sigaction(signal, nullptr, &present) == 0 && present.sa_handler == SIG_DFL;
    if (by_default) sigaction(signal, &action, nullptr);
  }
}

void require_suffix(const char* option, const std::string& file, std::string_view suffix) {
  if (!file.ends_with(suffix) && !file.starts_with("/dev/"))
    reject_value(option, file, fmt::format("a name that ends in {}", suffix));
}

MutableTensorView Outputs::make(const char* option, const std::optional<std::string>& file,
                                DType dtype, const Dims& shape) {
  if (!file) return {};
  add(option, *file, dtype);
  outputs_.push_back({*file, tensor_name(option), Tensor(dtype, shape)});
  return outputs_.back().tensor.view();
}

void Outputs::add(const char* option, const std::string& file, DType dtype) {
  if (dtype == DType::bf16 && !file.ends_with(".safetensors"))
    reject_value(option, file, "a name that ends in .safetensors: .npy has no bf16");
  files_.add(file);
}

void Outputs::write(const char* option, const std::string& file, DType dtype, const Dims& shape,
                    const std::function<TensorView()>& next) {
  files_.write(file, dtype, shape, next, tensor_name(option));
}

void Outputs::commit() {
  for (const Output& output : outputs_)
    files_.write(output.file, output.tensor.view(), output.name);
  committing = true;
  try {
    files_.commit();
  } catch (...) {
    committing = false;
    throw;
  }
  committing = false;
  if (pending_signal != 0) raise(pending_signal);
}

}  // namespace attn::apps::demo
