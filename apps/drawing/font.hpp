// A bitmap font of fixed width, for the text in pictures.
#pragma once

namespace attn::apps {

/// Text is ASCII and these three characters, which have their codes in Windows-1252.
inline constexpr char ellipsis = '\x85', middle_dot = '\xb7', times_sign = '\xd7';

/// Capitals occupy rows 0 to 6; rows 7 and 8 are for descenders.
inline constexpr int glyph_width = 5, glyph_height = 9, cap_height = 7;
/// The distance from one character to the next; it includes a gap of one pixel.
inline constexpr int glyph_step = glyph_width + 1;

/// Whether the pixel x, y of a character's glyph is set.
bool glyph_pixel(char character, int x, int y);

}  // namespace attn::apps
