// A .npy file is read, or refused with Error.
#include <attn/error.hpp>
#include <attn/io.hpp>

#include "fuzz/scratch_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const attn::test::ScratchFile file("x.npy");
  file.write(data, size);
  try {
    attn::read_tensor(file.name());
  } catch (const attn::Error&) {
  }
  return 0;
}
