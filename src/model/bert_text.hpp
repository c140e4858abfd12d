// What Hugging Face's tokenizers does to texts for BERT, character by character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/code_set.hpp"

namespace attn::model {

struct BertNormalizer {
  bool clean_text = true;            // removes control characters; white space becomes spaces
  bool handle_chinese_chars = true;  // puts spaces around them
  bool strip_accents = true;         // removes marks, after taking characters apart
  bool lowercase = true;

  /// `text` has to be valid UTF-8.
  std::string operator()(std::string_view text) const;
};

/// The lower case of each character, as Rust has it, without regard to what stands around it.
std::string to_lower(std::string_view text);

/// The characters at which BertPreTokenizer splits a text: those that it drops, and those that
/// become pieces of their own.
CodeSet bert_separators();
CodeSet bert_punctuation();

}  // namespace attn::model
