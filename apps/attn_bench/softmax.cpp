#include "softmax.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "apps/support/memory.hpp"
#include "apps/support/program.hpp"
#include "apps/support/quantities.hpp"
#include "apps/support/random.hpp"
#include "apps/support/timing.hpp"
#include "onednn/isa.hpp"
#include "onednn/softmax.hpp"

namespace attn::apps::bench {
namespace {

enum class Function { softmax, log_softmax, logsumexp, cross_entropy, sparsemax, entmax15 };

constexpr const char* name_of(Function function) {
  switch (function) {
    case Function::softmax: return "softmax";
    case Function::log_softmax: return "log_softmax";
    case Function::logsumexp: return "logsumexp";
    case Function::cross_entropy: return "cross_entropy";
    case Function::sparsemax: return "sparsemax";
    case Function::entmax15: return "entmax15";
  }
  return "";
}

/// The shape of a case: a matrix, and the dim that the function normalizes.
struct MatrixCase {
  Function function;
  std::int64_t rows, columns;
  int dim = 1;
  DType dtype = DType::f32;
  bool in_place = false;

  Dims shape() const { return {rows, columns}; }
  /// Functions with one f32 result for each slice.
  bool reduces() const {
    return function == Function::logsumexp || function == Function::cross_entropy;
  }
  Dims reduced_shape() const { return {dim == 1 ? rows : columns}; }
  /// Bytes moved: the input once, and the output once if it has the shape of the input.
  double bytes() const {
    const double elements = static_cast<double>(rows) * static_cast<double>(columns);
    return elements * static_cast<double>(size_of(dtype)) * (reduces() ? 1 : 2);
  }
  std::string name() const {
    return fmt::format("{} {} x {}{}{}{}", name_of(function), rows, columns,
                       dim == 1 ? "" : ", dim 0",
                       dtype == DType::f32 ? "" : fmt::format(", {}", attn::name_of(dtype)),
                       in_place ? ", in place" : "");
  }
};

std::vector<MatrixCase> standard_cases() {
  std::vector<MatrixCase> cases;
  for (const Function function :
       {Function::softmax, Function::log_softmax, Function::logsumexp, Function::cross_entropy}) {
    cases.push_back({function, 10000, 64});
    cases.push_back({function, 1000, 1000});
    cases.push_back({function, 128, 4096});
    cases.push_back({function, 32, 32000});
    cases.push_back({function, 4, 1000000});
    cases.push_back({function, 4096, 32768});
  }
  cases.push_back({Function::softmax, 4096, 32768, 1, DType::f32, true});
  cases.push_back({Function::softmax, 1000, 1000, 0});
  cases.push_back({Function::softmax, 4096, 4096, 0});
  cases.push_back({Function::softmax, 1000, 1000, 1, DType::bf16});
  cases.push_back({Function::softmax, 4096, 32768, 1, DType::bf16});
  cases.push_back({Function::sparsemax, 32, 32000});
  cases.push_back({Function::entmax15, 32, 32000});
  return cases;
}

/// A million normal values, repeated.
Tensor many_normal_values(const Dims& shape, DType dtype) {
  Tensor values(dtype, shape);
  const Tensor part = normal_tensor({std::min<std::int64_t>(values.size(), 1 << 20)}, dtype, 1);
  auto* const to = static_cast<std::byte*>(values.data());
  for (std::size_t n = 0; n < values.size_in_bytes(); n += part.size_in_bytes()) {
    std::memcpy(to + n, part.data(), std::min(part.size_in_bytes(), values.size_in_bytes() - n));
  }
  return values;
}

/// The tensors of one case, and the calls on them.
class Bench {
 public:
  Bench(const MatrixCase& shape, const Settings& settings)
      : shape_(shape),
        execution_{.num_threads = settings.num_threads,
                   .isa = settings.isa,
                   .executor = settings.executor},
        x_(many_normal_values(shape.shape(), shape.dtype)),
        y_(shape.dtype, shape.reduces()  ? shape.reduced_shape()
                        : shape.in_place ? Dims{0}
                                         : shape.shape()),
        target_(DType::i64, {shape.rows}) {
    for (std::int64_t row = 0; row < shape.rows; ++row)
      target_.data<std::int64_t>()[row] = target_of(row);
  }

