#include "support/loss_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/random.hpp"

namespace attn::test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double eps = std::numeric_limits<float>::epsilon();

int class_dim(const Dims& shape) { return shape.rank() == 1 ? 0 : 1; }

Dims shape_of_slices(const Dims& shape) {
  Dims kept = shape;
  std::vector<std::int64_t> extents;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    if (dim != class_dim(shape)) extents.push_back(kept[dim]);
  }
  return {extents.data(), static_cast<int>(extents.size())};
}

StridedTensor tensor_of(DType dtype, const Dims& shape, Layout layout, const Values& values) {
  StridedTensor tensor(dtype, shape, layout);
  tensor.assign(values);
  return tensor;
}

Values random_classes(Random& random, const LossCase& c, std::int64_t slices,
                      std::int64_t classes) {
  Values values(static_cast<std::size_t>(slices));
  for (double& value : values) {
    value = static_cast<double>(random.integer(0, classes - 1));
    if (c.ignore_index && random.chance(0.3)) value = static_cast<double>(*c.ignore_index);
  }
  return values;
}

Values random_distributions(Random& random, const SliceMap& map) {
  Values values(static_cast<std::size_t>(map.slices() * map.classes));
  for (std::int64_t slice = 0; slice < map.slices(); ++slice) {
    double sum = 0;
    for (std::int64_t c = 0; c < map.classes; ++c) {
      double& value = values[map.at(slice, c)];
      value = c > 0 && random.chance(0.4) ? 0 : random.uniform() + 0.01;
      sum += value;
    }
    for (std::int64_t c = 0; c < map.classes; ++c) values[map.at(slice, c)] /= sum;
  }
  return values;
}

double entropy(const Values& p, double alpha) {
  double sum = 0;
  for (const double one : p) {
    if (alpha == 1)
      sum -= one == 0 ? 0 : one * std::log(one);
    else
      sum += std::pow(one, alpha);
  }
  return alpha == 1 ? sum : (1 - sum) / (alpha * (alpha - 1));
}

double log_sum_exp(const Values& x) {
  const double maximum = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double one : x) sum += std::exp(one - maximum);
  return maximum + std::log(sum);
}

/// (p - q) . (x - shift) + H(p) - H(q)
double fenchel_young(const Values& x, const Values& q, double alpha, bool plain) {
  double tau = 0;
  const Values p = entmax_of(x, alpha, &tau);
  const double shift = plain ? 0 : alpha == 1 ? tau : tau / (alpha - 1);
  double sum = entropy(p, alpha) - entropy(q, alpha);
  for (std::size_t c = 0; c < x.size(); ++c)
    sum += p[c] == q[c] ? 0 : (p[c] - q[c]) * (x[c] - shift);
  if (alpha == 1 && !plain) sum += 1 - std::accumulate(q.begin(), q.end(), 0.);
  return sum;
}

}  // namespace

std::string LossCase::describe() const {
  const char* const kinds[] = {"nll", "cross_entropy", "entmax"};
  const char* const reductions[] = {"none", "sum", "mean"};
  return fmt::format(
      "{} alpha {} {} x {} target {} layout {} weights {} ignore_index {} smoothing {} {} seed {}",
      kinds[static_cast<int>(kind)], alpha, shape.to_string(), attn::name_of(x_type),
      attn::name_of(target_type), name_of(layout), weights,
      ignore_index ? std::to_string(*ignore_index) : "none", label_smoothing,
      reductions[static_cast<int>(reduction)], seed);
}

SliceMap::SliceMap(const Dims& shape) : classes(shape[class_dim(shape)]) {
  for (int dim = 0; dim < shape.rank(); ++dim) {
    if (dim != class_dim(shape)) (dim < class_dim(shape) ? outer : inner) *= shape[dim];
  }
}

