// The letters of a picture: a fixed-width bitmap font.
#pragma once

namespace attn::apps::demo {

/// Text is ASCII, and these three as Windows-1252 has them.
inline constexpr char ellipsis = '\x85', middle_dot = '\xb7', times_sign = '\xd7';

/// Capitals stand on the lower edge of row 6; rows 7 and 8 are for what hangs below.
inline constexpr int glyph_width = 5, glyph_height = 9, cap_height = 7;
/// From one letter to the next, a gap of one pixel.
inline constexpr int glyph_step = glyph_width + 1;

/// Whether the pixel x, y of a character's glyph is set.
bool glyph_pixel(char character, int x, int y);

}  // namespace attn::apps::demo
