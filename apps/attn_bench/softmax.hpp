// attn_bench softmax: times the softmax family along one dim, on shapes that fit into caches and on
// shapes that do not.
#pragma once

#include "measure.hpp"

namespace attn::apps::bench {

/// Prints a table, or one JSON object a line. Throws attn::Error if a result is wrong.
void measure_softmax(const Settings& settings, bool json);

}  // namespace attn::apps::bench
