// The softmax family, losses, draws, norms, activations and rotary positions.
#include <attn/functional.hpp>
#include <attn/loss.hpp>
#include <attn/rope.hpp>
#include <attn/sample.hpp>
#include <attn/softmax.hpp>

#include "capi/handles.hpp"
#include "capi/status.hpp"
#include "capi/tensors.hpp"

using namespace attn;
using namespace attn::capi;

struct attn_loss_options {
  LossOptions options;
};

struct attn_sample_options {
  SampleOptions options;
};

namespace {

template <class Options, class Set>
attn_status set_option(Options* options, const Set& set) noexcept {
  return guarded([&] { set(required(options, "options").options); });
}

LossOptions options_of(const attn_loss_options* options) {
  return options == nullptr ? LossOptions{} : options->options;
}

SampleOptions options_of(const attn_sample_options* options) {
  return options == nullptr ? SampleOptions{} : options->options;
}

Threshold threshold_of(const attn_tensor* tau, const attn_tensor* support) {
  return {.tau = optional_view(tau, "tau"), .support = optional_view(support, "support")};
}

}  // namespace

attn_status attn_softmax(const attn_tensor* x, const attn_tensor* y, std::int32_t dim,
                         float temperature, const attn_execution* execution) {
  return guarded(
      [&] { softmax(view(x, "x"), view(y, "y"), dim, temperature, execution_of(execution)); });
}

attn_status attn_log_softmax(const attn_tensor* x, const attn_tensor* y, std::int32_t dim,
                             float temperature, const attn_execution* execution) {
  return guarded(
      [&] { log_softmax(view(x, "x"), view(y, "y"), dim, temperature, execution_of(execution)); });
}

attn_status attn_logsumexp(const attn_tensor* x, const attn_tensor* out, std::int32_t dim,
                           float temperature, const attn_execution* execution) {
  return guarded([&] {
    logsumexp(view(x, "x"), view(out, "out"), dim, temperature, execution_of(execution));
  });
}

attn_status attn_softmax_backward(const attn_tensor* dy, const attn_tensor* y,
                                  const attn_tensor* dx, std::int32_t dim, float temperature,
                                  const attn_execution* execution) {
  return guarded([&] {
    softmax_backward(view(dy, "dy"), view(y, "y"), view(dx, "dx"), dim, temperature,
                     execution_of(execution));
  });
}

attn_status attn_log_softmax_backward(const attn_tensor* dy, const attn_tensor* y,
                                      const attn_tensor* dx, std::int32_t dim, float temperature,
                                      const attn_execution* execution) {
  return guarded([&] {
    log_softmax_backward(view(dy, "dy"), view(y, "y"), view(dx, "dx"), dim, temperature,
                         execution_of(execution));
  });
}

attn_status attn_logsumexp_backward(const attn_tensor* dout, const attn_tensor* x,
                                    const attn_tensor* out, const attn_tensor* dx, std::int32_t dim,
                                    float temperature, const attn_execution* execution) {
  return guarded([&] {
    logsumexp_backward(view(dout, "dout"), view(x, "x"), view(out, "out"), view(dx, "dx"), dim,
                       temperature, execution_of(execution));
  });
}

attn_status attn_sparsemax(const attn_tensor* x, const attn_tensor* y, std::int32_t dim,
                           const attn_tensor* tau, const attn_tensor* support,
                           const attn_execution* execution) {
  return guarded([&] {
    sparsemax(view(x, "x"), view(y, "y"), dim, threshold_of(tau, support), execution_of(execution));
  });
}

attn_status attn_entmax15(const attn_tensor* x, const attn_tensor* y, std::int32_t dim,
                          const attn_tensor* tau, const attn_tensor* support,
                          const attn_execution* execution) {
  return guarded([&] {
    entmax15(view(x, "x"), view(y, "y"), dim, threshold_of(tau, support), execution_of(execution));
  });
}

attn_status attn_entmax(const attn_tensor* x, const attn_tensor* y, float alpha, std::int32_t dim,
                        const attn_tensor* tau, const attn_tensor* support,
                        const attn_execution* execution) {
  return guarded([&] {
    entmax(view(x, "x"), view(y, "y"), alpha, dim, threshold_of(tau, support),
           execution_of(execution));
  });
}

