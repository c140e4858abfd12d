// attn_demo plot: the pictures of data/, logits of a file, and refusals.
#include <attn/io.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "support/op_sample.hpp"

using namespace attn;
using namespace attn::test;

TEST_CASE("plot makes the pictures of data/ again, byte for byte") {
  const Folder folder;
  for (const char* name : {"temperature", "sparsity"}) {
    const std::string picture = folder / "picture.svg";
    check_done(fmt::format("plot {} --out {}", name, picture));
    CHECK(bytes_of(picture) == bytes_of(fmt::format("{}/softmax_{}.svg", ATTN_DATA_PATH, name)));
    fs::remove(picture);
  }
}

TEST_CASE("plot draws the logits of a file, and refuses what it cannot draw") {
  const OpSample sample;
  const std::vector<float> logits = {3, 0.25f, -7.5f};
  const std::string file = sample.file("logits.npy", {3}, logits);
  check_done(
      fmt::format("plot sparsity --out {} --logits {}", sample.folder / "picture.svg", file));
  const std::string picture = bytes_of(sample.folder / "picture.svg");
  CHECK(picture.starts_with("<svg "));
  CHECK(picture.ends_with("</svg>\n"));
  CHECK(picture.find(">-7.5</text>") != std::string::npos);
  CHECK(picture.find(">3 classes; 0 is exactly 0</text>") != std::string::npos);
  fs::remove(sample.folder / "picture.svg");

  sample.file("long.npy", counted(DType::f32, {17}).view());
  sample.file("infinite.npy", {2}, std::vector<float>{0, INFINITY});
  const Names names = sample.folder.names();
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo("plot " + arguments), fault);
    CHECK(sample.folder.names() == names);
  };
  const std::string out = " --out " + sample.folder / "picture.svg";
  check("", "one of temperature, sparsity");
  check("temperature", "--out is required");
  check("temperature --out " + sample.folder / "picture.bmp", ".svg");
  check("temperature --out " + sample.folder / "nowhere/picture.svg", "cannot be written");
  check("sparsity --logits " + sample.folder / "x.npy" + out, "rank 1");
  check("sparsity --logits " + sample.folder / "long.npy" + out, "2 to 16");
  check("sparsity --logits " + sample.folder / "infinite.npy" + out, "finite");
}
