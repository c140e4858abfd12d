// A .safetensors file is read and mapped, or refused with Error.
#include <attn/error.hpp>
#include <attn/io.hpp>

#include <cstring>
#include <string>
#include <string_view>

#include "fuzz/scratch_file.hpp"

namespace {

void read(const attn::test::ScratchFile& file) {
  try {
    const attn::MappedTensors mapped(file.name());
    for (const std::string& name : mapped.names()) {
      try {
        attn::copy_as(mapped.tensor(name), attn::DType::f64);
        attn::read_tensor(file.name() + ":" + name);
      } catch (const attn::Error&) {
      }
    }
  } catch (const attn::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const attn::test::ScratchFile file("x.safetensors");
  file.write(data, size);
  read(file);

  // Most changes make the header longer or shorter, and its stated size wrong. The input is read
  // once more with the right size, so that they reach what comes after that check.
  std::string corrected(reinterpret_cast<const char*>(data), size);
  constexpr std::string_view last = "}}";
  constexpr std::size_t begin = sizeof(std::uint64_t);
  const std::size_t end = corrected.find(last, begin);
  if (end == std::string::npos) return 0;
  const std::uint64_t header_size = end + last.size() - begin;
  std::memcpy(corrected.data(), &header_size, begin);
  file.write(reinterpret_cast<const std::uint8_t*>(corrected.data()), size);
  read(file);
  return 0;
}
