// Files: what is written is read again, what others write is read, and what lies is refused with one line.
#include <attn/error.hpp>
#include <attn/io.hpp>

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace attn;
namespace fs = std::filesystem;

namespace {

/// A folder of its own for each test, gone after it.
class Folder {
 public:
  Folder() {
    std::random_device random;
    do path_ = fs::temp_directory_path() / ("attn-test-" + std::to_string(random()));
    while (!fs::create_directory(path_));
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return *this / name;
  }
  /// Names of all that lies in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path_)) found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  fs::path path_;
};

using Names = std::vector<std::string>;

std::string bytes_of(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string little_endian(std::uint64_t value, int bytes) {
  std::string result;
  for (int n = 0; n < bytes; ++n) result.push_back(static_cast<char>(value >> (8 * n) & 0xff));
  return result;
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string npy(const std::string& header, const std::string& data, int major = 1) {
  return std::string("\x93NUMPY") + static_cast<char>(major) + '\0' + little_endian(header.size(), major == 1 ? 2 : 4) + header + data;
}

/// What NumPy writes for `descr` and `shape`, both as Python spells them.
std::string numpy_header(const std::string& descr, const std::string& shape, bool fortran_order = false) {
  return "{'descr': '" + descr + "', 'fortran_order': " + (fortran_order ? "True" : "False") + ", 'shape': " + shape + ", }  \n";
}

std::string safetensors(const std::string& header, const std::string& data) { return little_endian(header.size(), 8) + header + data; }

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, int begin, int end) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[)" + std::to_string(begin) + ',' +
         std::to_string(end) + "]}";
}

/// The message of the Error(io) that f throws: one line. Empty if it throws none.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(error.code() == ErrorCode::io);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return {};
}

/// Checks that reading is refused, and that the line names the file and the fault.
void check_refused(const std::string& tensor, const std::string& fault) {
  CAPTURE(tensor);
  const std::string message = refusal([&] { read_tensor(tensor); });
  const std::string file = fs::path(tensor.substr(0, tensor.find(".safetensors:"))).filename().string();
  CAPTURE(message);
  CAPTURE(fault);
  CHECK(message.find(file) != std::string::npos);
  CHECK(message.find(fault) != std::string::npos);
}

void check_npy_refused(const std::string& bytes, const std::string& fault) {
  const Folder folder;
  check_refused(folder.write("x.npy", bytes), fault);
}

void check_safetensors_refused(const std::string& bytes, const std::string& fault, const std::string& name = "a") {
  const Folder folder;
  check_refused(folder.write("x.safetensors", bytes) + ":" + name, fault);
}

/// Element n is n; booleans alternate.
Tensor counted(DType dtype, const Dims& shape) {
  Tensor numbers(DType::i64, shape);
  std::iota(numbers.data<std::int64_t>(), numbers.data<std::int64_t>() + numbers.size(), 0);
  if (dtype == DType::boolean) {
    for (std::int64_t n = 0; n < numbers.size(); ++n) numbers.data<std::int64_t>()[n] %= 2;
  }
  return copy_as(numbers.view(), dtype);
}

bool equal(const Tensor& a, const TensorView& other) {
  if (a.dtype() != other.dtype || a.shape() != other.shape) return false;
  const Tensor b = copy_as(other, other.dtype);
  return std::memcmp(a.data(), b.data(), a.size_in_bytes()) == 0;
}

const std::array all_shapes{Dims{}, Dims{1}, Dims{7}, Dims{0}, Dims{3, 4}, Dims{2, 0, 5}, Dims{2, 3, 4, 5}, Dims{1, 2, 1, 2, 1, 2, 1, 2}};

}  // namespace

TEST_CASE("every type and shape returns from .npy as it was") {
  const Folder folder;
  for (const DType dtype : {DType::f32, DType::f16, DType::f64, DType::i32, DType::i64, DType::boolean}) {
    for (const Dims& shape : all_shapes) {
      CAPTURE(shape.to_string());
      const Tensor tensor = counted(dtype, shape);
      write_tensor(folder / "x.npy", tensor.view());
      CHECK(equal(read_tensor(folder / "x.npy"), tensor.view()));
    }
  }
  CHECK(folder.names() == Names{"x.npy"});
}

