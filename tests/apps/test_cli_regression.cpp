// attn_demo fit, predict, calibrate, and the pictures of softmax regression.
#include <attn/io.hpp>
#include <attn/regression.hpp>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/op_sample.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Rows of three classes in two features, which overlap.
struct RegressionSample {
  Folder folder;
  std::vector<double> x;
  std::vector<std::int64_t> y;
  std::string model = folder / "model.safetensors";

  RegressionSample() {
    Random random(3);
    for (int row = 0; row < 60; ++row) {
      y.push_back(row % 3);
      x.push_back(random.normal() + (row % 3 == 0 ? 1.5 : 0));
      x.push_back(random.normal() - (row % 3 == 1 ? 1.5 : 0));
    }
    file("x.npy", {60, 2}, x);
    file("y.npy", {60}, y);
  }

  template <class T>
  std::string file(const std::string& name, const Dims& shape, const std::vector<T>& values) const {
    write_tensor(folder / name, {values.data(), shape});
    return folder / name;
  }
  std::string fit(const std::string& options = "", const std::string& input = "x.npy",
                  const std::string& target = "y.npy") const {
    return fmt::format("fit --input {} --target {} --out {} {}", folder / input, folder / target,
                       model, options);
  }
  std::string predict(const std::string& options = "") const {
    return fmt::format("predict --model {} --input {} --out {} {}", model, folder / "x.npy",
                       folder / "p.npy", options);
  }
};

nlohmann::json last_line(const Ran& ran) {
  CHECK(ran.code == 0);
  CHECK(ran.err == "");
  REQUIRE(ran.out.ends_with("\n"));
  const std::string text = ran.out.substr(0, ran.out.size() - 1);
  return nlohmann::json::parse(text.substr(text.rfind('\n') + 1));
}

std::vector<std::string> keys_of(const nlohmann::json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

}  // namespace

TEST_CASE("fit writes the weights of the library's fit, in f32, and reports it") {
  const RegressionSample sample;
  const RegressionOptions options{
      .classes = 4, .l2 = 0.01, .label_smoothing = 0.1, .max_iterations = 500, .tolerance = 1e-9};
  const auto [model, report] =
      SoftmaxRegression::fit({sample.x.data(), {60, 2}}, {sample.y.data(), {60}}, options);
  const nlohmann::json json = last_line(attn_demo(
      sample.fit("--classes 4 --l2 0.01 --label-smoothing 0.1 --max-iterations 500 --tolerance "
                 "1e-9 --threads 2 --json")));
  CHECK(keys_of(json) ==
        std::vector<std::string>{"accuracy", "converged", "gradient_norm", "iterations", "loss"});
  CHECK(json["iterations"] == report.iterations);
  CHECK(json["loss"] == report.loss);
  CHECK(json["accuracy"] == report.accuracy);
  CHECK(json["gradient_norm"] == report.gradient_norm);
  CHECK(json["converged"] == true);
  const Tensor weight = copy_as(model.weight(), DType::f32),
               bias = copy_as(model.bias(), DType::f32);
  CHECK(equal(read_tensor(sample.model + ":weight"), weight.view()));
  CHECK(equal(read_tensor(sample.model + ":bias"), bias.view()));

  const Ran text = attn_demo(sample.fit());
  for (const char* word : {"iterations  ", "loss  ", "accuracy  ", "gradient norm  "})
    CHECK(text.out.find(word) != std::string::npos);
  CHECK(text.out.find("did not converge") == std::string::npos);
}

TEST_CASE("fit gives the same file for any number of threads and any type of target") {
  const RegressionSample sample;
  check_done(sample.fit("--threads 1 >/dev/null"));
  const std::string bytes = bytes_of(sample.model);
  check_done(sample.fit("--threads 7 >/dev/null"));
  CHECK(bytes_of(sample.model) == bytes);
  for (const auto& [descr, data] :
       {std::pair{"|u1", raw(std::vector<std::uint8_t>(sample.y.begin(), sample.y.end()))},
        std::pair{"<i2", raw(std::vector<std::int16_t>(sample.y.begin(), sample.y.end()))},
        std::pair{"<u4", raw(std::vector<std::uint32_t>(sample.y.begin(), sample.y.end()))}}) {
    sample.folder.write("t.npy", npy(numpy_header(descr, "(60,)"), data));
    check_done(sample.fit(">/dev/null", "x.npy", "t.npy"));
    CHECK(bytes_of(sample.model) == bytes);
  }
  for (const DType dtype : {DType::f16, DType::f32}) {
    const Tensor x = copy_as({sample.x.data(), {60, 2}}, dtype);
    write_tensor(sample.folder / "short.npy", x.view());
    CHECK(last_line(attn_demo(sample.fit("--json", "short.npy")))["converged"] == true);
  }
}

