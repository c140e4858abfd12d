// attn_bench softmax: the functions along one dim, over shapes that caches hold and shapes that
// they do not.
#pragma once

#include "measure.hpp"

namespace attn::apps::bench {

/// A table, or one JSON object a line. Throws attn::Error if a result is wrong.
void measure_softmax(const Settings& settings, bool json);

}  // namespace attn::apps::bench
