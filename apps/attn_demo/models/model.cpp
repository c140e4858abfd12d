#include "model.hpp"

#include <attn/error.hpp>
#include <attn/model.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <variant>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/options.hpp"
#include "apps/support/quantities.hpp"

namespace attn::apps::demo {
namespace {

constexpr std::int64_t largest_size = std::int64_t{1} << 20;

void add_toy_options(CLI::App& command, ModelChoice& choice, CLI::Option* folder) {
  ToyShape& toy = choice.toy;
  add_choice(command, "--arch NAME", toy.family, {{"llama", Family::llama}, {"gpt2", Family::gpt2}},
             "llama or gpt2: the family of a model with random weights; default llama")
      ->excludes(folder);
  const auto add = [&](const char* spec, auto& size, const char* description) {
    add_integer(command, spec, size, {1, largest_size}, description)->excludes(folder);
  };
  add("--layers N", toy.num_layers, "layers of the random model; default 4");
  add("--hidden N", toy.hidden, "its hidden size; default 512");
  add("--heads N", toy.num_q_heads, "its query heads; default 8");
  add("--kv-heads N", choice.num_kv_heads,
      "its KV heads; default: a quarter of the heads in llama, all in gpt2");
}

/// The shape of a toy, with defaults for what no option says.
ToyShape completed(const ModelChoice& choice, std::int64_t positions) {
  ToyShape toy = choice.toy;
  const std::int64_t by_default =
      toy.family == Family::gpt2 ? toy.num_q_heads : std::max<std::int64_t>(1, toy.num_q_heads / 4);
  toy.num_kv_heads = choice.num_kv_heads.value_or(by_default);
  toy.dtype = choice.dtype.value_or(DType::f32);
  toy.max_positions = positions;
  return toy;
}

/// Models in bf16 run in bf16. Models in f16 run in f32, because projections do not support f16.
DType compute_type(DType stored) { return stored == DType::bf16 ? DType::bf16 : DType::f32; }

/// Refuses a model whose packed weights and caches do not fit into memory. A toy also holds the
/// weights before packing; those of a folder are mapped from its files.
void require_room(const std::string& name, const DecoderSettings& settings, std::int64_t tokens,
                  bool toy) {
  const AttentionSettings& attention = settings.layers.front().attention;
  const double output = product_of({settings.vocab_size, attention.hidden});
  const double packed = projection_weights(settings) + output;
  const double positions = product_of({attention.max_positions, attention.hidden});
  const double drawn = toy ? packed + output + (attention.rope ? 0 : positions) : 0;
  const double bytes = (packed + drawn) * static_cast<double>(size_of(attention.dtype));
  require_memory(fmt::format("{} with a cache of {} tokens", name, tokens),
                 bytes + cache_bytes_per_token(settings) * static_cast<double>(tokens));
}

std::optional<std::int64_t> long_rope_border(const ModelFolder& folder) {
  const std::optional<RopeSettings>& rope = folder.settings().layers.front().attention.rope;
  if (folder.model_type() != "phi3" || !rope) return std::nullopt;
  const auto* const scaling = std::get_if<LongRopeScaling>(&rope->scaling);
  return scaling == nullptr ? std::nullopt : std::optional(scaling->original_max_positions);
}

}  // namespace

void add_model_options(CLI::App& command, ModelChoice& choice) {
  auto* const folder = add_file(command, "--model DIR", choice.folder,
                                "a folder with config.json and model.safetensors");
  add_toy_options(command, choice, folder);
  add_choice(command, "--dtype TYPE", choice.dtype, {{"f32", DType::f32}, {"bf16", DType::bf16}},
             "f32 or bf16: the type of weights, cache and products; default that of the files, or "
             "f32");
  add_execution_options(command, choice.execution);
}

ModelSource::ModelSource(const ModelChoice& choice)
    : choice_(choice),
      folder_(choice.folder ? std::make_shared<const ModelFolder>(*choice.folder) : nullptr) {}

std::int64_t ModelSource::most_positions() const {
  return folder_ ? folder_->settings().layers.front().attention.max_positions : largest_size;
}

std::int64_t ModelSource::vocab_size() const {
  return folder_ ? folder_->settings().vocab_size : choice_.toy.vocab_size;
}

bool ModelSource::has_tokenizer_file() const {
  return folder_ &&
         std::filesystem::exists(std::filesystem::path(*choice_.folder) / "tokenizer.json");
}

std::optional<Tokenizer> ModelSource::tokenizer() const {
  constexpr std::int64_t num_bytes = 256;
  if (has_tokenizer_file()) return Tokenizer::from_folder(*choice_.folder);
  return !folder_ || vocab_size() <= num_bytes ? std::optional(Tokenizer::bytes()) : std::nullopt;
}

Model ModelSource::load(std::int64_t positions, std::int64_t batch) const {
  if (positions > most_positions()) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("the prompt and the tokens after it take {} positions; the model has "
                            "{}",
                            positions, most_positions()));
  }
  return folder_ ? load_folder(positions, batch) : load_toy(positions, batch);
}