TEST_CASE("a fit that does not converge ends with 0, its file, and a word") {
  const RegressionSample sample;
  sample.file("line.npy", {60, 1}, std::vector<double>(sample.y.begin(), sample.y.end()));
  const auto check = [&](const std::string& command, const std::string& word) {
    fs::remove(sample.model);
    const Ran ran = attn_demo(command + " --json");
    CHECK(last_line(ran)["converged"] == false);
    CHECK(ran.out.starts_with("did not converge"));
    CHECK(ran.out.find(word) != std::string::npos);
    for (const char* name : {":weight", ":bias"}) {
      for (const double each : values_of(read_tensor(sample.model + name)))
        CHECK(std::isfinite(each));
    }
    CHECK(attn_demo(command).out.find("\ndid not converge") != std::string::npos);
  };
  sample.file("sides.npy", {4, 1}, std::vector<double>{-1, -2, 1, 2});
  sample.file("sides_y.npy", {4}, std::vector<std::int64_t>{0, 0, 1, 1});
  check(sample.fit("", "sides.npy", "sides_y.npy"), "separate");
  check(sample.fit("--max-iterations 2"), "2 iterations");
  check(sample.fit("--tolerance 1e-300"), "rounding");
}

TEST_CASE("predict writes probabilities and logits") {
  const RegressionSample sample;
  check_done(sample.fit("--l2 0.1 >/dev/null"));
  const Tensor weight = read_tensor(sample.model + ":weight"),
               bias = read_tensor(sample.model + ":bias");
  const SoftmaxRegression model(weight.view(), bias.view());
  const std::string logits = sample.folder / "logits.npy";
  for (const double temperature : {1., 0.25, 1e-300}) {
    check_done(sample.predict(fmt::format("--temperature {} --logits {}", temperature, logits)));
    Tensor p(DType::f32, {60, 3}), z(DType::f32, {60, 3});
    model.predict({sample.x.data(), {60, 2}}, p.view(), temperature);
    model.logits({sample.x.data(), {60, 2}}, z.view());
    CHECK(equal(read_tensor(sample.folder / "p.npy"), p.view()));
    CHECK(equal(read_tensor(logits), z.view()));
  }
  check_done(sample.predict());
}

TEST_CASE("calibrate prints the temperature, and says where none is best") {
  const RegressionSample sample;
  check_done(sample.fit("--l2 0.1 >/dev/null"));
  const std::string logits = sample.folder / "z.npy";
  check_done(sample.predict("--logits " + logits));
  const auto command = [&](const std::string& z, const std::string& y) {
    return fmt::format("calibrate --logits {} --target {}", z, sample.folder / y);
  };
  const Ran ran = attn_demo(command(logits, "y.npy") + " --json");
  const nlohmann::json json = last_line(ran);
  CHECK(keys_of(json) == std::vector<std::string>{"ece_after", "ece_before", "nll_after",
                                                  "nll_before", "temperature"});
  const Tensor z = read_tensor(logits);
  const TemperatureCalibration found = calibrate_temperature(z.view(), {sample.y.data(), {60}});
  CHECK(json["temperature"] == found.temperature);
  CHECK(json["nll_before"] == found.nll_before);
  CHECK(json["nll_after"] == found.nll_after);
  CHECK(json["ece_before"] == expected_calibration_error(found.bins_before));
  CHECK(json["ece_after"] == expected_calibration_error(found.bins_after));
  CHECK(std::count(ran.out.begin(), ran.out.end(), '\n') == 1);
  const Ran text = attn_demo(command(logits, "y.npy"));
  for (const char* word : {"temperature  ", "NLL  ", "ECE  "})
    CHECK(text.out.find(word) != std::string::npos);

  sample.file("two.npy", {2, 2}, std::vector<double>{2, 0, 0, 3});
  sample.file("right.npy", {2}, std::vector<std::int64_t>{0, 1});
  sample.file("wrong.npy", {2}, std::vector<std::int64_t>{1, 0});
  for (const auto& [target, word] : {std::pair{"right.npy", "all rows are right"},
                                     std::pair{"wrong.npy", "no better than chance"}}) {
    const Ran none = attn_demo(command(sample.folder / "two.npy", target) + " --json");
    CHECK(last_line(none)["temperature"] > 0);
    CHECK(none.out.find(word) != std::string::npos);
    CHECK(attn_demo(command(sample.folder / "two.npy", target)).out.find(word) !=
          std::string::npos);
  }
}

