// attn_demo generate: text from a model, token by token.
#include <attn/attn.hpp>
#include <attn/error.hpp>
#include <attn/io.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <optional>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/models/model.hpp"
#include "apps/attn_demo/models/prompt.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/options.hpp"
#include "apps/support/program.hpp"
#include "apps/support/timing.hpp"
#include "batch.hpp"
#include "text_stream.hpp"

namespace attn::apps::demo {
namespace {

struct GenerateArguments {
  ModelChoice model;
  PromptChoice prompt;               // the first one
  std::vector<PromptChoice> others;  // the prompts after it
  std::optional<std::string> logits;
  std::optional<std::int64_t> max_new;
  SampleOptions sampling;
  bool print_ids = false, ignore_eos = false, quiet = false;
};

constexpr std::int64_t default_max_new = 64;

/// Positions that a prompt and the tokens after it take. The model never reads the last token, so
/// that one takes none.
std::int64_t positions_of(std::int64_t prompt, std::int64_t max_new) {
  return prompt + std::max<std::int64_t>(max_new - 1, 0);
}

/// As many tokens as there is room for after the prompt, up to the usual number. A prompt that does
/// not fit into the model itself is refused later.
std::int64_t default_new_tokens(std::int64_t prompt, std::int64_t most_positions) {
  return std::clamp<std::int64_t>(most_positions - prompt + 1, 0, default_max_new);
}

/// Times and token counts of one generation.
struct Timing {
  std::int64_t prompt_tokens = 0, new_tokens = 0;
  double prefill = 0, decode = 0;  // seconds; the prefill gives the first new token
  std::optional<std::int64_t> ended_by{};
};

/// Prints each new token at once, as text or as an id.
class Output {
 public:
  Output(const Tokenizer* tokenizer, bool ids) : tokenizer_(ids ? nullptr : tokenizer) {}

  void show(std::int64_t id) {
    if (tokenizer_ != nullptr) {
      // A model may have more logits than its tokenizer has tokens.
      if (tokenizer_->has(id)) text_.write(tokenizer_->piece(id));
      return;
    }
    fmt::print("{}{}", first_ ? "" : ",", id);
    flush_output();
    first_ = false;
  }
  void finish() {
    text_.finish();
    fmt::print("\n");
  }

 private:
  const Tokenizer* tokenizer_;
  TextStream text_;
  bool first_ = true;
};

/// Generates tokens from a model and a prompt.
class Generation {
 public:
  Generation(Model& model, std::vector<std::int64_t> prompt, std::int64_t max_new,
             const GenerateArguments& arguments)
      : model_(model),
        arguments_(arguments),
        prompt_(std::move(prompt)),
        text_(prompt_),
        max_new_(max_new),
        caches_(model, 1, positions_of(std::ssize(prompt_), max_new), WindowKeys::window),
        logits_(DType::f32, {1, model.settings.vocab_size}) {
    if (!arguments.logits) return;
    require_memory("--logits", product_of({std::ssize(prompt_), model.settings.vocab_size,
                                           std::int64_t{sizeof(float)}}));
    prompt_logits_ = Tensor(DType::f32, {1, std::ssize(prompt_), model.settings.vocab_size});
  }

  Timing run(Output& output) {
    Timing timing{.prompt_tokens = std::ssize(prompt_)};
    auto begin = Clock::now();
    prefill();
    timing.prefill = seconds_since(begin);
    begin = Clock::now();
    while (timing.new_tokens < max_new_) {
      const std::int64_t id = draw(timing.new_tokens);
      if (!arguments_.ignore_eos &&
          std::find(model_.eos_ids.begin(), model_.eos_ids.end(), id) != model_.eos_ids.end()) {
        timing.ended_by = id;
        break;
      }
      output.show(id);
      if (++timing.new_tokens == max_new_) break;
      step(id);
    }
    timing.decode = seconds_since(begin);
    return timing;
  }
  std::string cache_description() const { return caches_.description(); }
  /// The logits of all tokens of the prompt; absent without --logits.
  TensorView prompt_logits() const { return prompt_logits_.view(); }

 private:
  /// Runs the model on the whole prompt in one forward pass.
  void prefill() {
    const TensorView ids(prompt_.data(), {1, std::ssize(prompt_)});
    if (!arguments_.logits) return model_.decoder.forward(ids, caches_.refs, logits_.view());
    model_.decoder.forward(ids, caches_.refs, prompt_logits_.view());
    copy_into(prompt_logits().sliced(1, std::ssize(prompt_) - 1, std::ssize(prompt_)),
              {logits_.data(), DType::f32, {1, 1, model_.settings.vocab_size}});
  }

  /// Reads one more token, or where LongRoPE takes its other factors the whole text anew.
  void step(std::int64_t id) {
    text_.push_back(id);
    if (std::ssize(text_) - 1 != model_.long_rope_border)
      return model_.decoder.forward({&id, {1, 1}}, caches_.refs, logits_.view());
    for (KvCache& cache : caches_.caches) cache.clear();
    model_.decoder.forward({text_.data(), {1, std::ssize(text_)}}, caches_.refs, logits_.view());
  }

  std::int64_t draw(std::int64_t number) {
    SampleOptions sampling = arguments_.sampling;
    sampling.first_draw = static_cast<std::uint64_t>(number);
    std::int64_t id = 0;
    sample(logits_.view(), {&id, {1, 1}}, sampling, model_.execution);
    return id;
  }

