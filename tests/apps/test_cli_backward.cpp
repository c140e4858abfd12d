// attn_demo backward and compare --backward.
#include <nlohmann/json.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// A sample with dout, and the options that name its gradients.
struct GradientSample : Sample {
  Tensor dout = random_tensor({2, 4, 3, 6}, 4), dlse = random_tensor({2, 4, 3}, 5);
  std::string incoming, outputs;

  GradientSample() {
    incoming = inputs + " --dout " + file("dout.npy", dout.view());
    outputs = fmt::format(" --dq {} --dk {} --dv {} ", folder / "dq.npy", folder / "dk.npy",
                          folder / "dv.npy");
    names = folder.names();
  }
  std::string backward(const std::string& options) const {
    return "backward " + incoming + outputs + options;
  }
  Tensor read(const std::string& name) const { return read_tensor(folder / name); }
};

struct Gradients {
  Tensor out{DType::f32, {2, 4, 3, 6}}, lse{DType::f32, {2, 4, 3}}, dq{DType::f32, {2, 4, 3, 8}},
      dk{DType::f32, {2, 2, 5, 8}}, dv{DType::f32, {2, 2, 5, 6}}, dmask, dalibi, dsinks;
};

/// What the library computes for a sample.
Gradients expected(GradientSample& sample, const AttentionOptions& options = {},
                   AttentionTensors tensors = {}, bool dlse = false) {
  Gradients result;
  tensors.q = sample.q.view();
  tensors.k = sample.k.view();
  tensors.v = sample.v.view();
  tensors.out = result.out.view();
  if (options.normalizer == Normalizer::softmax()) tensors.lse = result.lse.view();
  attention(tensors, options);
  AttentionGradients gradients{.dout = sample.dout.view(),
                               .dq = result.dq.view(),
                               .dk = result.dk.view(),
                               .dv = result.dv.view()};
  if (dlse) gradients.dlse = sample.dlse.view();
  const auto add = [](const TensorView& input, Tensor& memory, MutableTensorView& gradient) {
    if (input.absent()) return;
    memory = Tensor(DType::f32, input.shape);
    gradient = memory.view();
  };
  add(tensors.mask, result.dmask, gradients.dmask);
  add(tensors.alibi_slopes, result.dalibi, gradients.dalibi);
  add(tensors.sinks, result.dsinks, gradients.dsinks);
  attention_backward(tensors, gradients, options);
  return result;
}

bool close(const Tensor& a, const Tensor& b, double tolerance) {
  if (a.shape() != b.shape()) return false;
  const Tensor left = copy_as(a.view(), DType::f64), right = copy_as(b.view(), DType::f64);
  for (std::int64_t n = 0; n < left.size(); ++n) {
    if (!(std::abs(left.data<double>()[n] - right.data<double>()[n]) <= tolerance)) return false;
  }
  return true;
}

Tensor permuted(const Tensor& tensor, const Dims& order) {
  return copy_as(tensor.view().permuted(order), tensor.dtype());
}

}  // namespace

TEST_CASE("backward writes the library's gradients") {
  GradientSample sample;
  const Gradients wanted = expected(sample, {.causal = Causal{}});
  check_done(sample.backward("--causal"));
  CHECK(equal(sample.read("dq.npy"), wanted.dq.view()));
  CHECK(equal(sample.read("dk.npy"), wanted.dk.view()));
  CHECK(equal(sample.read("dv.npy"), wanted.dv.view()));

  check_done(sample.backward("--causal --score-matmul attn"));
  CHECK(equal(sample.read("dq.npy"), wanted.dq.view()));
  if (build_info().onednn_version.empty()) {
    check_refused_with(attn_demo(sample.backward("--score-matmul onednn")), "--score-matmul");
  } else {
    check_done(sample.backward("--causal --score-matmul onednn"));
    CHECK(close(sample.read("dk.npy"), wanted.dk, 1e-5));
  }

  check_done(sample.backward("--causal --kernel naive"));
  CHECK(close(sample.read("dq.npy"), wanted.dq, 1e-5));
  CHECK(close(sample.read("dk.npy"), wanted.dk, 1e-5));
  CHECK(close(sample.read("dv.npy"), wanted.dv, 1e-5));
}

