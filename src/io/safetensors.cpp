#include "io/safetensors.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "io/integers.hpp"
#include "io/json.hpp"
#include "io/message.hpp"
#include "tensor/size.hpp"

namespace attn::io {
namespace {

/// The format sets this limit itself.
constexpr std::uint64_t max_header_size = 100'000'000;
constexpr std::string_view metadata_key = "__metadata__";

constexpr std::array<std::pair<std::string_view, DType>, 8> types{{{"F32", DType::f32},
                                                                   {"F16", DType::f16},
                                                                   {"BF16", DType::bf16},
                                                                   {"F64", DType::f64},
                                                                   {"I8", DType::i8},
                                                                   {"I32", DType::i32},
                                                                   {"I64", DType::i64},
                                                                   {"BOOL", DType::boolean}}};
constexpr std::array<std::pair<std::string_view, IntegerType>, 9> integer_types{
    {{"I8", {DType::i8, true}},
     {"I16", {DType::f16, true}},
     {"I32", {DType::i32, true}},
     {"I64", {DType::i64, true}},
     {"U8", {DType::i8, false}},
     {"U16", {DType::f16, false}},
     {"U32", {DType::i32, false}},
     {"U64", {DType::i64, false}},
     {"BOOL", {DType::boolean, true}}}};

std::string_view dtype_name(DType dtype) {
  return std::find_if(types.begin(), types.end(),
                      [dtype](const auto& type) { return type.second == dtype; })
      ->first;
}

using Entry = SafetensorsEntry;

/// A header is an object of objects of short lists. Whatever goes beyond that is refused before it
/// takes memory.
constexpr JsonLimits header_limits{.max_depth = 3, .max_list_size = Dims::max_rank};

void check_keys(const JsonObject& table, const std::string& tensor, const JsonObject& entry) {
  for (const std::string_view key : entry.keys()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      table.fail(
          fmt::format("tensor {} has the unknown key {}", in_quotes(tensor), in_quotes(key)));
  }
}

/// Offsets are counted from the end of the header, as in the file.
Entry read_entry(const JsonObject& table, std::string_view name) {
  constexpr std::int64_t max = std::numeric_limits<std::int64_t>::max();
  const JsonObject object = table.object(name);
  Entry entry{.name = std::string(name)};
  check_keys(table, entry.name, object);
  entry.type = object.text("dtype");
  const std::vector<std::int64_t> extents = object.integers("shape", 0, max);
  entry.shape = Dims(extents.data(), static_cast<int>(extents.size()));
  const std::vector<std::int64_t> offsets = object.integers("data_offsets", 0, max);
  if (offsets.size() != 2) object.refuse("data_offsets", "two numbers");
  entry.begin = static_cast<std::uint64_t>(offsets[0]);
  entry.end = static_cast<std::uint64_t>(offsets[1]);
  return entry;
}

/// A header may have 100 MB, so that it is read as a stream.
std::vector<Entry> read_table(const InputFile& file, std::string_view header) {
  std::vector<Entry> entries;
  const auto visit = [&](const JsonObject& table, std::string_view name) {
    if (name != metadata_key) {
      entries.push_back(read_entry(table, name));
      return;
    }
    const JsonObject metadata = table.object(name);
    for (const std::string_view key : metadata.keys()) metadata.text(key);
  };
  JsonObject::stream(file.name(), "broken header", header, header_limits, visit);
  return entries;
}

/// Every byte after the header belongs to exactly one tensor.
void check_offsets(const InputFile& file, std::vector<Entry>& entries, std::uint64_t data_size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t covered = 0;
  for (const Entry& entry : entries) {
    const auto refuse = [&](const std::string& what) {
      file.fail(fmt::format("data_offsets {}..{} of tensor {} {}", entry.begin, entry.end,
                            in_quotes(entry.name), what));
    };
    if (entry.begin > entry.end) refuse("end before they begin");
    if (entry.end > data_size)
      refuse(fmt::format("go beyond the {} bytes after the header", data_size));
    if (entry.begin < covered) refuse("overlap those of another tensor");
    if (entry.begin > covered) refuse(fmt::format("leave a hole from {} on", covered));
    covered = entry.end;
  }
  if (covered < data_size)
    file.fail(
        fmt::format("its tensors have {} bytes, but {} follow the header", covered, data_size));
}

void check_size(const InputFile& file, const Entry& entry, DType dtype) {
  const std::optional<std::int64_t> needed = detail::dense_size_in_bytes(entry.shape, dtype);
  const std::string tensor =
      fmt::format("tensor {} of shape {}", in_quotes(entry.name), entry.shape.to_string());
  if (!needed) file.fail(fmt::format("{} is too large", tensor));
  const std::uint64_t held = entry.end - entry.begin;
  if (static_cast<std::uint64_t>(*needed) != held) {
    file.fail(fmt::format("{} and type {} needs {} bytes, but its data_offsets hold {}", tensor,
                          entry.type, *needed, held));
  }
}

const Entry& find_entry(const InputFile& file, const std::vector<Entry>& entries,
                        const std::optional<std::string>& name) {
  if (!name && entries.size() == 1) return entries.front();
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& entry) { return entry.name == name; });
  if (found != entries.end()) return *found;
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.push_back(entry.name);
  if (!name)
    file.fail(
        fmt::format("name one tensor as {}:NAME; it holds {}", file.name(), list_names(names)));
  file.fail(fmt::format("no tensor {}; it holds {}", in_quotes(*name), list_names(names)));
}

