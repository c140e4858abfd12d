// Uses attn::io and attn::model once each, before main(): a tensor is written to a file and read
// back, and a text is encoded and decoded.
#include <attn/attn.hpp>
#include <attn/io.hpp>
#include <attn/tokenizer.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace {

bool file_keeps_tensor() {
  const float value = 42;
  const std::filesystem::path file = "consumer.npy";
  attn::write_tensor(file, {&value, {1}});
  const attn::Tensor read = attn::read_tensor(file.string());
  std::filesystem::remove(file);
  return read.data<float>()[0] == value;
}

bool tokens_spell_text() {
  const attn::Tokenizer tokenizer = attn::Tokenizer::bytes();
  const std::string text = "found";
  return tokenizer.decode(tokenizer.encode(text)) == text;
}

[[maybe_unused]] const bool checked = [] {
  if (file_keeps_tensor() && tokens_spell_text()) return true;
  std::fputs("attn::io or attn::model gives other results than expected\n", stderr);
  std::exit(1);
}();

}  // namespace
