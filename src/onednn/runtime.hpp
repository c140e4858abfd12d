// The engine, the memory and the errors of oneDNN, for the source files of this folder.
#pragma once

#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <cstddef>
#include <new>
#include <utility>

#include "tensor/memory.hpp"

namespace attn::onednn {

/// oneDNN's handle of the processor. All threads share it.
inline const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

inline dnnl::memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

/// oneDNN's name for panels of 64 columns (packed_matmul.hpp).
inline dnnl::memory::format_tag panel_tag(DType operands) {
  return operands == DType::bf16 ? dnnl::memory::format_tag::BA16a64b2a
                                 : dnnl::memory::format_tag::BA16a64b;
}

/// Throws std::bad_alloc unless there is memory for the kernels of a primitive. oneDNN 2.x writes
/// machine code through a null pointer where it cannot allocate memory for it.
inline void require_memory_for_kernels() {
  constexpr std::size_t several_times_the_largest = std::size_t{16} << 20;
  if (!detail::can_map(several_times_the_largest)) throw std::bad_alloc();
}

/// Runs f. If oneDNN throws, this throws std::bad_alloc where memory ran out, else
/// Error(unsupported) with a message that contains describe(), the name of the operation.
template <class Describe, class F>
void translating_errors(Describe&& describe, F&& f) {
  try {
    std::forward<F>(f)();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
    throw Error(
        ErrorCode::unsupported,
        fmt::format("oneDNN cannot run {}: {}", std::forward<Describe>(describe)(), error.what()));
  }
}

}  // namespace attn::onednn