TEST_CASE("every type and shape returns from .safetensors as it was") {
  const Folder folder;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64, DType::boolean}) {
    for (const Dims& shape : all_shapes) {
      CAPTURE(shape.to_string());
      const Tensor tensor = counted(dtype, shape);
      write_tensor(folder / "x.safetensors", tensor.view(), "weights");
      CHECK(equal(read_tensor(folder / "x.safetensors"), tensor.view()));
      CHECK(equal(read_tensor(folder / "x.safetensors:weights"), tensor.view()));
    }
  }
  CHECK(folder.names() == Names{"x.safetensors"});
}

TEST_CASE(".npy files are written as NumPy writes them") {
  const Folder folder;
  const auto written = [&](const Tensor& tensor) {
    write_tensor(folder / "x.npy", tensor.view());
    return bytes_of(folder / "x.npy");
  };
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  header.resize(117, ' ');
  CHECK(written(counted(DType::f32, {2, 3})) == npy(header + "\n", raw<float>({0, 1, 2, 3, 4, 5})));
  CHECK(written(counted(DType::i64, {2})).find("'shape': (2,), }") != std::string::npos);
  CHECK(written(counted(DType::boolean, {})).find("{'descr': '|b1', 'fortran_order': False, 'shape': (), }") != std::string::npos);
  const Dims largest{1 << 20, 1, 1, 1, 1, 1, 1, 1};
  CHECK((written(counted(DType::boolean, largest)).size() - (1 << 20)) % 64 == 0);
}

TEST_CASE("strided tensors are written in row-major order") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {3, 4});
  const auto* first = tensor.data<float>();
  for (const TensorView& view : {tensor.view().permuted({1, 0}), TensorView(first + 11, {3, 4}, {-4, -1}),
                                 TensorView(first, {2, 3}, {0, 1}), tensor.view().sliced(1, 1, 3)}) {
    for (const char* name : {"x.npy", "x.safetensors"}) {
      write_tensor(folder / name, view);
      CHECK(equal(read_tensor(folder / name), view));
    }
  }
}

TEST_CASE("booleans are written as 0 and 1, whatever byte means true in memory") {
  const Folder folder;
  const unsigned char bytes[] = {0, 1, 2, 255};
  write_tensor(folder / "x.npy", TensorView(bytes, DType::boolean, {4}));
  CHECK(bytes_of(folder / "x.npy").ends_with(std::string("\0\1\1\1", 4)));
}

TEST_CASE(".npy in all versions and spellings that Python takes") {
  const Folder folder;
  const Tensor expected = counted(DType::f32, {2, 3});
  const std::string data = raw<float>({0, 1, 2, 3, 4, 5});
  for (const int version : {1, 2, 3}) {
    CHECK(equal(read_tensor(folder.write("x.npy", npy(numpy_header("<f4", "(2, 3)"), data, version))), expected.view()));
  }
  for (const char* header :
       {"{'shape':(2,3),'fortran_order':False,'descr':'<f4'}", R"({"descr": "<f4", "fortran_order": False, "shape": (2L, 3L)})",
        " { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2 , 3 , ) , } \n\n"}) {
    CHECK(equal(read_tensor(folder.write("x.npy", npy(header, data))), expected.view()));
  }
}

TEST_CASE("each .npy element type becomes its own") {
  const Folder folder;
  const auto read = [&](const std::string& descr, const std::string& data) {
    return read_tensor(folder.write("x.npy", npy(numpy_header(descr, "(3,)"), data)));
  };
  CHECK(read("<f2", raw<std::uint16_t>({0x3c00, 0x7e01, 0x8000})).data<f16>()[1].bits == 0x7e01);
  CHECK(read("<f4", raw<float>({1, -2, 3})).data<float>()[1] == -2);
  CHECK(read("<f8", raw<double>({1, 0.1, 3})).data<double>()[1] == 0.1);
  CHECK(read("<i4", raw<std::int32_t>({1, -2, 3})).data<std::int32_t>()[1] == -2);
  CHECK(read("<i8", raw<std::int64_t>({1, -(std::int64_t{1} << 40), 3})).data<std::int64_t>()[1] == -(std::int64_t{1} << 40));
  for (const char* descr : {"|b1", "|u1", "<b1", "=u1"}) {
    const Tensor tensor = read(descr, std::string("\0\x01\xfe", 3));
    CHECK(tensor.dtype() == DType::boolean);
    CHECK(std::memcmp(tensor.data(), "\0\1\1", 3) == 0);
  }
}

