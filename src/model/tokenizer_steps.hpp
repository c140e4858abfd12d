// The parts of a tokenizer.json around its model, each a step or a Sequence of steps.
#pragma once

#include "io/json.hpp"
#include "model/tokenizer_file.hpp"

namespace attn::model {

void read_normalizer(const io::JsonObject& root, TokenizerFile& file);
void read_pre_tokenizer(const io::JsonObject& root, TokenizerFile& file);
/// Turns the pieces of the vocabulary, which have been read, into the bytes that they stand for.
void read_decoder(const io::JsonObject& root, TokenizerFile& file);
/// The tokens that are put around a text. The added tokens have been read.
void read_post_processor(const io::JsonObject& root, TokenizerFile& file);

}  // namespace attn::model
