#include "call_options.hpp"

#include <attn/error.hpp>

#include <algorithm>

#include "apps/support/option_values.hpp"

namespace attn::apps::demo {
namespace {

/// More threads than any machine of today has processors: a slip of the keyboard, which OpenMP
/// would not survive.
constexpr std::int64_t max_threads = 1024;

constexpr std::int64_t largest_page = std::int64_t{1} << 20;

/// An empty text says no position: that of --q-position, or bottom-right.
Causal causal_value(std::string_view option, std::string_view text) {
  if (text.empty()) return {};
  return choice_value<Causal>(
      option, text, {{"bottom-right", Causal::bottom_right()}, {"top-left", Causal::top_left()}});
}

QueryPosition position_value(std::string_view option, std::string_view text) {
  if (text == "bottom-right") return QueryPosition::bottom_right();
  if (text == "top-left") return QueryPosition::top_left();
  return QueryPosition::at(integer_value(option, text));
}

Window window_value(std::string_view option, std::string_view text) {
  constexpr std::string_view needed = "L,R: two integers of at least 0, or -1 for unlimited";
  const Dims sides = integers_value(option, text, needed);
  if (sides.rank() != 2 || *std::min_element(sides.begin(), sides.end()) < -1)
    reject_value(option, text, needed);
  const auto side = [&](int n) { return sides[n] == -1 ? std::nullopt : std::optional(sides[n]); };
  return {side(0), side(1)};
}

float softcap_value(std::string_view option, std::string_view text) {
  const float value = float_value(option, text);
  if (value <= 0) reject_value(option, text, "a number above 0");
  return value;
}

Isa isa_value(const std::string& text) {
  const Isa isa = isa_from_name(text);
  const std::vector<Isa> available = available_isas();
  if (std::find(available.begin(), available.end(), isa) == available.end()) {
    throw Error(ErrorCode::unsupported,
                "--isa " + text +
                    ": this build or processor cannot run it; attn_demo info lists what it can");
  }
  return isa;
}

void add_mask_options(CLI::App& command, CallArguments& arguments) {
  AttentionOptions& options = arguments.options;
  auto* const causal = add_value(
      command, "--causal", "PRESET", "hide later keys: bottom-right (if left out) or top-left",
      [&](auto option, auto text) { options.causal = causal_value(option, text); });
  causal->expected(0, 1)->default_str("bottom-right");
  add_value(command, "--causal-offset", "N", "hide keys j > i + N from query i",
            [&](auto option, auto text) {
              options.causal = Causal::with_offset(integer_value(option, text));
            })
      ->excludes(causal);
  add_value(command, "--q-position", "P",
            "where the first query stands on the axis of keys: bottom-right (default), top-left or "
            "an integer; windows and ALiBi measure from there",
            [&](auto option, auto text) { options.q_position = position_value(option, text); });
  add_value(command, "--window", "L,R",
            "hide keys further left or right of a query's position than this; -1 is unlimited",
            [&](auto option, auto text) { options.window = window_value(option, text); });
  add_file(command, "--mask", arguments.mask,
           "booleans (true is visible) or floats (added to the scores)");
  add_file(command, "--kv-lens", arguments.kv_lens,
           "integers [batch]: keys from there on are hidden");
}

void add_score_options(CLI::App& command, CallArguments& arguments) {
  AttentionOptions& options = arguments.options;
  add_value(command, "--scale", "X", "of the scores; default 1 / sqrt(dim)",
            [&](auto option, auto text) { options.softmax_scale = float_value(option, text); });
  add_value(command, "--softcap", "C", "scores s become C * tanh(s / C)",
            [&](auto option, auto text) { options.softcap = softcap_value(option, text); });
  add_file(command, "--alibi", arguments.alibi, "ALiBi slopes [heads]");
  add_file(command, "--sinks", arguments.sinks,
           "one more score in each row's denominator, [heads]");
}

void add_normalizer_options(CLI::App& command, CallArguments& arguments) {
  NormalizerChoice& choice = arguments.normalizer;
  add_value(command, "--normalizer", "NAME",
            "softmax (default), sigmoid, sparsemax, entmax15 or entmax: how scores become weights",
            [&](auto, auto text) { choice.name = text; });
  add_value(command, "--alpha", "A", "of entmax, at least 1: 1 is softmax, 2 sparsemax",
            [&](auto option, auto text) { choice.alpha = float_value(option, text); });
  add_value(command, "--sigmoid-bias", "X", "of sigmoid; default -log(number of keys)",
            [&](auto option, auto text) { choice.sigmoid_bias = float_value(option, text); });
}

void add_engine_options(CLI::App& command, CallArguments& arguments) {
  add_value(command, "--dtype", "TYPE",
            "f32 (default), bf16 or f16: what the inputs are converted to and the engine runs in",
            [&](auto option, auto text) {
              arguments.dtype = choice_value<DType>(
                  option, text, {{"f32", DType::f32}, {"bf16", DType::bf16}, {"f16", DType::f16}});
            });
  add_value(
      command, "--kv-dtype", "TYPE",
      "f32, bf16, f16 or i8: K and V are kept in a cache of this type; default --dtype",
      [&](auto option, auto text) {
        arguments.kv_dtype = choice_value<DType>(
            option, text,
            {{"f32", DType::f32}, {"bf16", DType::bf16}, {"f16", DType::f16}, {"i8", DType::i8}});
      });
  add_value(command, "--page-size", "N",
            "K and V are kept in a cache with pages of so many keys; 0: without pages",
            [&](auto option, auto text) {
              arguments.page_size = integer_value(option, text, 0, largest_page);
            });
  add_execution_options(command, arguments.execution.num_threads, arguments.execution.isa);
}

}  // namespace

CLI::Option* add_file(CLI::App& command, const std::string& option,
                      std::optional<std::string>& file, const std::string& description) {
  return add_value(command, option, "FILE", description, [&file](auto, auto text) { file = text; });
}

void add_execution_options(CLI::App& command, std::optional<int>& num_threads,
                           std::optional<Isa>& isa) {
  add_value(command, "--threads", "N", "default: OpenMP's number", [&](auto option, auto text) {
    num_threads = static_cast<int>(integer_value(option, text, 1, max_threads));
  });
  add_value(command, "--isa", "NAME", "which kernels; attn_demo info lists them",
            [&](auto, auto text) { isa = isa_value(text); });
}

std::vector<CLI::Option*> add_score_files(CLI::App& command, CallArguments& arguments) {
  auto* const q = add_file(command, "--q", arguments.q, "queries: x.npy, or x.safetensors:NAME");
  auto* const k = add_file(command, "--k", arguments.k, "keys");
  auto* const layout =
      add_value(command, "--layout", "ORDER",
                "of rank-4 inputs: bhsd [batch, heads, seq, dim] (default) or bshd",
                [&](auto option, auto text) {
                  arguments.layout = choice_value<Layout>(
                      option, text, {{"bhsd", Layout::bhsd}, {"bshd", Layout::bshd}});
                });
  auto* const heads =
      add_value(command, "--heads", "H", "query heads of rank-3 inputs [batch, seq, heads * dim]",
                [&](auto option, auto text) { arguments.heads = integer_value(option, text, 1); });
  auto* const kv_heads = add_value(
      command, "--kv-heads", "HKV", "their key and value heads; default H",
      [&](auto option, auto text) { arguments.kv_heads = integer_value(option, text, 1); });
  kv_heads->needs(heads);
  return {q, k, layout, heads, kv_heads};
}

std::vector<CLI::Option*> add_input_files(CLI::App& command, CallArguments& arguments) {
  std::vector<CLI::Option*> options = add_score_files(command, arguments);
  auto* const v = add_file(command, "--v", arguments.v, "values");
  auto* const past_k = add_file(command, "--past-k", arguments.past_k,
                                "earlier keys, always [batch, kv_heads, past_len, dim]");
  auto* const past_v = add_file(command, "--past-v", arguments.past_v, "earlier values");
  past_k->needs(past_v);
  past_v->needs(past_k);
  options.insert(options.end(), {v, past_k, past_v});
  return options;
}

void add_weight_options(CLI::App& command, CallArguments& arguments) {
  add_mask_options(command, arguments);
  add_score_options(command, arguments);
  add_normalizer_options(command, arguments);
}

void add_call_options(CLI::App& command, CallArguments& arguments) {
  add_weight_options(command, arguments);
  add_engine_options(command, arguments);
}

}  // namespace attn::apps::demo