TEST_CASE("backward has every gradient, and the forward's results") {
  GradientSample sample;
  const Tensor mask = random_tensor({4, 1, 5}, 6), slopes = random_tensor({4}, 7),
               sinks = random_tensor({4}, 8);
  const Gradients wanted =
      expected(sample, {.softcap = 2.f},
               {.mask = mask.view(), .alibi_slopes = slopes.view(), .sinks = sinks.view()}, true);
  const std::string options = fmt::format(
      "--softcap 2 --mask {} --alibi {} --sinks {} --dlse {} --dmask {} --dalibi {} --dsinks {} "
      "--out {} --lse {}",
      sample.file("mask.npy", mask.view()), sample.file("alibi.npy", slopes.view()),
      sample.file("sinks.npy", sinks.view()), sample.file("dlse.npy", sample.dlse.view()),
      sample.folder / "dmask.npy", sample.folder / "dalibi.npy", sample.folder / "dsinks.npy",
      sample.folder / "o.npy", sample.folder / "lse.npy");
  check_done(sample.backward(options));
  const auto check = [&](const char* file, const Tensor& tensor) {
    CAPTURE(file);
    CHECK(equal(sample.read(file), tensor.view()));
  };
  check("dq.npy", wanted.dq);
  check("dk.npy", wanted.dk);
  check("dv.npy", wanted.dv);
  check("dmask.npy", wanted.dmask);
  check("dalibi.npy", wanted.dalibi);
  check("dsinks.npy", wanted.dsinks);
  check("o.npy", wanted.out);
  check("lse.npy", wanted.lse);
  check_done(sample.backward(options + " --kernel naive"));
  CHECK(close(sample.read("dmask.npy"), wanted.dmask, 1e-5));
  CHECK(close(sample.read("dalibi.npy"), wanted.dalibi, 1e-5));
  CHECK(close(sample.read("dsinks.npy"), wanted.dsinks, 1e-5));
  CHECK(close(sample.read("o.npy"), wanted.out, 1e-5));
  CHECK(close(sample.read("lse.npy"), wanted.lse, 1e-5));
}

TEST_CASE("gradients have the layouts of their inputs") {
  GradientSample sample;
  const Gradients wanted = expected(sample);
  const Dims order{0, 2, 1, 3};
  const auto write = [&](const std::string& prefix, auto shape_of) {
    std::string options = "backward" + sample.outputs;
    for (const auto& [name, tensor] :
         {std::pair{"q", &sample.q}, std::pair{"k", &sample.k}, std::pair{"v", &sample.v},
          std::pair{"dout", &sample.dout}}) {
      const Tensor swapped = permuted(*tensor, order);
      options += fmt::format(" --{} {}", name,
                             sample.file(prefix + name + ".npy",
                                         {swapped.data(), DType::f32, shape_of(swapped.shape())}));
    }
    return options;
  };
  check_done(write("bshd_", [](const Dims& shape) { return shape; }) + " --layout bshd");
  CHECK(equal(permuted(sample.read("dq.npy"), order), wanted.dq.view()));
  CHECK(equal(permuted(sample.read("dk.npy"), order), wanted.dk.view()));
  CHECK(equal(permuted(sample.read("dv.npy"), order), wanted.dv.view()));

  const auto merged = [](const Dims& shape) {
    return Dims{shape[0], shape[1], shape[2] * shape[3]};
  };
  check_done(write("merged_", merged) + " --heads 4 --kv-heads 2");
  const Tensor dk = sample.read("dk.npy");
  CHECK(dk.shape() == Dims{2, 5, 16});
  const TensorView separate(dk.data(), DType::f32, {2, 5, 2, 8});
  CHECK(equal(copy_as(separate.permuted(order), DType::f32), wanted.dk.view()));
}

TEST_CASE("gradients have the type of the call") {
  const GradientSample sample;
  for (const auto& [name, dtype] : {std::pair{"bf16", DType::bf16}, std::pair{"f16", DType::f16}}) {
    const std::string files =
        fmt::format(" --dq {} --dk {} --dv {} ", sample.folder / "dq.safetensors",
                    sample.folder / "dk.safetensors", sample.folder / "dv.safetensors");
    check_done("backward " + sample.incoming + files + "--dtype " + name);
    for (const char* gradient : {"dq", "dk", "dv"}) {
      const std::string tensor = fmt::format("{}.safetensors:{}", gradient, gradient);
      CHECK(read_tensor(sample.folder / tensor).dtype() == dtype);
    }
  }
}

TEST_CASE("backward of other normalizers") {
  GradientSample sample;
  for (const auto& [name, normalizer] :
       {std::pair{"sigmoid", Normalizer::sigmoid()},
        std::pair{"sparsemax", Normalizer::sparsemax()},
        std::pair{"entmax15", Normalizer::entmax(1.5f)},
        std::pair{"entmax --alpha 1.25", Normalizer::entmax(1.25f)}}) {
    const std::string options = name;
    CAPTURE(options);
    const Gradients wanted = expected(sample, {.normalizer = normalizer});
    check_done(
        sample.backward(fmt::format("--normalizer {} --out {}", options, sample.folder / "o.npy")));
    CHECK(equal(sample.read("dq.npy"), wanted.dq.view()));
    CHECK(equal(sample.read("dv.npy"), wanted.dv.view()));
    CHECK(equal(sample.read("o.npy"), wanted.out.view()));
  }
}

