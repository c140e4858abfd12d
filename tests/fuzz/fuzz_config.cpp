// config.json of a model's folder is read as that of a decoder and of an encoder, or refused with
// Error. The folder has no weights, so that a good configuration ends in an Error too.
#include <attn/error.hpp>
#include <attn/model.hpp>

#include "fuzz/scratch_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const attn::test::ScratchFile file("config.json");
  file.write(data, size);
  try {
    const attn::ModelFolder model(file.folder());
  } catch (const attn::Error&) {
  }
  try {
    const attn::EncoderFolder encoder(file.folder());
  } catch (const attn::Error&) {
  }
  return 0;
}
