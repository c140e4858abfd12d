// attn_demo op and plot: every function on small files, against values computed here; refusals.
#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Values = std::vector<double>;

Values values_of(const Tensor& tensor) {
  const Tensor wide = copy_as(tensor.view(), DType::f64);
  return {wide.data<double>(), wide.data<double>() + wide.size()};
}

/// A folder with an input x.npy, f32 [2, 3, 4], and room for others.
struct OpSample {
  Folder folder;
  Tensor x = random_tensor({2, 3, 4}, 1);
  std::string out = folder / "out.npy";

  OpSample() { write_tensor(folder / "x.npy", x.view()); }

  std::string file(const std::string& name, const TensorView& tensor) const {
    write_tensor(folder / name, tensor);
    return folder / name;
  }
  template <class T>
  std::string file(const std::string& name, const Dims& shape,
                   const std::vector<T>& numbers) const {
    return file(name, TensorView(numbers.data(), shape));
  }
  std::string op(const std::string& options, const std::string& input = "x.npy") const {
    const std::size_t space = std::min(options.find(' '), options.size());
    return fmt::format("op {} --input {} --out {} {}", options.substr(0, space), folder / input,
                       out, options.substr(space));
  }
  double at(std::int64_t a, std::int64_t b, std::int64_t c) const {
    return static_cast<double>(x.data<float>()[(a * 3 + b) * 4 + c]);
  }
  /// f along one axis of x, in place.
  Values along(int axis, const std::function<void(Values&)>& f) const {
    Values all = values_of(x);
    const std::int64_t extent = x.shape()[axis], stride = dense_strides(x.shape())[axis];
    for (std::int64_t first = 0; first < x.size(); ++first) {
      if (first / stride % extent != 0) continue;
      Values slice;
      for (std::int64_t n = 0; n < extent; ++n)
        slice.push_back(all[static_cast<std::size_t>(first + n * stride)]);
      f(slice);
      for (std::int64_t n = 0; n < extent; ++n)
        all[static_cast<std::size_t>(first + n * stride)] = slice[static_cast<std::size_t>(n)];
    }
    return all;
  }
};

/// Numbers of order 1 that were computed in f32 in some ten roundings.
constexpr double rounding = 4e-6;

void check_file(const std::string& file, const Dims& shape, const Values& wanted,
                double tolerance = rounding) {
  CAPTURE(file);
  const Tensor tensor = read_tensor(file);
  CHECK(tensor.shape() == shape);
  const Values got = values_of(tensor);
  REQUIRE(got.size() == wanted.size());
  for (std::size_t n = 0; n < got.size(); ++n) {
    CAPTURE(n);
    CHECK(std::abs(got[n] - wanted[n]) <= tolerance);
  }
}

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

/// By halving the interval in which tau lies.
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
  check("sample --seed 9 --num-samples 50 --min-p 0.6", 50, {.min_p = 0.6f, .seed = 9});
  check("sample --temperature 0", 1, {.temperature = 0});
}

TEST_CASE("rms_norm and layer_norm") {
  const OpSample sample;
  const std::vector<float> scale = {1, -2, 0.5f, 3}, bias = {0.5f, 1, -1, 0};
  const std::string of_scale = " --scale-file " + sample.file("scale.npy", {4}, scale);
  const auto scaled = [&](Values& x, bool with_bias) {
    for (std::size_t n = 0; n < 4; ++n) {
      x[n] = x[n] * static_cast<double>(scale[n]) + (with_bias ? static_cast<double>(bias[n]) : 0);
    }
  };
  check_done(sample.op("rms_norm --epsilon 0.5" + of_scale));
  check_file(sample.out, {2, 3, 4}, sample.along(2, [&](Values& x) {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.) / 4;
    for (double& each : x) each /= std::sqrt(mean + 0.5);
    scaled(x, false);
  }));

  Values means, deviations;
  const Values wanted = sample.along(2, [&](Values& x) {
    means.push_back(sum_of(x) / 4);
    for (double& each : x) each -= means.back();
    deviations.push_back(
        1 / std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.) / 4 + 1e-5));
    for (double& each : x) each *= deviations.back();
    scaled(x, true);
  });
  check_done(
      sample.op(fmt::format("layer_norm --axis -1 {} --bias-file {} --mean {} --inv-std-dev {}",
                            of_scale, sample.file("bias.npy", {4}, bias),
                            sample.folder / "mean.npy", sample.folder / "deviation.npy")));
  check_file(sample.out, {2, 3, 4}, wanted, 1e-5);
  check_file(sample.folder / "mean.npy", {2, 3, 1}, means);
  check_file(sample.folder / "deviation.npy", {2, 3, 1}, deviations, 1e-5);

  check_done(sample.op("rms_norm --axis 1"));
  Values flat = values_of(sample.x);
  for (std::size_t n = 0; n < 2; ++n) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(12 * n), end = begin + 12;
    const double root = std::sqrt(std::inner_product(begin, end, begin, 0.) / 12 + 1e-5);
    std::for_each(begin, end, [&](double& each) { each /= root; });
  }
  check_file(sample.out, {2, 3, 4}, flat);
}