TEST_CASE("Fortran order becomes C order") {
  const Folder folder;
  const Tensor expected = counted(DType::i32, {2, 3, 4});
  const Tensor transposed = copy_as(expected.view().permuted({2, 1, 0}), DType::i32);
  const std::string data(static_cast<const char*>(transposed.data()), transposed.size_in_bytes());
  CHECK(equal(read_tensor(folder.write("x.npy", npy(numpy_header("<i4", "(2, 3, 4)", true), data))), expected.view()));
  const std::string booleans = npy(numpy_header("|u1", "(2, 2)", true), std::string("\0\7\1\0", 4));
  CHECK(std::memcmp(read_tensor(folder.write("x.npy", booleans)).data(), "\0\1\1\0", 4) == 0);
  const std::string one_dim = npy(numpy_header("<i4", "(3,)", true), raw<std::int32_t>({0, 1, 2}));
  CHECK(equal(read_tensor(folder.write("x.npy", one_dim)), counted(DType::i32, {3}).view()));
}

TEST_CASE(".npy files that are none") {
  check_npy_refused("", "is empty");
  check_npy_refused("PK\3\4 an archive", "not a .npy file");
  check_npy_refused("\x93NUMP", "not a .npy file");
  check_npy_refused("\x93NUMPY", "truncated");
  check_npy_refused(std::string("\x93NUMPY\1\0\x10", 9), "truncated");
  check_npy_refused(std::string("\x93NUMPY\2\0\x10\0\0", 11), "truncated");
  check_npy_refused(npy("{}", "", 4), "version 4.0");
  check_npy_refused(std::string("\x93NUMPY\1\1\0\0", 10), "version 1.1");
  check_npy_refused(std::string("\x93NUMPY\1\0\xff\xff{}", 12), "header says that it has 65535 bytes, but 2 follow");
  check_npy_refused(std::string("\x93NUMPY\2\0\xff\xff\xff\xff{}", 14), "4294967295");
  check_npy_refused(npy(std::string((1 << 20) + 1, ' '), "", 2), "at most 1048576");
}

TEST_CASE(".npy headers that are broken") {
  const std::string data = raw<float>({1, 2});
  const auto check = [&](const std::string& header, const std::string& fault) { check_npy_refused(npy(header, data), fault); };
  check("", "'{' expected");
  check("{", "a string expected");
  check("{'descr", "a closing quote expected");
  check("{'descr': ", "a string expected");
  check("{'descr': '<f4'", "'}' expected");
  check("{'descr': 3}", "a string expected");
  check("{'descr': '<f4'} trailing", "nothing more expected");
  check(numpy_header("<f4", "(2,)") + '\0', "nothing more expected");
  check("{'fortran_order': False, 'shape': (2,)}", "lacks 'descr'");
  check("{'descr': '<f4', 'shape': (2,)}", "lacks 'fortran_order'");
  check("{'descr': '<f4', 'fortran_order': False}", "lacks 'shape'");
  check("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "'descr' stands twice");
  check("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", "unknown key 'more'");
  check("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", "True or False expected");
  check("{'descr': '<\xff\n4', 'fortran_order': False, 'shape': (2,)}", "plain ASCII");
}

TEST_CASE(".npy element types that are not read") {
  const auto check = [](const std::string& descr, const std::string& fault) {
    check_npy_refused(npy(numpy_header(descr, "(1,)"), std::string(16, '\0')), fault);
  };
  check(">f4", "big-endian element type '>f4'");
  check(">i8", "big-endian element type '>i8'");
  check("<c16", "'<c16' is not supported");
  check("|O", "'|O' is not supported");
  check("<u4", "'<u4' is not supported");
  check("|i1", "'|i1' is not supported");
  check("f4", "'f4' is not supported");
  check("", "'' is not supported");
  check(std::string(300, 'x'), "xxx...' is not supported");
  check_npy_refused(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "1234"), "structured");
}

