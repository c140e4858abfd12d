// What the files of a sentence encoder, as Sentence Transformers saves it, say beside the model:
// modules.json, a folder with the configuration of each module, and sentence_bert_config.json.
#pragma once

#include <attn/model.hpp>

#include <filesystem>

namespace attn::model {

/// Without modules.json, it is the mean of all tokens, as Sentence Transformers does then. Throws
/// Error, which names the file and the key: io for what is broken, unsupported for other modules.
SentenceSettings read_sentence_config(const std::filesystem::path& folder);

}  // namespace attn::model
