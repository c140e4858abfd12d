#include "softmax/loss_arguments.hpp"

#include <atomic>
#include <string>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

int class_dim_of(const TensorView& x) { return x.rank() == 1 ? 0 : 1; }

/// A tensor of any type with one element for each slice.
void require_one_per_slice(const char* name, const TensorView& tensor, const NamedView& x) {
  const int dim = class_dim_of(x.tensor);
  const Dims needed = remove_dim(x.tensor.shape, dim);
  if (!(tensor.shape == needed)) {
    reject(fmt::format("{} has shape {}; it needs {} (the shape of {} without dim {}, the classes)",
                       name, tensor.shape.to_string(), needed.to_string(), x.name, dim));
  }
  require_data(name, tensor);
}

/// "target[3, 1]", or "target" if it is a scalar.
std::string name_of_target(const Dims& shape, std::int64_t slice) {
  return shape.rank() == 0 ? "target" : "target" + index_of(shape, slice).to_string();
}

/// Where the elements of a target lie, whose sizes are known to fit then.
ElementOffsets offsets_of(const TensorView& target) {
  require_data("target", target);
  return {target.shape, target.strides};
}

}  // namespace

LossTargets::LossTargets(const NamedView& x, const TensorView& target, const LossOptions& options,
                         const ResolvedExecution& execution)
    : class_dim_(class_dim_of(x.tensor)),
      classes_(x.tensor.shape[class_dim_]),
      slices_(number_of_slices(x.tensor.shape, class_dim_)),
      offsets_(offsets_of(target)),
      ignore_index_(options.ignore_index),
      smoothing_(options.label_smoothing) {
  if (!(smoothing_ >= 0 && smoothing_ <= 1)) {
    reject(fmt::format("label_smoothing is {}; it needs to lie in 0..1", options.label_smoothing));
  }
  set_weights(options.weight, x.name);
  if (is_integer(target.dtype)) {
    require_one_per_slice("target", target, x);
    classes_of_slices_ = target;
    divisor_ = checked_sum_of_weights(x.name, target.shape, execution.threads);
    return;
  }
  if (target.dtype != DType::f32 && target.dtype != DType::bf16 && target.dtype != DType::f16) {
    reject(
        fmt::format("target has type {}; it needs i32 or i64 (classes), or f32, bf16 or f16 "
                    "(distributions over classes)",
                    name_of(target.dtype)));
  }
  require_input_like("target", target, x.name, x.tensor);
  if (ignore_index_) {
    reject(
        fmt::format("ignore_index is {}, but target is of type {}: distributions over classes are "
                    "not ignored by an index",
                    *ignore_index_, name_of(target.dtype)));
  }
  distributions_ = target;
  divisor_ = static_cast<double>(slices_);
}

void LossTargets::set_weights(const TensorView& weight, const char* x_name) {
  if (weight.absent()) return;
  require_type("weight", weight, DType::f32);
  require_rank("weight", weight, 1, "[classes]");
  require_extent("weight", weight, 0, classes_, fmt::format("the classes of {}", x_name).c_str());
  require_data("weight", weight);
  const auto* const data = static_cast<const float*>(weight.data);
  weights_.resize(static_cast<std::size_t>(classes_));
  for (std::int64_t c = 0; c < classes_; ++c)
    weights_[static_cast<std::size_t>(c)] = data[c * weight.strides[0]];
}

double LossTargets::checked_sum_of_weights(const char* x_name, const Dims& shape,
                                           const Threads& threads) const {
  std::atomic<std::int64_t> first_wrong{slices_};
  const double sum = sum_over_slices(slices_, threads, [&](std::int64_t slice) {
    const std::int64_t target = class_of(slice);
    if (target == ignore_index_) return 0.0;
    if (target >= 0 && target < classes_) return weight(target);
    atomic_min(first_wrong, slice);
    return 0.0;
  });
  if (const std::int64_t wrong = first_wrong; wrong < slices_) {
    const std::string unless =
        ignore_index_ ? fmt::format(", or be ignore_index, {}", *ignore_index_) : "";
    const std::string name = name_of_target(shape, wrong);
    if (classes_ == 0)
      reject(fmt::format("{} is {}, but {} has no classes", name, class_of(wrong), x_name));
    reject(fmt::format("{} is {}; it needs to lie in 0..{} (classes of {}){}", name,
                       class_of(wrong), classes_ - 1, x_name, unless));
  }
  return sum;
}

LossReduction::LossReduction(const MutableTensorView& loss, Reduction reduction,
                             const LossTargets& targets)
    : targets_(targets), reduction_(reduction), out_(loss) {
  if (reduction != Reduction::none) losses_.resize(static_cast<std::size_t>(targets.slices()));
}

void LossReduction::finish(const Threads& threads) {
  if (reduction_ == Reduction::none) return;
  const double sum = sum_over_slices(targets_.slices(), threads, [&](std::int64_t slice) {
    return losses_[static_cast<std::size_t>(slice)];
  });
  out_[0] = static_cast<float>(reduction_ == Reduction::mean ? sum / targets_.divisor() : sum);
}

void require_loss_input(const char* name, const TensorView& loss, const NamedView& x,
                        Reduction reduction) {
  require_enumerator("reduction", reduction, Reduction::mean);
  require_type(name, loss, DType::f32);
  if (reduction == Reduction::none) return require_one_per_slice(name, loss, x);
  require_rank(name, loss, 0, "one number, unless Reduction::none is asked for");
  require_data(name, loss);
}

void require_loss_output(const char* name, const MutableTensorView& loss, const NamedView& x,
                         Reduction reduction) {
  require_loss_input(name, loss, x, reduction);
  if (reduction == Reduction::none)
    require_reduced_output(name, loss, DType::f32, x.name, x.tensor, class_dim_of(x.tensor));
}

}  // namespace attn::detail
