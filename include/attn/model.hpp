// Models as people have them: a folder in Hugging Face's layout, opened for a Decoder. A library of
// its own: link attn::model.
//
//   config.json                      what the model is: model_type llama, mistral, qwen2, qwen3 or
//   gpt2 model.safetensors                its weights, f32, f16 or bf16; or
//   model.safetensors.index.json     shards, each a .safetensors file in the same folder
//   generation_config.json           may be there: its token ids take the place of config.json's;
//   how to sample is not read from it
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attn {

/// A model's folder with its weights mapped into memory: `Decoder decoder(model.settings(),
/// model.weights())`. Opening it reads headers alone; weights are read as they are touched
/// (MappedTensors says what that asks of the files).
class ModelFolder {
 public:
  /// Throws Error, one line that names the file and the key or tensor: io for what is missing,
  /// broken or contradicts itself (missing and unknown tensors are counted, and the first few
  /// named), unsupported for what would need another computation than the library's.
  explicit ModelFolder(const std::filesystem::path& folder);
  ModelFolder(ModelFolder&&) noexcept;
  ModelFolder& operator=(ModelFolder&&) noexcept;
  ~ModelFolder();

  /// As config.json has them. The compute type is f32 and max_positions the model's own; callers
  /// change a copy as they need.
  const DecoderSettings& settings() const noexcept;
  /// Views of the mapped files, which last as long as this object, wherever it is moved. The output
  /// is absent where it is tied to the embedding and the file has no lm_head.weight of its own.
  const DecoderWeights& weights() const noexcept;

  /// "llama", "gpt2", ...
  const std::string& model_type() const noexcept;
  /// The type in which the embedding lies in the file; others may differ.
  DType stored_dtype() const noexcept;
  /// The token that a text begins with, where the model has one.
  std::optional<std::int64_t> bos_id() const noexcept;
  /// The tokens that end a text; may be none.
  const std::vector<std::int64_t>& eos_ids() const noexcept;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace attn
