// The files that a command writes.
#pragma once

#include <attn/io.hpp>
#include <attn/tensor.hpp>

#include <deque>
#include <optional>
#include <string>

namespace attn::apps::demo {

/// Writes a file that is not a tensor. The file appears complete or not at all. Throws Error(io).
void write_file(const std::string& file, const std::string& bytes);

/// Tensors that are computed first and then written to files, all of them or none.
class Outputs {
 public:
  /// A tensor for the caller to fill, or an absent view if the option was not given. Throws Error
  /// if the file cannot be written, or if its format does not have the type.
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
