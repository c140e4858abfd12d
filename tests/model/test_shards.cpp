// Checkpoints in several files: the index and the shards have to agree.
#include <attn/io.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "model/checkpoint.hpp"
#include "support/files.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// A folder with two shards, and an index that lists their tensors.
struct Shards {
  Folder folder;
  std::string index =
      R"({"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors",
      "b": "two.safetensors"}})";

  Shards() {
    write_tensor(folder / "one.safetensors", counted(DType::f32, {1}).view(), "a");
    write_tensor(folder / "two.safetensors", counted(DType::f32, {2}).view(), "b");
  }
  void check(const std::string& file, const std::string& fault) const {
    folder.write("model.safetensors.index.json", index);
    const std::string message = refusal([&] { model::Checkpoint checkpoint(folder / ""); });
    CAPTURE(message);
    CAPTURE(fault);
    CHECK(message.find(folder / file) == 0);
    CHECK(message.find(fault) != std::string::npos);
  }
};

}  // namespace

TEST_CASE("shards that agree with the index") {
  Shards shards;
  shards.folder.write("model.safetensors.index.json", shards.index);
  const model::Checkpoint checkpoint(shards.folder / "");
  CHECK(checkpoint.names() == Names{"a", "b"});
  CHECK(checkpoint.tensor("b").shape == Dims{2});
  CHECK(checkpoint.file_of("b") == shards.folder / "two.safetensors");
  CHECK(!checkpoint.contains("c"));
  // A single file takes precedence over an index.
  write_tensor(shards.folder / "model.safetensors", counted(DType::f32, {5}).view(), "c");
  CHECK(model::Checkpoint(shards.folder / "").names() == Names{"c"});
}

TEST_CASE("shards that disagree with the index") {
  Shards shards;
  SUBCASE("a shard is missing") {
    fs::remove(shards.folder / "two.safetensors");
    shards.check("two.safetensors", "no such file");
  }
  SUBCASE("a shard is truncated") {
    const std::string whole = bytes_of(shards.folder / "two.safetensors");
    shards.folder.write("two.safetensors", whole.substr(0, whole.size() - 4));
    shards.check("two.safetensors", "data_offsets 0..8 of tensor 'b' go beyond the 4 bytes");
  }
  SUBCASE("a tensor is in another shard") {
    shards.index =
        R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors",
      "c": "two.safetensors"}})";
    shards.check("one.safetensors",
                 "lacks tensor 'b', which model.safetensors.index.json says is there; "
                 "two.safetensors holds it");
  }
  SUBCASE("a tensor is nowhere") {
    shards.index =
        R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors",
      "c": "two.safetensors"}})";
    shards.check("two.safetensors", "lacks tensor 'c'");
  }
  SUBCASE("a tensor is in two shards") {
    write_tensor(shards.folder / "two.safetensors", counted(DType::f32, {2}).view(), "a");
    shards.check("two.safetensors", "tensor 'a' is in one.safetensors too");
  }
  SUBCASE("the index does not know a tensor") {
    const Tensor tensor = counted(DType::f32, {2});
    write_safetensors(shards.folder / "two.safetensors",
                      std::vector<NamedTensor>{{"b", tensor.view()}, {"c", tensor.view()}});
    shards.check("two.safetensors", "tensor 'c' is not in model.safetensors.index.json");
  }
}

TEST_CASE("an index that cannot be read") {
  Shards shards;
  const std::string index = "model.safetensors.index.json";
  SUBCASE("names that lead elsewhere") {
    for (const std::string name :
         {"../one.safetensors", "/one.safetensors", "sub/one.safetensors", "..", "",
          R"(a\\one.safetensors)", "model.safetensors.index.json", R"(one\u0000.safetensors)"}) {
      shards.index = R"({"weight_map": {"a": ")" + name + R"("}})";
      shards.check(index, "it needs the name of a .safetensors file in the same folder");
    }
  }
  SUBCASE("an index that is none") {
    const auto check = [&](const std::string& text, const std::string& fault) {
      shards.index = text;
      shards.check(index, fault);
    };
    check("", "is empty");
    check("{}", "lacks 'weight_map'");
    check("[]", "is a list; it needs to be an object");
    check(R"({"weight_map": []})", "'weight_map' is a list; it needs an object");
    check(R"({"weight_map": {"a": 1}})", "'weight_map.a' is 1; it needs a text");
    check(R"({"weight_map": {"a\nb": null}})", "it needs a text");
    check(R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})",
          "'a' stands twice");
    check(R"({"weight_map": {"a": "one.safetensors")", "is no JSON");
    check(R"({"weight_map": )" + std::string(100'000, '['), "is nested deeper than 32 levels");
    check(std::string((1 << 25) + 1, ' '), "at most 33554432 are read");
  }
}
