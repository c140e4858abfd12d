#include "outputs.hpp"

#include <algorithm>

#include "arguments.hpp"

namespace attn::demo {

void add_output(OutputFiles& files, const char* option, const std::string& file, DType dtype) {
  if (dtype == DType::bf16 && !file.ends_with(".safetensors")) {
    reject_value(option, file, "a name that ends in .safetensors: .npy has no bf16");
  }
  files.add(file);
}

MutableTensorView Outputs::make(const char* option, const std::optional<std::string>& file, DType dtype, const Dims& shape) {
  if (!file) return {};
  add_output(files_, option, *file, dtype);
  // The tensor's name in a .safetensors file: that of its option, in the words of such files.
  std::string name(option + std::string_view("--").size());
  std::replace(name.begin(), name.end(), '-', '_');
  outputs_.push_back({*file, name, Tensor(dtype, shape)});
  return outputs_.back().tensor.view();
}

void Outputs::commit() {
  for (const Output& output : outputs_) files_.write(output.file, output.tensor.view(), output.name);
  files_.commit();
}

}  // namespace attn::demo
