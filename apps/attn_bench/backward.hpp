// Times the gradients of one case.
#pragma once

#include <attn/attn.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "measure.hpp"

namespace attn::apps::bench {

struct Timed {
  std::vector<double> seconds;  // of calls, in ascending order
  std::size_t scratch_bytes = 0;
  std::string path;
};

/// One row of [batch, heads, rows, dim], as [1, 1, 1, dim].
template <class Void>
BasicTensorView<Void> row_of(const BasicTensorView<Void>& tensor, std::int64_t batch,
                             std::int64_t head, std::int64_t row) {
  return tensor.sliced(0, batch, batch + 1).sliced(1, head, head + 1).sliced(2, row, row + 1);
}

/// Runs the forward, verifies the gradients in a sample of rows and keys, and times the backward
/// alone. `tensors` have plain keys and O. Throws attn::Error for a wrong gradient.
Timed time_backward(const Case& shape, const Settings& settings, AttentionTensors tensors,
                    const AttentionOptions& options, const Execution& execution);

}  // namespace attn::apps::bench
