// How far the engine's results may be from the true ones.
//
// Rounding in float costs any program something; how much depends on the inputs. PlainFloat makes
// the same call with plain loops, and its error e is what rounding costs there. The engine adds in
// another order and has its own exp, therefore it may err by
//
//     tolerance of O = 2 e + b + 4 eps max|V| s + half an ulp of max|O| + p
//
//     b           how far the rounding of the scores may move O, the greatest of the rows that
//                 PlainFloat computes (PlainFloat::Row::out_spread). e has this error too, but as
//                 chance had it there, and some normalizers pass it on undamped or enlarged.
//     eps         float's, 2^-23. 4 eps max|V| is a floor, where e is small by chance. O is an
//                 average of values, so max|V| is its scale.
//     half an ulp of bf16 or f16, if O is stored in that type; else 0
//     s, p        what the rounding of P costs (ProbabilityRounding)
//
//     tolerance of lse = 2 e + b + 4 eps max(1, max|lse|), with the e and b of lse
//
// O may also be off by kv_len / 2 + 4 times the smallest float, which is seen where V is subnormal.
//
// Errors that are not finite (NaN or inf in either program) say nothing about rounding and are left
// out of e.
#pragma once

#include <attn/attention.hpp>

#include <string>

namespace attn::detail {

/// The engine rounds P to bf16 where Q is bf16, and K and V are bf16 or i8. Probabilities may also
/// sum to more than 1 (sigmoid), and then O exceeds max|V|.
enum class ProbabilityRounding {
  /// PlainFloat divides after the product with V and rounds exponentials to the type of V, as the
  /// engine does, so that e contains the cost: s = 1, p = 0. For calls with many elements of O.
  /// Where all rows would take long, e is measured on a sample of them, spread over batch, heads
  /// and positions.
  measured,
  /// PlainFloat divides before and rounds nothing to 16 bits; the cost is bounded. s is the largest
  /// sum of a row's probabilities, at least 1. If the engine rounds P, each probability may be off
  /// by 2^-8 of itself, so p = 2^-8 max(P |V|). For small calls, where the e of rounded
  /// exponentials can be small by chance. It measures e on all rows.
  bounded,
};

/// The largest absolute errors of O and of lse that pass.
struct Tolerance {
  double out = 0;
  double lse = 0;
  std::string derivation{};  // one line
  double plain_error = 0;    // e of O
  double largest_value = 0;  // max|V| s
};

/// `call` is dense and holds the inputs of the program under test, which may be K and V as a cache
/// rounded them. `reference` holds the true results of the call: O in f64, and lse of softmax.
/// `out_dtype` is the type that the program under test stores O in, `kv_dtype` the one in which it
/// has K and V: i8 where those of the call are already multiplied by their scales.
Tolerance derive_tolerance(const AttentionTensors& call, const AttentionTensors& reference,
                           const AttentionOptions& options, DType out_dtype, DType kv_dtype,
                           ProbabilityRounding rounding);

}  // namespace attn::detail
