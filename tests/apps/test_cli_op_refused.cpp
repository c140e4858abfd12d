// attn_demo op refuses wrong calls in one line, and leaves no file behind.
#include <attn/io.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "support/op_sample.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Files that op has to refuse, and a check that it leaves no file behind.
struct RefusedSample {
  OpSample files;
  std::string classes =
      files.file("classes.npy", {2, 4}, std::vector<std::int64_t>{0, 2, 1, 3, 2, 2, 0, 1});
  std::string four = files.file("four.npy", counted(DType::f32, {4}).view());
  Names names;

  RefusedSample() {
    files.file("integers.npy", counted(DType::i64, {2, 3, 4}).view());
    files.file("nan.npy", {2, 2}, std::vector<float>{0, 1, std::nanf(""), 2});
    names = files.folder.names();
  }
  void check(const std::string& arguments, const std::string& fault) const {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK(files.folder.names() == names);
  }
};

}  // namespace

TEST_CASE("op refuses names and options that do not go together") {
  const RefusedSample sample;
  const OpSample& files = sample.files;
  const std::string &classes = sample.classes, &four = sample.four;
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    sample.check(arguments, fault);
  };
  check("op", "op needs a name after it, one of softmax, log_softmax");
  check("op hardmax", "hardmax");
  check("op softmax --out " + files.out, "--input is required");
  check("op softmax --input " + files.folder / "x.npy", "--out is required");
  check(files.op("softmax") + " silu", "silu");
  // Options that belong to other functions.
  check(files.op("softmax --alpha 2"), "--alpha");
  check(files.op("sparsemax --temperature 2"), "--temperature");
  check(files.op("entmax15 --alpha 1.5"), "--alpha");
  check(files.op("gelu --axis 1"), "--axis");
  check(files.op("silu --approximate tanh"), "--approximate");
  check(files.op("rms_norm --bias-file " + four), "--bias-file");
  check(files.op("cross_entropy --axis 1 --target " + classes), "--axis");
  check(files.op("sparsemax_loss --log-prob x.npy --target " + classes), "--log-prob");
  check(files.op("sample --axis 0"), "--axis");
}

TEST_CASE("op refuses values out of range") {
  const RefusedSample sample;
  const OpSample& files = sample.files;
  const std::string &classes = sample.classes, &four = sample.four;
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    sample.check(arguments, fault);
  };
  check(files.op("softmax --axis 3"), "--axis is 3");
  check(files.op("logsumexp --axis -4"), "--axis is -4");
  check(files.op("sparsemax --axis 3 --tau " + files.folder / "tau.npy"), "--axis is 3");
  check(files.op("layer_norm --axis 3 --mean " + files.folder / "mean.npy"), "3");
  check(files.op("softmax --axis 1.5"), "an integer");
  check(files.op("softmax --axis 99999999999"), "an integer");
  check(files.op("softmax --temperature 0"), "--temperature is 0");
  check(files.op("softmax --temperature nan"), "a finite number");
  check(files.op("softmax --threads 0"), "an integer");
  check(files.op("softmax --isa sse9"), "baseline");
  check(files.op("entmax"), "--alpha is required");
  check(files.op("entmax --alpha 0.5"), "--alpha is 0.5");
  check(files.op("gelu --approximate erf"), "one of none, tanh");
  check(files.op("cross_entropy"), "--target is required");
  check(files.op("cross_entropy --target " + classes), "3");
  check(files.op("cross_entropy --reduction max --target " + classes), "one of mean, sum, none");
  check(files.op("cross_entropy --label-smoothing 2 --target " + classes),
        "--label-smoothing is 2");
  check(files.op("cross_entropy --weight " + four + " --target " + classes), "--weight has shape");
  check(files.op("cross_entropy --target " + four), "--target has shape");
  check(files.op("sample --top-k -1"), "--top-k");
  check(files.op("sample --top-p 1.5"), "--top-p is 1.5");
  check(files.op("sample --min-p 2"), "--min-p is 2");
  check(files.op("sample --num-samples -1"), "--num-samples");
  check(files.op("sample --seed -1"), "--seed");
  check(files.op("sample", "nan.npy"), "--input[1] holds NaN");
  check(files.op("rms_norm --epsilon x"), "a finite number");
  check(files.op("rms_norm --scale-file " + classes), "floating-point");
  check(files.op("rope --cos " + four), "--sin is required");
}

TEST_CASE("op refuses files that it cannot read or write") {
  const RefusedSample sample;
  const OpSample& files = sample.files;
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    sample.check(arguments, fault);
  };
  check(files.op("softmax", "missing.npy"), "missing.npy");
  check(files.op("softmax", "integers.npy"), "floating-point");
  check(files.op("sparsemax --tau " + files.out), "twice");
  check(files.op("sparsemax --tau " + files.folder / "nowhere/tau.npy"), "nowhere");
  const Folder other;
  write_tensor(other / "x.safetensors", copy_as(files.x.view(), DType::bf16).view(), "x");
  check(fmt::format("op silu --input {}:x --out {}", other / "x.safetensors", files.out),
        ".npy has no bf16");
}
