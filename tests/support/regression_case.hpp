// Data for tests of softmax regression, and its minimum by Newton's method, written from the
// formula.
#pragma once

#include <attn/regression.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "support/random.hpp"

namespace attn::test {

using Values = std::vector<double>;

inline std::size_t at_index(std::int64_t n) { return static_cast<std::size_t>(n); }

/// Rows of classes that overlap.
struct RegressionData {
  std::int64_t rows, features, classes;
  Values x;
  std::vector<std::int64_t> target;

  RegressionData(std::int64_t num_rows, std::int64_t num_features, std::int64_t num_classes,
                 std::uint64_t seed)
      : rows(num_rows), features(num_features), classes(num_classes) {
    Random random(seed);
    Values weight;
    for (std::int64_t n = 0; n < classes * features; ++n) weight.push_back(random.normal());
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t k = 0; k < features; ++k) x.push_back(random.normal());
      Values z;
      for (std::int64_t c = 0; c < classes; ++c) {
        const double* const w = weight.data() + c * features;
        // The greatest of sums with Gumbel noise is drawn from softmax.
        z.push_back(std::inner_product(w, w + features, x.end() - features, 0.) -
                    std::log(-std::log(1 - random.uniform())));
      }
      target.push_back(std::max_element(z.begin(), z.end()) - z.begin());
    }
  }

  TensorView input() const { return {x.data(), {rows, features}}; }
  TensorView targets() const { return {target.data(), {rows}}; }
  RegressionFit fit(const RegressionOptions& options, const Execution& execution = {}) const {
    return SoftmaxRegression::fit(input(), targets(), options, execution);
  }
};

/// [classes][features + 1], the bias last.
inline Values parameters_of(const SoftmaxRegression& model) {
  Values all(at_index(model.classes() * (model.features() + 1)));
  const std::int64_t columns = model.features() + 1;
  copy_into(model.weight(), {all.data(), DType::f64, {model.classes(), columns - 1}, {columns, 1}});
  copy_into(model.bias(), {all.data() + columns - 1, DType::f64, {model.classes()}, {columns}});
  return all;
}

/// The loss at parameters, from its formula, and optionally its gradient and Hessian.
inline double loss_at(const RegressionData& data, const Values& parameters,
                      const RegressionOptions& options, Values* gradient = nullptr,
                      Values* hessian = nullptr) {
  const std::int64_t columns = data.features + 1, size = data.classes * columns;
  if (gradient) gradient->assign(at_index(size), 0);
  if (hessian) hessian->assign(at_index(size * size), 0);
  double loss = 0;
  for (std::int64_t row = 0; row < data.rows; ++row) {
    Values x(data.x.begin() + row * data.features, data.x.begin() + (row + 1) * data.features);
    x.push_back(1);
    Values p;
    for (std::int64_t c = 0; c < data.classes; ++c)
      p.push_back(std::inner_product(x.begin(), x.end(), parameters.begin() + c * columns, 0.));
    const double most = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (const double z : p) sum += std::exp(z - most);
    for (double& z : p) z = z - most - std::log(sum);
    const auto q = [&](std::int64_t c) {
      return (1 - options.label_smoothing) * (c == data.target[at_index(row)] ? 1 : 0) +
             options.label_smoothing / static_cast<double>(data.classes);
    };
    const auto rows = static_cast<double>(data.rows);
    for (std::int64_t c = 0; c < data.classes; ++c) {
      loss -= q(c) * p[at_index(c)] / rows;
      p[at_index(c)] = std::exp(p[at_index(c)]);
    }
    for (std::int64_t c = 0; gradient && c < data.classes; ++c) {
      for (std::int64_t k = 0; k < columns; ++k)
        (*gradient)[at_index(c * columns + k)] += (p[at_index(c)] - q(c)) * x[at_index(k)] / rows;
    }
    for (std::int64_t i = 0; hessian && i < size; ++i) {
      for (std::int64_t j = 0; j < size; ++j) {
        const std::int64_t a = i / columns, b = j / columns;
        (*hessian)[at_index(i * size + j)] += p[at_index(a)] * ((a == b ? 1 : 0) - p[at_index(b)]) *
                                              x[at_index(i % columns)] * x[at_index(j % columns)] /
                                              rows;
      }
    }
  }
  for (std::int64_t n = 0; n < size; ++n) {
    if (n % columns == columns - 1) continue;
    loss += options.l2 / 2 * parameters[at_index(n)] * parameters[at_index(n)];
    if (gradient) (*gradient)[at_index(n)] += options.l2 * parameters[at_index(n)];
    if (hessian) (*hessian)[at_index(n * size + n)] += options.l2;
  }
  return loss;
}

inline double norm_of(const Values& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.));
}

/// Solves A x = b by Gauss's elimination.
inline Values solved(Values a, Values b) {
  const std::size_t size = b.size();
  for (std::size_t n = 0; n < size; ++n) {
    std::size_t pivot = n;
    for (std::size_t row = n; row < size; ++row)
      if (std::abs(a[row * size + n]) > std::abs(a[pivot * size + n])) pivot = row;
    for (std::size_t k = 0; k < size; ++k) std::swap(a[n * size + k], a[pivot * size + k]);
    std::swap(b[n], b[pivot]);
    for (std::size_t row = 0; row < size; ++row) {
      if (row == n) continue;
      const double factor = a[row * size + n] / a[n * size + n];
      for (std::size_t k = n; k < size; ++k) a[row * size + k] -= factor * a[n * size + k];
      b[row] -= factor * b[n];
    }
  }
  for (std::size_t n = 0; n < size; ++n) b[n] /= a[n * size + n];
  return b;
}

/// The minimum by Newton's method. What leaves the loss as it is, such as the same number added to
/// all biases, is kept at 0 by a term that is 0 there.
inline Values newton(const RegressionData& data, const RegressionOptions& options) {
  const std::int64_t columns = data.features + 1, size = data.classes * columns;
  Values parameters(at_index(size)), gradient, hessian;
  for (int step = 0; step < 50; ++step) {
    loss_at(data, parameters, options, &gradient, &hessian);
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t j = i % columns; j < size; j += columns)
        hessian[at_index(i * size + j)] += 1;
    }
    const Values move = solved(hessian, gradient);
    for (std::size_t n = 0; n < move.size(); ++n) parameters[n] -= move[n];
    if (norm_of(move) < 1e-13 * (1 + norm_of(parameters))) break;
  }
  return parameters;
}

}  // namespace attn::test