LossInputs make_loss_inputs(const LossCase& c) {
  Random random(c.seed);
  const SliceMap map(c.shape);
  Values x(static_cast<std::size_t>(map.slices() * map.classes)),
      weight(static_cast<std::size_t>(map.classes));
  for (double& value : x)
    value = c.kind == LossKind::nll ? -3 * random.uniform() : 2 * random.normal();
  for (double& value : weight) value = random.uniform() + 0.1;
  LossInputs inputs;
  inputs.x = tensor_of(c.x_type, c.shape, c.layout, x);
  inputs.target = c.of_classes() ? tensor_of(c.target_type, shape_of_slices(c.shape), c.layout,
                                             random_classes(random, c, map.slices(), map.classes))
                                 : tensor_of(c.target_type, c.shape, c.layout,
                                             random_distributions(random, map));
  if (c.weights) inputs.weight = tensor_of(DType::f32, {map.classes}, c.layout, weight);
  return inputs;
}

LossOptions options_of(const LossCase& c, const LossInputs& inputs) {
  return {.weight = inputs.weight.view_if_made(),
          .ignore_index = c.ignore_index,
          .label_smoothing = c.label_smoothing,
          .reduction = c.reduction};
}

Dims loss_shape(const LossCase& c) {
  return c.reduction == Reduction::none ? shape_of_slices(c.shape) : Dims();
}

void run_loss(const LossCase& c, const LossInputs& inputs, const MutableTensorView& loss,
              const Execution& execution) {
  const TensorView x = inputs.x.view(), target = inputs.target.view();
  const LossOptions options = options_of(c, inputs);
  if (c.kind == LossKind::nll) return nll_loss(x, target, loss, options, execution);
  if (c.kind == LossKind::cross_entropy) return cross_entropy(x, target, loss, options, execution);
  if (c.alpha == 2) return sparsemax_loss(x, target, loss, options, execution);
  entmax_loss(x, target, loss, c.alpha, options, execution);
}

void run_loss_backward(const LossCase& c, const LossInputs& inputs, const TensorView& dloss,
                       const MutableTensorView& dx, const Execution& execution) {
  const TensorView x = inputs.x.view(), target = inputs.target.view();
  const LossOptions options = options_of(c, inputs);
  if (c.kind == LossKind::nll) return nll_loss_backward(dloss, target, dx, options, execution);
  if (c.kind == LossKind::cross_entropy)
    return cross_entropy_backward(dloss, x, target, dx, options, execution);
  if (c.alpha == 2) return sparsemax_loss_backward(dloss, x, target, dx, options, execution);
  entmax_loss_backward(dloss, x, target, dx, c.alpha, options, execution);
}

/// tau by bisection; it is log sum exp for alpha = 1.
Values entmax_of(const Values& x, double alpha, double* tau) {
  Values p(x.size());
  if (alpha == 1) {
    const double lse = log_sum_exp(x);
    for (std::size_t c = 0; c < x.size(); ++c) p[c] = std::exp(x[c] - lse);
    if (tau != nullptr) *tau = lse;
    return p;
  }
  const double highest = (alpha - 1) * *std::max_element(x.begin(), x.end());
  double low = highest - 1, high = highest;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    double sum = 0;
    for (std::size_t c = 0; c < x.size(); ++c) {
      p[c] = std::pow(std::max((alpha - 1) * x[c] - middle, 0.), 1 / (alpha - 1));
      sum += p[c];
    }
    (sum > 1 ? low : high) = middle;
  }
  if (tau != nullptr) *tau = low;
  return p;
}

LossOracle::LossOracle(const LossCase& c, const LossInputs& inputs)
    : case_(c), map_(c.shape), x_(inputs.x.values()), target_(inputs.target.values()) {
  if (c.weights) weight_ = inputs.weight.values();
}

Values LossOracle::row_of(const Values& values, std::int64_t slice) const {
  Values row;
  for (std::int64_t c = 0; c < map_.classes; ++c) row.push_back(values[map_.at(slice, c)]);
  return row;
}

