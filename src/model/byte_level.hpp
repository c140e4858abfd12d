// The alphabet of byte-level BPE (GPT-2): each byte has a printable character that stands for it,
// so that a vocabulary is readable JSON.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace attn::model {

/// The character of each byte, in UTF-8. Printable characters of Latin-1 stand for themselves, and
/// the n-th of the other bytes is U+0100 + n.
const std::array<std::string, 256>& byte_alphabet();

/// The bytes that `text` spells; nothing if it holds a character outside of the alphabet.
std::optional<std::string> spelled_bytes(std::string_view text);

}  // namespace attn::model
