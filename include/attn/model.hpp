// Models: a folder in Hugging Face's layout, opened for a Decoder. This is a library of its own:
// link attn::model. The folder holds:
//
//   config.json                   the configuration; model_type is llama, mistral, qwen2, qwen3,
//                                 smollm3, olmo2, phi3, gemma2, gemma3_text or gpt2
//   model.safetensors             the weights in f32, f16 or bf16; or, instead of it,
//   model.safetensors.index.json  the names of shards, which are .safetensors files beside it
//   generation_config.json        optional; its token ids replace those of config.json; how to
//                                 sample is not read from it
//
// Keys of config.json. Null is a missing key (except in rope_theta, the norms' epsilon and
// is_causal, where it is refused), and a missing key that is no size has the default of Hugging
// Face's configuration class. Keys that change what a model computes are used or, unless their
// value changes nothing, refused by name, for every family; src/model/README.md has the table of
// what each family uses. Other keys are not read.
//
// Positions. A sequence has at most max_position_embeddings tokens (n_positions in GPT-2), times
// the factor of linear rope scaling; with YaRN, at least its factor times the original positions.
// Dynamic rope scaling sets no limit of its own.
#pragma once

#include <attn/encoder.hpp>
#include <attn/export.hpp>
#include <attn/transformer.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attn {

/// The folder of a model, with its weights mapped into memory: `Decoder decoder(model.settings(),
/// model.weights())`. Opening it reads only the headers of the files, and a weight is read when it
/// is first touched. MappedTensors says what that requires of the files. The functions of an object
/// that was moved from throw Error(invalid_argument).
class ATTN_API ModelFolder {
 public:
  /// Throws Error with one line that names the file and the key or tensor: io for what is missing,
  /// broken or contradicts itself (missing and unknown tensors are counted, and the first few are
  /// named), unsupported for a model that the library does not compute.
  explicit ModelFolder(const std::filesystem::path& folder);
  ModelFolder(ModelFolder&&) noexcept;
  ModelFolder& operator=(ModelFolder&&) noexcept;
  ~ModelFolder();

  /// The settings that config.json describes, with f32 as the compute type. Callers change a copy
  /// of them as they need: tables of rope have max_positions rows, which a caller may lower.
  const DecoderSettings& settings() const;
  /// Views of the mapped files, valid as long as this object or the object to which it was moved.
  /// The output projection is absent if it is tied to the embedding and the files hold no
  /// lm_head.weight.
  const DecoderWeights& weights() const;

  /// "llama", "gpt2", ...
  const std::string& model_type() const;
  /// The element type of the embedding in the file; other tensors may have other types.
  DType stored_dtype() const;
  /// The token with which a text begins, if the model has one.
  std::optional<std::int64_t> bos_id() const;
  /// The tokens that end a text; may be empty.
  const std::vector<std::int64_t>& eos_ids() const;

 private:
  struct ATTN_HIDDEN Parts;
  ATTN_HIDDEN const Parts& parts() const;
  std::unique_ptr<Parts> parts_;
};

/// What a folder of Sentence Transformers says about the vectors of texts.
struct SentenceSettings {
  /// The vectors that these give are joined, in this order.
  std::vector<Pooling> pooling{Pooling::mean};
  bool normalize = false;  // to a Euclidean norm of 1
  /// Texts are cut at so many tokens, special ones included.
  std::optional<std::int64_t> max_tokens{};
  std::string prompt{};  // stands before each text
};

/// The folder of an encoder, as ModelFolder is that of a decoder: `Encoder
/// encoder(folder.settings(), folder.weights())`. model_type is bert, or that of a decoder whose
/// config.json has `is_causal` of false (mistral). Tensors may be named with `bert.` in front, and
/// norms' weights gamma and beta; poolers and heads are not read. Beside the model, these files may
/// say how the hidden states of a text become a vector; without them it is their mean:
///
///   modules.json                        Transformer, Pooling and perhaps Normalize
///   1_Pooling/config.json               (the folder that modules.json names) the modes of pooling
///   sentence_bert_config.json           max_seq_length
///   config_sentence_transformers.json   prompts, default_prompt_name
///
/// Keys of theirs that would change a vector in another way are refused.
class ATTN_API EncoderFolder {
 public:
  /// Throws Error as ModelFolder does.
  explicit EncoderFolder(const std::filesystem::path& folder);
  EncoderFolder(EncoderFolder&&) noexcept;
  EncoderFolder& operator=(EncoderFolder&&) noexcept;
  ~EncoderFolder();

  const EncoderSettings& settings() const;
  /// Views of the mapped files, valid as long as this object or the object to which it was moved.
  const EncoderWeights& weights() const;
  const SentenceSettings& sentence() const;
  const std::string& model_type() const;
  /// The element type of the embedding in the file.
  DType stored_dtype() const;

 private:
  struct ATTN_HIDDEN Parts;
  ATTN_HIDDEN const Parts& parts() const;
  std::unique_ptr<Parts> parts_;
};

}  // namespace attn
