// attn_demo op: the functions of transformer layers (norms, rope, activations), against values
// computed here.
#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "support/op_sample.hpp"

using namespace attn;
using namespace attn::test;

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
    means.push_back(std::accumulate(x.begin(), x.end(), 0.) / 4);
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

namespace {

/// The arguments of rope: x [2, 2, 3, 6], of whose 6 elements 4 are rotated, and tables of 5
/// positions.
struct RopeSample {
  static constexpr std::int64_t heads = 2, seq = 3, dim = 6, positions = 5;
  OpSample files;
  Tensor x = random_tensor({2, heads, seq, dim}, 2);
  Tensor cos{DType::f32, {positions, 2}}, sin{DType::f32, {positions, 2}};
  std::vector<std::int64_t> ids = {4, 0, 2, 1, 1, 3};
  std::string tables, of_ids;

  RopeSample() {
    const Tensor angles = random_tensor({positions, 2}, 3);
    for (int n = 0; n < 10; ++n) {
      cos.data<float>()[n] = std::cos(angles.data<float>()[n]);
      sin.data<float>()[n] = std::sin(angles.data<float>()[n]);
    }
    files.file("rows.npy", x.view());
    tables = fmt::format(" --cos {} --sin {}", files.file("cos.npy", cos.view()),
                         files.file("sin.npy", sin.view()));
    of_ids = " --position-ids " + files.file("ids.npy", {2, 3}, ids);
  }

  /// x rotated by the tables' rows at these positions, [batch, seq].
  Values rotated(bool interleaved, const std::vector<std::int64_t>& places) const {
    Values y = values_of(x);
    for (std::int64_t row = 0; row < 2 * heads * seq; ++row) {
      const std::int64_t place =
          places[static_cast<std::size_t>(row / (heads * seq) * seq + row % seq)];
      for (std::int64_t n = 0; n < 2; ++n) {
        const double c = static_cast<double>(cos.data<float>()[place * 2 + n]),
                     s = static_cast<double>(sin.data<float>()[place * 2 + n]);
        double& first = y[static_cast<std::size_t>(row * dim + (interleaved ? 2 * n : n))];
        double& second = y[static_cast<std::size_t>(row * dim + (interleaved ? 2 * n + 1 : n + 2))];
        const double rotated_first = first * c - second * s;
        second = first * s + second * c;
        first = rotated_first;
      }
    }
    return y;
  }

  /// [batch, heads, seq, dim] as [batch, seq, heads * dim].
  static Tensor merged(const TensorView& tensor) {
    return copy_as(tensor.permuted({0, 2, 1, 3}), DType::f32);
  }
  void write_merged() const {
    const Tensor by_seq = merged(x.view());
    files.file("merged.npy", TensorView(by_seq.data(), DType::f32, {2, seq, heads * dim}));
  }
};

}  // namespace

TEST_CASE("rope in both layouts of pairs, with and without position ids") {
  const RopeSample sample;
  check_done(sample.files.op("rope" + sample.tables, "rows.npy"));
  check_file(sample.files.out, sample.x.shape(), sample.rotated(false, {0, 1, 2, 0, 1, 2}));
  check_done(sample.files.op("rope --rotary-dim 4" + sample.tables + sample.of_ids, "rows.npy"));
  check_file(sample.files.out, sample.x.shape(), sample.rotated(false, sample.ids));
  check_done(sample.files.op("rope --interleaved" + sample.tables + sample.of_ids, "rows.npy"));
  check_file(sample.files.out, sample.x.shape(), sample.rotated(true, sample.ids));
}

TEST_CASE("rope with a row of the tables for each batch entry and place") {
  const RopeSample sample;
  Tensor cos_at(DType::f32, {2, RopeSample::seq, 2}), sin_at(DType::f32, {2, RopeSample::seq, 2});
  for (std::size_t n = 0; n < sample.ids.size(); ++n) {
    for (std::int64_t pair = 0; pair < 2; ++pair) {
      const std::int64_t to = 2 * static_cast<std::int64_t>(n) + pair,
                         from = 2 * sample.ids[n] + pair;
      cos_at.data<float>()[to] = sample.cos.data<float>()[from];
      sin_at.data<float>()[to] = sample.sin.data<float>()[from];
    }
  }
  const std::string rows =
      fmt::format(" --cos {} --sin {}", sample.files.file("cos_at.npy", cos_at.view()),
                  sample.files.file("sin_at.npy", sin_at.view()));
  check_done(sample.files.op("rope" + rows, "rows.npy"));
  check_file(sample.files.out, sample.x.shape(), sample.rotated(false, sample.ids));
}

TEST_CASE("rope with the heads of a token in one row") {
  const RopeSample sample;
  sample.write_merged();
  check_done(sample.files.op("rope --heads 2" + sample.tables + sample.of_ids, "merged.npy"));
  const Values rotated = sample.rotated(false, sample.ids);
  const Tensor by_head = copy_as(TensorView(rotated.data(), sample.x.shape()), DType::f32);
  check_file(sample.files.out, {2, RopeSample::seq, RopeSample::heads * RopeSample::dim},
             values_of(RopeSample::merged(by_head.view())));
}

TEST_CASE("rope refuses heads and dims that do not fit") {
  const RopeSample sample;
  sample.write_merged();
  const auto check = [&](const std::string& options, const std::string& input,
                         const std::string& fault) {
    check_refused_with(attn_demo(sample.files.op("rope" + options + sample.tables, input)), fault);
  };
  check("", "merged.npy", "with --heads");
  check(" --heads 5", "merged.npy", "no multiple of its 5 heads");
  check(" --heads 2", "rows.npy", "--heads is for rank-3 inputs");
  check(" --rotary-dim 6", "rows.npy", "--rotary-dim is 6");
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
