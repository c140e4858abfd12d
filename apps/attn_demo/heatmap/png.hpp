// Pixels as a PNG file.
#pragma once

#include <string>

#include "canvas.hpp"

namespace attn::apps::demo {

/// The bytes of the file. The same pixels give the same bytes with the same libpng and zlib. Throws
/// Error where libpng fails.
std::string png_bytes(const Canvas& canvas);

}  // namespace attn::apps::demo
