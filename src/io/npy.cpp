#include "io/npy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <system_error>

#include "io/integers.hpp"
#include "io/message.hpp"
#include "tensor/size.hpp"

namespace attn::io {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
/// No header that describes one tensor of at most eight dims comes near this.
constexpr std::uint32_t max_header_size = 1 << 20;

struct Header {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<Dims> shape;
};

/// Parses the dict. It knows strings without escapes, True and False, and tuples of integers, which
/// is all that the three keys need.
class HeaderParser {
 public:
  HeaderParser(const InputFile& file, std::string_view text) : file_(file), text_(text) {}

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      item(header);
      if (accept(',')) continue;
      expect('}');
      break;
    }
    skip_space();
    if (position_ < text_.size()) refuse("nothing more");
    if (!header.descr) missing("descr");
    if (!header.fortran_order) missing("fortran_order");
    if (!header.shape) missing("shape");
    return header;
  }

 private:
  [[noreturn]] void refuse(std::string_view wanted) const {
    file_.fail(fmt::format("broken .npy header: {} expected at its byte {}", wanted, position_));
  }
  [[noreturn]] void missing(std::string_view key) const {
    file_.fail(fmt::format("broken .npy header: it lacks '{}'", key));
  }

  void skip_space() {
    position_ = std::min(text_.find_first_not_of(" \t\r\n", position_), text_.size());
  }

  /// Skips white space and returns the next character, '\0' at the end.
  char peek() {
    skip_space();
    return position_ < text_.size() ? text_[position_] : '\0';
  }

  bool accept(char wanted) {
    if (peek() != wanted) return false;
    ++position_;
    return true;
  }

  void expect(char wanted) {
    if (!accept(wanted)) refuse(fmt::format("'{}'", wanted));
  }

  void item(Header& header) {
    const std::string key = string();
    expect(':');
    if (key == "descr") {
      if (peek() == '[') file_.fail("structured element types are not supported");
      set(header.descr, key, string());
    } else if (key == "fortran_order") {
      set(header.fortran_order, key, boolean());
    } else if (key == "shape") {
      set(header.shape, key, tuple());
    } else {
      file_.fail(fmt::format("broken .npy header: unknown key {}", in_quotes(key)));
    }
  }

  template <class T>
  void set(std::optional<T>& value, std::string_view key, const T& found) const {
    if (value) file_.fail(fmt::format("broken .npy header: '{}' stands twice", key));
    value = found;
  }

  std::string string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') refuse("a string");
    const std::size_t begin = ++position_;
    const std::size_t end = text_.find(quote, begin);
    if (end == std::string_view::npos) refuse("a closing quote");
    const std::string_view found = text_.substr(begin, end - begin);
    if (!std::all_of(found.begin(), found.end(), [](char c) { return c >= ' ' && c <= '~'; }))
      refuse("plain ASCII text");
    position_ = end + 1;
    return std::string(found);
  }

  bool boolean() {
    skip_space();
    for (const auto& [word, value] :
         {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(position_).starts_with(word)) {
        position_ += word.size();
        return value;
      }
    }
    refuse("True or False");
  }

  Dims tuple() {
    std::array<std::int64_t, Dims::max_rank> extents{};
    int rank = 0;
    bool comma = true;
    expect('(');
    while (!accept(')')) {
      if (!comma) refuse("',' or ')'");
      if (rank == Dims::max_rank)
        file_.fail(fmt::format("its shape has more than {} dims", Dims::max_rank));
      extents[static_cast<std::size_t>(rank++)] = extent();
      comma = accept(',');
    }
    // In Python (3) is a number and (3,) is a tuple.
    if (rank == 1 && !comma) refuse("',' before ')'");
    return {extents.data(), rank};
  }

  std::int64_t extent() {
    skip_space();
    const char* const begin = text_.data() + position_;
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error == std::errc::invalid_argument) refuse("a whole number");
    if (error == std::errc::result_out_of_range || value < 0)
      file_.fail("its shape has an extent that is negative or too large");
    position_ += static_cast<std::size_t>(end - begin);
    // Python 2 wrote long integers as 3L.
    if (position_ < text_.size() && text_[position_] == 'L') ++position_;
    return value;
  }

  const InputFile& file_;
  std::string_view text_;
  std::size_t position_ = 0;
};