TEST_CASE("what fit refuses leaves no file") {
  const RegressionSample sample;
  sample.file("float.npy", {60}, std::vector<float>(60, 1));
  sample.file("negative.npy", {60}, std::vector<std::int64_t>(60, -1));
  sample.file("huge.npy", {60}, std::vector<std::int64_t>(60, std::int64_t{1} << 62));
  sample.file("one.npy", {60}, std::vector<std::int64_t>(60));
  sample.file("column.npy", {60, 1}, sample.y);
  sample.file("short.npy", {59}, std::vector<std::int64_t>(59));
  sample.file("none.npy", {0}, std::vector<std::int64_t>());
  sample.file("no_rows.npy", {0, 2}, std::vector<double>());
  sample.file("no_features.npy", {60, 0}, std::vector<double>());
  sample.file("integers.npy", {60, 2}, std::vector<std::int64_t>(120));
  std::vector<double> bad = sample.x;
  bad[5] = NAN;
  sample.file("nan.npy", {60, 2}, bad);
  bad[5] = HUGE_VAL;
  sample.file("infinite.npy", {60, 2}, bad);
  bad = sample.x;
  for (double& each : bad) each *= 1e-60;
  sample.file("tiny.npy", {60, 2}, bad);
  const Names names = sample.folder.names();
  const auto check = [&](const std::string& command, const std::string& fault) {
    CAPTURE(command);
    check_refused_with(attn_demo(command), fault);
    CHECK(sample.folder.names() == names);
  };
  check(sample.fit("", "x.npy", "float.npy"), "'<f4' is not supported; it needs one of i1");
  check(sample.fit("", "x.npy", "negative.npy"), "--target[0] is -1");
  check(sample.fit("", "x.npy", "huge.npy"), "of memory");
  check(sample.fit("", "x.npy", "one.npy"), "--target has class 0 alone");
  check(sample.fit("", "x.npy", "column.npy"), "--target has shape [60, 1] of rank 2");
  check(sample.fit("", "x.npy", "short.npy"), "--target has shape [59]");
  check(sample.fit("", "no_rows.npy", "none.npy"), "--input has shape [0, 2]: dim 0 is 0");
  check(sample.fit("", "no_features.npy"), "dim 1 is 0");
  check(sample.fit("", "y.npy"), "--input has type i64");
  check(sample.fit("", "integers.npy"), "--input has type i64");
  check(sample.fit("", "nan.npy"), "--input[2, 1] is nan");
  check(sample.fit("", "infinite.npy"), "--input[2, 1] is inf");
  check(sample.fit("--tolerance 1e-70", "tiny.npy"), "which f32 cannot hold");
  check(sample.fit("--classes 1"), "--classes");
  check(sample.fit("--classes 2"), "--target[2] is 2");
  check(sample.fit("--l2 -0.5"), "--l2");
  check(sample.fit("--l2 nan"), "--l2");
  check(sample.fit("--label-smoothing 1.5"), "--label-smoothing");
  check(sample.fit("--label-smoothing -0.1"), "--label-smoothing");
  check(sample.fit("--tolerance -1"), "--tolerance");
  check(sample.fit("--max-iterations -1"), "--max-iterations");
  check(sample.fit("--max-iterations 1.5"), "--max-iterations");
  check(sample.fit("--threads 0"), "--threads");
  check(sample.fit("", "absent.npy"), "absent.npy");
  check("fit", "is required");
  check(fmt::format("fit --input {} --target {} --out {}", sample.folder / "x.npy",
                    sample.folder / "y.npy", sample.folder / "model.npy"),
        ".safetensors");
}

