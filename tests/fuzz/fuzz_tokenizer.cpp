// A tokenizer.json is read, or refused with Error; a tokenizer that was read encodes and decodes.
#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/scratch_file.hpp"

namespace {

/// Whatever ids encode returns, decode knows them.
void use(const attn::Tokenizer& tokenizer, const std::string& text) {
  std::vector<std::int64_t> ids;
  try {
    ids = tokenizer.encode(text);
  } catch (const attn::Error&) {
    return;
  }
  tokenizer.decode(ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const attn::test::ScratchFile file("tokenizer.json");
  constexpr std::size_t max_text_size = 200;
  file.write(data, size);
  std::optional<attn::Tokenizer> tokenizer;
  try {
    tokenizer = attn::Tokenizer::from_file(file.name());
  } catch (const attn::Error&) {
    return 0;
  }
  use(*tokenizer,
      "<s>The bed!! 123 the e\xcc\x81the\n </s> \xff\xe2\x82 don't "
      "aaaaaaaaaaaaaaaaaaaaaaaa<|endoftext|>");
  const std::size_t text_size = std::min(size, max_text_size);
  use(*tokenizer, std::string(reinterpret_cast<const char*>(data + size - text_size), text_size));
  return 0;
}
