// attn_demo op: functions along one axis and losses on small files, against values computed here.
#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "support/op_sample.hpp"

using namespace attn;
using namespace attn::test;

namespace {

double log_of_sum(const Values& x) {
  double sum = 0;
  for (const double each : x) sum += std::exp(each);
  return std::log(sum);
}

std::function<void(Values&)> log_softmax_at(double temperature) {
  return [temperature](Values& x) {
    for (double& each : x) each /= temperature;
    const double log_sum = log_of_sum(x);
    for (double& each : x) each -= log_sum;
  };
}

void softmax_of(Values& x) {
  log_softmax_at(1)(x);
  for (double& each : x) each = std::exp(each);
}

/// Replaces x by entmax(x) and returns tau, which it finds by bisection.
double entmax_of(Values& x, double alpha) {
  const auto powers = [&](double tau) {
    Values p = x;
    for (double& each : p) each = std::pow(std::max((alpha - 1) * each - tau, 0.), 1 / (alpha - 1));
    return p;
  };
  double high = (alpha - 1) * *std::max_element(x.begin(), x.end()), low = high - 1;
  for (int n = 0; n < 60; ++n) {
    const double middle = (low + high) / 2;
    const Values p = powers(middle);
    (std::accumulate(p.begin(), p.end(), 0.) >= 1 ? low : high) = middle;
  }
  x = powers(low);
  return low;
}

double sum_of(const Values& values) { return std::accumulate(values.begin(), values.end(), 0.); }

}  // namespace

TEST_CASE("softmax, log_softmax and logsumexp") {
  const OpSample sample;
  for (const int axis : {0, 1, 2}) {
    for (const int named : {axis, axis - 3}) {
      check_done(sample.op(fmt::format("softmax --axis {}", named)));
      check_file(sample.out, {2, 3, 4}, sample.along(axis, softmax_of));
    }
  }
  check_done(sample.op("softmax"));
  check_file(sample.out, {2, 3, 4}, sample.along(2, softmax_of));
  check_done(sample.op("log_softmax --axis 1 --temperature 0.5 --threads 1 --isa baseline"));
  check_file(sample.out, {2, 3, 4}, sample.along(1, log_softmax_at(0.5)));
  check_done(sample.op("logsumexp --axis 1"));
  Values sums;
  for (int a = 0; a < 2; ++a) {
    for (int c = 0; c < 4; ++c)
      sums.push_back(log_of_sum({sample.at(a, 0, c), sample.at(a, 1, c), sample.at(a, 2, c)}));
  }
  check_file(sample.out, {2, 4}, sums);
}

TEST_CASE("the result has the type of the input, and f64 becomes f32") {
  const OpSample sample;
  const auto check = [&](DType given, const std::string& in, const std::string& out,
                         DType written) {
    write_tensor(sample.folder / in, copy_as(sample.x.view(), given).view(), "x");
    const std::string input = in.ends_with(".npy") ? in : in + ":x";
    check_done(
        fmt::format("op softmax --input {} --out {}", sample.folder / input, sample.folder / out));
    const Tensor result = read_tensor(sample.folder / (out.ends_with(".npy") ? out : out + ":out"));
    CHECK(result.dtype() == written);
    const Values got = values_of(result), wanted = sample.along(2, softmax_of);
    for (std::size_t n = 0; n < got.size(); ++n) CHECK(std::abs(got[n] - wanted[n]) < 0.02);
  };
  check(DType::f32, "y.npy", "z.npy", DType::f32);
  check(DType::f64, "y.npy", "z.npy", DType::f32);
  check(DType::f16, "y.npy", "z.npy", DType::f16);
  check(DType::bf16, "y.safetensors", "z.safetensors", DType::bf16);
  check(DType::f16, "y.safetensors", "z.safetensors", DType::f16);
}

TEST_CASE("sparsemax and entmax, with tau and support") {
  const OpSample sample;
  const auto check = [&](const std::string& options, double alpha) {
    CAPTURE(options);
    Values taus, supports;
    const Values wanted = sample.along(2, [&](Values& x) {
      taus.push_back(entmax_of(x, alpha));
      supports.push_back(
          static_cast<double>(std::count_if(x.begin(), x.end(), [](double p) { return p > 0; })));
    });
    check_done(sample.op(fmt::format("{} --tau {} --support {}", options, sample.folder / "tau.npy",
                                     sample.folder / "support.npy")));
    check_file(sample.out, {2, 3, 4}, wanted, 1e-5);
    check_file(sample.folder / "tau.npy", {2, 3}, taus, 1e-5);
    check_file(sample.folder / "support.npy", {2, 3}, supports, 0);
    CHECK(read_tensor(sample.folder / "support.npy").dtype() == DType::i64);
  };
  check("sparsemax", 2);
  check("entmax15", 1.5);
  check("entmax --alpha 1.25", 1.25);
  check("entmax --alpha 2", 2);
  check_done(sample.op("entmax --alpha 1 --axis 0"));
  check_file(sample.out, {2, 3, 4}, sample.along(0, softmax_of));
}

