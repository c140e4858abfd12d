// Text that comes in pieces of bytes, written as it comes.
#pragma once

#include <string>
#include <string_view>

namespace attn::apps::demo {

/// What of `bytes` can be shown: whole UTF-8 characters as they are; control characters (C0, DEL,
/// C1) but newline and tab, which a terminal would obey, as \x1b; bytes that are no UTF-8 as
/// U+FFFD. The beginning of a character stays in `bytes` until the rest comes; `last` says that
/// none will.
std::string take_printable(std::string& bytes, bool last);

/// Writes to standard output at once.
class TextStream {
 public:
  void write(std::string_view bytes);
  void finish();

 private:
  void put(bool last);
  std::string pending_;
};

}  // namespace attn::apps::demo
