// Functions of tensors in C: the softmax family (softmax.hpp), losses (loss.hpp), draws
// (sample.hpp), norms, activations (functional.hpp) and rotary positions (rope.hpp).
//
// Tensors are f32, bf16 or f16 with any strides where nothing else is said; results are computed in
// f32 and rounded once. `dim` counts from the last dim if it is negative. The first output may be
// the memory of the first input of its shape; otherwise outputs overlap no input. execution may be
// NULL, as everywhere.
#pragma once

#include <attn/attn.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- Along one dim -----------------------------------------------------------------------------
//
// y has the shape of x, and what a slice has one of has it without dim.

/// y = softmax(x / temperature); temperature > 0.
ATTN_API attn_status attn_softmax(const attn_tensor* x, const attn_tensor* y, int32_t dim,
                                  float temperature, const attn_execution* execution);
ATTN_API attn_status attn_log_softmax(const attn_tensor* x, const attn_tensor* y, int32_t dim,
                                      float temperature, const attn_execution* execution);
/// out: the shape of x without dim.
ATTN_API attn_status attn_logsumexp(const attn_tensor* x, const attn_tensor* out, int32_t dim,
                                    float temperature, const attn_execution* execution);
/// dx from dy and the y that the forward wrote.
ATTN_API attn_status attn_softmax_backward(const attn_tensor* dy, const attn_tensor* y,
                                           const attn_tensor* dx, int32_t dim, float temperature,
                                           const attn_execution* execution);
ATTN_API attn_status attn_log_softmax_backward(const attn_tensor* dy, const attn_tensor* y,
                                               const attn_tensor* dx, int32_t dim,
                                               float temperature, const attn_execution* execution);
ATTN_API attn_status attn_logsumexp_backward(const attn_tensor* dout, const attn_tensor* x,
                                             const attn_tensor* out, const attn_tensor* dx,
                                             int32_t dim, float temperature,
                                             const attn_execution* execution);

/// tau (f32) and support (i64), of the shape of x without dim, may be NULL.
ATTN_API attn_status attn_sparsemax(const attn_tensor* x, const attn_tensor* y, int32_t dim,
                                    const attn_tensor* tau, const attn_tensor* support,
                                    const attn_execution* execution);
ATTN_API attn_status attn_entmax15(const attn_tensor* x, const attn_tensor* y, int32_t dim,
                                   const attn_tensor* tau, const attn_tensor* support,
                                   const attn_execution* execution);
/// alpha >= 1.
ATTN_API attn_status attn_entmax(const attn_tensor* x, const attn_tensor* y, float alpha,
                                 int32_t dim, const attn_tensor* tau, const attn_tensor* support,
                                 const attn_execution* execution);
ATTN_API attn_status attn_sparsemax_backward(const attn_tensor* dy, const attn_tensor* y,
                                             const attn_tensor* dx, int32_t dim,
                                             const attn_execution* execution);
ATTN_API attn_status attn_entmax_backward(const attn_tensor* dy, const attn_tensor* y,
                                          const attn_tensor* dx, float alpha, int32_t dim,
                                          const attn_execution* execution);
/// dalpha: the shape of y without dim.
ATTN_API attn_status attn_entmax_backward_alpha(const attn_tensor* dy, const attn_tensor* y,
                                                const attn_tensor* dalpha, float alpha, int32_t dim,
                                                const attn_execution* execution);

// ---- Losses ------------------------------------------------------------------------------------
//
// x is [N, C, d1, ...] or [C] with C classes. A target is classes, i32 or i64 [N, d1, ...], or
// distributions in the shape of x. loss is f32 [N, d1, ...] with ATTN_REDUCTION_NONE, else of rank
// 0; dloss has its shape. `options` may be NULL.

typedef int32_t attn_reduction;
enum { ATTN_REDUCTION_NONE = 0, ATTN_REDUCTION_SUM = 1, ATTN_REDUCTION_MEAN = 2 };

typedef struct attn_loss_options attn_loss_options;
ATTN_API attn_status attn_loss_options_create(attn_loss_options** options);
ATTN_API attn_status attn_loss_options_destroy(attn_loss_options* options);
/// f32 [C], kept as a view: its data has to live as long as the options are used. May be NULL.
ATTN_API attn_status attn_loss_options_set_weight(attn_loss_options* options,
                                                  const attn_tensor* weight);
ATTN_API attn_status attn_loss_options_set_ignore_index(attn_loss_options* options,
                                                        int64_t ignore_index);
/// In 0..1.
ATTN_API attn_status attn_loss_options_set_label_smoothing(attn_loss_options* options,
                                                           float label_smoothing);
/// Default: ATTN_REDUCTION_MEAN.
ATTN_API attn_status attn_loss_options_set_reduction(attn_loss_options* options,
                                                     attn_reduction reduction);

