#include "canvas.hpp"

#include <attn/error.hpp>

#include <png.h>

#include <algorithm>

#include "font.hpp"

namespace attn::apps {
namespace {

constexpr int hatch_period = 8, hatch_width = 2;

/// Calls set(x, y) for each pixel of the text in the font's own size, read from left to right.
template <class Set>
void for_glyph_pixels(std::string_view text, Set set) {
  for (std::size_t n = 0; n < text.size(); ++n) {
    for (int y = 0; y < glyph_height; ++y) {
      for (int x = 0; x < glyph_width; ++x) {
        if (glyph_pixel(text[n], x, y)) set(static_cast<int>(n) * glyph_step + x, y);
      }
    }
  }
}

}  // namespace

int text_width(std::string_view text, int scale) {
  return text.empty() ? 0 : (static_cast<int>(text.size()) * glyph_step - 1) * scale;
}
int text_height(int scale) { return glyph_height * scale; }

Canvas::Canvas(int width, int height)
    : width_(width),
      height_(height),
      pixels_(static_cast<std::size_t>(width) * static_cast<std::size_t>(height), white) {}

void Canvas::fill(const Box& box, Color color) {
  const int left = std::clamp(box.left, 0, width_),
            right = std::clamp(box.left + box.width, left, width_);
  for (int y = std::max(box.top, 0); y < std::min(box.top + box.height, height_); ++y) {
    const auto row = pixels_.begin() + static_cast<std::ptrdiff_t>(y) * width_;
    std::fill(row + left, row + right, color);
  }
}

void Canvas::hatch(const Box& box, Color ground, Color lines) {
  fill(box, ground);
  for (int y = std::max(box.top, 0); y < std::min(box.top + box.height, height_); ++y) {
    for (int x = std::max(box.left, 0); x < std::min(box.left + box.width, width_); ++x) {
      if ((x + y) % hatch_period < hatch_width) fill({x, y, 1, 1}, lines);
    }
  }
}

void Canvas::frame(const Box& box, Color color) {
  fill({box.left - 1, box.top - 1, box.width + 2, 1}, color);
  fill({box.left - 1, box.top + box.height, box.width + 2, 1}, color);
  fill({box.left - 1, box.top, 1, box.height}, color);
  fill({box.left + box.width, box.top, 1, box.height}, color);
}

void Canvas::text(int left, int top, std::string_view text, const Lettering& lettering) {
  const int scale = lettering.scale;
  for_glyph_pixels(text, [&](int x, int y) {
    fill({left + x * scale, top + y * scale, scale, scale}, lettering.color);
  });
}

void Canvas::upright_text(int left, int bottom, std::string_view text, const Lettering& lettering) {
  const int scale = lettering.scale;
  for_glyph_pixels(text, [&](int x, int y) {
    fill({left + y * scale, bottom - (x + 1) * scale, scale, scale}, lettering.color);
  });
}

static_assert(sizeof(Color) == 3, "PNG_FORMAT_RGB needs pixels of three bytes");

std::string png_bytes(const Canvas& canvas) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(canvas.width());
  image.height = static_cast<png_uint_32>(canvas.height());
  image.format = PNG_FORMAT_RGB;
  // The first call gives the size, the second one writes the bytes.
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

}  // namespace attn::apps
