#include "require_memory.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include "memory.hpp"
#include "text.hpp"

namespace attn::demo {

void require_memory(const std::string& what, double bytes) {
  const double available = available_memory();
  if (bytes <= available) return;
  throw Error(ErrorCode::invalid_argument,
              fmt::format("{} needs about {} of memory; {} are available", what,
                          format_bytes(bytes), format_bytes(available)));
}

}  // namespace attn::demo