attn_status attn_sparsemax_backward(const attn_tensor* dy, const attn_tensor* y,
                                    const attn_tensor* dx, std::int32_t dim,
                                    const attn_execution* execution) {
  return guarded([&] {
    sparsemax_backward(view(dy, "dy"), view(y, "y"), view(dx, "dx"), dim, execution_of(execution));
  });
}

attn_status attn_entmax_backward(const attn_tensor* dy, const attn_tensor* y, const attn_tensor* dx,
                                 float alpha, std::int32_t dim, const attn_execution* execution) {
  return guarded([&] {
    entmax_backward(view(dy, "dy"), view(y, "y"), view(dx, "dx"), alpha, dim,
                    execution_of(execution));
  });
}

attn_status attn_entmax_backward_alpha(const attn_tensor* dy, const attn_tensor* y,
                                       const attn_tensor* dalpha, float alpha, std::int32_t dim,
                                       const attn_execution* execution) {
  return guarded([&] {
    entmax_backward_alpha(view(dy, "dy"), view(y, "y"), view(dalpha, "dalpha"), alpha, dim,
                          execution_of(execution));
  });
}

attn_status attn_loss_options_create(attn_loss_options** options) {
  return create(options, "options", [] { return new attn_loss_options{}; });
}
attn_status attn_loss_options_destroy(attn_loss_options* options) { return destroy(options); }

attn_status attn_loss_options_set_weight(attn_loss_options* options, const attn_tensor* weight) {
  return set_option(options, [&](LossOptions& to) { to.weight = optional_view(weight, "weight"); });
}

attn_status attn_loss_options_set_ignore_index(attn_loss_options* options,
                                               std::int64_t ignore_index) {
  return set_option(options, [&](LossOptions& to) { to.ignore_index = ignore_index; });
}

attn_status attn_loss_options_set_label_smoothing(attn_loss_options* options,
                                                  float label_smoothing) {
  return set_option(options, [&](LossOptions& to) { to.label_smoothing = label_smoothing; });
}

attn_status attn_loss_options_set_reduction(attn_loss_options* options, attn_reduction reduction) {
  return set_option(options, [&](LossOptions& to) {
    switch (reduction) {
      case ATTN_REDUCTION_NONE: to.reduction = Reduction::none; break;
      case ATTN_REDUCTION_SUM: to.reduction = Reduction::sum; break;
      case ATTN_REDUCTION_MEAN: to.reduction = Reduction::mean; break;
      default: reject_enumerator("reduction", reduction);
    }
  });
}

attn_status attn_nll_loss(const attn_tensor* log_p, const attn_tensor* target,
                          const attn_tensor* loss, const attn_loss_options* options,
                          const attn_execution* execution) {
  return guarded([&] {
    nll_loss(view(log_p, "log_p"), view(target, "target"), view(loss, "loss"), options_of(options),
             execution_of(execution));
  });
}

attn_status attn_cross_entropy(const attn_tensor* x, const attn_tensor* target,
                               const attn_tensor* loss, const attn_loss_options* options,
                               const attn_execution* execution) {
  return guarded([&] {
    cross_entropy(view(x, "x"), view(target, "target"), view(loss, "loss"), options_of(options),
                  execution_of(execution));
  });
}

attn_status attn_entmax_loss(const attn_tensor* x, const attn_tensor* target,
                             const attn_tensor* loss, float alpha, const attn_loss_options* options,
                             const attn_execution* execution) {
  return guarded([&] {
    entmax_loss(view(x, "x"), view(target, "target"), view(loss, "loss"), alpha,
                options_of(options), execution_of(execution));
  });
}

attn_status attn_nll_loss_backward(const attn_tensor* dloss, const attn_tensor* target,
                                   const attn_tensor* dlog_p, const attn_loss_options* options,
                                   const attn_execution* execution) {
  return guarded([&] {
    nll_loss_backward(view(dloss, "dloss"), view(target, "target"), view(dlog_p, "dlog_p"),
                      options_of(options), execution_of(execution));
  });
}

attn_status attn_cross_entropy_backward(const attn_tensor* dloss, const attn_tensor* x,
                                        const attn_tensor* target, const attn_tensor* dx,
                                        const attn_loss_options* options,
                                        const attn_execution* execution) {
  return guarded([&] {
    cross_entropy_backward(view(dloss, "dloss"), view(x, "x"), view(target, "target"),
                           view(dx, "dx"), options_of(options), execution_of(execution));
  });
}