TEST_CASE(".npy shapes that do not hold") {
  const auto check = [](const std::string& shape, const std::string& fault) {
    check_npy_refused(npy(numpy_header("<f4", shape), raw<float>({1, 2})), fault);
  };
  check("(3,)", "truncated: shape [3] of '<f4' needs 12 bytes after the header, but 8 are there");
  check("(1,)", "too long: shape [1] of '<f4' needs 4 bytes after the header, but 8 are there");
  check("(0,)", "too long");
  check("()", "too long");
  check("(-2,)", "negative");
  check("(2", "',' or ')'");
  check("(2)", "',' before ')'");
  check("2", "'(' expected");
  check("[2]", "'(' expected");
  check("(2, x)", "a whole number expected");
  check("(2.0,)", "',' or ')'");
  check("(,)", "a whole number expected");
  check("(1, 1, 1, 1, 1, 1, 1, 1, 2)", "more than 8 dims");
  check("(99999999999999999999,)", "too large");
  check("(9223372036854775807,)", "too large");
  check("(4294967296, 4294967296)", "too large");
  check("(4294967296, 4294967296, 0)", "too large");
  check("(1099511627776,)", "truncated");
}

TEST_CASE("tensors of one .safetensors file are found by name") {
  const Folder folder;
  const Tensor a = counted(DType::bf16, {3});
  const Tensor b = counted(DType::f64, {2, 2});
  const Tensor c = counted(DType::boolean, {5});
  const std::vector<NamedTensor> tensors{{"a", a.view()}, {"model:b.safetensors:x", b.view()}, {"\xc3\xa9 \"\n", c.view()}};
  const std::string file = folder / "x.safetensors";
  write_safetensors(file, tensors);
  for (const NamedTensor& tensor : tensors) CHECK(equal(read_tensor(file + ":" + tensor.name), tensor.tensor));
  check_refused(file + ":d", "no tensor 'd'; it holds 'model:b.safetensors:x', 'a', '\xc3\xa9 \"\\x0a'");
  check_refused(file + ":", "no tensor ''");
  check_refused(file, "name one tensor");
  CHECK(folder.names() == Names{"x.safetensors"});

  std::uint64_t header_size = 0;
  const std::string bytes = bytes_of(file);
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  CHECK(header_size % 8 == 0);
  CHECK(bytes.size() == 8 + header_size + 6 + 32 + 5);
  // The doubles come first, where they are aligned.
  CHECK(std::memcmp(bytes.data() + 8 + header_size, b.data(), b.size_in_bytes()) == 0);
}

TEST_CASE(".safetensors files of others") {
  const Folder folder;
  const std::string metadata = R"("__metadata__":{"format":"pt","note":""},)";
  const std::string unread = entry("unread", "F8_E4M3", "[4]", 0, 4) + ",";
  const std::string data = std::string(4, 'x') + raw<float>({0, 1});
  const std::string file =
      folder.write("x.safetensors", safetensors("{" + metadata + unread + entry("a", "F32", "[2]", 4, 12) + "}   ", data));
  CHECK(equal(read_tensor(file + ":a"), counted(DType::f32, {2}).view()));
  check_refused(file + ":unread", "F8_E4M3");
  const std::string booleans =
      folder.write("b.safetensors", safetensors("{" + entry("a", "BOOL", "[3]", 0, 3) + "}", std::string("\0\1\7", 3)));
  CHECK(std::memcmp(read_tensor(booleans).data(), "\0\1\1", 3) == 0);
  const std::string nothing = folder.write("n.safetensors", safetensors("{}", ""));
  check_refused(nothing, "it holds no tensors");
  check_refused(nothing + ":a", "it holds no tensors");
}

TEST_CASE("a long list of names is cut") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {1});
  std::vector<NamedTensor> tensors;
  for (int n = 0; n < 100; ++n) tensors.push_back({std::string(200, 'n') + std::to_string(n), tensor.view()});
  write_safetensors(folder / "x.safetensors", tensors);
  check_refused(folder / "x.safetensors:a", "and 80 more");
  CHECK(refusal([&] { read_tensor(folder / "x.safetensors:a"); }).size() < 3000);
}

