// The softmax family, cross-entropy, norms and rotary positions, and the gradients that
// differentiable functions of PyTorch tensors need.
#include <fmt/format.h>
#include <attn/functional.hpp>
#include <attn/loss.hpp>
#include <attn/softmax.hpp>

#include <string>

#include "call.hpp"

namespace attn::python {
namespace {

/// A function of each slice of x along `dim`, with a temperature or alpha.
using SliceFunction = void (*)(const TensorView& x, const MutableTensorView& y, int dim,
                               float parameter, const Execution& execution);
/// The gradient of one, from that of its result, and from its result or its input.
using SliceGradient = void (*)(const TensorView& dy, const TensorView& x, const TensorView& y,
                               const MutableTensorView& dx, int dim, float parameter,
                               const Execution& execution);

int axis_of(const Array& x, nb::handle axis) {
  const std::int64_t dim = required_integer("axis", axis);
  const int rank = x.view().rank();
  if (dim < -rank || dim >= rank)
    reject(fmt::format("axis is {}; {} has rank {}", dim, x.name(), rank));
  return static_cast<int>(dim);
}

Dims without(const Dims& shape, int dim) {
  const int removed = dim < 0 ? dim + shape.rank() : dim;
  Dims rest(shape.begin(), shape.rank() - 1);
  for (int n = removed; n < rest.rank(); ++n) rest[n] = shape[n + 1];
  return rest;
}

nb::object apply(SliceFunction function, bool reduces, nb::handle x_object, nb::handle axis,
                 nb::handle parameter, nb::handle out_object, const char* parameter_name) {
  const Array x = Array::required("x", x_object);
  const int dim = axis_of(x, axis);
  const float value = required_float(parameter_name, parameter);
  const Dims shape = reduces ? without(x.view().shape, dim) : x.view().shape;
  const Execution execution = default_execution(x.kind());
  const Array out = result_or("out", out_object, x, x.view().dtype, shape);
  // A result that is not reduced may take the place of x.
  const bool in_place = !reduces && out.view().data == x.view().data &&
                        out.view().strides == x.view().strides &&
                        out.view().dtype == x.view().dtype;
  if (!in_place) require_apart(out, x);
  const MutableTensorView y = out.writable();
  {
    const nb::gil_scoped_release without_gil;
    function(x.view(), y, dim, value, execution);
  }
  return nb::borrow(out.object());
}

nb::object differentiate(SliceGradient function, nb::handle dy_object, nb::handle x_object,
                         nb::handle y_object, nb::handle axis, nb::handle parameter) {
  const Array dy = Array::required("dy", dy_object), x("x", x_object), y("y", y_object);
  const Array& like = x ? x : y;
  const int dim = axis_of(like, axis);
  const float value = required_float("parameter", parameter);
  const Execution execution = default_execution(like.kind());
  const Array dx = make_result("dx", like, like.view().dtype, like.view().shape);
  {
    const nb::gil_scoped_release without_gil;
    function(dy.view(), x.view(), y.view(), dx.writable(), dim, value, execution);
  }
  return nb::borrow(dx.object());
}

struct SliceFunctions {
  const char* name;
  const char* parameter_name;
  SliceFunction function;
  bool reduces;
  SliceGradient gradient;
};

using In = const TensorView&;
using Out = const MutableTensorView&;
using Run = const Execution&;

constexpr SliceFunctions slice_functions[] = {
    {"softmax", "temperature",
     [](In x, Out y, int dim, float t, Run run) { softmax(x, y, dim, t, run); }, false,
     [](In dy, In, In y, Out dx, int dim, float t, Run run) {
       softmax_backward(dy, y, dx, dim, t, run);
     }},
    {"log_softmax", "temperature",
     [](In x, Out y, int dim, float t, Run run) { log_softmax(x, y, dim, t, run); }, false,
     [](In dy, In, In y, Out dx, int dim, float t, Run run) {
       log_softmax_backward(dy, y, dx, dim, t, run);
     }},
    {"logsumexp", "temperature",
     [](In x, Out y, int dim, float t, Run run) { logsumexp(x, y, dim, t, run); }, true,
     [](In dy, In x, In y, Out dx, int dim, float t, Run run) {
       logsumexp_backward(dy, x, y, dx, dim, t, run);
     }},
    {"entmax", "alpha",
     [](In x, Out y, int dim, float alpha, Run run) { entmax(x, y, alpha, dim, {}, run); }, false,
     [](In dy, In, In y, Out dx, int dim, float alpha, Run run) {
       entmax_backward(dy, y, dx, alpha, dim, run);
     }},
};

/// The target of a loss, its options, and the shape of its result.
struct Loss {
  Array x, target, weight;
  LossOptions options;
  Dims shape;