TEST_CASE("backward refuses what does not fit, by name, and leaves no file") {
  const GradientSample sample;
  const Tensor mask = random_tensor({3, 5}, 6), slopes = random_tensor({4}, 7);
  const std::string some = sample.folder / "some.npy";
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK_FALSE(fs::exists(some));
    CHECK_FALSE(fs::exists(sample.folder / "dq.npy"));
  };
  check("backward " + sample.inputs + sample.outputs, "--dout");
  check("backward " + sample.incoming, "--dq");
  check("backward " + sample.incoming + " --dq " + some + " --dk " + some, "--dv");
  check("backward --q x --dout y" + sample.outputs, "--k is required");
  check(sample.backward("--kernel naive --score-matmul attn"), "--score-matmul");
  check(sample.backward("--dmask " + some), "--dmask");
  check(sample.backward("--dalibi " + some), "--dalibi");
  check(sample.backward("--dsinks " + some), "--dsinks");
  const Tensor visible = counted(DType::boolean, {3, 5});
  const std::string boolean = sample.file("visible.npy", visible.view());
  check(sample.backward(fmt::format("--mask {} --dmask {}", boolean, some)), "additive mask");
  const std::string dlse = sample.file("dlse.npy", sample.dlse.view());
  check(sample.backward("--normalizer sigmoid --dlse " + dlse), "--dlse");
  check(sample.backward("--normalizer sparsemax --lse " + some), "--lse");
  for (const char* option :
       {"--past-k x", "--present-k x", "--kv-dtype f16", "--page-size 16", "--scores x"}) {
    check(sample.backward(option), std::string(option).substr(0, std::string(option).find(' ')));
  }
  check(sample.backward("--kernel unfused"), "one of tiled, naive");
  check("backward " + sample.inputs + sample.outputs + "--dout " + sample.folder / "q.npy",
        "--dout");
  check(sample.backward("--dlse " + sample.folder / "q.npy"), "--dlse");
  check(sample.backward("--softcap 0"), "--softcap");
}

TEST_CASE("compare --backward ends with 0 within the tolerance and with 1 past it") {
  const std::string shape = "compare --backward --shape 2,6,3,33,70,24,40 --seed 7 --causal ";
  const Ran table = attn_demo(shape);
  CAPTURE(table.out);
  CHECK(table.code == 0);
  CHECK(table.err == "");
  for (const char* word :
       {"dq", "dk", "dv", "max abs", "RMS", "worst", "scratch", "2 e + b", "within tolerance"})
    CHECK(table.out.find(word) != std::string::npos);
  const Ran different = attn_demo(shape + "--tolerance 0");
  CHECK(different.code == 1);
  CHECK(different.out.find("past the tolerance") != std::string::npos);

  const Ran ran = attn_demo(shape + "--json");
  REQUIRE(ran.code == 0);
  const auto result = nlohmann::json::parse(ran.out);
  CHECK(result["shape"] == nlohmann::json({2, 6, 3, 33, 70, 24, 40}));
  CHECK(result["within_tolerance"] == true);
  CHECK(result["gradients"].size() == 3);
  for (const char* name : {"dq", "dk", "dv"}) {
    const auto& gradient = result["gradients"][name];
    CHECK(gradient["max_abs"] > 0);
    CHECK(gradient["max_abs"] <= gradient["tolerance"]);
    CHECK(gradient["worst"].size() == 4);
  }
  CHECK(result["tiled"]["time_ms"] > 0);
  CHECK(result["tiled"]["scratch_bytes"] > 0);
  CHECK(result["naive"]["time_ms"] > 0);
  const Ran again = attn_demo(shape + "--json --threads 1");
  CHECK(nlohmann::json::parse(again.out)["gradients"].dump() == result["gradients"].dump());
}

TEST_CASE("compare --backward takes types, normalizers, files and empty shapes") {
  const std::string shape = "compare --backward --shape 1,4,2,40,50,16 ";
  for (const char* options :
       {"--dtype bf16", "--dtype f16", "--normalizer sigmoid", "--normalizer sparsemax",
        "--normalizer entmax15", "--softcap 3 --window 7,2"}) {
    CAPTURE(options);
    const Ran ran = attn_demo(shape + options);
    CAPTURE(ran.out);
    CHECK(ran.code == 0);
  }
  for (const char* empty : {"0,2,1,4,4,8", "1,2,1,0,4,8", "1,2,1,4,0,8"})
    CHECK(attn_demo(fmt::format("compare --backward --shape {}", empty)).code == 0);

  const GradientSample sample;
  const Tensor mask = random_tensor({3, 5}, 6), slopes = random_tensor({4}, 7);
  const std::string files =
      fmt::format(" --mask {} --alibi {} --json", sample.file("mask.npy", mask.view()),
                  sample.file("alibi.npy", slopes.view()));
  const Ran ran = attn_demo("compare --backward " + sample.incoming + files);
  REQUIRE(ran.code == 0);
  const auto gradients = nlohmann::json::parse(ran.out)["gradients"];
  CHECK(gradients.contains("dmask"));
  CHECK(gradients.contains("dalibi"));
  CHECK(attn_demo("compare --backward " + sample.inputs).code == 0);
}

TEST_CASE("compare --backward refuses what has no gradients") {
  const GradientSample sample;
  const std::string shape = "compare --backward --shape 1,1,1,1,1,1 ";
  check_refused_with(attn_demo(shape + "--kv-dtype i8"), "--kv-dtype");
  check_refused_with(attn_demo(shape + "--page-size 16"), "--page-size");
  check_refused_with(attn_demo(shape + "--dout x.npy"), "--dout");
  check_refused_with(attn_demo("compare " + sample.incoming), "--dout");
}
