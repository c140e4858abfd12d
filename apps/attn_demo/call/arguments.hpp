// What the command line says about an attention call: its input files and its options.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/support/call_options.hpp"
#include "apps/support/normalizer_option.hpp"
#include "apps/support/option_names.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {

/// The order of a tensor's dims in its file.
enum class Layout {
  bhsd,          // [batch, heads, seq, dim]
  bshd,          // [batch, seq, heads, dim]
  merged_heads,  // [batch, seq, heads * dim]: rank 3
};

struct CallArguments {
  std::optional<std::string> q, k, v, past_k, past_v, mask, alibi, sinks, kv_lens;  // files
  std::optional<Layout> layout;
  std::optional<std::int64_t> heads, kv_heads;
  TypeChoice types;
  NormalizerChoice normalizer;
  AttentionOptions options;  // without the normalizer
  Execution execution;
};

/// The options that messages about a call name instead of the library's parameters. Q, K, V and O
/// have the same names in both.
inline constexpr OptionName call_option_names[] = {{"softmax_scale", "--scale"},
                                                   {"softcap", "--softcap"},
                                                   {"causal offset", "--causal-offset"},
                                                   {"q_position", "--q-position"},
                                                   {"mask", "--mask"},
                                                   {"alibi_slopes", "--alibi"},
                                                   {"sinks", "--sinks"},
                                                   {"kv_lens", "--kv-lens"},
                                                   {"lse", "--lse"},
                                                   {"score_matmul", "--score-matmul"},
                                                   {"dout", "--dout"},
                                                   {"dlse", "--dlse"},
                                                   {"dmask", "--dmask"},
                                                   {"dalibi", "--dalibi"},
                                                   {"dsinks", "--dsinks"}};

/// Adds --layout.
CLI::Option* add_layout_option(CLI::App& command, std::optional<Layout>& layout);
/// Adds --q, --k and the options that say how the inputs are laid out. Returns all of them.
std::vector<CLI::Option*> add_query_and_key_files(CLI::App& command, CallArguments& arguments);
/// Adds these and --v. Returns all of them, --q, --k and --v first.
std::vector<CLI::Option*> add_current_files(CLI::App& command, CallArguments& arguments);
/// Makes --q, --k and --v required, with which the options begin.
void require_tensors(std::span<CLI::Option* const> current_files);
/// Adds these, and the files of earlier keys and values. Returns all of them.
std::vector<CLI::Option*> add_input_files(CLI::App& command, CallArguments& arguments);
/// Adds the options that determine the probabilities: masks, scores and the normalizer.
void add_probability_options(CLI::App& command, CallArguments& arguments);
/// Adds the type that the engine runs in, whose matmuls, threads and ISA it takes.
void add_engine_options(CLI::App& command, CallArguments& arguments);
/// Adds both, and the type and the pages of a cache.
void add_call_options(CLI::App& command, CallArguments& arguments);

}  // namespace attn::apps::demo