TEST_CASE("rope turns pairs, in both layouts and with both kinds of tables") {
  const OpSample sample;
  constexpr std::int64_t heads = 2, seq = 3, dim = 6, positions = 5;  // of 6 elements 4 are turned
  const Tensor x = random_tensor({2, heads, seq, dim}, 2),
               angles = random_tensor({positions, 2}, 3);
  Tensor cos(DType::f32, {positions, 2}), sin(DType::f32, {positions, 2});
  for (int n = 0; n < 10; ++n) {
    cos.data<float>()[n] = std::cos(angles.data<float>()[n]);
    sin.data<float>()[n] = std::sin(angles.data<float>()[n]);
  }
  const std::vector<std::int64_t> ids = {4, 0, 2, 1, 1, 3};
  const auto wanted = [&](bool interleaved, const std::vector<std::int64_t>& places) {
    Values y = values_of(x);
    for (std::int64_t row = 0; row < 2 * heads * seq; ++row) {
      const std::int64_t place =
          places[static_cast<std::size_t>(row / (heads * seq) * seq + row % seq)];
      for (std::int64_t n = 0; n < 2; ++n) {
        const double c = static_cast<double>(cos.data<float>()[place * 2 + n]),
                     s = static_cast<double>(sin.data<float>()[place * 2 + n]);
        double& first = y[static_cast<std::size_t>(row * dim + (interleaved ? 2 * n : n))];
        double& second = y[static_cast<std::size_t>(row * dim + (interleaved ? 2 * n + 1 : n + 2))];
        const double turned = first * c - second * s;
        second = first * s + second * c;
        first = turned;
      }
    }
    return y;
  };
  sample.file("rows.npy", x.view());
  const std::string tables = fmt::format(" --cos {} --sin {}", sample.file("cos.npy", cos.view()),
                                         sample.file("sin.npy", sin.view()));
  const std::string of_ids = " --position-ids " + sample.file("ids.npy", {2, 3}, ids);
  check_done(sample.op("rope" + tables, "rows.npy"));
  check_file(sample.out, x.shape(), wanted(false, {0, 1, 2, 0, 1, 2}));
  check_done(sample.op("rope --rotary-dim 4" + tables + of_ids, "rows.npy"));
  check_file(sample.out, x.shape(), wanted(false, ids));
  check_done(sample.op("rope --interleaved" + tables + of_ids, "rows.npy"));
  check_file(sample.out, x.shape(), wanted(true, ids));

  // A row of the tables for each place.
  Tensor cos_at(DType::f32, {2, seq, 2}), sin_at(DType::f32, {2, seq, 2});
  for (std::size_t n = 0; n < ids.size(); ++n) {
    for (std::int64_t pair = 0; pair < 2; ++pair) {
      cos_at.data<float>()[2 * static_cast<std::int64_t>(n) + pair] =
          cos.data<float>()[2 * ids[n] + pair];
      sin_at.data<float>()[2 * static_cast<std::int64_t>(n) + pair] =
          sin.data<float>()[2 * ids[n] + pair];
    }
  }
  const std::string rows =
      fmt::format(" --cos {} --sin {}", sample.file("cos_at.npy", cos_at.view()),
                  sample.file("sin_at.npy", sin_at.view()));
  check_done(sample.op("rope" + rows, "rows.npy"));
  check_file(sample.out, x.shape(), wanted(false, ids));

  // [batch, seq, heads * dim]
  const auto merged = [](const Tensor& tensor) {
    return copy_as(tensor.view().permuted({0, 2, 1, 3}), DType::f32);
  };
  const Tensor by_seq = merged(x);
  sample.file("merged.npy", TensorView(by_seq.data(), DType::f32, {2, seq, heads * dim}));
  check_done(sample.op("rope --heads 2" + tables + of_ids, "merged.npy"));
  const Values turned = wanted(false, ids);
  const Values turned_by_seq =
      values_of(merged(copy_as(TensorView(turned.data(), x.shape()), DType::f32)));
  check_file(sample.out, {2, seq, heads * dim}, turned_by_seq);

  check_refused_with(attn_demo(sample.op("rope" + tables, "merged.npy")), "with --heads");
  check_refused_with(attn_demo(sample.op("rope --heads 5" + tables, "merged.npy")),
                     "no multiple of its 5 heads");
  check_refused_with(attn_demo(sample.op("rope --heads 2" + tables, "rows.npy")),
                     "--heads is for rank-3 inputs");
  check_refused_with(attn_demo(sample.op("rope --rotary-dim 6" + tables, "rows.npy")),
                     "--rotary-dim is 6");
}

