// The files that a command writes.
#pragma once

#include <attn/io.hpp>
#include <attn/tensor.hpp>

#include <deque>
#include <optional>
#include <string>

namespace attn::apps::demo {

/// Writes a file that is no tensor. It appears whole or not at all. Throws Error(io).
void write_file(const std::string& file, const std::string& bytes);

/// Tensors that are computed and then written, all of them or none.
class Outputs {
 public:
  /// A tensor to fill for an option that was given; an absent view for one that was not. Throws
  /// Error if the file cannot be written, or if its format lacks the type.
  MutableTensorView make(const char* option, const std::optional<std::string>& file, DType dtype,
                         const Dims& shape);
  void commit();

 private:
  struct Output {
    std::string file, name;
    Tensor tensor;
  };
  OutputFiles files_;
  std::deque<Output> outputs_;  // a deque, so that views stay valid
};

}  // namespace attn::apps::demo