TEST_CASE("what predict, calibrate and plot refuse leaves no file") {
  const RegressionSample sample;
  check_done(sample.fit(">/dev/null"));
  const Tensor weight = read_tensor(sample.model + ":weight"),
               bias = read_tensor(sample.model + ":bias");
  const auto model = [&](const std::string& name, const std::vector<NamedTensor>& tensors) {
    write_safetensors(sample.folder / name, tensors);
  };
  model("no_bias.safetensors", {{"weight", weight.view()}});
  model("short.safetensors", {{"weight", weight.view()}, {"bias", bias.view().sliced(0, 0, 2)}});
  model("one.safetensors",
        {{"weight", weight.view().sliced(0, 0, 1)}, {"bias", bias.view().sliced(0, 0, 1)}});
  model("vector.safetensors", {{"weight", bias.view()}, {"bias", bias.view()}});
  model("narrow.safetensors", {{"weight", weight.view().sliced(1, 0, 1)}, {"bias", bias.view()}});
  const std::vector<float> nan(3, NAN);
  model("nan.safetensors", {{"weight", weight.view()}, {"bias", {nan.data(), {3}}}});
  sample.file("large.npy", {1, 2}, std::vector<double>{1e300, 1e300});
  sample.file("z.npy", {60, 2}, std::vector<double>(120, NAN));
  const Names names = sample.folder.names();
  const auto check = [&](const std::string& command, const std::string& fault) {
    CAPTURE(command);
    check_refused_with(attn_demo(command), fault);
    CHECK(sample.folder.names() == names);
  };
  const auto predict = [&](const std::string& name, const std::string& input = "x.npy") {
    return fmt::format("predict --model {} --input {} --out {}", sample.folder / name,
                       sample.folder / input, sample.folder / "p.npy");
  };
  check(predict("no_bias.safetensors"), "no tensor 'bias'");
  check(predict("short.safetensors"), "--model: bias has shape [2]");
  check(predict("one.safetensors"), "2 classes or more");
  check(predict("vector.safetensors"), "--model: weight has shape [3]");
  check(predict("narrow.safetensors"), "--input has shape [60, 2]: dim 1 is 2");
  check(predict("nan.safetensors"), "--model: bias[0] is nan");
  check(predict("x.npy"), "--model");
  check(predict("absent.safetensors"), "absent.safetensors");
  check(predict("model.safetensors", "large.npy"), "f32 cannot hold");
  check(predict("model.safetensors", "y.npy"), "--input has type i64");
  check(sample.predict("--temperature 0"), "--temperature");
  check(sample.predict("--temperature inf"), "--temperature");
  check(sample.predict("--logits " + sample.folder / "p.npy"), "twice");

  const auto calibrate = [&](const std::string& z, const std::string& y) {
    return fmt::format("calibrate --logits {} --target {}", sample.folder / z, sample.folder / y);
  };
  check(calibrate("z.npy", "y.npy"), "--target[2] is 2");
  check(calibrate("y.npy", "y.npy"), "--logits has type i64");
  check(calibrate("x.npy", "x.npy"), "'<f8' is not supported");
  const std::string out = " --out " + sample.folder / "picture.svg";
  check("plot reliability --logits " + sample.folder / "x.npy" + " --target " +
            sample.folder / "y.npy" + out,
        "--target[2] is 2");
  const auto regions = [&](const std::string& name, const std::string& input) {
    return fmt::format("plot regions --model {} --input {} --target {} {}", sample.folder / name,
                       sample.folder / input, sample.folder / "y.npy", out);
  };
  check(regions("narrow.safetensors", "x.npy"), "2 features");
  check(regions("model.safetensors", "large.npy"), "--target [60]");
  check("plot regions", "is required");
}

TEST_CASE("the pictures of data/ are made again, byte for byte") {
  const RegressionSample sample;
  const std::string data = std::string(ATTN_DATA_PATH) + "/classes.safetensors:";
  const std::string picture = sample.folder / "picture.svg", logits = sample.folder / "z.npy";
  const auto fit = [&](const std::string& input, const std::string& l2) {
    check_done(fmt::format("fit --input {0}{1} --target {0}target --l2 {2} --out {3} >/dev/null",
                           data, input, l2, sample.model));
  };
  fit("two", "0.01");
  check_done(fmt::format("plot regions --model {1} --input {0}two --target {0}target --out {2}",
                         data, sample.model, picture));
  CHECK(bytes_of(picture) == bytes_of(std::string(ATTN_DATA_PATH) + "/regression_regions.svg"));
  fit("twenty", "0.001");
  check_done(fmt::format("predict --model {} --input {}held_out --out {} --logits {}", sample.model,
                         data, sample.folder / "p.npy", logits));
  check_done(fmt::format("plot reliability --logits {} --target {}held_out_target --out {}", logits,
                         data, picture));
  CHECK(bytes_of(picture) == bytes_of(std::string(ATTN_DATA_PATH) + "/regression_reliability.svg"));
}
