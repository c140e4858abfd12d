// The files that a command writes.
#pragma once

#include <attn/io.hpp>
#include <attn/tensor.hpp>

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace attn::apps::demo {

/// Lets signals that end the program remove temporary files first. A signal that is ignored, or has
/// a handler already, is left alone.
void remove_outputs_on_signals();

/// Throws Error unless the name ends so, or is that of a device, which takes everything.
void require_suffix(const char* option, const std::string& file, std::string_view suffix);

/// Tensors that are computed first and then written to files, all of them or none.
class Outputs {
 public:
  /// A tensor for the caller to fill, or an absent view if the option was not given. Throws Error
  /// if the file cannot be written, or if its format does not have the type.
  MutableTensorView make(const char* option, const std::optional<std::string>& file, DType dtype,
                         const Dims& shape);
  /// Names a file whose tensor is never held as a whole: write() gives it in parts, before
  /// commit(). Throws Error as make() does.
  void add(const char* option, const std::string& file, DType dtype);
  /// As OutputFiles::write.
  void write(const char* option, const std::string& file, DType dtype, const Dims& shape,
             const std::function<TensorView()>& next);
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
