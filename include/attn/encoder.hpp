// Transformer encoders for inference: all tokens of a text see each other, and there is no cache.
//
//   Encoder   hidden = norm(layers(norm(embedding(ids) + token types + positions)))
//   pool      one vector for each text, from the hidden states of its tokens
//
// Texts of different length are one ragged batch: their tokens stand one after another, and no
// padding is computed. Texts do not see each other; products take the tokens of all texts at once,
// so that the other texts of a batch can change the rounding of one, and nothing else.
//
// Weights, types, threads, memory and errors are as in transformer.hpp.
#pragma once

#include <attn/transformer.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace attn {

/// The layers' attention has no causal mask in encoders that are published; one that has is
/// computed as well.
struct EncoderSettings {
  std::vector<LayerSettings> layers{};
  std::int64_t vocab_size = 0;
  std::int64_t num_token_types = 0;              // 0: the model has none
  float embedding_scale = 1;                     // embeddings of tokens are multiplied by it
  std::optional<NormSettings> embedding_norm{};  // of the sum of embeddings; absent: no norm
  std::optional<NormSettings> final_norm{};      // behind the last layer; absent: no norm
};

struct EncoderWeights {
  TensorView embedding{};    // [vocab_size, hidden]
  TensorView positions{};    // [max_positions, hidden]; absent if the model has none
  TensorView token_types{};  // [num_token_types, hidden]; absent if the model has none
  NormWeights embedding_norm{};
  std::vector<LayerWeights> layers{};
  NormWeights final_norm{};
};

struct EncoderOptions {
  /// i32 or i64 [tokens], each in 0..num_token_types-1; absent: 0 for all.
  TensorView token_types{};
  AttentionKernel kernel = AttentionKernel::tiled;
  ForwardTimes* times = nullptr;        // null: times are not measured
  const ForwardHooks* hooks = nullptr;  // null: none
};

class ATTN_API Encoder {
 public:
  /// Throws Error(invalid_argument) if a setting or a weight does not fit. The message names it and
  /// its layer.
  Encoder(const EncoderSettings& settings, const EncoderWeights& weights,
          const Execution& execution = {});
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  const EncoderSettings& settings() const;
  /// Bytes of packed weights.
  std::size_t size_in_bytes() const;
  /// Bytes of scratch memory that forwards have needed so far.
  std::size_t scratch_bytes() const;

  /// ids      i32 or i64 [tokens], each in 0..vocab_size-1: one text after another
  /// offsets  i32 or i64 [texts + 1]: text n has the ids from offsets[n] to offsets[n + 1] - 1
  /// hidden   f32 [tokens, hidden], dense
  ///
  /// Throws Error(invalid_argument), before anything is written, for arguments that do not fit and
  /// for a text of more than max_positions tokens.
  void forward(const TensorView& ids, const TensorView& offsets, const MutableTensorView& hidden,
               const EncoderOptions& options = {});

 private:
  struct ATTN_HIDDEN Impl;
  ATTN_HIDDEN Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

/// How the hidden states x of a text's n tokens become one vector.
enum class Pooling {
  first,             // that of the first token, which is [CLS] in BERT
  mean,              // sum x / n
  max,               // the greatest of each element
  mean_sqrt_length,  // sum x / sqrt(n)
  weighted_mean,     // sum (k + 1) x_k / sum (k + 1): later tokens count more
  last,              // that of the last token
};

/// hidden f32 [tokens, hidden] and offsets [texts + 1] as in Encoder::forward; y f32 [texts,
/// hidden], any strides. Sums are computed in double. Throws Error(invalid_argument) for arguments
/// that do not fit and for a text without tokens.
ATTN_API void pool(const TensorView& hidden, const TensorView& offsets, Pooling pooling,
                   const MutableTensorView& y);
/// Divides each row of x [rows, width], f32, by its Euclidean norm, in place. A row with a norm
/// below 1e-12 is divided by 1e-12.
ATTN_API void normalize_rows(const MutableTensorView& x);

}  // namespace attn
