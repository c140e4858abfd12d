// The model that a command runs: a folder's, or a toy with random weights.
#pragma once

#include <attn/attn.hpp>

#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <string>

#include "toy_weights.hpp"

namespace attn::demo {

struct ModelChoice {
  std::optional<std::string> folder;
  ToyShape toy;  // where there is no folder
  std::optional<std::int64_t> num_kv_heads;
  std::optional<DType> dtype;  // default: f32 of a toy, the stored type of a folder
  Execution execution;
  std::int64_t max_positions = 0;  // that the command needs; 0: as many as the model has
};

/// Adds --model, or --arch and the sizes of a toy, and --dtype, --threads, --isa.
void add_model_options(CLI::App& command, ModelChoice& choice);

struct Model {
  std::string description;
  DecoderSettings settings;
  std::shared_ptr<const void> weights;  // the memory that views in the decoder point to
  Decoder decoder;
  Execution execution;
};

/// Throws attn::Error for a folder that cannot be read, and for sizes that make no model.
Model load_model(const ModelChoice& choice);

/// A cache for each layer, and the references to them that a forward takes.
struct Caches {
  Caches(const Model& model, std::int64_t batch, std::int64_t capacity);
  void truncate(std::int64_t position);
  std::size_t size_in_bytes() const;

  std::vector<KvCache> caches;
  std::vector<CacheRef> refs;
};

}  // namespace attn::demo
