// Mapped .safetensors: the tensors equal those that are read, they are views of the file, and only
// those that are not aligned are copied.
#include <attn/io.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"
#include "support/files.hpp"

using namespace attn;
using namespace attn::test;

namespace {

const std::vector all_types{DType::f32, DType::bf16, DType::f16, DType::f64,
                            DType::i8,  DType::i32,  DType::i64, DType::boolean};

bool equal(const TensorView& view, const Tensor& tensor) {
  return view.dtype == tensor.dtype() && view.shape == tensor.shape() &&
         view.strides == dense_strides(view.shape) &&
         std::memcmp(view.data, tensor.data(), tensor.size_in_bytes()) == 0;
}

std::uintptr_t address(const TensorView& view) {
  return reinterpret_cast<std::uintptr_t>(view.data);
}

}  // namespace

TEST_CASE("every type and shape is mapped as it was written") {
  const Folder folder;
  std::vector<Tensor> tensors;
  std::vector<NamedTensor> named;
  for (const DType dtype : all_types) {
    for (const Dims& shape :
         {Dims{}, Dims{7}, Dims{0}, Dims{3, 4}, Dims{2, 0, 5}, Dims{1, 2, 1, 2, 1, 2, 1, 2}}) {
      tensors.push_back(counted(dtype, shape));
    }
  }
  for (const Tensor& tensor : tensors)
    named.push_back({std::to_string(named.size()), tensor.view()});
  write_safetensors(folder / "x.safetensors", named);
  const MappedTensors mapped(folder / "x.safetensors");
  CHECK(mapped.file() == folder / "x.safetensors");
  CHECK(mapped.names().size() == named.size());
  for (const NamedTensor& one : named) {
    CAPTURE(one.name);
    CHECK(mapped.contains(one.name));
    CHECK(equal(mapped.tensor(one.name), tensors[std::stoul(one.name)]));
  }
}

TEST_CASE("aligned tensors are views of the file, and survive moves") {
  const Folder folder;
  std::string header =
      table(entry("b", "F32", "[2]", 8, 16) + "," + entry("a", "I64", "[1]", 0, 8));
  header.resize((header.size() + 7) / 8 * 8, ' ');
  MappedTensors first(
      folder.write("x.safetensors", safetensors(header, little_endian(7, 8) + raw<float>({1, 2}))));
  CHECK(first.names() == Names{"a", "b"});  // in the order of their bytes
  const TensorView a = first.tensor("a"), b = first.tensor("b");
  constexpr std::uintptr_t page = 4096;
  CHECK(address(a) % page == 8 + header.size());
  CHECK(address(b) == address(a) + 8);

  MappedTensors second(std::move(first));
  const auto moved = [](const std::function<void()>& run) {
    CHECK(refusal(run, ErrorCode::invalid_argument).find("moved from") != std::string::npos);
  };
  moved([&] { first.tensor("a"); });
  moved([&] { static_cast<void>(first.names()); });
  moved([&] { static_cast<void>(first.file()); });
  moved([&] { static_cast<void>(first.contains("a")); });
  first = std::move(second);
  CHECK(first.tensor("a").data == a.data);
  CHECK(*static_cast<const std::int64_t*>(a.data) == 7);
  CHECK(static_cast<const float*>(b.data)[1] == 2);
}

TEST_CASE("tensors that are not aligned for their type are copied") {
  const Folder folder;
  const std::vector<float> values{1, 2, 3};
  const std::string entries = entry("byte", "I8", "[1]", 0, 1) + "," +
                              entry("b", "F32", "[3]", 1, 13) + "," +
                              entry("c", "F64", "[0]", 13, 13);
  std::string header = table(entries);
  for (int spaces = 0; spaces < 8;
       ++spaces, header += ' ') {  // each remainder that the end of a header may have
    std::string data = "x";
    data += raw(values);
    const std::string file = folder.write("x.safetensors", safetensors(header, data));
    const MappedTensors mapped(file);
    const TensorView b = mapped.tensor("b");
    CHECK(address(b) % sizeof(float) == 0);
    CHECK(std::equal(values.begin(), values.end(), static_cast<const float*>(b.data)));
    CHECK((address(b) == address(mapped.tensor("byte")) + 1) ==
          ((header.size() + 1) % sizeof(float) == 0));
    CHECK(mapped.tensor("c").size() == 0);
  }
}

TEST_CASE("any byte of a boolean but 0 is true") {
  const Folder folder;
  const std::string file =
      folder.write("x.safetensors",
                   safetensors(table(entry("a", "BOOL", "[3]", 0, 3)), std::string("\0\1\7", 3)));
  const MappedTensors mapped(file);
  const Tensor numbers = copy_as(mapped.tensor("a"), DType::i64);
  CHECK(numbers.data<std::int64_t>()[0] == 0);
  CHECK(numbers.data<std::int64_t>()[1] == 1);
  CHECK(numbers.data<std::int64_t>()[2] == 1);
}

