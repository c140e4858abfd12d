#include "io/safetensors.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/size.hpp"

namespace attn::io {
namespace {

using nlohmann::json;

/// The format's own limit.
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

std::string_view dtype_name(DType dtype) {
  return std::find_if(types.begin(), types.end(),
                      [dtype](const auto& type) { return type.second == dtype; })
      ->first;
}

using Entry = SafetensorsEntry;

/// Takes the header's parts as the parser meets them, and refuses what is out of place at once:
/// whatever the file says, no more is kept than the entries.
class HeaderReader final : public json::json_sax_t {
 public:
  explicit HeaderReader(const InputFile& file) : file_(file) {}

  std::vector<Entry> entries;  // whose bytes are counted from the end of the header

  bool null() override { misplaced("null"); }
  bool boolean(bool) override { misplaced("a boolean"); }
  bool number_integer(number_integer_t value) override {
    misplaced(fmt::format("the number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    misplaced(fmt::format("the number {}", in_quotes(text)));
  }
  bool binary(binary_t&) override { misplaced("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::numbers) misplaced(fmt::format("the number {}", value));
    if (numbers_.size() == Dims::max_rank)
      fail(fmt::format("{} of tensor {} has more than {} values", key_, in_quotes(entry_.name),
                       Dims::max_rank));
    numbers_.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::entry && key_ == "dtype")
      entry_.type = value;
    else if (place_ != Place::metadata)
      misplaced("a string");
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::start) {
      place_ = Place::names;
    } else if (place_ == Place::names) {
      place_ = key_ == metadata_key ? Place::metadata : Place::entry;
      entry_ = Entry{};
      entry_.name = key_;
      keys_.clear();
    } else {
      misplaced("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    std::set<std::string>& keys = place_ == Place::names ? names_ : keys_;
    if (!keys.insert(value).second)
      fail(fmt::format("broken header: {} stands twice", in_quotes(value)));
    if (place_ == Place::entry && value != "dtype" && value != "shape" && value != "data_offsets") {
      fail(fmt::format("broken header: tensor {} has the unknown key {}", in_quotes(entry_.name),
                       in_quotes(value)));
    }
    key_ = value;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::names) {
      place_ = Place::end;
      return true;
    }
    if (place_ == Place::entry) {
      for (const char* needed : {"dtype", "shape", "data_offsets"}) {
        if (!keys_.contains(needed))
          fail(fmt::format("broken header: tensor {} lacks {}", in_quotes(entry_.name), needed));
      }
      entries.push_back(std::move(entry_));
    }
    place_ = Place::names;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::entry || key_ == "dtype") misplaced("an array");
    place_ = Place::numbers;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    place_ = Place::entry;
    if (key_ == "shape") {
      set_shape();
    } else {
      if (numbers_.size() != 2)
        fail(fmt::format("broken header: data_offsets of tensor {} are not two numbers",
                         in_quotes(entry_.name)));
      entry_.begin = numbers_[0];
      entry_.end = numbers_[1];
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    refuse_byte(position);
  }

  [[noreturn]] void refuse_byte(std::size_t position) const {
    fail(fmt::format("broken header: its byte {} is no JSON in UTF-8", position));
  }

 private:
  enum class Place { start, names, metadata, entry, numbers, end };

  [[noreturn]] void fail(const std::string& what) const { file_.fail(what); }

  [[noreturn]] void misplaced(std::string_view what) const {
    fail(place_ == Place::start
             ? fmt::format("broken header: {} where the table of tensors should begin", what)
             : fmt::format("broken header: {} does not belong under {}", what, in_quotes(key_)));
  }

  void set_shape() {
    std::array<std::int64_t, Dims::max_rank> extents{};
    for (std::size_t dim = 0; dim < numbers_.size(); ++dim) {
      if (numbers_[dim] > std::numeric_limits<std::int64_t>::max()) {
        fail(fmt::format("the shape of tensor {} is too large: {}", in_quotes(entry_.name),
                         numbers_[dim]));
      }
      extents[dim] = static_cast<std::int64_t>(numbers_[dim]);
    }
    entry_.shape = Dims(extents.data(), static_cast<int>(numbers_.size()));
  }

  const InputFile& file_;
  Place place_ = Place::start;
  std::string key_;
  std::set<std::string> names_, keys_;
  Entry entry_;
  std::vector<std::uint64_t> numbers_;
};

/// Every byte after the header belongs to exactly one tensor.
void check_offsets(const InputFile& file, std::vector<Entry>& entries, std::uint64_t data_size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
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

void check_size(const InputFile& file, const Entry& entry) {
  const std::optional<DType> dtype = type_of(entry);
  if (!dtype) return;
  const std::optional<std::int64_t> needed = detail::dense_size_in_bytes(entry.shape, *dtype);
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

/// The header, padded so that the data after it is aligned to eight bytes. `tensors` in the order
/// of their data.
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
  } catch (const json::exception&) {
    throw Error(ErrorCode::invalid_argument, "a tensor's name is no UTF-8; .safetensors needs it");
  }
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
  std::string header(header_size, '\0');
  file.read(sizeof header_size, header.data(), header.size());
  HeaderReader reader(file);
  // To the parser, a zero byte is the end.
  if (const std::size_t zero = header.find('\0'); zero != std::string::npos)
    reader.refuse_byte(zero);
  json::sax_parse(header, &reader);
  check_offsets(file, reader.entries, rest - header_size);
  for (Entry& entry : reader.entries) {
    check_size(file, entry);
    entry.begin += sizeof header_size + header_size;
    entry.end += sizeof header_size + header_size;
  }
  return std::move(reader.entries);
}

std::optional<DType> type_of(const Entry& entry) {
  for (const auto& [known, dtype] : types) {
    if (known == entry.type) return dtype;
  }
  return std::nullopt;
}

void refuse_type(const std::string& file, const std::string& tensor, const std::string& type) {
  fail(file, fmt::format("tensor {} has element type {}, which is not supported; it needs F32, "
                         "F16, BF16, F64, I8, I32, I64 or BOOL",
                         in_quotes(tensor), in_quotes(type)));
}

std::string list_names(std::span<const std::string> names, std::size_t max_listed) {
  std::string list;
  for (std::size_t n = 0; n < std::min(names.size(), max_listed); ++n)
    list += fmt::format("{}{}", n == 0 ? "" : ", ", in_quotes(names[n]));
  if (names.size() > max_listed) list += fmt::format(" and {} more", names.size() - max_listed);
  return list.empty() ? "no tensors" : list;
}

Tensor read_safetensors(const InputFile& file, const std::optional<std::string>& name) {
  const std::vector<Entry> entries = read_safetensors_header(file);
  const Entry& entry = find_entry(file, entries, name);
  const std::optional<DType> dtype = type_of(entry);
  if (!dtype) refuse_type(file.name(), entry.name, entry.type);
  return file.read_tensor(entry.begin, *dtype, entry.shape);
}

void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors) {
  check_names(tensors);
  std::vector<NamedTensor> ordered(tensors.begin(), tensors.end());
  // Large elements first: without gaps between the tensors, all are aligned then.
  std::stable_sort(ordered.begin(), ordered.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return size_of(a.tensor.dtype) > size_of(b.tensor.dtype);
  });
  const std::string header = make_header(ordered);
  const std::uint64_t header_size = header.size();
  file.write(&header_size, sizeof header_size);
  file.write(header.data(), header.size());
  for (const NamedTensor& named : ordered) file.write(named.tensor);
}

}  // namespace attn::io
