// The threads that PyTorch computes on.
#pragma once

#include <attn/execution.hpp>

namespace attn::python {

/// PyTorch's OpenMP threads. They spin for milliseconds after each of PyTorch's own operations, on
/// the processors that the library's threads would need for an attention in between. Null where
/// PyTorch runs on other threads, and in a forked process, where OpenMP would wait forever for
/// threads that only the parent has.
Executor* torch_threads() noexcept;

}  // namespace attn::python
