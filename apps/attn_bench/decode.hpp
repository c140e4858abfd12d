// attn_bench --decode: times one query for each sequence with all of its keys, for several lengths,
// batches and group sizes.
#pragma once

#include <functional>

#include "measure.hpp"

namespace attn::apps::bench {

/// Measures each case that needs only a small part of the memory, and prints which ones it skips.
/// `each` is called with every result; if it is empty, a table is printed.
void measure_decode(const Case& model, const Settings& settings, const Peak& peak,
                    const std::function<void(const Case&, const Result&)>& each = {});

}  // namespace attn::apps::bench
