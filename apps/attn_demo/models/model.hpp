// The model that a command runs: a folder's, or a toy with random weights.
#pragma once

#include <attn/attn.hpp>
#include <attn/model.hpp>
#include <attn/tokenizer.hpp>

#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "toy_weights.hpp"

namespace attn::apps::demo {

struct ModelChoice {
  std::optional<std::string> folder;
  ToyShape toy;  // where there is no folder
  std::optional<std::int64_t> num_kv_heads;
  std::optional<DType> dtype;  // default: f32 of a toy, the stored type of a folder
  Execution execution;
};

/// Adds --model, or --arch and the sizes of a toy, and --dtype, --threads, --isa. A toy's seed is
/// the command's own option.
void add_model_options(CLI::App& command, ModelChoice& choice);

struct Model {
  std::string description;
  DecoderSettings settings;
  std::shared_ptr<const void> weights;  // the memory that views in the decoder point to
  Decoder decoder;
  Execution execution;
  std::vector<std::int64_t> eos_ids;  // tokens that end a text
};

/// What a choice leads to, before weights are packed. Throws attn::Error for a folder that cannot
/// be read.
class ModelSource {
 public:
  explicit ModelSource(const ModelChoice& choice);

  /// No sequence of this model can be longer.
  std::int64_t most_positions() const;
  /// The folder's tokenizer.json; bytes where there is none and all ids are bytes; else empty.
  std::optional<Tokenizer> tokenizer() const;
  /// With room for so many positions in each sequence of a batch. Throws attn::Error if the model
  /// has less, for sizes that make no model, and for what would not fit into memory.
  Model load(std::int64_t positions, std::int64_t batch = 1) const;

 private:
  Model load_folder(std::int64_t positions, std::int64_t batch) const;
  Model load_toy(std::int64_t positions, std::int64_t batch) const;

  ModelChoice choice_;
  std::shared_ptr<const ModelFolder> folder_;  // null: a toy
};

/// How many weights the projections and MLPs of all layers have, which is also the multiply-adds
/// that one token takes there.
double projection_weights(const DecoderSettings& settings);
/// Of the keys and values of one token in all layers.
double cache_bytes_per_token(const DecoderSettings& settings);

/// A cache for each layer, and the references to them that a forward takes.
struct Caches {
  Caches(const Model& model, std::int64_t batch, std::int64_t capacity);
  void truncate(std::int64_t position);
  std::size_t size_in_bytes() const;

  std::vector<KvCache> caches;
  std::vector<CacheRef> refs;
};

}  // namespace attn::apps::demo