  void call() {
    const MutableTensorView out = shape_.in_place ? x_.view() : y_.view();
    switch (shape_.function) {
      case Function::softmax: return softmax(x_.view(), out, shape_.dim, 1, execution_);
      case Function::log_softmax: return log_softmax(x_.view(), out, shape_.dim, 1, execution_);
      case Function::logsumexp: return logsumexp(x_.view(), out, shape_.dim, 1, execution_);
      case Function::cross_entropy:
        return cross_entropy(x_.view(), target_.view(), out, {.reduction = Reduction::none},
                             execution_);
      case Function::sparsemax: return sparsemax(x_.view(), out, shape_.dim, {}, execution_);
      case Function::entmax15: return entmax15(x_.view(), out, shape_.dim, {}, execution_);
    }
  }

  /// Compares a few slices of the result with the formulas in double.
  void verify() {
    std::mt19937 generator(7);
    std::vector<std::int64_t> picked;
    std::vector<std::vector<double>> inputs;
    for (int n = 0; n < 4; ++n) {
      picked.push_back(static_cast<std::int64_t>(
          generator() % static_cast<std::uint64_t>(shape_.reduced_shape()[0])));
      inputs.push_back(slice(x_.view(), picked.back()));
    }
    call();
    for (std::size_t n = 0; n < picked.size(); ++n) check(inputs[n], picked[n]);
  }

  /// A call of oneDNN's softmax on the same tensors; empty for functions, dims and types that are
  /// not compared with oneDNN, and in a build without it.
  std::optional<std::function<void()>> onednn_call(int num_threads) {
    const bool comparable = onednn::available() && shape_.function == Function::softmax &&
                            shape_.dim == 1 && shape_.dtype == DType::f32;
    if (!comparable) return std::nullopt;
    float* const from = x_.data<float>();
    float* const to = shape_.in_place ? from : y_.data<float>();
    return [=, this] {
      onednn::softmax_rows({from, shape_.rows, shape_.columns}, to, num_threads);
    };
  }

 private:
  std::vector<double> slice(const TensorView& tensor, std::int64_t index) const {
    const Tensor values = copy_as(tensor.sliced(1 - shape_.dim, index, index + 1), DType::f64);
    return {values.data<double>(), values.data<double>() + values.size()};
  }

  std::int64_t target_of(std::int64_t row) const { return row * 7919 % shape_.columns; }

  void check(const std::vector<double>& x, std::int64_t index) const {
    const std::vector<double> wanted = plain(x, index);
    const std::vector<double> got =
        shape_.reduces() ? element(index) : slice(shape_.in_place ? x_.view() : y_.view(), index);
    const double tolerance = shape_.dtype == DType::f32 ? 1e-6 : 1e-2;
    for (std::size_t n = 0; n < wanted.size(); ++n) {
      const double scale =
          shape_.function == Function::softmax ? wanted[n] : std::max(1., std::abs(wanted[n]));
      if (!(std::abs(got[n] - wanted[n]) <= tolerance * scale)) {
        throw Error(ErrorCode::unsupported, fmt::format("{}: wrong result in slice {}: {}, not {}",
                                                        shape_.name(), index, got[n], wanted[n]));
      }
    }
  }

  std::vector<double> element(std::int64_t index) const {
    return {copy_as(y_.view().sliced(0, index, index + 1), DType::f64).data<double>()[0]};
  }

  /// The result by the formulas, in double.
  std::vector<double> plain(const std::vector<double>& x, std::int64_t index) const {
    if (shape_.function == Function::sparsemax) return plain_entmax(x, 2);
    if (shape_.function == Function::entmax15) return plain_entmax(x, 1.5);
    const double greatest = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (const double value : x) sum += std::exp(value - greatest);
    const double log_sum = greatest + std::log(sum);
    if (shape_.function == Function::logsumexp) return {log_sum};
    if (shape_.function == Function::cross_entropy)
      return {log_sum - x[static_cast<std::size_t>(target_of(index))]};
    std::vector<double> y;
    y.reserve(x.size());
    for (const double value : x)
      y.push_back(shape_.function == Function::softmax ? std::exp(value - log_sum)
                                                       : value - log_sum);
    return y;
  }

