#include "apps/attn_demo/regression/files.hpp"

#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "apps/attn_demo/outputs.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

using Float = std::numeric_limits<float>;

/// The greatest magnitude of a feature.
double reach_of(const TensorView& input, std::int64_t feature) {
  const Tensor column = copy_as(input.sliced(1, feature, feature + 1), DType::f64);
  double reach = 0;
  for (std::int64_t n = 0; n < column.size(); ++n)
    reach = std::max(reach, std::abs(column.data<double>()[n]));
  return reach;
}

/// Whether f32 holds a weight well enough, where `reach` returns what it is multiplied by.
template <class Reach>
bool holds(double weight, Reach reach) {
  constexpr double precise = 0x1p-20;  // of a weight; below f32's normal range there is less
  constexpr double visible = 1e-6;     // less than f32 tells of a logit of order 1
  if (std::abs(weight) > static_cast<double>(Float::max())) return false;
  const double error = std::abs(static_cast<double>(static_cast<float>(weight)) - weight);
  return error <= precise * std::abs(weight) || error * reach() < visible;
}

}  // namespace

SoftmaxRegression read_model(const std::string& file) {
  require_suffix("--model", file, ".safetensors");
  const MappedTensors tensors(file);
  return {tensors.tensor("weight"), tensors.tensor("bias")};
}

StoredModel stored_model(const SoftmaxRegression& model, const TensorView& input) {
  const Tensor weight = copy_as(model.weight(), DType::f64),
               bias = copy_as(model.bias(), DType::f64);
  const std::int64_t features = model.features();
  for (std::int64_t n = 0; n < weight.size(); ++n) {
    const double each = weight.data<double>()[n];
    if (holds(each, [&] { return reach_of(input, n % features); })) continue;
    reject(
        "--input: the weight of feature {} for class {} becomes {:.3g}, which f32 cannot hold; "
        "the feature needs another scale",
        n % features, n / features, each);
  }
  for (std::int64_t c = 0; c < bias.size(); ++c) {
    const double each = bias.data<double>()[c];
    if (holds(each, [] { return 1.; })) continue;
    reject(
        "--input: the bias of class {} becomes {:.3g}, which f32 cannot hold; the features need "
        "a mean nearer to 0",
        c, each);
  }
  return {copy_as(weight.view(), DType::f32), copy_as(bias.view(), DType::f32)};
}

}  // namespace attn::apps::demo
