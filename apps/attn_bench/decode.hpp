// attn_bench --decode: one query for each sequence against all of its keys, over lengths, batches
// and groups of heads.
#pragma once

#include <functional>

#include "measure.hpp"

namespace attn::apps::bench {

/// Measures each case that leaves most of the memory alone, and says which ones it skips. `each`
/// gets every result; left out, a table is printed.
void measure_decode(const Case& model, const Settings& settings, const Peak& peak,
                    const std::function<void(const Case&, const Result&)>& each = {});

}  // namespace attn::apps::bench
