// The checks of a backward call, and a visitor over its tensors.
#pragma once

#include <attn/attention_backward.hpp>

#include "attention/problem.hpp"

namespace attn::detail {

/// What a call reads of its forward.
enum class ForwardResults {
  needed,   // O and lse, with softmax
  ignored,  // they may be absent; the reference computes them again, and takes gradients of f64
};
/// The same as validate() for the gradients of a call.
Problem validate_backward(const AttentionTensors& tensors, const AttentionGradients& gradients,
                          const AttentionOptions& options, const Execution& execution,
                          ForwardResults results);
/// validate_data() for the gradients of a call.
void validate_backward_data(const Problem& problem, const AttentionTensors& tensors,
                            const AttentionGradients& gradients);

/// Calls f(name, tensor of each call...) for every tensor of AttentionGradients.
template <class F, class... Gradients>
void for_each_gradient(F f, const Gradients&... calls) {
  f("dout", calls.dout...);
  f("dlse", calls.dlse...);
  f("dq", calls.dq...);
  f("dk", calls.dk...);
  f("dv", calls.dv...);
  f("dmask", calls.dmask...);
  f("dalibi", calls.dalibi...);
  f("dsinks", calls.dsinks...);
}

}  // namespace attn::detail
