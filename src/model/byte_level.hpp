// The alphabet of byte-level BPE: each byte as a character that can be seen, so that vocabularies
// are readable JSON.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace attn::model {

/// By byte, in UTF-8: the printable characters of Latin-1 stand for themselves, and the n-th other
/// byte is U+0100 + n.
const std::array<std::string, 256>& byte_alphabet();

/// The bytes that `text` spells; nothing if some character of it is not of the alphabet.
std::optional<std::string> spelled_bytes(std::string_view text);

}  // namespace attn::model