attn_status attn_entmax_loss_backward(const attn_tensor* dloss, const attn_tensor* x,
                                      const attn_tensor* target, const attn_tensor* dx, float alpha,
                                      const attn_loss_options* options,
                                      const attn_execution* execution) {
  return guarded([&] {
    entmax_loss_backward(view(dloss, "dloss"), view(x, "x"), view(target, "target"), view(dx, "dx"),
                         alpha, options_of(options), execution_of(execution));
  });
}

attn_status attn_sample_options_create(attn_sample_options** options) {
  return create(options, "options", [] { return new attn_sample_options{}; });
}
attn_status attn_sample_options_destroy(attn_sample_options* options) { return destroy(options); }

attn_status attn_sample_options_set_temperature(attn_sample_options* options, float temperature) {
  return set_option(options, [&](SampleOptions& to) { to.temperature = temperature; });
}

attn_status attn_sample_options_set_top_k(attn_sample_options* options, std::int64_t top_k) {
  return set_option(options, [&](SampleOptions& to) { to.top_k = top_k; });
}

attn_status attn_sample_options_set_top_p(attn_sample_options* options, float top_p) {
  return set_option(options, [&](SampleOptions& to) { to.top_p = top_p; });
}

attn_status attn_sample_options_set_min_p(attn_sample_options* options, float min_p) {
  return set_option(options, [&](SampleOptions& to) { to.min_p = min_p; });
}

attn_status attn_sample_options_set_seed(attn_sample_options* options, std::uint64_t seed,
                                         std::uint64_t first_draw) {
  return set_option(options, [&](SampleOptions& to) {
    to.seed = seed;
    to.first_draw = first_draw;
  });
}

attn_status attn_sample(const attn_tensor* logits, const attn_tensor* indices,
                        const attn_sample_options* options, const attn_execution* execution) {
  return guarded([&] {
    sample(view(logits, "logits"), view(indices, "indices"), options_of(options),
           execution_of(execution));
  });
}

attn_status attn_rms_norm(const attn_tensor* x, const attn_tensor* scale, const attn_tensor* y,
                          std::int32_t dim, float epsilon, const attn_execution* execution) {
  return guarded([&] {
    rms_norm(view(x, "x"), optional_view(scale, "scale"), view(y, "y"),
             {.dim = dim, .epsilon = epsilon}, execution_of(execution));
  });
}

attn_status attn_layer_norm(const attn_tensor* x, const attn_tensor* scale, const attn_tensor* bias,
                            const attn_tensor* y, std::int32_t dim, float epsilon,
                            const attn_execution* execution) {
  return guarded([&] {
    layer_norm(view(x, "x"), optional_view(scale, "scale"), optional_view(bias, "bias"),
               view(y, "y"), {.dim = dim, .epsilon = epsilon}, {}, execution_of(execution));
  });
}

attn_status attn_gelu(const attn_tensor* x, const attn_tensor* y, attn_gelu_form form,
                      const attn_execution* execution) {
  return guarded([&] {
    if (form != ATTN_GELU_ERF && form != ATTN_GELU_TANH) reject_enumerator("form", form);
    gelu(view(x, "x"), view(y, "y"), form == ATTN_GELU_ERF ? GeluForm::erf : GeluForm::tanh,
         execution_of(execution));
  });
}

attn_status attn_silu(const attn_tensor* x, const attn_tensor* y, const attn_execution* execution) {
  return guarded([&] { silu(view(x, "x"), view(y, "y"), execution_of(execution)); });
}

attn_status attn_swiglu(const attn_tensor* gate, const attn_tensor* up, const attn_tensor* y,
                        const attn_execution* execution) {
  return guarded(
      [&] { swiglu(view(gate, "gate"), view(up, "up"), view(y, "y"), execution_of(execution)); });
}

attn_status attn_rope(const attn_tensor* x, const attn_rope_tables* tables,
                      const attn_tensor* position_ids, const attn_tensor* y,
                      const attn_execution* execution) {
  return guarded([&] {
    required(tables, "tables");
    rope(view(x, "x"), *optional_rope(tables), optional_view(position_ids, "position_ids"),
         view(y, "y"), execution_of(execution));
  });
}
