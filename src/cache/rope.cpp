#include "cache/rope.hpp"

#include "tensor/checks.hpp"

namespace attn {
namespace {

/// A row of a table.
struct Factors {
  const float* data;
  std::int64_t stride;

  float operator[](std::int64_t n) const noexcept { return data[n * stride]; }
};

Factors factors_of(const TensorView& table, std::int64_t position) noexcept {
  return {static_cast<const float*>(table.data) + position * table.strides[0], table.strides[1]};
}

void check_table(const char* name, const TensorView& table) {
  require_rank(name, table, 2, "[positions, rotary_dim / 2]");
  require_type(name, table, DType::f32);
  require_data(name, table);
}

}  // namespace

void check_rope(const Rope& rope, std::int64_t head_dim, std::int64_t positions) {
  check_table("rope.cos", rope.cos);
  check_table("rope.sin", rope.sin);
  require_extent("rope.sin", rope.sin, 0, rope.cos.shape[0], "positions of rope.cos");
  require_extent("rope.sin", rope.sin, 1, rope.cos.shape[1], "rotary_dim / 2 of rope.cos");
  if (rope.cos.shape[1] > head_dim / 2) {
    reject(fmt::format("rope.cos has shape {}: dim 1 is {}, but it needs at most {} (half of head_dim = {})", rope.cos.shape.to_string(),
                       rope.cos.shape[1], head_dim / 2, head_dim));
  }
  if (rope.cos.shape[0] < positions) {
    reject(fmt::format("rope.cos has shape {}: dim 0 is {}, but it needs at least {} (a row for each position up to the last key's)",
                       rope.cos.shape.to_string(), rope.cos.shape[0], positions));
  }
}

void rotate(const Rope& rope, std::int64_t position, float* row) noexcept {
  const Factors cos = factors_of(rope.cos, position);
  const Factors sin = factors_of(rope.sin, position);
  const std::int64_t pairs = rope.cos.shape[1];
  const std::int64_t pair_step = rope.interleaved ? 2 : 1;
  const std::int64_t partner = rope.interleaved ? 1 : pairs;
  for (std::int64_t n = 0; n < pairs; ++n) {
    float& x = row[n * pair_step];
    float& y = row[n * pair_step + partner];
    const float turned = x * cos[n] - y * sin[n];
    y = x * sin[n] + y * cos[n];
    x = turned;
  }
}

}  // namespace attn
