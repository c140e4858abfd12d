#include "model/byte_level.hpp"

#include "model/unicode.hpp"

namespace attn::model {
namespace {

bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  static constexpr int first_other = 0x100, max_others = 256;

  std::array<std::string, 256> characters;
  std::array<int, first_other + max_others> bytes;  // by character; -1 if it stands for no byte

  Alphabet() {
    bytes.fill(-1);
    int other = first_other;
    for (int byte = 0; byte < 256; ++byte) {
      const int code = stands_for_itself(byte) ? byte : other++;
      bytes[static_cast<std::size_t>(code)] = byte;
      std::string& character = characters[static_cast<std::size_t>(byte)];
      if (code < 0x80) {
        character = static_cast<char>(code);
      } else {  // a character below U+0800 is two bytes of UTF-8
        character = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
      }
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet made;
  return made;
}

}  // namespace

const std::array<std::string, 256>& byte_alphabet() { return alphabet().characters; }

std::optional<std::string> spelled_bytes(std::string_view text) {
  const auto& bytes = alphabet().bytes;
  std::string spelled;
  while (!text.empty()) {
    const Character character = first_character(text);
    const auto code = static_cast<std::size_t>(character.code);
    if (character.size == 0 || code >= bytes.size() || bytes[code] < 0) return std::nullopt;
    spelled += static_cast<char>(bytes[code]);
    text.remove_prefix(character.size);
  }
  return spelled;
}

}  // namespace attn::model
