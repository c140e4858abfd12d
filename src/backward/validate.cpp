// Checks of a backward call: those of its forward, and of its gradients.
#include "backward/validate.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <tuple>
#include <utility>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

void require_like(const char* name, const TensorView& tensor, const Dims& shape, const char* like) {
  if (tensor.shape == shape) return;
  reject(fmt::format("{} has shape {}; it needs {}, that of {}", name, tensor.shape.to_string(),
                     shape.to_string(), like));
}

void refuse_storage(const AttentionTensors& tensors) {
  const char* const unsupported = !tensors.storage.page_table().absent() ? "keys in pages"
                                  : !tensors.storage.starts().absent()   ? "keys in rings"
                                  : tensors.k.dtype == DType::i8         ? "keys of i8"
                                                                         : nullptr;
  if (unsupported == nullptr) return;
  throw Error(ErrorCode::unsupported,
              fmt::format("{} have no gradients: the backward pass takes contiguous or ragged keys "
                          "of f32, bf16 or f16",
                          unsupported));
}

void check_options(const AttentionOptions& options) {
  if (options.score_mod && !options.score_mod_gradient)
    reject("score_mod is given without score_mod_gradient, its derivative");
  if (options.score_mod_gradient && !options.score_mod)
    reject("score_mod_gradient is given without score_mod");
}

/// The shape of O or lse: rows [batch, num_q_heads, q_len], or ragged [tokens, num_q_heads].
Dims row_shape(const AttentionTensors& tensors) {
  const Dims& q = tensors.q.shape;
  return Dims(q.begin(), q.rank() - 1);
}

Dims out_shape(const AttentionTensors& tensors, const Sizes& sizes) {
  Dims shape = tensors.q.shape;
  shape[shape.rank() - 1] = sizes.v_head_dim;
  return shape;
}

void check_incoming(const Problem& problem, const AttentionTensors& tensors,
                    const AttentionGradients& gradients) {
  if (gradients.dout.absent()) reject("dout is missing: it needs the gradient of out");
  require_like("dout", gradients.dout, out_shape(tensors, problem.sizes), "out");
  if (gradients.dlse.absent()) return;
  if (problem.normalizer.kind() != Normalizer::Kind::softmax) {
    reject(fmt::format("dlse is given with {}: only softmax has a log of the sum of exp",
                       problem.normalizer.to_string()));
  }
  require_like("dlse", gradients.dlse, row_shape(tensors), "lse");
}

void check_wanted(const Problem& problem, const AttentionTensors& tensors,
                  const AttentionGradients& gradients) {
  for (const auto& [name, gradient, like_name, like] :
       {std::tuple{"dq", &gradients.dq, "q", &tensors.q},
        std::tuple{"dk", &gradients.dk, "k", &tensors.k},
        std::tuple{"dv", &gradients.dv, "v", &tensors.v}}) {
    if (!gradient->absent()) require_like(name, *gradient, like->shape, like_name);
  }
  if (!gradients.dmask.absent()) {
    if (tensors.mask.absent() || tensors.mask.dtype == DType::boolean)
      reject("dmask is given without an additive mask");
    require_like("dmask", gradients.dmask, tensors.mask.shape, "mask");
  }
  if (!gradients.dalibi.absent()) {
    if (tensors.alibi_slopes.absent()) reject("dalibi is given without alibi_slopes");
    require_like("dalibi", gradients.dalibi, {problem.sizes.num_q_heads}, "alibi_slopes");
  }
  if (!gradients.dsinks.absent()) {
    if (tensors.sinks.absent()) reject("dsinks is given without sinks");
    require_like("dsinks", gradients.dsinks, {problem.sizes.num_q_heads}, "sinks");
  }
}

void check_types(const AttentionGradients& gradients, bool f64) {
  const auto narrow = [f64](const char* name, const TensorView& tensor) {
    if (tensor.absent() || (f64 && tensor.dtype == DType::f64)) return;
    require_float(name, tensor);
  };
  const auto f32 = [f64](const char* name, const TensorView& tensor) {
    if (tensor.absent() || (f64 && tensor.dtype == DType::f64)) return;
    require_type(name, tensor, DType::f32);
  };
  narrow("dout", gradients.dout);
  narrow("dq", gradients.dq);
  narrow("dk", gradients.dk);
  narrow("dv", gradients.dv);
  f32("dlse", gradients.dlse);
  f32("dmask", gradients.dmask);
  f32("dalibi", gradients.dalibi);
  f32("dsinks", gradients.dsinks);
}

void check_results(const Problem& problem, const AttentionTensors& tensors) {
  if (problem.normalizer.kind() != Normalizer::Kind::softmax) return;
  if (tensors.out.absent()) reject("out is missing: softmax needs the O of the forward");
  if (tensors.lse.absent()) reject("lse is missing: softmax needs the lse of the forward");
}

}  // namespace

Problem validate_backward(const AttentionTensors& tensors, const AttentionGradients& gradients,
                          const AttentionOptions& options, const Execution& execution,
                          ForwardResults results) {
  for_each_gradient(
      [](const char* name, const auto& tensor) {
        if (!tensor.absent()) require_form(name, tensor);
      },
      gradients);
  const Problem problem = validate_inputs(tensors, options, execution);
  refuse_storage(tensors);
  check_options(options);
  check_types(gradients, results == ForwardResults::ignored);
  check_incoming(problem, tensors, gradients);
  check_wanted(problem, tensors, gradients);
  if (results == ForwardResults::needed) check_results(problem, tensors);
  return problem;
}

void validate_backward_data(const Problem& problem, const AttentionTensors& tensors,
                            const AttentionGradients& gradients) {
  validate_data(problem, tensors);
  for_each_gradient(
      [](const char* name, const auto& tensor) {
        if (!tensor.absent()) require_memory(name, tensor);
      },
      gradients);
  for (const auto& [name, tensor] :
       {std::pair{"dq", &gradients.dq}, std::pair{"dk", &gradients.dk},
        std::pair{"dv", &gradients.dv}, std::pair{"dmask", &gradients.dmask},
        std::pair{"dalibi", &gradients.dalibi}, std::pair{"dsinks", &gradients.dsinks}}) {
    if (!tensor->absent()) require_elements_apart(name, *tensor);
  }
}

}  // namespace attn::detail
