// Broken files: each is refused with one line that names the file and its fault.
#include <attn/io.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/files.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void check_npy_refused(const std::string& bytes, const std::string& fault) {
  const Folder folder;
  check_refused(folder.write("x.npy", bytes), fault);
}

void check_safetensors_refused(const std::string& bytes, const std::string& fault,
                               const std::string& name = "a") {
  const Folder folder;
  const std::string file = folder.write("x.safetensors", bytes);
  check_refused(file + ":" + name, fault);
  const std::string mapped = refusal([&] { MappedTensors(file).tensor(name); });
  CAPTURE(mapped);
  CHECK(mapped.find(file) != std::string::npos);
  CHECK(mapped.find(fault) != std::string::npos);
}

/// Reads each byte of all mapped tensors.
void touch(const MappedTensors& tensors) {
  for (const std::string& name : tensors.names()) copy_as(tensors.tensor(name), DType::f64);
}

}  // namespace

TEST_CASE("files that are not .npy") {
  check_npy_refused("", "is empty");
  check_npy_refused("PK\3\4 an archive", "not a .npy file");
  check_npy_refused("\x93NUMP", "not a .npy file");
  check_npy_refused("\x93NUMPY", "truncated");
  check_npy_refused(std::string("\x93NUMPY\1\0\x10", 9), "truncated");
  check_npy_refused(std::string("\x93NUMPY\2\0\x10\0\0", 11), "truncated");
  check_npy_refused(npy("{}", "", 4), "version 4.0");
  check_npy_refused(std::string("\x93NUMPY\1\1\0\0", 10), "version 1.1");
  check_npy_refused(std::string("\x93NUMPY\1\0\xff\xff{}", 12),
                    "header says that it has 65535 bytes, but 2 follow");
  check_npy_refused(std::string("\x93NUMPY\2\0\xff\xff\xff\xff{}", 14), "4294967295");
  check_npy_refused(npy(std::string((1 << 20) + 1, ' '), "", 2), "at most 1048576");
}

TEST_CASE(".npy headers that are broken") {
  const std::string data = raw<float>({1, 2});
  const auto check = [&](const std::string& header, const std::string& fault) {
    check_npy_refused(npy(header, data), fault);
  };
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
  check("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        "'descr' stands twice");
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
  check("<i2", "'<i2' is not supported");
  check("f4", "'f4' is not supported");
  check("", "'' is not supported");
  check(std::string(300, 'x'), "xxx...' is not supported");
  check_npy_refused(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "1234"),
                    "structured");
}

TEST_CASE(".npy shapes that are wrong") {
  const auto check = [](const std::string& shape, const std::string& fault) {
    check_npy_refused(npy(numpy_header("<f4", shape), raw<float>({1, 2})), fault);
  };
  check("(3,)", "truncated: shape [3] of '<f4' needs 12 bytes after the header, but 8 are there");
  check("(1,)", "too long: shape [1] of '<f4' needs 4 bytes after the header, but 8 are there");
  check("(0,)", "too long");
  check("()", "too long");
  check("(-2,)", "negative");
  check("(2", "a whole number expected");
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

TEST_CASE("a long list of names is cut") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {1});
  std::vector<NamedTensor> tensors;
  for (int n = 0; n < 100; ++n)
    tensors.push_back({std::string(200, 'n') + std::to_string(n), tensor.view()});
  write_safetensors(folder / "x.safetensors", tensors);
  check_refused(folder / "x.safetensors:a", "and 80 more");
  CHECK(refusal([&] { read_tensor(folder / "x.safetensors:a"); }).size() < 3000);
}

TEST_CASE("files that are not .safetensors") {
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
  check_safetensors_refused(safetensors("[]", ""), "is a list; it needs to be an object");
  check_safetensors_refused(safetensors("null", ""), "is null; it needs to be an object");
  check_safetensors_refused(safetensors(R"("text")", ""), "is the text 'text'; it needs to be");
}

