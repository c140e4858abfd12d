// The files that a command writes.
#pragma once

#include <attn/io.hpp>
#include <attn/tensor.hpp>

#include <deque>
#include <optional>
#include <string>

namespace attn::apps::demo {

/// Makes sure that an output can be written, and in its type, which .npy may lack. `option` names
/// it in messages.
void add_output(OutputFiles& files, const char* option, const std::string& file, DType dtype);

/// Writes a file that is no tensor. It appears whole or not at all. Throws Error(io).
void write_text(const std::string& file, const std::string& text);

/// Tensors that are computed and then written, all of them or none.
class Outputs {
 public:
  /// An output to fill, of an option that was given; else an absent view.
  MutableTensorView make(const char* option, const std::optional<std::string>& file, DType dtype,
                         const Dims& shape);
  void commit();

 private:
  struct Output {
    std::string file, name;
    Tensor tensor;
  };
  OutputFiles files_;
  std::deque<Output> outputs_;
};

}  // namespace attn::apps::demo
