// Files of tensors: what is written is read again, and files of other programs are read.
#include <attn/error.hpp>
#include <attn/io.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace attn;
using namespace attn::test;

namespace {

const std::array all_shapes{
    Dims{},     Dims{1},       Dims{7},          Dims{0},
    Dims{3, 4}, Dims{2, 0, 5}, Dims{2, 3, 4, 5}, Dims{1, 2, 1, 2, 1, 2, 1, 2}};

}  // namespace

TEST_CASE("every type and shape is written to .npy and read again") {
  const Folder folder;
  for (const DType dtype :
       {DType::f32, DType::f16, DType::f64, DType::i32, DType::i64, DType::boolean}) {
    for (const Dims& shape : all_shapes) {
      CAPTURE(shape.to_string());
      const Tensor tensor = counted(dtype, shape);
      write_tensor(folder / "x.npy", tensor.view());
      CHECK(equal(read_tensor(folder / "x.npy"), tensor.view()));
    }
  }
  CHECK(folder.names() == Names{"x.npy"});
}

TEST_CASE("every type and shape is written to .safetensors and read again") {
  const Folder folder;
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64, DType::boolean}) {
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
  CHECK(written(counted(DType::boolean, {}))
            .find("{'descr': '|b1', 'fortran_order': False, 'shape': (), }") != std::string::npos);
  const Dims largest{1 << 20, 1, 1, 1, 1, 1, 1, 1};
  CHECK((written(counted(DType::boolean, largest)).size() - (1 << 20)) % 64 == 0);
}