  /// The threshold, found by bisection.
  static std::vector<double> plain_entmax(const std::vector<double>& x, double alpha) {
    const double greatest = *std::max_element(x.begin(), x.end());
    double low = (alpha - 1) * greatest - 1, high = (alpha - 1) * greatest;
    const auto at = [&](double value, double tau) {
      return std::pow(std::max((alpha - 1) * value - tau, 0.), 1 / (alpha - 1));
    };
    for (int n = 0; n < 60; ++n) {
      const double tau = (low + high) / 2;
      double sum = 0;
      for (const double value : x) sum += at(value, tau);
      (sum > 1 ? low : high) = tau;
    }
    std::vector<double> y;
    y.reserve(x.size());
    for (const double value : x) y.push_back(at(value, low));
    return y;
  }

  MatrixCase shape_;
  Execution execution_;
  Tensor x_, y_, target_;
};

struct Row {
  std::string name;
  double median_ms, gbps;
  std::optional<double> onednn_ms;
};

Row measure_case(const MatrixCase& shape, const Settings& settings) {
  Bench bench(shape, settings);
  bench.verify();
  const double median = median_of(time_calls([&] { bench.call(); }, settings.min_time));
  Row row{shape.name(), median * 1e3, shape.bytes() / median / 1e9, std::nullopt};
  if (const auto call = bench.onednn_call(settings.num_threads))
    row.onednn_ms = median_of(time_calls(*call, settings.min_time)) * 1e3;
  return row;
}

void print_json(const Row& row, const Settings& settings, double copy_gbps) {
  nlohmann::ordered_json line = {
      {"name", row.name},           {"threads", settings.num_threads},
      {"median_ms", row.median_ms}, {"gbps", row.gbps},
      {"copy_gbps", copy_gbps},     {"fraction_of_copy", row.gbps / copy_gbps},
      {"onednn_ms", nullptr},       {"times_as_fast_as_onednn", nullptr}};
  if (row.onednn_ms) {
    line["onednn_ms"] = *row.onednn_ms;
    line["times_as_fast_as_onednn"] = *row.onednn_ms / row.median_ms;
  }
  fmt::print("{}\n", line.dump());
}

void print_row(const Row& row, double copy_gbps) {
  fmt::print("{:40}{:>10.3f}{:>9.1f}{:>9.0f} %", row.name, row.median_ms, row.gbps,
             100 * row.gbps / copy_gbps);
  if (row.onednn_ms)
    fmt::print("{:>12.3f}{:>8.2f}", *row.onednn_ms, *row.onednn_ms / row.median_ms);
  fmt::print("\n");
}

}  // namespace

void measure_softmax(const Settings& settings, bool json) {
  const double copy_gbps = measure_copy_gbps(settings.num_threads);
  if (!json) {
    fmt::print("{}, {}: {:.1f} GB/s copied within memory, reads and writes together\n\n",
               format_threads(settings.num_threads), name_of(settings.isa), copy_gbps);
    fmt::print("{:40}{:>10}{:>9}{:>11}{:>12}{:>8}\n", "", "median ms", "GB/s", "of a copy",
               "oneDNN ms", "ratio");
  }
  for (const MatrixCase& shape : standard_cases()) {
    if (shape.bytes() > available_memory() / 3) {
      const std::string skipped =
          fmt::format("{:40}  skipped: more than a third of the memory available\n", shape.name());
      json ? print_notice(skipped) : fmt::print("{}", skipped);
      continue;
    }
    const Row row = measure_case(shape, settings);
    if (json) {
      print_json(row, settings, copy_gbps);
    } else {
      print_row(row, copy_gbps);
    }
  }
}

}  // namespace attn::apps::bench