Model ModelSource::load_folder(std::int64_t positions, std::int64_t batch) const {
  DecoderSettings settings = folder_->settings();
  for (LayerSettings& layer : settings.layers) {
    AttentionSettings& attention = layer.attention;
    attention.dtype = choice_.dtype.value_or(compute_type(folder_->stored_dtype()));
    // Learned positions are a table of the model's; rope's is made, and no larger than it has to
    // be.
    if (folder_->weights().positions.absent()) attention.max_positions = positions;
  }
  require_room(*choice_.folder, settings, positions * batch, false);
  return {.description = fmt::format("the {} in {}, stored as {}", folder_->model_type(),
                                     *choice_.folder, name_of(folder_->stored_dtype())),
          .settings = settings,
          .weights = folder_,
          .decoder = Decoder(settings, folder_->weights(), choice_.execution),
          .execution = choice_.execution,
          .eos_ids = folder_->eos_ids(),
          .long_rope_border = long_rope_border(*folder_)};
}

Model ModelSource::load_toy(std::int64_t positions, std::int64_t batch) const {
  const ToyShape shape = completed(choice_, positions);
  require_room("a random model of these sizes", toy_settings(shape), positions * batch, true);
  const auto toy = std::make_shared<const ToyWeights>(make_toy_weights(shape));
  const char* const family = shape.family == Family::llama ? "llama" : "gpt2";
  return {.description = fmt::format("a {} with random weights, seed {}", family, shape.seed),
          .settings = toy->settings,
          .weights = toy,
          .decoder = Decoder(toy->settings, toy->weights, choice_.execution),
          .execution = choice_.execution,
          .eos_ids = {}};
}

double projection_weights(const DecoderSettings& settings) {
  double sum = 0;
  for (const LayerSettings& layer : settings.layers) {
    const AttentionSettings& a = layer.attention;
    sum += 2 * product_of({a.hidden, a.head_dim, a.num_q_heads + a.num_kv_heads});
    sum += product_of({a.hidden, layer.mlp_width,
                       layer.mlp == MlpKind::gelu || layer.mlp == MlpKind::gelu_tanh ? 2 : 3});
  }
  return sum;
}

double cache_bytes_per_token(const DecoderSettings& settings) {
  double sum = 0;
  for (const LayerSettings& layer : settings.layers) {
    const AttentionSettings& a = layer.attention;
    sum += 2 * product_of({a.num_kv_heads, a.head_dim}) * static_cast<double>(size_of(a.dtype));
  }
  return sum;
}

Caches::Caches(const Model& model, std::int64_t batch, std::int64_t capacity, WindowKeys keys)
    : caches(make_caches(model.settings, batch, capacity, {}, keys)),
      refs(caches.begin(), caches.end()) {}

std::string Caches::description() const {
  std::int64_t rolling = 0, tokens = 0;
  for (const KvCache& cache : caches) {
    rolling += cache.settings().rolling ? 1 : 0;
    if (cache.settings().batch > 0) tokens = std::max(tokens, cache.position(0));
  }
  const std::string windows =
      rolling == 0 ? "" : fmt::format("; {} of {} layers keep a window", rolling, caches.size());
  return fmt::format("{} for {} tokens{}", format_bytes(static_cast<double>(size_in_bytes())),
                     tokens, windows);
}

void Caches::truncate(std::int64_t position) {
  for (KvCache& cache : caches) {
    for (std::int64_t sequence = 0; sequence < cache.settings().batch; ++sequence)
      cache.truncate(sequence, position);
  }
}

std::size_t Caches::size_in_bytes() const {
  std::size_t sum = 0;
  for (const KvCache& cache : caches) sum += cache.size_in_bytes();
  return sum;
}

}  // namespace attn::apps::demo
