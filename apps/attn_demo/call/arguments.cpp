#include "arguments.hpp"

namespace attn::apps::demo {
namespace {

/// An option without a value gives an empty text.
Causal causal_value(std::string_view option, std::string_view text) {
  if (text.empty()) return {};
  return choice_value<Causal>(
      option, text, {{"bottom-right", Causal::bottom_right()}, {"top-left", Causal::top_left()}});
}

QueryPosition position_value(std::string_view option, std::string_view text) {
  if (text == "bottom-right") return QueryPosition::bottom_right();
  if (text == "top-left") return QueryPosition::top_left();
  const std::string needed = fmt::format("bottom-right, top-left or an integer in {}..{}",
                                         IntegerRange().min, IntegerRange().max);
  const std::vector<std::int64_t> numbers = integers_value(option, text, needed);
  if (numbers.size() != 1) reject_value(option, text, needed);
  return QueryPosition::at(numbers[0]);
}

void add_mask_options(CLI::App& command, CallArguments& arguments) {
  AttentionOptions& options = arguments.options;
  auto* const causal = add_value(
      command, "--causal PRESET",
      "hide later keys: bottom-right or top-left; without a value, queries stand where "
      "--q-position says, else bottom-right",
      [&options](auto option, auto text) { options.causal = causal_value(option, text); });
  causal->expected(0, 1);
  add_value(command, "--causal-offset N", "hide keys j > i + N from query i",
            [&options](auto option, auto text) {
              options.causal = Causal::with_offset(integer_value(option, text));
            })
      ->excludes(causal);
  add_value(
      command, "--q-position P",
      "where the first query stands on the axis of keys: bottom-right (default), top-left or "
      "an integer; windows and ALiBi measure from there",
      [&options](auto option, auto text) { options.q_position = position_value(option, text); });
  add_window_option(command, options.window);
  add_file(command, "--mask FILE", arguments.mask,
           "booleans (true is visible) or floats (added to the scores)");
  add_file(command, "--kv-lens FILE", arguments.kv_lens,
           "integers [batch]: the number of visible keys of each batch entry");
  set_help_group(command, "Masks");
}

void add_score_options(CLI::App& command, CallArguments& arguments) {
  add_number(command, "--scale X", arguments.options.softmax_scale, any_number,
             "factor of the scores; default 1 / sqrt(dim)");
  add_number(command, "--softcap C", arguments.options.softcap, positive,
             "scores s become C * tanh(s / C)");
  add_file(command, "--alibi FILE", arguments.alibi, "ALiBi slopes [heads]");
  add_file(command, "--sinks FILE", arguments.sinks,
           "one more score in the denominator of each row, [heads]");
  add_normalizer_options(command, arguments.normalizer);
  set_help_group(command, "Scores and probabilities");
}

void append(std::vector<CLI::Option*>& options, const std::vector<CLI::Option*>& more) {
  options.insert(options.end(), more.begin(), more.end());
}

std::vector<CLI::Option*> add_q_and_k(CLI::App& command, CallArguments& arguments) {
  auto* const q =
      add_file(command, "--q FILE", arguments.q, "queries: x.npy, or x.safetensors:NAME");
  return {q, add_file(command, "--k FILE", arguments.k, "keys")};
}

/// Adds --layout, --heads and --kv-heads.
std::vector<CLI::Option*> add_form_options(CLI::App& command, CallArguments& arguments) {
  const IntegerRange at_least_1{.min = 1};
  auto* const layout = add_layout_option(command, arguments.layout);
  auto* const heads = add_integer(command, "--heads H", arguments.heads, at_least_1,
                                  "query heads of rank-3 inputs [batch, seq, heads * dim]");
  auto* const kv_heads = add_integer(command, "--kv-heads HKV", arguments.kv_heads, at_least_1,
                                     "key and value heads of rank-3 inputs; default H");
  kv_heads->needs(heads);
  return {layout, heads, kv_heads};
}

}  // namespace

CLI::Option* add_layout_option(CLI::App& command, std::optional<Layout>& layout) {
  return add_choice(command, "--layout ORDER", layout,
                    {{"bhsd", Layout::bhsd}, {"bshd", Layout::bshd}},
                    "of rank-4 inputs: bhsd [batch, heads, seq, dim] (default) or bshd");
}

std::vector<CLI::Option*> add_query_and_key_files(CLI::App& command, CallArguments& arguments) {
  std::vector<CLI::Option*> options = add_q_and_k(command, arguments);
  append(options, add_form_options(command, arguments));
  return options;
}

std::vector<CLI::Option*> add_current_files(CLI::App& command, CallArguments& arguments) {
  std::vector<CLI::Option*> options = add_q_and_k(command, arguments);
  options.push_back(add_file(command, "--v FILE", arguments.v, "values"));
  append(options, add_form_options(command, arguments));
  return options;
}

void require_tensors(std::span<CLI::Option* const> current_files) {
  for (CLI::Option* const file : current_files.first(3)) file->required();
}

std::vector<CLI::Option*> add_input_files(CLI::App& command, CallArguments& arguments) {
  std::vector<CLI::Option*> options = add_current_files(command, arguments);
  auto* const past_k = add_file(command, "--past-k FILE", arguments.past_k,
                                "earlier keys, always [batch, kv_heads, past_len, dim]");
  auto* const past_v = add_file(command, "--past-v FILE", arguments.past_v, "earlier values");
  past_k->needs(past_v);
  past_v->needs(past_k);
  append(options, {past_k, past_v});
  set_help_group(command, "Inputs");
  return options;
}

void add_probability_options(CLI::App& command, CallArguments& arguments) {
  add_mask_options(command, arguments);
  add_score_options(command, arguments);
}

void add_engine_options(CLI::App& command, CallArguments& arguments) {
  add_dtype_option(command, arguments.types.dtype);
  add_score_matmul_option(command, arguments.options.score_matmul);
  add_execution_options(command, arguments.execution);
}

void add_call_options(CLI::App& command, CallArguments& arguments) {
  add_probability_options(command, arguments);
  add_type_options(command, arguments.types);
  add_score_matmul_option(command, arguments.options.score_matmul);
  add_execution_options(command, arguments.execution);
  set_help_group(command, "Types, cache and execution");
}

}  // namespace attn::apps::demo
