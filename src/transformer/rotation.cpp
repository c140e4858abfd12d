#include "transformer/rotation.hpp"

#include <cstddef>
#include <vector>

#include "functional/rope_angles.hpp"
#include "tensor/indexing.hpp"

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

bool same_lengths(const Rotation::Tokens& tokens, const std::vector<std::int64_t>& counts,
                  const std::vector<std::int64_t>& lengths) {
  if (std::ssize(lengths) != tokens.shape.batch) return false;
  for (std::int64_t entry = 0; entry < tokens.shape.batch; ++entry) {
    const auto n = static_cast<std::size_t>(entry);
    if (counts[n] != tokens.shape.length(entry) || lengths[n] != tokens.length_after(entry))
      return false;
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

std::int64_t Rotation::Tokens::length_after(std::int64_t entry) const {
  if (!kv_lens.absent()) return integer_at(kv_lens, entry);
  return next_position(cache, entry) + shape.length(entry);
}

void Rotation::apply(const MutableTensorView& q, const MutableTensorView& k, const Tokens& tokens,
                     ForwardScratch::Memory& memory, const Execution& execution) const {
  fill_positions(tokens.shape, tokens.cache, memory.positions);
  const Rope tables = tables_ ? tables_->rope() : tables_of(tokens, memory);
  const TensorView ids =
      tables_ ? TensorView(memory.positions.data(), rows_of(tokens.shape)) : TensorView{};
  attn::rope(q, tables, ids, q, execution);
  if (tokens.cache.absent() || !tables_) attn::rope(k, tables, ids, k, execution);
}

/// The tables of these tokens, a row for each. Layers that rotate alike find those of the layer
/// before.
Rope Rotation::tables_of(const Tokens& tokens, ForwardScratch::Memory& memory) const {
  ForwardScratch::Memory::RotatedTokens& rotated = memory.rotated;
  const std::int64_t pairs = rope_pairs(key_.settings, key_.head_dim);
  const Dims rows = rows_of(tokens.shape), shape{rows[0], rows[1], pairs};
  const MutableTensorView cosines = rotated.cos.view(DType::f32, shape),
                          sines = rotated.sin.view(DType::f32, shape);
  const Rope tables{.cos = cosines, .sin = sines, .interleaved = key_.settings.interleaved};
  if (rotated.key == key_ && rotated.positions == memory.positions &&
      same_lengths(tokens, rotated.counts, rotated.lengths))
    return tables;
  rotated.key.reset();  // should anything below throw, nothing is found
  rotated.frequencies.resize(static_cast<std::size_t>(pairs));
  rotated.counts.clear();
  rotated.lengths.clear();
  const double attention_factor = rope_attention_factor(key_.settings);
  auto* cos = static_cast<float*>(cosines.data);
  auto* sin = static_cast<float*>(sines.data);
  for (std::int64_t entry = 0; entry < tokens.shape.batch; ++entry) {
    const std::int64_t first = next_position(tokens.cache, entry),
                       count = tokens.shape.length(entry);
    rotated.counts.push_back(count);
    rotated.lengths.push_back(tokens.length_after(entry));
    fill_rope_frequencies(key_.settings, rotated.lengths.back(), rotated.frequencies);
    for (std::int64_t n = 0; n < count; ++n, cos += pairs, sin += pairs)
      fill_rope_row(rotated.frequencies, attention_factor, first + n, {cos, sin});
  }
  rotated.positions = memory.positions;
  rotated.key = key_;
  return tables;
}

}  // namespace attn::detail