/// log_p holds log-probabilities.
ATTN_API attn_status attn_nll_loss(const attn_tensor* log_p, const attn_tensor* target,
                                   const attn_tensor* loss, const attn_loss_options* options,
                                   const attn_execution* execution);
ATTN_API attn_status attn_cross_entropy(const attn_tensor* x, const attn_tensor* target,
                                        const attn_tensor* loss, const attn_loss_options* options,
                                        const attn_execution* execution);
/// alpha >= 1; 2 is the loss of sparsemax.
ATTN_API attn_status attn_entmax_loss(const attn_tensor* x, const attn_tensor* target,
                                      const attn_tensor* loss, float alpha,
                                      const attn_loss_options* options,
                                      const attn_execution* execution);
ATTN_API attn_status attn_nll_loss_backward(const attn_tensor* dloss, const attn_tensor* target,
                                            const attn_tensor* dlog_p,
                                            const attn_loss_options* options,
                                            const attn_execution* execution);
/// dx may be x.
ATTN_API attn_status attn_cross_entropy_backward(const attn_tensor* dloss, const attn_tensor* x,
                                                 const attn_tensor* target, const attn_tensor* dx,
                                                 const attn_loss_options* options,
                                                 const attn_execution* execution);
ATTN_API attn_status attn_entmax_loss_backward(const attn_tensor* dloss, const attn_tensor* x,
                                               const attn_tensor* target, const attn_tensor* dx,
                                               float alpha, const attn_loss_options* options,
                                               const attn_execution* execution);

// ---- Draws --------------------------------------------------------------------------------------

typedef struct attn_sample_options attn_sample_options;
ATTN_API attn_status attn_sample_options_create(attn_sample_options** options);
ATTN_API attn_status attn_sample_options_destroy(attn_sample_options* options);
/// 0 or more; 0 always draws the greatest logit. Default: 1.
ATTN_API attn_status attn_sample_options_set_temperature(attn_sample_options* options,
                                                         float temperature);
/// 1 or more: keeps the k most probable classes. 0, the default, keeps all.
ATTN_API attn_status attn_sample_options_set_top_k(attn_sample_options* options, int64_t top_k);
/// In 0..1: keeps the most probable classes until their sum reaches top_p.
ATTN_API attn_status attn_sample_options_set_top_p(attn_sample_options* options, float top_p);
/// In 0..1: keeps classes with at least min_p times the greatest probability.
ATTN_API attn_status attn_sample_options_set_min_p(attn_sample_options* options, float min_p);
/// The random numbers, and the number of each row's first draw. Default: 0, 0.
ATTN_API attn_status attn_sample_options_set_seed(attn_sample_options* options, uint64_t seed,
                                                  uint64_t first_draw);
/// Draws from logits [.., classes] to indices, i64 [.., num_samples]. options may be NULL.
ATTN_API attn_status attn_sample(const attn_tensor* logits, const attn_tensor* indices,
                                 const attn_sample_options* options,
                                 const attn_execution* execution);

// ---- Norms, activations, rotary positions -------------------------------------------------------

/// The dims from `dim` on are one row. scale, and bias, broadcast to them; both may be NULL.
ATTN_API attn_status attn_rms_norm(const attn_tensor* x, const attn_tensor* scale,
                                   const attn_tensor* y, int32_t dim, float epsilon,
                                   const attn_execution* execution);
ATTN_API attn_status attn_layer_norm(const attn_tensor* x, const attn_tensor* scale,
                                     const attn_tensor* bias, const attn_tensor* y, int32_t dim,
                                     float epsilon, const attn_execution* execution);

typedef int32_t attn_gelu_form;
enum { ATTN_GELU_ERF = 0, ATTN_GELU_TANH = 1 };
ATTN_API attn_status attn_gelu(const attn_tensor* x, const attn_tensor* y, attn_gelu_form form,
                               const attn_execution* execution);
ATTN_API attn_status attn_silu(const attn_tensor* x, const attn_tensor* y,
                               const attn_execution* execution);
/// y = silu(gate) * up.
ATTN_API attn_status attn_swiglu(const attn_tensor* gate, const attn_tensor* up,
                                 const attn_tensor* y, const attn_execution* execution);

/// y = x [batch, heads, seq, dim], rotated by the tables. position_ids i32 or i64 [batch, seq] may
/// be NULL: 0, 1, ..., seq - 1. Tables [batch, seq, rotary_dim / 2] have a row for each row of x.
ATTN_API attn_status attn_rope(const attn_tensor* x, const attn_rope_tables* tables,
                               const attn_tensor* position_ids, const attn_tensor* y,
                               const attn_execution* execution);

#ifdef __cplusplus
}
#endif