void check_names(std::span<const NamedTensor> tensors) {
  std::set<std::string_view> names;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.name == metadata_key || !names.insert(tensor.name).second) {
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("tensor name {} is taken; a .safetensors file holds a name once",
                              in_quotes(tensor.name)));
    }
  }
}

[[noreturn]] void refuse_type_but(const std::string& needed, const std::string& file,
                                  const std::string& tensor, const std::string& type) {
  fail(file,
       fmt::format("tensor {} has element type {}, which is not supported; it needs one of {}",
                   in_quotes(tensor), in_quotes(type), needed));
}

/// The header for `tensors`, which are given in the order of their data. It is padded, so that the
/// data is aligned to eight bytes.
std::string make_header(const std::vector<NamedTensor>& tensors) {
  nlohmann::ordered_json table = nlohmann::ordered_json::object();
  std::int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::int64_t end =
        offset + tensor.size() * static_cast<std::int64_t>(size_of(tensor.dtype));
    table[name] = {{"dtype", dtype_name(tensor.dtype)},
                   {"shape", std::vector<std::int64_t>(tensor.shape.begin(), tensor.shape.end())},
                   {"data_offsets", {offset, end}}};
    offset = end;
  }
  try {
    std::string header = table.dump();
    header.append((8 - header.size() % 8) % 8, ' ');
    return header;
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorCode::invalid_argument, "a tensor's name is no UTF-8; .safetensors needs it");
  }
}

void write_header(OutputFile& file, const std::vector<NamedTensor>& ordered) {
  const std::string header = make_header(ordered);
  const std::uint64_t header_size = header.size();
  file.write(&header_size, sizeof header_size);
  file.write(header.data(), header.size());
}

}  // namespace

std::vector<Entry> read_safetensors_header(const InputFile& file) {
  std::uint64_t header_size = 0;
  if (file.size() < sizeof header_size)
    file.fail(
        fmt::format("truncated: it ends after {} bytes, inside the header's length", file.size()));
  file.read(0, &header_size, sizeof header_size);
  const std::uint64_t rest = file.size() - sizeof header_size;
  if (header_size > rest) {
    file.fail(fmt::format(
        "truncated, or no .safetensors file: its header should have {} bytes, but {} follow",
        header_size, rest));
  }
  if (header_size > max_header_size)
    file.fail(
        fmt::format("its header has {} bytes; at most {} are read", header_size, max_header_size));
  std::vector<Entry> entries = read_table(file, file.read_text(sizeof header_size, header_size));
  check_offsets(file, entries, rest - header_size);
  for (Entry& entry : entries) {
    if (const std::optional<DType> dtype = type_of(entry)) check_size(file, entry, *dtype);
    entry.begin += sizeof header_size + header_size;
    entry.end += sizeof header_size + header_size;
  }
  return entries;
}

std::optional<DType> type_of(const Entry& entry) {
  for (const auto& [known, dtype] : types) {
    if (known == entry.type) return dtype;
  }
  return std::nullopt;
}

void refuse_type(const std::string& file, const std::string& tensor, const std::string& type) {
  refuse_type_but(list_types(types), file, tensor, type);
}

StoredTensor find_safetensors(const InputFile& file, const std::optional<std::string>& name) {
  const std::vector<Entry> entries = read_safetensors_header(file);
  const Entry& entry = find_entry(file, entries, name);
  const std::optional<DType> dtype = type_of(entry);
  if (!dtype) refuse_type(file.name(), entry.name, entry.type);
  return {.offset = entry.begin, .dtype = *dtype, .shape = entry.shape};
}

Tensor read_safetensors(const InputFile& file, const std::optional<std::string>& name) {
  const StoredTensor stored = find_safetensors(file, name);
  return file.read_tensor(stored.offset, stored.dtype, stored.shape);
}

Tensor read_safetensors_integers(const InputFile& file, const std::optional<std::string>& name) {
  const std::vector<Entry> entries = read_safetensors_header(file);
  const Entry& entry = find_entry(file, entries, name);
  for (const auto& [known, type] : integer_types) {
    if (known != entry.type) continue;
    check_size(file, entry, type.storage);
    return widened(file, file.read_tensor(entry.begin, type.storage, entry.shape), type);
  }
  refuse_type_but(list_types(integer_types), file.name(), entry.name, entry.type);
}

void write_safetensors_header(OutputFile& file, const NamedTensor& tensor) {
  check_names(std::span(&tensor, 1));
  write_header(file, {tensor});
}

void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors) {
  check_names(tensors);
  std::vector<NamedTensor> ordered(tensors.begin(), tensors.end());
  // There are no gaps between tensors, so they are all aligned if the largest elements come first.
  std::stable_sort(ordered.begin(), ordered.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return size_of(a.tensor.dtype) > size_of(b.tensor.dtype);
  });
  write_header(file, ordered);
  for (const NamedTensor& named : ordered) file.write(named.tensor);
}

}  // namespace attn::io
