#include "transformer/rotation.hpp"

#include <cstddef>
#include <vector>

#include "functional/rope_angles.hpp"

namespace attn::detail {
namespace {

/// The positions of the new tokens, in the order of their rows.
void fill_positions(const TokenShape& tokens, const CacheRef& cache,
                    std::vector<std::int64_t>& positions) {
  positions.resize(static_cast<std::size_t>(tokens.count()));
  auto* next = positions.data();
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t first = next_position(cache, entry);
    for (std::int64_t n = 0; n < tokens.length(entry); ++n) *next++ = first + n;
  }
}

bool same_lengths(const TokenShape& tokens, const std::vector<std::int64_t>& lengths) {
  if (std::ssize(lengths) != tokens.batch) return false;
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    if (lengths[static_cast<std::size_t>(entry)] != tokens.length(entry)) return false;
  }
  return true;
}

/// The rows of tokens as rope() takes them.
Dims rows_of(const TokenShape& tokens) {
  return tokens.ragged() ? Dims{1, tokens.count()} : Dims{tokens.batch, tokens.seq};
}

}  // namespace

Rotation::Rotation(const RopeSettings& settings, std::int64_t head_dim, std::int64_t max_positions,
                   ForwardScratch::Memory& memory)
    : key_{settings, head_dim, max_positions} {
  static_cast<void>(rope_pairs(settings, head_dim));  // throws for settings that do not fit
  if (!depends_on_length(settings)) tables_ = memory.rope_tables(key_);
}

std::optional<Rope> Rotation::append_rope() const {
  return tables_ ? std::optional(tables_->rope()) : std::nullopt;
}

void Rotation::apply(const MutableTensorView& q, const MutableTensorView& k,
                     const TokenShape& tokens, const CacheRef& cache,
                     ForwardScratch::Memory& memory, const Execution& execution) const {
  fill_positions(tokens, cache, memory.positions);
  const Rope tables = tables_ ? tables_->rope() : tables_of(tokens, cache, memory);
  const TensorView ids =
      tables_ ? TensorView(memory.positions.data(), rows_of(tokens)) : TensorView{};
  attn::rope(q, tables, ids, q, execution);
  if (cache.absent() || !tables_) attn::rope(k, tables, ids, k, execution);
}

/// The tables of these tokens, a row for each. Layers that rotate alike find those of the layer
/// before.
Rope Rotation::tables_of(const TokenShape& tokens, const CacheRef& cache,
                         ForwardScratch::Memory& memory) const {
  ForwardScratch::Memory::RotatedTokens& rotated = memory.rotated;
  const std::int64_t pairs = rope_pairs(key_.settings, key_.head_dim);
  const Dims rows = rows_of(tokens), shape{rows[0], rows[1], pairs};
  const Rope tables{.cos = rotated.cos.view(DType::f32, shape),
                    .sin = rotated.sin.view(DType::f32, shape),
                    .interleaved = key_.settings.interleaved};
  if (rotated.key == key_ && rotated.positions == memory.positions &&
      same_lengths(tokens, rotated.lengths))
    return tables;
  rotated.key.reset();  // should anything below throw, nothing is found
  rotated.frequencies.resize(static_cast<std::size_t>(pairs));
  const double attention_factor = rope_attention_factor(key_.settings);
  auto* cos = static_cast<float*>(rotated.cos.view(DType::f32, shape).data);
  auto* sin = static_cast<float*>(rotated.sin.view(DType::f32, shape).data);
  rotated.lengths.clear();
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t first = next_position(cache, entry), count = tokens.length(entry);
    rotated.lengths.push_back(count);
    fill_rope_frequencies(key_.settings, first + count, rotated.frequencies);
    for (std::int64_t n = 0; n < count; ++n, cos += pairs, sin += pairs)
      fill_rope_row(rotated.frequencies, attention_factor, first + n, {cos, sin});
  }
  rotated.positions = memory.positions;
  rotated.key = key_;
  return tables;
}

}  // namespace attn::detail
