// PNG files as libpng reads them.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace attn::test {

using Pixel = std::array<unsigned char, 3>;

struct Png {
  int width = 0, height = 0;
  std::vector<Pixel> pixels;

  const Pixel& at(int x, int y) const { return pixels.at(static_cast<std::size_t>(y * width + x)); }
};

/// Returns an image without pixels if the file is no PNG.
Png read_png(const std::string& file);

}  // namespace attn::test
