#include "iterate/elements.hpp"

#include <algorithm>

namespace attn::detail {

Row Elements::even_row(std::int64_t first, std::int64_t& count) const noexcept {
  const ElementOffsets::EvenRun run = offsets_.even_run(first);
  count = std::min(count, run.count);
  return {address_at(tensor_, offsets_.offset(first)), tensor_.dtype, run.stride};
}

float* Elements::in_place(std::int64_t first, std::int64_t count) const noexcept {
  std::int64_t even = count;
  const Row row = even_row(first, even);
  return even == count && row.dense_f32() ? row.floats() : nullptr;
}

void Elements::read(std::int64_t first, std::int64_t count, const kernels::Kernels& kernels,
                    float* to) const noexcept {
  while (count > 0) {
    std::int64_t even = count;
    const Row row = even_row(first, even);
    read_row(row, even, kernels, to);
    first += even;
    to += even;
    count -= even;
  }
}

const float* Elements::as_floats(std::int64_t first, std::int64_t count,
                                 const kernels::Kernels& kernels, float* staging) const noexcept {
  if (const float* const there = in_place(first, count)) return there;
  read(first, count, kernels, staging);
  return staging;
}

void Elements::write(const float* values, std::int64_t first, std::int64_t count,
                     const kernels::Kernels& kernels) const noexcept {
  while (count > 0) {
    std::int64_t even = count;
    const Row row = even_row(first, even);
    write_row(values, even, kernels, row);
    first += even;
    values += even;
    count -= even;
  }
}

float Elements::read_one(std::int64_t index, const kernels::Kernels& kernels) const noexcept {
  float value = 0;
  read(index, 1, kernels, &value);
  return value;
}

void Elements::write_one(float value, std::int64_t index,
                         const kernels::Kernels& kernels) const noexcept {
  write(&value, index, 1, kernels);
}

}  // namespace attn::detail
