#include "png.hpp"

#include <attn/error.hpp>

#include <png.h>

namespace attn::apps::demo {
namespace {

static_assert(sizeof(Color) == 3, "pixels lie as PNG_FORMAT_RGB has them");

}  // namespace

std::string png_bytes(const Canvas& canvas) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(canvas.width());
  image.height = static_cast<png_uint_32>(canvas.height());
  image.format = PNG_FORMAT_RGB;
  // Once to learn the size, once to write.
  std::string bytes;
  png_alloc_size_t size = 0;
  for (const bool sized : {false, true}) {
    bytes.resize(size);
    void* const memory = sized ? bytes.data() : nullptr;
    if (png_image_write_to_memory(&image, memory, &size, 0, canvas.pixels().data(), 0, nullptr) ==
        0) {
      throw Error(ErrorCode::io, std::string("libpng: ") + image.message);
    }
  }
  return bytes;
}

}  // namespace attn::apps::demo
