// How far the engine's gradients may be from the true ones.
//
// As for O (tolerance.hpp), rounding in float costs any program something that depends on the
// inputs. PlainBackward computes the same gradients with plain loops from the same O and lse, and
// its largest error e in a gradient is what rounding costs there. It contains what O and lse have
// lost before: O of bf16 moves delta = sum dout O of a row by up to half an ulp of O times |dout|,
// and with it all of the row's dS, for every program that reads this O. The engine adds in another
// order, therefore
//
//     tolerance of a gradient = 2 e + b + half an ulp of its type at its largest element
//
//     b   how far rounding may move the gradient's elements, the greatest of all. e has this error
//         too, but as chance had it in one program.
//
// b follows from the roundings one by one, each taken for four deviations: eps (2^-23) of a float,
// and 2^-7 of a bf16. A sum of products moves by eps times the sum of their magnitudes, or more
// where they have one sign (PlainDot). With u for how far a number moves:
//
//     u(s)       of a score, as in plain_scores()
//     u(P)       P (u(s) + eps (1 + |s|)), since the argument of exp is rounded as well, and in all
//                keys of a row at once eps |lse| P. Sigmoid, sparsemax and entmax move as their
//                formulas do within u(s). Where a key may enter or leave the support within that,
//                their derivative jumps, and so does b.
//     u(dP)      eps sum |dout V|
//     u(delta)   eps sum |dout O|, the same for all keys of a row
//     u(dS)      u(P) |dP - delta + dlse| and P u(dP). In dP - delta + dlse the terms nearly cancel
//                where dout is nearly constant along V; the movements of dP and delta remain, and
//                b is then large beside dS.
//     the products  P and dS are rounded to bf16 before they are multiplied where Q, K, V and dout
//                are bf16.
//
// Movements of different keys and rows are independent, so that a sum over them moves by the root
// of the sum of their squares. What moves a whole row (delta, lse) is summed over its keys first.
#pragma once

#include <attn/attention_backward.hpp>

#include <string>

namespace attn::detail {

/// Of one gradient.
struct GradientTolerance {
  double allowed = 0;      // the largest absolute error that passes
  double plain_error = 0;  // e
  double spread = 0;       // b
  double largest = 0;      // the largest magnitude of the true gradient
};

struct BackwardTolerance {
  GradientTolerance dq{}, dk{}, dv{}, dmask{}, dalibi{}, dsinks{};
  std::string derivation{};  // one line
};

/// `call` is dense and has the inputs, and O and lse, of the program under test. `gradients` has
/// its dout and dlse; of the others, only types and presence count. `reference` has the true
/// gradients in f64. Where all heads would take long and no gradient is shared between them, e and
/// b are those of a sample of KV heads.
BackwardTolerance derive_backward_tolerance(const AttentionTensors& call,
                                            const AttentionGradients& gradients,
                                            const AttentionGradients& reference,
                                            const AttentionOptions& options);

}  // namespace attn::detail