TEST_CASE(".safetensors files that are none") {
  check_safetensors_refused("", "is empty");
  check_safetensors_refused("1234567", "truncated");
  check_safetensors_refused("plain text, no tensors", "but 14 follow");
  check_safetensors_refused(little_endian(3, 8) + "{}", "should have 3 bytes, but 2 follow");
  check_safetensors_refused(little_endian(~std::uint64_t{0}, 8) + "{}", "18446744073709551615");
  check_safetensors_refused(safetensors("", ""), "no JSON");
  check_safetensors_refused(safetensors("{", ""), "no JSON");
  check_safetensors_refused(safetensors("{}{}", ""), "no JSON");
  check_safetensors_refused(safetensors(std::string("{}\0", 3), ""), "no JSON");
  check_safetensors_refused(safetensors("{\"\xff\":1}", ""), "no JSON in UTF-8");
  check_safetensors_refused(safetensors("[]", ""), "an array where the table of tensors should begin");
  check_safetensors_refused(safetensors("null", ""), "null where");
  check_safetensors_refused(safetensors(R"("text")", ""), "a string where");
}

TEST_CASE(".safetensors headers that are broken") {
  const auto check = [](const std::string& header, const std::string& fault) {
    check_safetensors_refused(safetensors(header, raw<float>({1, 2})), fault);
  };
  const std::string good = entry("a", "F32", "[2]", 0, 8);
  check("{" + good + "," + good + "}", "'a' stands twice");
  check(R"({"__metadata__":{},"__metadata__":{},)" + good + "}", "'__metadata__' stands twice");
  check(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "'dtype' stands twice");
  check(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "'a' lacks dtype");
  check(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "'a' lacks shape");
  check(R"({"a":{"dtype":"F32","shape":[2]}})", "'a' lacks data_offsets");
  check(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", "unknown key 'more'");
  check(R"({"a":5})", "the number 5 does not belong under 'a'");
  check(R"({"a":[1]})", "an array does not belong under 'a'");
  check(R"({"a":{"dtype":{}}})", "an object does not belong under 'dtype'");
  check(R"({"a":{"dtype":["F32"]}})", "an array does not belong under 'dtype'");
  check(R"({"a":{"dtype":32}})", "the number 32 does not belong under 'dtype'");
  check(R"({"a":{"shape":2}})", "the number 2 does not belong under 'shape'");
  check(R"({"a":{"shape":[true]}})", "a boolean does not belong under 'shape'");
  check(R"({"a":{"shape":[[2]]}})", "an array does not belong under 'shape'");
  check(R"({"a":{"shape":[2.5]}})", "the number '2.5' does not belong under 'shape'");
  check(R"({"a":{"data_offsets":["0"]}})", "a string does not belong under 'data_offsets'");
  check(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", "not two numbers");
  check(R"({"__metadata__":{"format":{}}})", "an object does not belong under 'format'");
  check("{" + entry("a", "F33", "[2]", 0, 8) + "}", "element type 'F33', which is not supported");
  const std::string deep(1'000'000, '[');
  check(deep, "an array where");
  check(R"({"a":)" + deep, "an array does not belong");
  std::string objects;
  for (int n = 0; n < 100'000; ++n) objects += R"({"a":)";
  check(objects, "an object does not belong");
}

TEST_CASE(".safetensors shapes and offsets that do not hold") {
  const auto check = [](const std::string& header, const std::string& fault) {
    check_safetensors_refused(safetensors("{" + header + "}", raw<float>({1, 2})), fault);
  };
  check(entry("a", "F32", "[3]", 0, 8), "shape [3] and type F32 needs 12 bytes, but its data_offsets hold 8");
  check(entry("a", "F32", "[]", 0, 8), "needs 4 bytes");
  check(entry("a", "F32", "[0]", 0, 8), "needs 0 bytes");
  check(entry("a", "F32", "[-2]", 0, 8), "the number -2 does not belong");
  check(entry("a", "F32", "[1,1,1,1,1,1,1,1,2]", 0, 8), "more than 8 values");
  check(entry("a", "F32", "[99999999999999999999]", 0, 8), "does not belong under 'shape'");
  check(entry("a", "F32", "[9223372036854775808]", 0, 8), "too large");
  check(entry("a", "F32", "[9223372036854775807]", 0, 8), "too large");
  check(entry("a", "F32", "[4294967296,4294967296]", 0, 8), "too large");
  check(entry("a", "F32", "[2]", 8, 0), "end before they begin");
  check(entry("a", "F32", "[4]", 0, 16), "go beyond the 8 bytes");
  check(entry("a", "F32", "[2]", 8, 16), "go beyond the 8 bytes");
  check(entry("a", "F32", "[1]", 0, 4), "its tensors have 4 bytes, but 8 follow");
  check(entry("a", "F32", "[1]", 4, 8), "leave a hole from 0 on");
  check(entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "I8", "[3]", 5, 8), "leave a hole from 4 on");
  check(entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[1]", 4, 8), "overlap");
  check(entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[2]", 0, 8), "overlap");
  check("", "but 8 follow");
}

TEST_CASE("places that hold no file of tensors") {
  const Folder folder;
  fs::create_directory(folder / "d.npy");
  fs::create_directory(folder / "d.safetensors");
  fs::create_symlink("/dev/zero", folder / "z.npy");
  fs::create_symlink("nowhere", folder / "n.npy");
  check_refused(folder / "d.npy", "is a directory");
  check_refused(folder / "d.safetensors:a", "is a directory");
  check_refused(folder / "z.npy", "not a regular file");
  check_refused(folder / "n.npy", "no such file");
  check_refused(folder / "missing.npy", "no such file");
  check_refused(folder / "missing.safetensors:a", "no such file");
  check_refused(folder / "x.txt", "unknown kind of file");
  check_refused("", "unknown kind of file");
  check_refused(std::string(5000, 'x') + ".npy", "cannot be read");
  const std::string secret = folder.write("secret.npy", npy(numpy_header("<f4", "()"), "1234"));
  fs::permissions(secret, fs::perms::none);
  if (!std::ifstream(secret)) check_refused(secret, "cannot be read");  // a superuser reads all
}

TEST_CASE("no file, however cut or changed, does more than be refused") {
  const Folder folder;
  const std::string two = "{" + entry("a", "F32", "[1,2]", 0, 8) + "," + entry("b", "BOOL", "[3]", 8, 11) + R"(,"__metadata__":{"c":"d"}})";
  const std::array<std::pair<std::string, std::string>, 3> files{{
      {"x.npy", npy(numpy_header("<f4", "(2, 3)", true), std::string(24, 'x'))},
      {"x.npy", npy(numpy_header("|u1", "(1, 3)"), std::string(3, 'x'), 2)},
      {"x.safetensors", safetensors(two, std::string(11, 'x'))},
  }};
  const auto attempt = [&](const std::string& name, const std::string& bytes) {
    const std::string file = folder.write(name, bytes);
    refusal([&] { read_tensor(file); });
    if (name == "x.safetensors") refusal([&] { read_tensor(file + ":a"); });
  };
  std::mt19937 random(1);
  for (const auto& [name, bytes] : files) {
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      attempt(name, bytes.substr(0, size));
      std::string changed = bytes;
      for (const int value : {0x00, 0x22, 0x27, 0x2d, 0x39, 0x5b, 0x7b, 0x7d, 0x80, 0xff, static_cast<int>(random() & 0xff)}) {
        changed[size] = static_cast<char>(value);
        attempt(name, changed);
      }
      attempt(name, bytes.substr(0, size) + bytes.substr(size / 2));
    }
  }
}

TEST_CASE("outputs appear together, at commit") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {2, 2});
  folder.write("a.npy", "old");
  OutputFiles files;
  files.add(folder / "a.npy");
  files.add(folder / "b.safetensors");
  files.write(folder / "a.npy", tensor.view());
  files.write(folder / "b.safetensors", tensor.view(), "weights");
  CHECK(bytes_of(folder / "a.npy") == "old");
  CHECK_FALSE(fs::exists(folder / "b.safetensors"));
  files.commit();
  CHECK(folder.names() == Names{"a.npy", "b.safetensors"});
  CHECK(equal(read_tensor(folder / "a.npy"), tensor.view()));
  CHECK(equal(read_tensor(folder / "b.safetensors:weights"), tensor.view()));
}

TEST_CASE("what was not committed leaves nothing behind") {
  const Folder folder;
  folder.write("a.npy", "old");
  {
    OutputFiles files;
    files.add(folder / "a.npy");
    files.add(folder / "b.npy");
    files.write(folder / "a.npy", counted(DType::f32, {2}).view());
    CHECK(folder.names().size() == 3);
    CHECK(refusal([&] { files.commit(); }).find("b.npy: was added to the outputs, but not written") != std::string::npos);
  }
  CHECK(folder.names() == Names{"a.npy"});
  CHECK(bytes_of(folder / "a.npy") == "old");
}

TEST_CASE("a commit that fails half-way takes back what it moved") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {2});
  {
    OutputFiles files;
    for (const char* name : {"a.npy", "b.npy", "c.npy"}) {
      files.add(folder / name);
      files.write(folder / name, tensor.view());
    }
    fs::create_directories(folder / "b.npy/in the way");
    CHECK(refusal([&] { files.commit(); }).find("b.npy") != std::string::npos);
  }
  CHECK(folder.names() == Names{"b.npy"});
}