  Model& model_;
  const GenerateArguments& arguments_;
  std::vector<std::int64_t> prompt_, text_;  // text_: the prompt and the tokens after it
  std::int64_t max_new_;
  Caches caches_;
  Tensor logits_, prompt_logits_;
};

void print_timing(const Timing& timing, const Model& model, const std::string& cache) {
  const auto rate = [](std::int64_t tokens, double time) {
    return time > 0 ? static_cast<double>(tokens) / time : 0;
  };
  const std::int64_t steps = std::max<std::int64_t>(0, timing.new_tokens - 1);
  fmt::print("\n{}\n", model.description);
  fmt::print("prompt  {} tokens in {}, {:.1f} tokens/s\n", timing.prompt_tokens,
             format_seconds(timing.prefill), rate(timing.prompt_tokens, timing.prefill));
  fmt::print("new     {} tokens, {} steps in {}, {:.1f} tokens/s{}\n", timing.new_tokens, steps,
             format_seconds(timing.decode), rate(steps, timing.decode),
             timing.ended_by ? fmt::format("; token {} ended the text", *timing.ended_by) : "");
  fmt::print("cache   {}\n", cache);
}

void notify_of_both_ways(const Model& model, std::int64_t max_new) {
  if (max_new < 2 || model.settings.layers.front().attention.options.causal) return;
  notify(
      "the model sees both ways (is_causal is false); here no token sees those that are "
      "generated after it");
}

/// The texts after several prompts, a line for each.
int generate_several(const GenerateArguments& arguments, const ModelSource& source) {
  if (arguments.logits) reject("--logits needs a single prompt");
  std::vector<PromptChoice> choices{arguments.prompt};
  choices.insert(choices.end(), arguments.others.begin(), arguments.others.end());
  const std::optional<Tokenizer> tokenizer = tokenizer_for(choices.front(), source);
  std::vector<std::vector<std::int64_t>> prompts;
  std::int64_t longest = 0;
  for (const PromptChoice& choice : choices) {
    prompts.push_back(prompt_ids(choice, tokenizer, source));
    longest = std::max(longest, std::ssize(prompts.back()));
  }
  const std::int64_t max_new =
      arguments.max_new.value_or(default_new_tokens(longest, source.most_positions()));
  Model model = source.load(positions_of(longest, max_new), std::ssize(prompts));
  notify_of_both_ways(model, max_new);
  const auto made = generate_batch(
      model, prompts,
      {.max_new = max_new, .sampling = arguments.sampling, .ignore_eos = arguments.ignore_eos});
  for (const std::vector<std::int64_t>& ids : made) {
    Output output(tokenizer ? &*tokenizer : nullptr, arguments.print_ids);
    for (const std::int64_t id : ids) output.show(id);
    output.finish();
  }
  if (!arguments.quiet) fmt::print("\n{}\n", model.description);
  return 0;
}

int generate(const GenerateArguments& arguments) {
  ModelChoice choice = arguments.model;
  choice.toy.seed = arguments.sampling.seed;
  const ModelSource source(choice);
  if (!arguments.others.empty()) return generate_several(arguments, source);
  const std::optional<Tokenizer> tokenizer = tokenizer_for(arguments.prompt, source);
  std::vector<std::int64_t> prompt = prompt_ids(arguments.prompt, tokenizer, source);
  const std::int64_t max_new =
      arguments.max_new.value_or(default_new_tokens(std::ssize(prompt), source.most_positions()));
  OutputFiles files;
  if (arguments.logits) files.add(*arguments.logits);
  Model model = source.load(positions_of(std::ssize(prompt), max_new));
  notify_of_both_ways(model, max_new);
  Output output(tokenizer ? &*tokenizer : nullptr, arguments.print_ids);
  Generation generation(model, std::move(prompt), max_new, arguments);
  const Timing timing = generation.run(output);
  output.finish();
  if (!arguments.quiet) print_timing(timing, model, generation.cache_description());
  if (!arguments.logits) return 0;
  flush_output();  // if this fails, no file is left behind
  files.write(*arguments.logits, generation.prompt_logits(), "logits");
  files.commit();
  return 0;
}

void add_sampling_options(CLI::App& command, SampleOptions& sampling) {
  add_number(command, "--temperature T", sampling.temperature, not_negative,
             "0 takes the most probable token; default 1");
  add_integer(command, "--top-k K", sampling.top_k, {.min = 0},
              "draw from the K most probable tokens; 0 is off");
  add_number(command, "--top-p P", sampling.top_p, fraction,
             "draw from the most probable tokens that reach P together; 0 takes the first alone");
  add_number(command, "--min-p P", sampling.min_p, fraction,
             "draw from the tokens at least P times as probable as the first");
}

}  // namespace

void add_generate(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<GenerateArguments>(
      app, chosen, "generate", "text from a model, token by token", generate);
  add_model_options(command, arguments.model);
  add_several_prompts(command, arguments.prompt, arguments.others);
  add_integer(command, "--max-new N", arguments.max_new, {0, std::int64_t{1} << 24},
              "the most tokens to generate; default 64, or what the model has room for");
  add_sampling_options(command, arguments.sampling);
  add_seed(command, arguments.sampling.seed,
           "the seed of the draws, and of random weights; default 0");
  add_file(command, "--logits FILE", arguments.logits,
           "writes the logits of the prompt, [1, tokens, vocabulary]");
  command.add_flag("--print-ids", arguments.print_ids, "print ids instead of text");
  command.add_flag("--ignore-eos", arguments.ignore_eos, "go on past the token that ends a text");
  command.add_flag("--quiet", arguments.quiet, "print nothing but the new text");
}

}  // namespace attn::apps::demo