/// The element types that are read. u1 is read as boolean.
constexpr std::array<std::pair<std::string_view, DType>, 8> types{{{"f2", DType::f16},
                                                                   {"f4", DType::f32},
                                                                   {"f8", DType::f64},
                                                                   {"i1", DType::i8},
                                                                   {"i4", DType::i32},
                                                                   {"i8", DType::i64},
                                                                   {"b1", DType::boolean},
                                                                   {"u1", DType::boolean}}};
constexpr std::array<std::pair<std::string_view, IntegerType>, 9> integer_types{
    {{"i1", {DType::i8, true}},
     {"i2", {DType::f16, true}},
     {"i4", {DType::i32, true}},
     {"i8", {DType::i64, true}},
     {"u1", {DType::i8, false}},
     {"u2", {DType::f16, false}},
     {"u4", {DType::i32, false}},
     {"u8", {DType::i64, false}},
     {"b1", {DType::boolean, true}}}};

/// Finds the element type in a table of those that are read.
template <class Types>
auto parse_descr(const InputFile& file, std::string_view descr, const Types& known) {
  const char byte_order = descr.empty() ? '\0' : descr.front();
  for (const auto& [name, type] : known) {
    if (byte_order == '\0' || descr.substr(1) != name) continue;
    // A single byte has no order, and writers mark that in different ways.
    const std::string_view orders = name.back() == '1' ? "|<>=" : "<";
    if (orders.find(byte_order) != std::string_view::npos) return type;
    if (byte_order == '>')
      file.fail(fmt::format("big-endian element type '{}' is not supported; save it as '<{}'",
                            descr, name));
  }
  file.fail(fmt::format("element type {} is not supported; it needs one of {}, little endian",
                        in_quotes(descr), list_types(known)));
}

struct HeaderText {
  std::string text;
  std::uint64_t end;  // where the elements begin in the file
};

HeaderText read_header_text(const InputFile& file) {
  std::array<unsigned char, 12> start{};
  file.read(0, start.data(), std::min<std::uint64_t>(file.size(), start.size()));
  if (!std::equal(magic.begin(), magic.end(), start.begin(),
                  [](char a, unsigned char b) { return static_cast<unsigned char>(a) == b; })) {
    file.fail("not a .npy file: its first bytes are not \\x93NUMPY");
  }
  const int major = start[6];
  const int minor = start[7];
  const std::uint64_t begin = major == 1 ? 10 : 12;
  if (file.size() < begin)
    file.fail(
        fmt::format("truncated: it ends after {} bytes, inside the .npy header", file.size()));
  if (major < 1 || major > 3 || minor != 0)
    file.fail(
        fmt::format(".npy version {}.{} is not supported; it needs 1.0, 2.0 or 3.0", major, minor));
  std::uint32_t size = start[8] | std::uint32_t{start[9]} << 8;
  if (major > 1) size |= std::uint32_t{start[10]} << 16 | std::uint32_t{start[11]} << 24;
  if (size > file.size() - begin) {
    file.fail(fmt::format("truncated: its .npy header says that it has {} bytes, but {} follow",
                          size, file.size() - begin));
  }
  if (size > max_header_size)
    file.fail(
        fmt::format("its .npy header has {} bytes; at most {} are read", size, max_header_size));
  return {file.read_text(begin, size), begin + size};
}