  Loss(nb::handle x_object, nb::handle target_object, nb::handle weight_object,
       nb::handle ignore_index, nb::handle label_smoothing, nb::handle reduction)
      : x(Array::required("x", x_object)),
        target(Array::required("target", target_object)),
        weight("weight", weight_object) {
    const std::string name = required_text("reduction", reduction);
    if (name != "none" && name != "sum" && name != "mean")
      reject(fmt::format("reduction is \"{}\"; it needs none, sum or mean", name));
    options = {.weight = weight.view(),
               .ignore_index = optional_integer("ignore_index", ignore_index),
               .label_smoothing = required_float("label_smoothing", label_smoothing),
               .reduction = name == "none"  ? Reduction::none
                            : name == "sum" ? Reduction::sum
                                            : Reduction::mean};
    const Dims& sizes = x.view().shape;
    if (sizes.rank() == 0) reject("x has rank 0; it needs [C] or [N, C, ...]");
    if (name == "none" && sizes.rank() > 1) shape = without(sizes, 1);
  }
};

nb::object cross_entropy_loss(nb::handle x, nb::handle target, nb::handle weight,
                              nb::handle ignore_index, nb::handle label_smoothing,
                              nb::handle reduction, nb::handle out_object) {
  const Loss loss(x, target, weight, ignore_index, label_smoothing, reduction);
  const Execution execution = default_execution(loss.x.kind());
  const Array out = result_or("out", out_object, loss.x, DType::f32, loss.shape);
  require_apart(out, loss.x);
  require_apart(out, loss.target);
  require_apart(out, loss.weight);
  const MutableTensorView result = out.writable();
  {
    const nb::gil_scoped_release without_gil;
    cross_entropy(loss.x.view(), loss.target.view(), result, loss.options, execution);
  }
  return nb::borrow(out.object());
}

nb::object cross_entropy_gradient(nb::handle dloss_object, nb::handle x, nb::handle target,
                                  nb::handle weight, nb::handle ignore_index,
                                  nb::handle label_smoothing, nb::handle reduction) {
  const Loss loss(x, target, weight, ignore_index, label_smoothing, reduction);
  const Array dloss = Array::required("dloss", dloss_object);
  const Execution execution = default_execution(loss.x.kind());
  const Array dx = make_result("dx", loss.x, loss.x.view().dtype, loss.x.view().shape);
  {
    const nb::gil_scoped_release without_gil;
    cross_entropy_backward(dloss.view(), loss.x.view(), loss.target.view(), dx.writable(),
                           loss.options, execution);
  }
  return nb::borrow(dx.object());
}

/// rms_norm, or layer_norm with a bias.
nb::object norm(bool centered, nb::handle x_object, nb::handle scale_object, nb::handle bias_object,
                nb::handle axis, nb::handle epsilon, nb::handle out_object) {
  const Array x = Array::required("x", x_object);
  const Array scale("scale", scale_object), bias("bias", bias_object);
  const NormOptions options{.dim = axis_of(x, axis), .epsilon = required_float("epsilon", epsilon)};
  const Execution execution = default_execution(x.kind());
  const Array out = result_or("out", out_object, x, x.view().dtype, x.view().shape);
  if (out.view().data != x.view().data) require_apart(out, x);
  require_apart(out, scale);
  require_apart(out, bias);
  const MutableTensorView y = out.writable();
  {
    const nb::gil_scoped_release without_gil;
    if (centered)
      layer_norm(x.view(), scale.view(), bias.view(), y, options, {}, execution);
    else
      rms_norm(x.view(), scale.view(), y, options, execution);
  }
  return nb::borrow(out.object());
}

nb::object rotate(nb::handle x_object, nb::handle cos_object, nb::handle sin_object,
                  bool interleaved, nb::handle positions_object) {
  const Array x = Array::required("x", x_object);
  const Array cos = Array::required("rotary_cos", cos_object);
  const Array sin = Array::required("rotary_sin", sin_object);
  const Array positions("positions", positions_object);
  const Rope tables{.cos = cos.view(), .sin = sin.view(), .interleaved = interleaved};
  const Execution execution = default_execution(x.kind());
  const Array y = make_result("y", x, x.view().dtype, x.view().shape);
  {
    const nb::gil_scoped_release without_gil;
    rope(x.view(), tables, positions.view(), y.writable(), execution);
  }
  return nb::borrow(y.object());
}

}  // namespace

void bind_functions(nb::module_& module) {
  for (const SliceFunctions& entry : slice_functions) {
    const SliceFunctions functions = entry;
    module.def(
        functions.name,
        [functions](nb::handle x, nb::handle axis, nb::handle parameter, nb::handle out) {
          return apply(functions.function, functions.reduces, x, axis, parameter, out,
                       functions.parameter_name);
        },
        nb::arg("x").none(), nb::arg("axis").none(), nb::arg(functions.parameter_name).none(),
        nb::arg("out").none());
    module.def((std::string(functions.name) + "_backward").c_str(),
               [functions](nb::handle dy, nb::handle x, nb::handle y, nb::handle axis,
                           nb::handle parameter) {
                 return differentiate(functions.gradient, dy, x, y, axis, parameter);
               },
               nb::arg("dy"), nb::arg("x").none(), nb::arg("y").none(), nb::arg("axis"),
               nb::arg(functions.parameter_name));
  }
  module.def("cross_entropy", &cross_entropy_loss, nb::arg("x").none(), nb::arg("target").none(),
             nb::arg("weight").none(), nb::arg("ignore_index").none(),
             nb::arg("label_smoothing").none(), nb::arg("reduction").none(), nb::arg("out").none());
  module.def("cross_entropy_backward", &cross_entropy_gradient, nb::arg("dloss").none(),
             nb::arg("x").none(), nb::arg("target").none(), nb::arg("weight").none(),
             nb::arg("ignore_index").none(), nb::arg("label_smoothing").none(),
             nb::arg("reduction").none());
  module.def("norm", &norm, nb::arg("centered"), nb::arg("x").none(), nb::arg("scale").none(),
             nb::arg("bias").none(), nb::arg("axis").none(), nb::arg("epsilon").none(),
             nb::arg("out").none());
  module.def("rope", &rotate, nb::arg("x").none(), nb::arg("cos").none(), nb::arg("sin").none(),
             nb::arg("interleaved"), nb::arg("positions").none());
}

}  // namespace attn::python
