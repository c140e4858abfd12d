// The model that a command runs: one in a folder, or a toy with random weights.
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
  ToyShape toy;  // used if there is no folder
  std::optional<std::int64_t> num_kv_heads;
  std::optional<DType> dtype;  // default: f32 for a toy, the stored type for a folder
  Execution execution;
};

/// Adds --model, or --arch and the sizes of a toy, and --dtype, --threads, --isa. Each command adds
/// --seed itself.
void add_model_options(CLI::App& command, ModelChoice& choice);

struct Model {
  std::string description;
  DecoderSettings settings;
  std::shared_ptr<const void> weights;  // the memory that views in the decoder point to
  Decoder decoder;
  Execution execution;
  std::vector<std::int64_t> eos_ids;  // tokens that end a text
  /// Of Phi-3 with LongRoPE: the number of tokens beyond which it takes its other factors. A text
  /// that outgrows it is read anew, so that all of its keys are rotated for a long text, as
  /// Transformers does for this family.
  std::optional<std::int64_t> long_rope_border{};
};

/// The chosen model before its weights are packed. Throws attn::Error if the folder cannot be read.
class ModelSource {
 public:
  explicit ModelSource(const ModelChoice& choice);

  /// The maximum length of a sequence.
  std::int64_t most_positions() const;
  std::int64_t vocab_size() const;
  /// Whether the model has a folder with a tokenizer.json.
  bool has_tokenizer_file() const;
  /// The tokenizer of the folder's tokenizer.json and tokenizer_config.json. Without that file, one
  /// whose tokens are bytes if the vocabulary is no larger; else empty.
  std::optional<Tokenizer> tokenizer() const;
  /// Loads the model with room for `positions` in each sequence of a batch. Throws attn::Error if
  /// the model has fewer positions, if sizes contradict each other, or if memory does not suffice.
  Model load(std::int64_t positions, std::int64_t batch = 1) const;

 private:
  Model load_folder(std::int64_t positions, std::int64_t batch) const;
  Model load_toy(std::int64_t positions, std::int64_t batch) const;

  ModelChoice choice_;
  std::shared_ptr<const ModelFolder> folder_;  // null: a toy
};

/// The number of weights in the projections and MLPs of all layers. One token needs as many
/// multiply-adds there.
double projection_weights(const DecoderSettings& settings);
/// Bytes of the keys and values of one token in all layers.
double cache_bytes_per_token(const DecoderSettings& settings);

/// A cache for each layer, and the references to them that a forward pass takes.
struct Caches {
  Caches(const Model& model, std::int64_t batch, std::int64_t capacity,
         WindowKeys keys = WindowKeys::all);
  void truncate(std::int64_t position);
  std::size_t size_in_bytes() const;
  /// "1.2 MB for 300 tokens; 3 of 4 layers keep a window"
  std::string description() const;

  std::vector<KvCache> caches;
  std::vector<CacheRef> refs;
};

}  // namespace attn::apps::demo
