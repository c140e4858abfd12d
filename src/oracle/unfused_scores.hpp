// The unfused baseline between Q K^T and the normalizer: score transforms and masks, as loops over
// the whole score matrix.
#pragma once

#include "oracle/unfused_call.hpp"

namespace attn::detail {

/// Replaces S by tanh(softmax_scale * S / softcap). It covers the whole matrix at once, because
/// oneDNN's tanh, or the kernels', is many times faster than a loop over libm's.
void apply_tanh(const UnfusedCall& call);

/// Applies all other score transforms and masks, and writes row_max. Returns whether the
/// probability of any key will be 0 because the key is hidden or its score is -inf.
bool transform_scores(const UnfusedCall& call);

}  // namespace attn::detail
