#include "functional/elements.hpp"

#include <algorithm>

namespace attn::detail {

Row Elements::even_row(std::int64_t first, std::int64_t& count) const noexcept {
  std::int64_t stride = 0;
  count = std::min(count, positions_.even_from(first, stride));
  return {data_ + positions_.offset(first) * static_cast<std::int64_t>(size_of(dtype_)), dtype_,
          stride};
}

float* Elements::in_place(std::int64_t first, std::int64_t count) const noexcept {
  std::int64_t even = count;
  const Row row = even_row(first, even);
  return even == count && row.dense_f32() ? row.floats() : nullptr;
}

void Elements::read(std::int64_t first, std::int64_t count, const kernels::Kernels& kernels,
                    float* to) const noexcept {
  for (std::int64_t even = count; count > 0;
       first += even, to += even, count -= even, even = count) {
    const Row row = even_row(first, even);
    read_row(row, even, kernels, to);
  }
}

void Elements::write(const float* values, std::int64_t first, std::int64_t count,
                     const kernels::Kernels& kernels) const noexcept {
  for (std::int64_t even = count; count > 0;
       first += even, values += even, count -= even, even = count) {
    const Row row = even_row(first, even);
    write_row(values, even, kernels, row);
  }
}

}  // namespace attn::detail
