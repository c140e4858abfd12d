#include "support/png.hpp"

#include <png.h>

namespace attn::test {

Png read_png(const std::string& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_file(&image, file.c_str()) == 0) return {};
  image.format = PNG_FORMAT_RGB;
  Png png{static_cast<int>(image.width), static_cast<int>(image.height), {}};
  png.pixels.resize(std::size_t{image.width} * image.height);
  if (png_image_finish_read(&image, nullptr, png.pixels.data(), 0, nullptr) == 0) return {};
  return png;
}

}  // namespace attn::test
