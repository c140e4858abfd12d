// Text to token ids and back: the byte-level BPE of GPT-2, Llama 3 and Qwen, the BPE of characters
// and bytes of Llama 2 and Gemma, and the WordPiece of BERT, as a tokenizer.json of Hugging Face
// describes them (https://huggingface.co/docs/tokenizers). Link attn::model.
#pragma once

#include <attn/export.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

struct EncodeOptions {
  /// Adds the tokens that the files put around a text, in most of them one at its beginning. It is
  /// added to a text that begins with it, too, as Hugging Face's tokenizers do; then it stands
  /// twice.
  bool add_special = true;
  /// A special token that is spelled out in the text becomes its id. If false, it is text like any
  /// other, which is what text from users needs.
  bool match_special = true;
};

enum class SpecialTokens { keep, skip };

/// A tokenizer never changes: copies share what was read, and any number of threads may use one at
/// the same time.
///
/// These parts of a tokenizer.json are supported:
///   model           BPE of bytes (with ByteLevel) or of characters: vocab, merges ("a b" or ["a",
///                   "b"]), ignore_merges, unk_token, fuse_unk, byte_fallback (of characters);
///                   WordPiece. A file without a type is one of the two, too
///   added_tokens    special, lstrip, rstrip, single_word, normalized
///   normalizer      none, NFC, NFD, Lowercase, Prepend, Replace, BertNormalizer, Sequence of these
///   pre_tokenizer   none, Split (String or Regex, every behavior, invert), Digits, Metaspace,
///                   BertPreTokenizer, WhitespaceSplit, Sequence of these and, as the last,
///                   ByteLevel
///   post_processor  none, ByteLevel, TemplateProcessing (its form for a single text),
///                   BertProcessing, RobertaProcessing, Sequence of these
///   decoder         none, ByteLevel, WordPiece, Metaspace, Sequence of Replace, ByteFallback, Fuse
///                   and Strip (of the space at the beginning); tokens are bytes
/// Patterns (Regex) have the syntax of Oniguruma, with which Hugging Face's tokenizers matches
/// them, and Unicode 16.0: ^ and $ stand at every line, (?m) lets . match newlines, classes nest
/// and intersect (&&), \w has marks, and a + after an interval repeats it. Of that syntax are
/// refused, by name: absent operators, conditions, callouts, calls of groups, \X, \y, \c, \C-x and
/// \M-x, the options W D S P I L C y, properties other than general categories, scripts, the names
/// of POSIX brackets, Alphabetic, Uppercase, Lowercase, White_Space, Any, Assigned, LC and those of
/// emoji, back references under (?i), letters under (?i) of which one equals two others (as U+00DF
/// equals ss), and unusual parts of a look-behind. NFC and NFD are those of Unicode 9.0, as there.
///
/// Truncation and padding are left to the caller. Anything else is refused with Error(unsupported),
/// and what contradicts itself with Error(io). Both are one line that names the file.
///
/// A byte (a character, without ByteLevel) without a token in the vocabulary becomes unk_token. If
/// the file names none, as that of SmolLM2, it is left out, because the model was trained that way.
///
/// Text is bytes. A run of bytes that are not UTF-8 is a piece by itself. Where the vocabulary has
/// tokens for all bytes, decode returns it unchanged; elsewhere it is unknown, as [UNK] in
/// WordPiece.
class ATTN_API Tokenizer {
 public:
  /// Copies share what was read, so a move is a copy, and leaves a whole tokenizer behind.
  Tokenizer(const Tokenizer&) = default;
  Tokenizer& operator=(const Tokenizer&) = default;

  /// Reads a tokenizer.json. Throws Error as described above.
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);
  /// Reads tokenizer.json in the folder of a model and, if it is there, tokenizer_config.json. Of
  /// the latter, add_bos_token and add_eos_token are followed where Transformers 4 follows them: if
  /// tokenizer_class is LlamaTokenizer, CodeLlamaTokenizer, GemmaTokenizer, CohereTokenizer or
  /// GPTNeoXTokenizer, with or without Fast at its end, bos_token and eos_token take the place of
  /// what the post_processor puts around a text. A missing key has the value of that class:
  /// add_bos_token is true except for GPTNeoXTokenizer, add_eos_token is false. Other classes, such
  /// as PreTrainedTokenizerFast, Qwen2Tokenizer and GPT2Tokenizer, do not follow the two. Throws
  /// Error as from_file does, and Error(io) for a broken tokenizer_config.json.
  static Tokenizer from_folder(const std::filesystem::path& folder);
  /// Ids 0..255 are the bytes themselves. Small test models use this.
  static Tokenizer bytes();

  /// The ids of a text. The time is about linear in its length: n log n for merges and marks. The
  /// patterns of a file may take 64 steps for each byte, and 2^25 together besides, about a second
  /// for a megabyte. Throws Error(io) if they take more.
  std::vector<std::int64_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// The bytes of the tokens, joined. A character may be spread over several tokens, so that the
  /// text of some of them may begin or end inside a character. Throws Error(invalid_argument) for
  /// an id that is no token.
  std::string decode(std::span<const std::int64_t> ids,
                     SpecialTokens special = SpecialTokens::keep) const;
  /// The bytes of one token. Throws as decode does.
  std::string piece(std::int64_t id) const;
  /// Whether an id is a token. A vocabulary may have gaps, and a model may have more logits than
  /// there are tokens.
  bool has(std::int64_t id) const noexcept;

  /// One more than the highest id. A model may have more logits, padded to a round number.
  std::int64_t vocab_size() const noexcept;
  /// The id of an added token, special or not, by its text, such as "<|im_end|>".
  std::optional<std::int64_t> added_token(std::string_view text) const;
  /// False for ids that are no token.
  bool is_special(std::int64_t id) const noexcept;
  /// The first token that is put before a text, and the last that is put after it. Few files have
  /// one after it; config.json names the tokens that end a text.
  std::optional<std::int64_t> bos() const noexcept;
  std::optional<std::int64_t> eos() const noexcept;
  /// Settings of tokenizer_config.json that contradict what encode does, one line for each, with
  /// the name of the file. Empty if there are none.
  const std::vector<std::string>& notices() const noexcept;

 private:
  struct ATTN_HIDDEN Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts);

  std::shared_ptr<const Parts> parts_;
};

}  // namespace attn