bool LossOracle::ignored(std::int64_t slice) const {
  return case_.of_classes() && case_.ignore_index &&
         target_[static_cast<std::size_t>(slice)] == static_cast<double>(*case_.ignore_index);
}

Values LossOracle::q_of(std::int64_t slice) const {
  Values q(static_cast<std::size_t>(map_.classes));
  if (case_.of_classes())
    q[static_cast<std::size_t>(target_[static_cast<std::size_t>(slice)])] = 1;
  else
    q = row_of(target_, slice);
  const double e = case_.label_smoothing;
  for (double& one : q) one = (1 - e) * one + e / static_cast<double>(map_.classes);
  return q;
}

double LossOracle::weight_of(std::int64_t slice) const {
  return case_.of_classes()
             ? weight(static_cast<std::int64_t>(target_[static_cast<std::size_t>(slice)]))
             : 1;
}

double LossOracle::loss_of(std::int64_t slice, const Values& x, bool plain) const {
  if (ignored(slice)) return 0;
  const Values q = q_of(slice);
  if (case_.kind == LossKind::entmax)
    return weight_of(slice) * fenchel_young(x, q, case_.alpha, plain);
  const double lse = case_.kind == LossKind::nll ? 0 : log_sum_exp(x);
  double sum = 0;
  for (std::size_t c = 0; c < x.size(); ++c) {
    const double share = weight(static_cast<std::int64_t>(c)) * q[c];
    const double loss = x[c] == -infinity ? infinity : lse - x[c];
    sum += share == 0 && std::isinf(loss) ? 0 : share * loss;
  }
  return sum;
}

double LossOracle::tolerance_of(std::int64_t slice) const {
  if (ignored(slice)) return 0;
  const Values x = x_of(slice), q = q_of(slice);
  const double rounding =
      0.5001 * eps * std::abs(loss_of(slice));  // of the float, and a double before
  if (case_.kind == LossKind::nll) return rounding;
  if (case_.kind == LossKind::cross_entropy || case_.alpha == 1) {
    // The logarithm of the sum is off by 2e-7, as in log_softmax.
    double off = 0;
    for (std::size_t c = 0; c < x.size(); ++c)
      off += std::abs(weight(static_cast<std::int64_t>(c)) * q[c]) * 2e-7;
    return rounding + off * (case_.kind == LossKind::entmax ? weight_of(slice) : 1);
  }
  // p is off by eps of itself, and by what an error of eps in tau makes of it: p^(2 - alpha) /
  // (alpha - 1) as much. A term's derivative in p is (p - q) p^(alpha - 2), or in log_i q.
  const Values p = entmax_of(x, case_.alpha);
  double off = 0;
  for (std::size_t c = 0; c < x.size(); ++c) {
    off += std::abs(p[c] - q[c]) * eps * (std::pow(p[c], case_.alpha - 1) + 1 / (case_.alpha - 1.));
  }
  return rounding + weight_of(slice) * off;
}

double LossOracle::divisor() const {
  if (case_.reduction != Reduction::mean) return 1;
  double sum = 0;
  for (std::int64_t slice = 0; slice < map_.slices(); ++slice)
    sum += ignored(slice) ? 0 : weight_of(slice);
  return sum;
}

Values LossOracle::reduced(const Values& of_slices) const {
  if (case_.reduction == Reduction::none) return of_slices;
  return {std::accumulate(of_slices.begin(), of_slices.end(), 0.) / divisor()};
}

Values LossOracle::losses() const {
  Values values;
  for (std::int64_t slice = 0; slice < map_.slices(); ++slice) values.push_back(loss_of(slice));
  return reduced(values);
}

Values LossOracle::tolerances() const {
  Values values;
  for (std::int64_t slice = 0; slice < map_.slices(); ++slice)
    values.push_back(tolerance_of(slice));
  return reduced(values);
}

}  // namespace attn::test