TEST_CASE("a file may hold tensors of types that are not read") {
  const Folder folder;
  const std::string entries =
      entry("a", "F8_E4M3", "[2]", 0, 2) + "," + entry("b", "F32", "[1]", 2, 6);
  const MappedTensors mapped(
      folder.write("x.safetensors", safetensors(table(entries), "12" + raw<float>({5}))));
  CHECK(*static_cast<const float*>(mapped.tensor("b").data) == 5);
  CHECK(mapped.contains("a"));
  const std::string message = refusal([&] { mapped.tensor("a"); });
  CHECK(message.find(
            "x.safetensors: tensor 'a' has element type 'F8_E4M3', which is not supported") !=
        std::string::npos);
  CHECK(refusal([&] { mapped.tensor("c"); }).find("no tensor 'c'; it holds 'a', 'b'") !=
        std::string::npos);
}

TEST_CASE("tensors come in the order of their bytes, whatever the order of the header") {
  const Folder folder;
  const std::string header =
      table(entry("c", "F32", "[1]", 4, 8) + "," + entry("z", "F32", "[0]", 4, 4) + "," +
            R"("__metadata__":{"format":"pt"},)" + entry("b", "F32", "[1]", 0, 4) + "," +
            entry("a", "F32", "[0,3]", 4, 4));
  const MappedTensors mapped(
      folder.write("x.safetensors", safetensors(header, raw<float>({1, 2}))));
  CHECK(mapped.names() == Names{"b", "a", "z", "c"});
  CHECK(*static_cast<const float*>(mapped.tensor("b").data) == 1);
  CHECK(*static_cast<const float*>(mapped.tensor("c").data) == 2);
}

TEST_CASE("a header without tensors") {
  const Folder folder;
  const MappedTensors mapped(folder.write("x.safetensors", safetensors("{}", "")));
  CHECK(mapped.names().empty());
  CHECK(refusal([&] { mapped.tensor("a"); }).find("it holds no tensors") != std::string::npos);
}

TEST_CASE("the file may be replaced or removed under the mapping") {
  const Folder folder;
  const Tensor before = counted(DType::f32, {100}), after = counted(DType::f32, {3});
  write_tensor(folder / "x.safetensors", before.view(), "a");
  const MappedTensors mapped(folder / "x.safetensors");
  write_tensor(folder / "x.safetensors", after.view(), "a");
  CHECK(equal(mapped.tensor("a"), before));
  fs::remove(folder / "x.safetensors");
  CHECK(equal(mapped.tensor("a"), before));
}

TEST_CASE("one tensor of any file is mapped as it is read") {
  const Folder folder;
  for (const DType dtype : {DType::f32, DType::f16, DType::f64, DType::i32, DType::i64}) {
    for (const Dims& shape : {Dims{7}, Dims{3, 4}, Dims{2, 0, 5}, Dims{2, 3, 4, 5}}) {
      const Tensor tensor = counted(dtype, shape);
      write_tensor(folder / "x.npy", tensor.view());
      CHECK(test::equal(tensor, MappedTensor(folder / "x.npy").view()));
      write_tensor(folder / "x.safetensors", tensor.view(), "a");
      CHECK(test::equal(tensor, MappedTensor(folder / "x.safetensors:a").view()));
      CHECK(test::equal(tensor, MappedTensor(folder / "x.safetensors").view()));
    }
  }
  // A header of an odd length, and columns that run fastest.
  const std::vector<float> columns{1, 4, 2, 5, 3, 6};
  for (const std::size_t spaces : {0, 1, 2, 3}) {
    const std::string header =
        numpy_header("<f4", "(2, 3)", true).insert(1, std::string(spaces, ' '));
    const MappedTensor mapped(folder.write("f.npy", npy(header, raw(columns))));
    CHECK(test::equal(read_tensor(folder / "f.npy"), mapped.view()));
    CHECK(mapped.view().strides == Dims{1, 2});
  }
  CHECK(refusal([&] { MappedTensor tensor(folder / "none.npy"); }).find("none.npy") !=
        std::string::npos);
  CHECK(refusal([&] { MappedTensor tensor(folder / "x.safetensors:b"); }).find("b") !=
        std::string::npos);
  folder.write("short.npy", npy(numpy_header("<f4", "(9,)"), "1234"));
  CHECK(refusal([&] { MappedTensor tensor(folder / "short.npy"); }).find("truncated") !=
        std::string::npos);
}