TEST_CASE("strided tensors are written in row-major order") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {3, 4});
  const auto* first = tensor.data<float>();
  for (const TensorView& view :
       {tensor.view().permuted({1, 0}), TensorView(first + 11, {3, 4}, {-4, -1}),
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
    CHECK(
        equal(read_tensor(folder.write("x.npy", npy(numpy_header("<f4", "(2, 3)"), data, version))),
              expected.view()));
  }
  for (const char* header :
       {"{'shape':(2,3),'fortran_order':False,'descr':'<f4'}",
        R"({"descr": "<f4", "fortran_order": False, "shape": (2L, 3L)})",
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
  CHECK(read("<i8", raw<std::int64_t>({1, -(std::int64_t{1} << 40), 3})).data<std::int64_t>()[1] ==
        -(std::int64_t{1} << 40));
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
  CHECK(equal(read_tensor(folder.write("x.npy", npy(numpy_header("<i4", "(2, 3, 4)", true), data))),
              expected.view()));
  const std::string booleans = npy(numpy_header("|u1", "(2, 2)", true), std::string("\0\7\1\0", 4));
  CHECK(std::memcmp(read_tensor(folder.write("x.npy", booleans)).data(), "\0\1\1\0", 4) == 0);
  const std::string one_dim = npy(numpy_header("<i4", "(3,)", true), raw<std::int32_t>({0, 1, 2}));
  CHECK(equal(read_tensor(folder.write("x.npy", one_dim)), counted(DType::i32, {3}).view()));
}

TEST_CASE("tensors of one .safetensors file are found by name") {
  const Folder folder;
  const Tensor a = counted(DType::bf16, {3});
  const Tensor b = counted(DType::f64, {2, 2});
  const Tensor c = counted(DType::boolean, {5});
  const std::vector<NamedTensor> tensors{
      {"a", a.view()}, {"model:b.safetensors:x", b.view()}, {"\xc3\xa9 \"\n", c.view()}};
  const std::string file = folder / "x.safetensors";
  write_safetensors(file, tensors);
  for (const NamedTensor& tensor : tensors)
    CHECK(equal(read_tensor(file + ":" + tensor.name), tensor.tensor));
  check_refused(file + ":d",
                "no tensor 'd'; it holds 'model:b.safetensors:x', 'a', '\xc3\xa9 \"\\x0a'");
  check_refused(file + ":", "no tensor ''");
  check_refused(file, "name one tensor");
  CHECK(folder.names() == Names{"x.safetensors"});

  std::uint64_t header_size = 0;
  const std::string bytes = bytes_of(file);
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  CHECK(header_size % 8 == 0);
  CHECK(bytes.size() == 8 + header_size + 6 + 32 + 5);
  // The doubles come first, so that they are aligned.
  CHECK(std::memcmp(bytes.data() + 8 + header_size, b.data(), b.size_in_bytes()) == 0);
}

TEST_CASE(".safetensors files of other programs") {
  const Folder folder;
  const std::string metadata = R"("__metadata__":{"format":"pt","note":""},)";
  const std::string unread = entry("unread", "F8_E4M3", "[4]", 0, 4) + ",";
  const std::string data = std::string(4, 'x') + raw<float>({0, 1});
  const std::string file = folder.write(
      "x.safetensors",
      safetensors(table(metadata + unread + entry("a", "F32", "[2]", 4, 12)) + "   ", data));
  CHECK(equal(read_tensor(file + ":a"), counted(DType::f32, {2}).view()));
  check_refused(file + ":unread", "F8_E4M3");
  const std::string booleans =
      folder.write("b.safetensors",
                   safetensors(table(entry("a", "BOOL", "[3]", 0, 3)), std::string("\0\1\7", 3)));
  CHECK(std::memcmp(read_tensor(booleans).data(), "\0\1\1", 3) == 0);
  const std::string nothing = folder.write("n.safetensors", safetensors("{}", ""));
  check_refused(nothing, "it holds no tensors");
  check_refused(nothing + ":a", "it holds no tensors");
}

TEST_CASE("integers of every size become i64") {
  const Folder folder;
  const auto check = [](const Tensor& tensor, const std::vector<std::int64_t>& wanted) {
    REQUIRE(tensor.dtype() == DType::i64);
    REQUIRE(tensor.size() == static_cast<std::int64_t>(wanted.size()));
    for (std::size_t n = 0; n < wanted.size(); ++n)
      CHECK(tensor.data<std::int64_t>()[n] == wanted[n]);
  };
  const auto both = [&](const std::string& descr, const std::string& type, const std::string& data,
                        const std::vector<std::int64_t>& wanted) {
    CAPTURE(descr);
    check(read_integers(folder.write("x.npy", npy(numpy_header(descr, "(3,)"), data))), wanted);
    const int size = static_cast<int>(data.size());
    const std::string file =
        folder.write("x.safetensors", safetensors(table(entry("a", type, "[3]", 0, size)), data));
    check(read_integers(file + ":a"), wanted);
    check(read_integers(file), wanted);
  };
  both("|i1", "I8", raw<std::int8_t>({-128, 0, 127}), {-128, 0, 127});
  both("|u1", "U8", raw<std::uint8_t>({0, 128, 255}), {0, 128, 255});
  both("<i2", "I16", raw<std::int16_t>({-32768, 0, 32767}), {-32768, 0, 32767});
  both("<u2", "U16", raw<std::uint16_t>({0, 31745, 65535}), {0, 31745, 65535});
  both("<i4", "I32", raw<std::int32_t>({-5, 0, 1 << 30}), {-5, 0, 1 << 30});
  both("<u4", "U32", raw<std::uint32_t>({0, 1, 4294967295}), {0, 1, 4294967295});
  constexpr std::int64_t large = 9223372036854775807;
  both("<i8", "I64", raw<std::int64_t>({-large, 0, large}), {-large, 0, large});
  both("<u8", "U64", raw<std::uint64_t>({0, 1, 9223372036854775807u}), {0, 1, large});
  both("|b1", "BOOL", std::string("\0\1\7", 3), {0, 1, 1});
  // Fortran order keeps all bits.
  const std::string file = folder.write(
      "f.npy", npy(numpy_header("<u2", "(2, 2)", true), raw<std::uint16_t>({1, 32001, 64001, 4})));
  check(read_integers(file), {1, 64001, 32001, 4});
}

TEST_CASE("what is no integer, or too large, is not read as one") {
  const Folder folder;
  const auto check = [&](const std::string& file, const std::string& fault) {
    const std::string message = refusal([&] { read_integers(file); });
    CAPTURE(message);
    CHECK(message.find(fault) != std::string::npos);
  };
  check(folder.write("x.npy", npy(numpy_header("<f4", "(1,)"), raw<float>({1}))),
        "'<f4' is not supported; it needs one of i1, i2, i4, i8, u1, u2, u4, u8, b1");
  check(folder.write("x.npy", npy(numpy_header(">i4", "(1,)"), raw<int>({1}))), "big-endian");
  check(folder.write("x.npy", npy(numpy_header("<i2", "(3,)"), raw<int>({1}))), "truncated");
  check(folder.write("x.npy", npy(numpy_header("<u8", "(2,)"),
                                  raw<std::uint64_t>({0, 18446744073709551615u}))),
        "element 1 is 18446744073709551615");
  const auto table_of = [&](const std::string& type, int size) {
    return folder.write("x.safetensors",
                        safetensors(table(entry("a", type, "[2]", 0, size)),
                                    std::string(static_cast<unsigned>(size), 'x')));
  };
  check(table_of("F32", 8), "'F32', which is not supported; it needs one of I8, I16, I32, I64, U8");
  check(table_of("U16", 5), "needs 4 bytes, but its data_offsets hold 5");
}