TEST_CASE("outputs that cannot be are refused when they are added") {
  const Folder folder;
  fs::create_directory(folder / "d.npy");
  fs::create_symlink("/dev/null", folder / "null.npy");
  fs::create_symlink(".", folder / "link");
  OutputFiles files;
  const auto refused = [&](const std::string& file, const std::string& fault) {
    CAPTURE(file);
    const std::string message = refusal([&] { files.add(file); });
    CAPTURE(message);
    CHECK(message.find(fault) != std::string::npos);
  };
  refused(folder / "d.npy", "it is a directory");
  refused(folder / "null.npy", "not a regular file");
  refused(folder / "missing/x.npy", "cannot be written: No such file");
  refused(folder / "x.txt", "ends in .npy or .safetensors");
  refused(folder / "x", "ends in .npy or .safetensors");
  refused("", "ends in .npy or .safetensors");
  files.add(folder / "x.npy");
  refused(folder / "x.npy", "twice");
  refused(folder / "./d.npy/../x.npy", "twice");
  refused(folder / "link/x.npy", "twice");
  CHECK(refusal([&] { files.write(folder / "y.npy", counted(DType::f32, {2}).view()); }).find("was not added") != std::string::npos);
  files.write(folder / "link/x.npy", counted(DType::f32, {2}).view());
  files.commit();
  CHECK(folder.names() == Names{"d.npy", "link", "null.npy", "x.npy"});
}

