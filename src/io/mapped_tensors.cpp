#include <attn/error.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/input_file.hpp"
#include "io/message.hpp"
#include "io/safetensors.hpp"
#include "tensor/checks.hpp"

namespace attn {

struct MappedTensors::Parts {
  struct Mapped {
    TensorView view;
    std::string unread_type;  // of a tensor that has no view
  };

  explicit Parts(const io::InputFile& input) : file(input.name()), bytes(input.map()) {}
  void add(const io::SafetensorsEntry& entry);

  std::string file;
  std::shared_ptr<const std::byte> bytes;
  std::vector<Tensor> copies;
  std::vector<std::string> names;
  std::map<std::string, Mapped, std::less<>> tensors;
};

void MappedTensors::Parts::add(const io::SafetensorsEntry& entry) {
  names.push_back(entry.name);
  Mapped& mapped = tensors[entry.name];
  const std::optional<DType> dtype = io::type_of(entry);
  if (!dtype) {
    mapped.unread_type = entry.type;
    return;
  }
  const std::byte* data = bytes.get() + entry.begin;
  mapped.view = TensorView(static_cast<const void*>(data), *dtype, entry.shape);
  // The mapping begins at a page boundary, so the offset in the file decides the alignment.
  if (entry.begin % size_of(*dtype) == 0 || entry.begin == entry.end) return;
  Tensor& copy = copies.emplace_back(*dtype, entry.shape);
  std::memcpy(copy.data(), data, copy.size_in_bytes());
  mapped.view = std::as_const(copy).view();
}

MappedTensors::MappedTensors(const std::string& file) {
  const io::InputFile input(file);
  const std::vector<io::SafetensorsEntry> entries = io::read_safetensors_header(input);
  parts_ = std::make_unique<Parts>(input);
  for (const io::SafetensorsEntry& entry : entries) parts_->add(entry);
}

MappedTensors::MappedTensors(MappedTensors&&) noexcept = default;
MappedTensors& MappedTensors::operator=(MappedTensors&&) noexcept = default;
MappedTensors::~MappedTensors() = default;

const MappedTensors::Parts& MappedTensors::parts() const {
  return detail::not_moved_from("mapped tensors", parts_);
}

const std::string& MappedTensors::file() const { return parts().file; }

const std::vector<std::string>& MappedTensors::names() const { return parts().names; }

bool MappedTensors::contains(const std::string& name) const {
  return parts().tensors.contains(name);
}

TensorView MappedTensors::tensor(const std::string& name) const {
  const auto found = parts().tensors.find(name);
  if (found == parts().tensors.end()) {
    io::fail(parts().file, fmt::format("no tensor {}; it holds {}", io::in_quotes(name),
                                       io::list_names(parts().names)));
  }
  const auto& [view, unread_type] = found->second;
  if (view.data == nullptr) io::refuse_type(parts().file, name, unread_type);
  return view;
}

}  // namespace attn
