// What tokenizer_config.json of a model folder says about the tokens around a text.
#pragma once

#include <filesystem>

#include "model/tokenizer_file.hpp"

namespace attn::model {

/// Follows add_bos_token and add_eos_token as Transformers 4 does: its classes LlamaTokenizer,
/// CodeLlamaTokenizer, GemmaTokenizer, CohereTokenizer and GPTNeoXTokenizer, with or without Fast
/// at the end, put bos_token and eos_token around a text as the two flags say, and nothing else,
/// whatever the post_processor of tokenizer.json has. No other class follows the flags. A flag that
/// is not followed, and would have changed the tokens, is named in `tokenizer.notices`. So are
/// do_lower_case, strip_accents and tokenize_chinese_chars, which Transformers' classes of BERT
/// follow: here, as in Hugging Face's tokenizers, the normalizer of tokenizer.json counts.
///
/// Throws Error(io) for a broken file and for values of the wrong type.
void follow_tokenizer_config(const std::filesystem::path& path, TokenizerFile& tokenizer);

}  // namespace attn::model