TEST_CASE("a linked output is written where the link points") {
  const Folder folder;
  folder.write("real.npy", "old");
  fs::create_symlink("real.npy", folder / "x.npy");
  write_tensor(folder / "x.npy", counted(DType::i64, {2}).view());
  CHECK(fs::is_symlink(folder / "x.npy"));
  CHECK(equal(read_tensor(folder / "real.npy"), counted(DType::i64, {2}).view()));
}

TEST_CASE("tensors that do not fit a format leave nothing behind") {
  const Folder folder;
  const Tensor tensor = counted(DType::bf16, {2});
  CHECK(refusal([&] { write_tensor(folder / "x.npy", tensor.view()); }).find("write to .safetensors instead") != std::string::npos);
  CHECK(refusal([&] { write_safetensors(folder / "x.npy", {}); }).find("x.npy") != std::string::npos);
  CHECK_THROWS_AS(write_tensor(folder / "x.safetensors", tensor.view(), "__metadata__"), Error);
  CHECK_THROWS_AS(write_tensor(folder / "x.safetensors", tensor.view(), "\xff"), Error);
  CHECK_THROWS_AS(write_tensor(folder / "x.safetensors", TensorView()), Error);
  const std::vector<NamedTensor> twins{{"a", tensor.view()}, {"a", tensor.view()}};
  CHECK_THROWS_AS(write_safetensors(folder / "x.safetensors", twins), Error);
  CHECK(folder.names().empty());
}

TEST_CASE("a full disk leaves nothing behind") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {1 << 20});
  const NamedTensor named{"a", tensor.view()};
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  // The nearest thing to a full disk that a test can make: files end after 64 KiB.
  const rlimit small{1 << 16, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string as_npy = refusal([&] { write_tensor(folder / "x.npy", tensor.view()); });
  const std::string as_safetensors = refusal([&] { write_safetensors(folder / "x.safetensors", {&named, 1}); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(as_npy.find("x.npy: cannot be written: File too large") != std::string::npos);
  CHECK(as_safetensors.find("x.safetensors: cannot be written: File too large") != std::string::npos);
  CHECK(folder.names().empty());
}