TEST_CASE(".safetensors headers that are broken") {
  const auto check = [](const std::string& header, const std::string& fault) {
    check_safetensors_refused(safetensors(header, raw<float>({1, 2})), fault);
  };
  const std::string good = entry("a", "F32", "[2]", 0, 8);
  check(table(good + "," + good), "'a' stands twice");
  check(R"({"__metadata__":{},"__metadata__":{},)" + good + "}", "'__metadata__' stands twice");
  check(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
        "'dtype' stands twice");
  check(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "lacks 'a.dtype'");
  check(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "lacks 'a.shape'");
  check(R"({"a":{"dtype":"F32","shape":[2]}})", "lacks 'a.data_offsets'");
  check(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", "unknown key 'more'");
  check(R"({"a":5})", "'a' is 5; it needs an object");
  check(R"({"a":[1]})", "'a' is a list; it needs an object");
  check(R"({"a":{"dtype":{}}})", "'a.dtype' is an object; it needs a text");
  check(R"({"a":{"dtype":["F32"]}})", "'a.dtype' is a list; it needs a text");
  check(R"({"a":{"dtype":32}})", "'a.dtype' is 32; it needs a text");
  const auto check_shape = [&](const std::string& shape, const std::string& fault) {
    check(table(entry("a", "F32", shape, 0, 8)), fault);
  };
  check_shape("2", "'a.shape' is 2; it needs a list of whole numbers");
  check_shape("[true]", "'a.shape[0]' is true; it needs a whole number");
  check_shape("[[2]]", "is nested deeper than 3 levels");
  check_shape("[1,2.5]", "'a.shape[1]' is 2.5; it needs a whole number");
  check_shape("[1e999]", "a number in it is too large");
  check(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":["0"]}})",
        "'a.data_offsets[0]' is the text '0'; it needs a whole number");
  check(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})",
        "'a.data_offsets' is a list; it needs two numbers");
  check(R"({"__metadata__":{"format":{}}})", "'__metadata__.format' is an object; it needs a text");
  check(table(entry("a", "F33", "[2]", 0, 8)), "element type 'F33', which is not supported");
  // Each fault is found behind, before and between tensors that are right.
  check(table(good + R"(,"b":5)"), "'b' is 5; it needs an object");
  check(R"({"b":{"dtype":1},)" + good + "}", "'b.dtype' is 1; it needs a text");
  check(table(good + R"(,"__metadata__":{"k":"v","k":"v"})"), "'k' stands twice in one object");
  check(table(good + R"(,"__metadata__":{"k":1})"), "'__metadata__.k' is 1; it needs a text");
  check(table(good + R"(,"__metadata__":[])"), "'__metadata__' is a list; it needs an object");
  check("{" + good + R"(,"b":{"dtype":"F32")", "no JSON");
  const std::string deep(1'000'000, '[');
  check(deep, "is nested deeper than 3 levels");
  check(R"({"a":)" + deep, "is nested deeper than 3 levels");
  std::string objects;
  for (int n = 0; n < 100'000; ++n) objects += R"({"a":)";
  check(objects, "is nested deeper than 3 levels");
  std::string many = "[";
  for (int n = 0; n < 1'000'000; ++n) many += "0,";
  check(many, "it has more than 8 values");
  check(R"({"a":{"shape":)" + many, "'a.shape' has more than 8 values");
}

