#include "io/integers.hpp"

#include <fmt/format.h>

#include <cstring>
#include <type_traits>

namespace attn::io {
namespace {

template <class Signed>
void widen(const void* stored, const IntegerType& type, std::int64_t size, std::int64_t* wide) {
  const auto* const bytes = static_cast<const std::byte*>(stored);
  for (std::int64_t n = 0; n < size; ++n) {
    Signed value;
    std::memcpy(&value, bytes + n * static_cast<std::int64_t>(sizeof value), sizeof value);
    wide[n] = type.is_signed ? std::int64_t{value}
                             : static_cast<std::int64_t>(std::make_unsigned_t<Signed>(value));
  }
}

}  // namespace

Tensor widened(const InputFile& file, const Tensor& stored, const IntegerType& type) {
  Tensor wide(DType::i64, stored.shape());
  auto* const values = wide.data<std::int64_t>();
  switch (size_of(type.storage)) {
    case 1: widen<std::int8_t>(stored.data(), type, stored.size(), values); break;
    case 2: widen<std::int16_t>(stored.data(), type, stored.size(), values); break;
    case 4: widen<std::int32_t>(stored.data(), type, stored.size(), values); break;
    default: widen<std::int64_t>(stored.data(), type, stored.size(), values); break;
  }
  if (type.is_signed || type.storage != DType::i64) return wide;
  for (std::int64_t n = 0; n < wide.size(); ++n) {
    if (values[n] < 0)
      file.fail(fmt::format("its element {} is {}, which is too large for 64 bits with a sign", n,
                            static_cast<std::uint64_t>(values[n])));
  }
  return wide;
}

}  // namespace attn::io
