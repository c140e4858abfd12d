// Writes text that arrives in pieces of bytes, each piece as soon as it can be shown.
#pragma once

#include <string>
#include <string_view>

namespace attn::apps::demo {

/// Removes from `bytes` what can be shown, and returns it. Complete UTF-8 characters are unchanged.
/// Control characters (C0, DEL, C1) except newline and tab would change the terminal, so they are
/// written as escapes like \x1b. Bytes that are not UTF-8 become U+FFFD. An incomplete character
/// stays in `bytes` until the rest arrives, unless `last` says that no more bytes follow.
std::string take_printable(std::string& bytes, bool last);

/// Writes to standard output and flushes after each piece.
class TextStream {
 public:
  void write(std::string_view bytes);
  void finish();

 private:
  void put(bool last);
  std::string pending_;
};

}  // namespace attn::apps::demo