TEST_CASE(".safetensors shapes and offsets that are wrong") {
  const auto check = [](const std::string& entries, const std::string& fault) {
    check_safetensors_refused(safetensors(table(entries), raw<float>({1, 2})), fault);
  };
  check(entry("a", "F32", "[3]", 0, 8),
        "shape [3] and type F32 needs 12 bytes, but its data_offsets hold 8");
  check(entry("a", "F32", "[]", 0, 8), "needs 4 bytes");
  check(entry("a", "F32", "[0]", 0, 8), "needs 0 bytes");
  check(entry("a", "F32", "[-2]", 0, 8),
        "'a.shape[0]' is -2; it needs a whole number in 0..9223372036854775807");
  check(entry("a", "F32", "[1,1,1,1,1,1,1,1,2]", 0, 8), "more than 8 values");
  check(entry("a", "F32", "[99999999999999999999]", 0, 8),
        "'a.shape[0]' is 1e+20; it needs a whole number");
  check(entry("a", "F32", "[9223372036854775808]", 0, 8),
        "'a.shape[0]' is 9223372036854775808; it needs a whole number");
  check(entry("a", "F32", "[9223372036854775807]", 0, 8), "too large");
  check(entry("a", "F32", "[4294967296,4294967296]", 0, 8), "too large");
  check(entry("a", "F32", "[2]", 8, 0), "end before they begin");
  check(entry("a", "F32", "[4]", 0, 16), "go beyond the 8 bytes");
  check(entry("a", "F32", "[2]", 8, 16), "go beyond the 8 bytes");
  check(entry("a", "F32", "[1]", 0, 4), "its tensors have 4 bytes, but 8 follow");
  check(entry("a", "F32", "[1]", 4, 8), "leave a hole from 0 on");
  check(entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "I8", "[3]", 5, 8),
        "leave a hole from 4 on");
  check(entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[1]", 4, 8), "overlap");
  check(entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[2]", 0, 8), "overlap");
  check("", "but 8 follow");
}

TEST_CASE("paths that are no file of tensors") {
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
  if (!std::ifstream(secret)) check_refused(secret, "cannot be read");  // root can read it
}

TEST_CASE("views that no tensor can have are not written") {
  const Folder folder;
  const float memory[4] = {};
  TensorView wrong_extent(memory, {2, 2}), wrong_type(memory, {4}), no_data(memory, {4});
  wrong_extent.shape[0] = -2;
  wrong_type.dtype = static_cast<DType>(99);
  no_data.data = nullptr;
  for (const TensorView& view : {wrong_extent, wrong_type, no_data}) {
    for (const char* name : {"x.npy", "x.safetensors"}) {
      CHECK_FALSE(
          refusal([&] { write_tensor(folder / name, view); }, ErrorCode::invalid_argument).empty());
      CHECK_FALSE(fs::exists(folder / name));
    }
  }
}

TEST_CASE("files that are cut or changed are read or refused, nothing else") {
  const Folder folder;
  const std::string two = table(entry("a", "F32", "[1,2]", 0, 8) + "," +
                                entry("b", "BOOL", "[3]", 8, 11) + R"(,"__metadata__":{"c":"d"})");
  const std::array<std::pair<std::string, std::string>, 3> files{{
      {"x.npy", npy(numpy_header("<f4", "(2, 3)", true), std::string(24, 'x'))},
      {"x.npy", npy(numpy_header("|u1", "(1, 3)"), std::string(3, 'x'), 2)},
      {"x.safetensors", safetensors(two, std::string(11, 'x'))},
  }};
  const auto attempt = [&](const std::string& name, const std::string& bytes) {
    const std::string file = folder.write(name, bytes);
    refusal([&] { read_tensor(file); });
    if (name != "x.safetensors") return;
    refusal([&] { read_tensor(file + ":a"); });
    refusal([&] { touch(MappedTensors(file)); });
  };
  std::mt19937 random(1);
  for (const auto& [name, bytes] : files) {
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      attempt(name, bytes.substr(0, size));
      std::string changed = bytes;
      for (const int value : {0x00, 0x22, 0x27, 0x2d, 0x39, 0x5b, 0x7b, 0x7d, 0x80, 0xff,
                              static_cast<int>(random() & 0xff)}) {
        changed[size] = static_cast<char>(value);
        attempt(name, changed);
      }
      attempt(name, bytes.substr(0, size) + bytes.substr(size / 2));
    }
  }
}
