#include <attn/io.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>

#include "io/input_file.hpp"
#include "io/message.hpp"
#include "io/npy.hpp"
#include "io/output_file.hpp"
#include "io/safetensors.hpp"
#include "io/temporary_name.hpp"
#include "tensor/checks.hpp"

namespace fs = std::filesystem;

namespace attn {
namespace {

constexpr std::string_view npy_suffix = ".npy";
constexpr std::string_view safetensors_suffix = ".safetensors";

bool names_safetensors(const fs::path& file) { return file.string().ends_with(safetensors_suffix); }

void check_name(const fs::path& file) {
  const std::string name = file.string();
  if (!name.ends_with(npy_suffix) && !names_safetensors(file) && !io::is_special(file))
    io::fail(name, "an output's name ends in .npy or .safetensors");
}

/// Calls what belongs to the kind of file for the tensor that is named as x.npy,
/// x.safetensors:NAME or x.safetensors.
template <class Result>
Result find_with(Result (*npy)(const io::InputFile&),
                 Result (*safetensors)(const io::InputFile&, const std::optional<std::string>&),
                 const std::string& file, std::optional<io::InputFile>& input) {
  const std::size_t suffix = file.find(fmt::format("{}:", safetensors_suffix));
  if (suffix != std::string::npos) {
    const std::size_t colon = suffix + safetensors_suffix.size();
    return safetensors(input.emplace(file.substr(0, colon)), file.substr(colon + 1));
  }
  if (file.ends_with(safetensors_suffix)) return safetensors(input.emplace(file), std::nullopt);
  if (file.ends_with(npy_suffix)) return npy(input.emplace(file));
  io::fail(file, "unknown kind of file; a tensor is x.npy or x.safetensors:NAME");
}

TensorView view_of(const std::byte* bytes, const io::StoredTensor& stored) {
  const void* const data = bytes + stored.offset;
  if (!stored.fortran_order) return {data, stored.dtype, stored.shape};
  TensorView view{data, stored.dtype, stored.shape};
  std::int64_t stride = 1;
  for (int dim = 0; dim < view.rank(); ++dim) {
    view.strides[dim] = stride;
    stride *= view.shape[dim];
  }
  return view;
}

}  // namespace

Tensor read_tensor(const std::string& file) {
  std::optional<io::InputFile> input;
  return find_with(io::read_npy, io::read_safetensors, file, input);
}

Tensor read_integers(const std::string& file) {
  std::optional<io::InputFile> input;
  return find_with(io::read_npy_integers, io::read_safetensors_integers, file, input);
}

MappedTensor::MappedTensor(const std::string& file) {
  std::optional<io::InputFile> input;
  const io::StoredTensor stored = find_with(io::find_npy, io::find_safetensors, file, input);
  bytes_ = input->map();
  view_ = view_of(bytes_.get(), stored);
}

void write_tensor(const fs::path& file, const TensorView& tensor, const std::string& name) {
  OutputFiles files;
  files.add(file);
  files.write(file, tensor, name);
  files.commit();
}

void write_safetensors(const fs::path& file, std::span<const NamedTensor> tensors) {
  OutputFiles files;
  files.add(file);
  files.write(file, tensors);
  files.commit();
}

void write_bytes(const fs::path& file, std::string_view bytes) {
  io::OutputFile output(file);
  output.open();
  output.write(bytes.data(), bytes.size());
  output.close();
  output.commit(false);
}

void remove_unfinished_outputs() noexcept { io::remove_listed_files(); }

OutputFiles::OutputFiles() = default;
OutputFiles::~OutputFiles() = default;

void OutputFiles::add(const fs::path& file) {
  check_name(file);
  const fs::path place = io::place_of(file);
  for (const auto& other : files_) {
    if (other->target() == place) io::fail(file.string(), "is named as an output twice");
  }
  files_.push_back(std::make_unique<io::OutputFile>(file));
}

io::OutputFile& OutputFiles::added(const fs::path& file) {
  const fs::path place = io::place_of(file);
  const auto found = std::find_if(files_.begin(), files_.end(),
                                  [&](const auto& other) { return other->target() == place; });
  if (found == files_.end()) io::fail(file.string(), "was not added to the outputs");
  return **found;
}

void OutputFiles::write(const fs::path& file, const TensorView& tensor, const std::string& name) {
  if (names_safetensors(file)) {
    const NamedTensor named{name, tensor};
    return write(file, std::span(&named, 1));
  }
  detail::require_unaligned_data("tensor", tensor);
  io::OutputFile& output = added(file);
  output.open();
  io::write_npy(output, tensor);
  output.close();
}

void OutputFiles::write(const fs::path& file, DType dtype, const Dims& shape,
                        const std::function<TensorView()>& next, const std::string& name) {
  const TensorView whole(nullptr, dtype, shape);
  detail::require_form("tensor", whole);
  io::OutputFile& output = added(file);
  output.open();
  if (names_safetensors(file))
    io::write_safetensors_header(output, {name, whole});
  else
    io::write_npy_header(output, dtype, shape);
  for (std::int64_t left = shape.product(); left > 0;) {
    const TensorView part = next();
    detail::require_unaligned_data("part", part);
    detail::require_type("part", part, dtype);
    detail::require_within("the number of elements of a part", part.size(), 1, left,
                           "elements that are left");
    output.write(part);
    left -= part.size();
  }
  output.close();
}

void OutputFiles::write(const fs::path& file, std::span<const NamedTensor> tensors) {
  if (!names_safetensors(file))
    io::fail(file.string(), "several tensors go into one .safetensors file");
  for (const NamedTensor& named : tensors)
    detail::require_unaligned_data(named.name.c_str(), named.tensor);
  io::OutputFile& output = added(file);
  output.open();
  io::write_safetensors(output, tensors);
  output.close();
}

void OutputFiles::commit() {
  for (const auto& file : files_) {
    if (!file->complete()) io::fail(file->name(), "was added to the outputs, but not written");
  }
  auto file = files_.begin();
  try {
    for (; file != files_.end(); ++file) (*file)->commit(files_.size() > 1);
  } catch (...) {
    while (file != files_.begin()) (*--file)->undo();
    files_.clear();
    throw;
  }
  files_.clear();
}

}  // namespace attn