TEST_CASE("cross_entropy and nll_loss") {
  const OpSample sample;  // [N = 2, C = 3, d = 4]
  const std::vector<std::int64_t> classes = {0, 2, 1, 7, 2, 2, 0, 1};
  const std::vector<float> weights = {1, 0.5f, 2};
  const std::string options = fmt::format(
      " --target {} --weight {} --ignore-index 7 --label-smoothing 0.25",
      sample.file("target.npy", {2, 4}, classes), sample.file("weight.npy", {3}, weights));
  const Values log_p = sample.along(1, log_softmax_at(1));
  write_tensor(sample.folder / "log_p.npy",
               copy_as(TensorView(log_p.data(), {2, 3, 4}), DType::f32).view());
  Values losses, weights_met;
  for (std::size_t n = 0; n < 2; ++n) {
    for (std::size_t d = 0; d < 4; ++d) {
      const auto target = static_cast<std::size_t>(classes[n * 4 + d]);
      if (target == 7) {
        losses.push_back(0);
        continue;
      }
      const auto cost = [&](std::size_t c) {
        return -static_cast<double>(weights[c]) * log_p[(n * 3 + c) * 4 + d];
      };
      losses.push_back(0.75 * cost(target) + 0.25 / 3 * (cost(0) + cost(1) + cost(2)));
      weights_met.push_back(static_cast<double>(weights[target]));
    }
  }
  for (const auto& [name, input] :
       {std::pair{"cross_entropy", "x.npy"}, std::pair{"nll_loss", "log_p.npy"}}) {
    check_done(sample.op(
        name + options + " --reduction none --log-prob " + sample.folder / "all.npy", input));
    check_file(sample.out, {2, 4}, losses);
    check_file(sample.folder / "all.npy", {2, 3, 4}, log_p);
    check_done(sample.op(name + options + " --reduction sum", input));
    check_file(sample.out, Dims(), {sum_of(losses)}, 1e-5);
    for (const char* reduction : {"", " --reduction mean"}) {
      check_done(sample.op(name + options + reduction, input));
      check_file(sample.out, Dims(), {sum_of(losses) / sum_of(weights_met)});
    }
  }

  // A distribution, and targets of int32.
  const Values q = sample.along(1, softmax_of);
  const std::string target = sample.file("q.npy", TensorView(q.data(), {2, 3, 4}));
  double entropy = 0;
  for (const double p : q) entropy -= p * std::log(p) / 8;
  check_done(sample.op("cross_entropy --target " + target));
  check_file(sample.out, Dims(), {entropy});
  const std::vector<float> logits = {1, 2, 3};
  sample.file("row.npy", {3}, logits);
  const std::string second = sample.file("second.npy", Dims(), std::vector<std::int32_t>{1});
  check_done(sample.op("cross_entropy --target " + second, "row.npy"));
  check_file(sample.out, Dims(), {log_of_sum({1, 2, 3}) - 2});
}

TEST_CASE("sparsemax_loss and entmax_loss") {
  const OpSample sample;
  const std::vector<std::int64_t> classes = {0, 2, 1, 0, 2, 2, 0, 1};
  const std::string target =
      " --reduction sum --target " + sample.file("target.npy", {2, 4}, classes);
  const auto loss = [&](double alpha) {
    double sum = 0;
    for (std::int64_t n = 0; n < 8; ++n) {
      Values x;
      for (int c = 0; c < 3; ++c) x.push_back(sample.at(n / 4, c, n % 4));
      Values p = x;
      entmax_of(p, alpha);
      double powers = 0;
      for (std::size_t c = 0; c < 3; ++c) {
        sum += p[c] * x[c];
        powers += std::pow(p[c], alpha);
      }
      sum += (1 - powers) / (alpha * (alpha - 1)) -
             x[static_cast<std::size_t>(classes[static_cast<std::size_t>(n)])];
    }
    return sum;
  };
  check_done(sample.op("sparsemax_loss" + target));
  check_file(sample.out, Dims(), {loss(2)}, 1e-5);
  check_done(sample.op("entmax_loss --alpha 1.5" + target));
  check_file(sample.out, Dims(), {loss(1.5)}, 1e-5);
}

TEST_CASE("sample draws what the library draws") {
  const OpSample sample;
  const auto check = [&](const std::string& arguments, std::int64_t count,
                         const SampleOptions& options) {
    CAPTURE(arguments);
    Tensor expected(DType::i64, {2, 3, count});
    attn::sample(sample.x.view(), expected.view(), options);
    check_done(sample.op(arguments));
    CHECK(read_tensor(sample.out).dtype() == DType::i64);
    check_file(sample.out, {2, 3, count}, values_of(expected), 0);
  };
  check("sample", 1, {});
  check("sample --seed 9 --num-samples 50", 50, {.seed = 9});
  check("sample --seed 9 --num-samples 50 --temperature 3", 50, {.temperature = 3, .seed = 9});
  check("sample --seed 9 --num-samples 50 --top-k 2", 50, {.top_k = 2, .seed = 9});
  check("sample --seed 9 --num-samples 50 --top-p 0.5", 50, {.top_p = 0.5f, .seed = 9});
  check("sample --seed 9 --num-samples 50 --top-k 0", 50, {.seed = 9});
  check("sample --seed 9 --num-samples 50 --top-p 0", 50, {.top_p = 0.f, .seed = 9});
  check("sample --seed 9 --num-samples 50 --min-p 0.6", 50, {.min_p = 0.6f, .seed = 9});
  check("sample --temperature 0", 1, {.temperature = 0});
}