/// Reads elements that are stored column by column (the first index runs fastest) and returns them
/// in row-major order.
Tensor read_fortran_order(const InputFile& file, std::uint64_t offset, DType dtype,
                          const Dims& shape) {
  Dims reversed_shape = shape;
  Dims reversed = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    reversed[dim] = shape.rank() - 1 - dim;
    reversed_shape[dim] = shape[static_cast<int>(reversed[dim])];
  }
  const Tensor transposed = file.read_tensor(offset, dtype, reversed_shape);
  return copy_as(transposed.view().permuted(reversed), dtype);
}

struct Npy {
  Header header;
  std::uint64_t elements;  // where they begin in the file
};

Npy read_header(const InputFile& file) {
  const HeaderText header_text = read_header_text(file);
  return {HeaderParser(file, header_text.text).parse(), header_text.end};
}

/// Checks that the file has as many elements as the shape.
StoredTensor find_elements(const InputFile& file, const Npy& npy, DType dtype) {
  const Dims& shape = *npy.header.shape;
  const std::optional<std::int64_t> needed = detail::dense_size_in_bytes(shape, dtype);
  if (!needed) file.fail(fmt::format("its shape {} is too large", shape.to_string()));
  const std::uint64_t held = file.size() - npy.elements;
  if (static_cast<std::uint64_t>(*needed) != held) {
    file.fail(fmt::format("{}: shape {} of '{}' needs {} bytes after the header, but {} are there",
                          held < static_cast<std::uint64_t>(*needed) ? "truncated" : "too long",
                          shape.to_string(), *npy.header.descr, *needed, held));
  }
  return {npy.elements, dtype, shape, *npy.header.fortran_order && shape.rank() > 1};
}

Tensor read_elements(const InputFile& file, const StoredTensor& stored) {
  return stored.fortran_order ? read_fortran_order(file, stored.offset, stored.dtype, stored.shape)
                              : file.read_tensor(stored.offset, stored.dtype, stored.shape);
}

std::string_view descr_of(const OutputFile& file, DType dtype) {
  switch (dtype) {
    case DType::f32: return "<f4";
    case DType::f16: return "<f2";
    case DType::f64: return "<f8";
    case DType::i8: return "|i1";
    case DType::i32: return "<i4";
    case DType::i64: return "<i8";
    case DType::boolean: return "|b1";
    case DType::bf16: break;
  }
  fail(file.name(),
       fmt::format(".npy has no element type {}; write to .safetensors instead", name_of(dtype)));
}

}  // namespace

StoredTensor find_npy(const InputFile& file) {
  const Npy npy = read_header(file);
  return find_elements(file, npy, parse_descr(file, *npy.header.descr, types));
}

Tensor read_npy(const InputFile& file) { return read_elements(file, find_npy(file)); }

Tensor read_npy_integers(const InputFile& file) {
  const Npy npy = read_header(file);
  const IntegerType type = parse_descr(file, *npy.header.descr, integer_types);
  return widened(file, read_elements(file, find_elements(file, npy, type.storage)), type);
}

void write_npy_header(OutputFile& file, DType dtype, const Dims& shape) {
  constexpr std::size_t alignment = 64;
  constexpr std::size_t preamble = magic.size() + 4;
  // "[3]" and "[2, 3]" become "(3,)" and "(2, 3)".
  const std::string list = shape.to_string();
  const std::string tuple =
      fmt::format("({}{})", list.substr(1, list.size() - 2), shape.rank() == 1 ? "," : "");
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}",
                                   descr_of(file, dtype), tuple);
  // The header ends with a newline, and its padding aligns the elements.
  const std::size_t unpadded = preamble + header.size() + 1;
  header.append((alignment - unpadded % alignment) % alignment, ' ').push_back('\n');
  std::string start(magic);
  start += {1, 0, static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  file.write(start.data(), start.size());
  file.write(header.data(), header.size());
}

void write_npy(OutputFile& file, const TensorView& tensor) {
  write_npy_header(file, tensor.dtype, tensor.shape);
  file.write(tensor);
}

}  // namespace attn::io