TEST_CASE("gelu and silu") {
  const OpSample sample;
  const auto check = [&](const std::string& options, double (*f)(double)) {
    CAPTURE(options);
    check_done(sample.op(options));
    Values wanted = values_of(sample.x);
    std::transform(wanted.begin(), wanted.end(), wanted.begin(), f);
    check_file(sample.out, {2, 3, 4}, wanted);
  };
  const auto erf_form = [](double x) { return x / 2 * (1 + std::erf(x / std::sqrt(2.))); };
  const auto tanh_form = [](double x) {
    return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.)) * (x + 0.044715 * x * x * x)));
  };
  check("gelu", erf_form);
  check("gelu --approximate none", erf_form);
  check("gelu --approximate tanh", tanh_form);
  check("silu", [](double x) { return x / (1 + std::exp(-x)); });
}

TEST_CASE("op refuses what does not go together, in one line, and leaves nothing behind") {
  const OpSample sample;
  const Tensor integers = counted(DType::i64, {2, 3, 4});
  const std::string classes =
      sample.file("classes.npy", {2, 4}, std::vector<std::int64_t>{0, 2, 1, 3, 2, 2, 0, 1});
  const std::string four = sample.file("four.npy", counted(DType::f32, {4}).view());
  sample.file("integers.npy", integers.view());
  sample.file("nan.npy", {2, 2}, std::vector<float>{0, 1, std::nanf(""), 2});
  const Names names = sample.folder.names();
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK(sample.folder.names() == names);
  };
  check("op", "op needs a name after it, one of softmax, log_softmax");
  check("op hardmax", "hardmax");
  check("op softmax --out " + sample.out, "--input is required");
  check("op softmax --input " + sample.folder / "x.npy", "--out is required");
  check(sample.op("softmax") + " silu", "silu");
  // Options of other functions.
  check(sample.op("softmax --alpha 2"), "--alpha");
  check(sample.op("sparsemax --temperature 2"), "--temperature");
  check(sample.op("entmax15 --alpha 1.5"), "--alpha");
  check(sample.op("gelu --axis 1"), "--axis");
  check(sample.op("silu --approximate tanh"), "--approximate");
  check(sample.op("rms_norm --bias-file " + four), "--bias-file");
  check(sample.op("cross_entropy --axis 1 --target " + classes), "--axis");
  check(sample.op("sparsemax_loss --log-prob x.npy --target " + classes), "--log-prob");
  check(sample.op("sample --axis 0"), "--axis");
  // Values.
  check(sample.op("softmax --axis 3"), "dim is 3");
  check(sample.op("logsumexp --axis -4"), "dim is -4");
  check(sample.op("sparsemax --axis 3 --tau " + sample.folder / "tau.npy"), "dim is 3");
  check(sample.op("layer_norm --axis 3 --mean " + sample.folder / "mean.npy"), "3");
  check(sample.op("softmax --axis 1.5"), "an integer");
  check(sample.op("softmax --axis 99999999999"), "an integer");
  check(sample.op("softmax --temperature 0"), "temperature is 0");
  check(sample.op("softmax --temperature nan"), "a finite number");
  check(sample.op("softmax --threads 0"), "an integer");
  check(sample.op("softmax --isa sse9"), "baseline");
  check(sample.op("entmax"), "--alpha is required");
  check(sample.op("entmax --alpha 0.5"), "alpha is 0.5");
  check(sample.op("gelu --approximate erf"), "one of none, tanh");
  check(sample.op("cross_entropy"), "--target is required");
  check(sample.op("cross_entropy --target " + classes), "3");
  check(sample.op("cross_entropy --reduction max --target " + classes), "one of mean, sum, none");
  check(sample.op("cross_entropy --label-smoothing 2 --target " + classes), "label_smoothing");
  check(sample.op("cross_entropy --weight " + four + " --target " + classes), "weight");
  check(sample.op("cross_entropy --target " + four), "target");
  check(sample.op("sample --top-k 0"), "--top-k");
  check(sample.op("sample --top-p 0"), "top_p is 0");
  check(sample.op("sample --min-p 2"), "min_p is 2");
  check(sample.op("sample --num-samples -1"), "--num-samples");
  check(sample.op("sample --seed -1"), "--seed");
  check(sample.op("sample", "nan.npy"), "logits[1] holds NaN");
  check(sample.op("rms_norm --epsilon x"), "a finite number");
  check(sample.op("rms_norm --scale-file " + classes), "floating-point");
  check(sample.op("rope --cos " + four), "--sin is required");
  // Files.
  check(sample.op("softmax", "missing.npy"), "missing.npy");
  check(sample.op("softmax", "integers.npy"), "floating-point");
  check(sample.op("sparsemax --tau " + sample.out), "twice");
  check(sample.op("sparsemax --tau " + sample.folder / "nowhere/tau.npy"), "nowhere");
  const Folder other;
  write_tensor(other / "x.safetensors", copy_as(sample.x.view(), DType::bf16).view(), "x");
  check(fmt::format("op silu --input {}:x --out {}", other / "x.safetensors", sample.out),
        ".npy has no bf16");
}

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
