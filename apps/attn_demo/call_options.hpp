// The inputs and options of a call, as the command line names them.
#pragma once

#include <attn/attention.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "normaliser_choice.hpp"

namespace attn::demo {

/// How a tensor lies in its file.
enum class Layout {
  bhsd,          // [batch, heads, seq, dim]
  bshd,          // [batch, seq, heads, dim]
  merged_heads,  // [batch, seq, heads * dim]: rank 3
};

struct CallArguments {
  std::optional<std::string> q, k, v, past_k, past_v, mask, alibi, sinks, kv_lens;  // files
  std::optional<Layout> layout;
  std::optional<std::int64_t> heads, kv_heads;
  DType dtype = DType::f32;
  std::optional<DType> kv_dtype;  // of a cache
  std::optional<std::int64_t> page_size;
  NormaliserChoice normaliser;
  Options options;  // but for the normaliser
};

/// Adds an option whose name and text go to `take`.
template <class Take>
CLI::Option* add_value(CLI::App& command, const std::string& option, const std::string& type, const std::string& description, Take take) {
  const auto callback = [option, take](const std::string& text) { take(option, text); };
  return command.add_option_function<std::string>(option, callback, description)->type_name(type);
}
/// Adds an option that names a file; an empty name is a name too.
CLI::Option* add_file(CLI::App& command, const std::string& option, std::optional<std::string>& file, const std::string& description);
/// Adds --threads and --isa.
void add_execution_options(CLI::App& command, std::optional<int>& num_threads, std::optional<Isa>& isa);
/// Adds the options that `run` and `compare` share, but for --q, --k and --v: those that say which call is made.
void add_call_options(CLI::App& command, CallArguments& arguments);
/// Adds --q, --k, --v, and what says how they are laid out and what comes before them. Returns all of these options.
std::vector<CLI::Option*> add_input_files(CLI::App& command, CallArguments& arguments);

}  // namespace attn::demo
