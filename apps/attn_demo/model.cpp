#include "model.hpp"

#include <fmt/format.h>

#include "arguments.hpp"
#include "call_options.hpp"

namespace attn::demo {
namespace {

constexpr std::int64_t largest_size = std::int64_t{1} << 20;

void add_toy_options(CLI::App& command, ModelChoice& choice, CLI::Option* folder) {
  ToyShape& toy = choice.toy;
  const auto take = [](std::int64_t& value) {
    return [&value](auto option, auto text) { value = integer_value(option, text, 1, largest_size); };
  };
  add_value(command, "--arch", "NAME", "llama or gpt2: the family of a toy with random weights; default llama",
            [&](auto option, auto text) {
              toy.family = choice_value<Family>(option, text, {{"llama", Family::llama}, {"gpt2", Family::gpt2}});
            })
      ->excludes(folder);
  add_value(command, "--layers", "N", "of a toy; default 4", take(toy.num_layers))->excludes(folder);
  add_value(command, "--hidden", "N", "width of a toy; default 512", take(toy.hidden))->excludes(folder);
  add_value(command, "--heads", "N", "of a toy; default 8", take(toy.num_q_heads))->excludes(folder);
  add_value(command, "--kv-heads", "N", "of a toy; default: a quarter of the heads in llama, all in gpt2", [&](auto option, auto text) {
    choice.num_kv_heads = integer_value(option, text, 1, largest_size);
  })->excludes(folder);
  add_value(command, "--seed", "N", "of a toy's weights; default 0", [&](auto option, auto text) {
    toy.seed = static_cast<std::uint64_t>(integer_value(option, text, 0));
  })->excludes(folder);
}

/// What the options leave open.
ToyShape completed(const ModelChoice& choice) {
  ToyShape toy = choice.toy;
  const std::int64_t by_default = toy.family == Family::gpt2 ? toy.num_q_heads : std::max<std::int64_t>(1, toy.num_q_heads / 4);
  toy.num_kv_heads = choice.num_kv_heads.value_or(by_default);
  toy.dtype = choice.dtype.value_or(DType::f32);
  toy.max_positions = choice.max_positions;
  return toy;
}

Model toy_model(const ModelChoice& choice) {
  const ToyShape shape = completed(choice);
  auto toy = std::make_shared<ToyWeights>(make_toy_weights(shape));
  const char* const family = shape.family == Family::llama ? "llama" : "gpt2";
  return {.description = fmt::format("a toy {} with random weights, seed {}", family, shape.seed),
          .settings = toy->settings,
          .weights = toy,
          .decoder = Decoder(toy->settings, toy->weights, choice.execution),
          .execution = choice.execution};
}

}  // namespace

void add_model_options(CLI::App& command, ModelChoice& choice) {
  auto* const folder = add_file(command, "--model", choice.folder, "a folder with config.json and model.safetensors");
  folder->type_name("DIR");
  add_toy_options(command, choice, folder);
  add_value(command, "--dtype", "TYPE", "f32 or bf16: of weights, cache and products; default that of the files, or f32",
            [&](auto option, auto text) {
              choice.dtype = choice_value<DType>(option, text, {{"f32", DType::f32}, {"bf16", DType::bf16}});
            });
  add_execution_options(command, choice.execution.num_threads, choice.execution.isa);
}

Model load_model(const ModelChoice& choice) { return toy_model(choice); }

Caches::Caches(const Model& model, std::int64_t batch, std::int64_t capacity)
    : caches(make_caches(model.settings, batch, capacity)), refs(caches.begin(), caches.end()) {}

void Caches::truncate(std::int64_t position) {
  for (KvCache& cache : caches) {
    for (std::int64_t sequence = 0; sequence < cache.settings().batch; ++sequence) cache.truncate(sequence, position);
  }
}

std::size_t Caches::size_in_bytes() const {
  std::size_t sum = 0;
  for (const KvCache& cache : caches) sum += cache.size_in_bytes();
  return sum;
}

}  // namespace attn::demo
