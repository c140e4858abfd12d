#include "oracle/plain_scores.hpp"

#include <memory>

#include "oracle/block_answers.hpp"
#include "oracle/row_access.hpp"

namespace attn::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float eps = std::numeric_limits<float>::epsilon();

using Floats = std::vector<float>;

/// The dense mask of a row: the numbers to add, or 0 (hidden) and 1 (visible) of a boolean mask.
/// Empty without a mask, and shorter than the row where the mask ends before. Keys before its first
/// column are visible, and nothing is added to their scores.
Floats mask_row(const AttentionTensors& tensors, const AttentionOptions& options,
                const KeyRun& row) {
  if (tensors.mask.absent()) return {};
  const std::int64_t index[] = {row.batch, row.q_head, row.q_index};
  TensorView mask = tensors.mask;
  const int last = mask.rank() - 1;
  for (int dim = 0; dim < last; ++dim) {
    const std::int64_t at = mask.shape[dim] == 1 ? 0 : index[3 - last + dim];
    mask = mask.sliced(dim, at, at + 1);
  }
  const std::int64_t first = plain_first_key(tensors, options, row.batch);
  mask = mask.sliced(last, std::max<std::int64_t>(0, -first), mask.shape[last]);
  const std::int64_t before = std::max<std::int64_t>(0, first);
  const bool broadcast = options.mask_keys == MaskKeys::first && mask.shape[last] == 1;
  const std::int64_t count = broadcast ? row.count : mask.shape[last];
  Floats values(static_cast<std::size_t>(before + count), mask.dtype == DType::boolean ? 1.f : 0.f);
  copy_into({mask.data, mask.dtype, {count}, {broadcast ? 0 : mask.strides[last]}},
            {values.data() + before, {count}});
  return values;
}

std::vector<bool> visible_keys(const AttentionTensors& tensors, const AttentionOptions& options,
                               const KeyRun& row, const Floats& mask) {
  const bool masked = !tensors.mask.absent();
  const bool boolean = tensors.mask.dtype == DType::boolean;
  const float hidden_by_mask = boolean ? 0 : -infinity;
  const std::int64_t length = plain_kv_length(tensors, row.batch);
  const auto mask_length = static_cast<std::int64_t>(mask.size());
  const KeyRun range =
      visible_range(row, options.causal.has_value(), options.window.value_or(Window{}),
                    masked ? std::min(length, mask_length) : length);
  const auto by_mask_mod = std::make_unique<bool[]>(static_cast<std::size_t>(row.count));
  if (options.mask_mod && row.count > 0) options.mask_mod(row, by_mask_mod.get());
  const BlockAnswers blocks(options, row);
  std::vector<bool> visible(static_cast<std::size_t>(row.count), false);
  for (std::int64_t j = range.key_begin; j < range.key_begin + range.count; ++j) {
    const bool by_mask = masked && mask[j] == hidden_by_mask && (!boolean || blocks.asks_mask(j));
    const bool by_mod = options.mask_mod && !by_mask_mod[j] && blocks.asks_mask_mod(j);
    visible[j] = !by_mask && !by_mod && !blocks.hides(j);
  }
  return visible;
}

}  // namespace

float largest_score(const std::vector<float>& scores) {
  float largest = -infinity;
  for (const float score : scores) largest = std::isnan(score) || score > largest ? score : largest;
  return largest;
}

float PlainDot::spread() const {
  return eps * std::max(magnitude, static_cast<float>(std::sqrt(squares)));
}

PlainDot plain_dot(const float* a, const float* b, std::int64_t count) {
  PlainDot dot;
  for (std::int64_t n = 0; n < count; ++n) {
    dot.sum += a[n] * b[n];
    dot.magnitude += std::abs(a[n] * b[n]);
    dot.squares += double{dot.sum} * dot.sum;
  }
  return dot;
}

const float* float_row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                          std::int64_t position) {
  const Dims& shape = tensor.shape();
  return tensor.data<float>() + ((batch * shape[1] + head) * shape[2] + position) * shape[3];
}

std::int64_t plain_kv_length(const AttentionTensors& tensors, std::int64_t batch) {
  return tensors.kv_lens.absent() ? tensors.k.shape[2] : integer_at(tensors.kv_lens, batch);
}

std::int64_t plain_first_key(const AttentionTensors& tensors, const AttentionOptions& options,
                             std::int64_t batch) {
  if (options.mask_keys == MaskKeys::first) return 0;
  return plain_kv_length(tensors, batch) - tensors.mask.shape[tensors.mask.rank() - 1];
}

KeyRun plain_row(const AttentionTensors& tensors, const AttentionOptions& options,
                 std::int64_t batch, std::int64_t q_head, std::int64_t q_index) {
  const std::int64_t bottom_right = plain_kv_length(tensors, batch) - tensors.q.shape[2];
  KeyRun row{};
  row.batch = batch;
  row.q_head = q_head;
  row.kv_head = q_head / (tensors.q.shape[1] / tensors.k.shape[1]);
  row.q_index = q_index;
  row.q_position = q_index + options.query_position().offset.value_or(bottom_right);
  row.count = tensors.k.shape[2];
  return row;
}

std::vector<bool> visible_keys(const AttentionTensors& tensors, const AttentionOptions& options,
                               std::int64_t batch, std::int64_t q_head, std::int64_t q_index) {
  const KeyRun row = plain_row(tensors, options, batch, q_head, q_index);
  return visible_keys(tensors, options, row, mask_row(tensors, options, row));
}

/// What is added to a product rounds once.
PlainScores plain_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                         const Tensor& q, const Tensor& k, const KeyRun& row) {
  const std::int64_t head_dim = q.shape()[3];
  const float scale = options.softmax_scale.value_or(1 / std::sqrt(static_cast<float>(head_dim)));
  const float* const query = float_row_of(q, row.batch, row.q_head, row.q_index);
  const float alibi = per_head(tensors.alibi_slopes, row.q_head, 0);
  const Floats mask = mask_row(tensors, options, row);
  const bool additive = tensors.mask.dtype != DType::boolean;

  const auto count = static_cast<std::size_t>(row.count);
  PlainScores all{Floats(count), Floats(count), {}, Floats(count, 1.f), Floats(count)};
  for (std::int64_t j = 0; j < row.count; ++j) {
    const PlainDot product = plain_dot(query, float_row_of(k, row.batch, row.kv_head, j), head_dim);
    float score = scale * product.sum;
    float spread = std::abs(scale) * product.spread();
    if (options.softcap) {
      const float capped = std::tanh(score / *options.softcap), slope = 1 - capped * capped;
      const float capped_spread = slope * spread / *options.softcap + eps * std::abs(capped);
      score = *options.softcap * capped;
      spread = spread * slope + eps * std::abs(score);
      all.softcap_slope[j] = slope;
      all.softcap_slope_spread[j] = 2 * std::abs(capped) * capped_spread + eps;
    }
    const auto add = [&](float summand) {
      score += summand;
      spread += eps / 2 * (std::abs(summand) + std::abs(score));
    };
    if (!tensors.alibi_slopes.absent())
      add(-alibi * static_cast<float>(std::abs(row.q_position - j)));
    if (additive && j < static_cast<std::int64_t>(mask.size()) && !is_hidden(mask[j])) add(mask[j]);
    if (additive && j < static_cast<std::int64_t>(mask.size()) && is_hidden(mask[j]))
      score = -infinity;
    all.values[j] = score;
    all.spread[j] = spread;
  }
  all.biased = all.values;
  if (options.score_mod && row.count > 0) options.score_mod(row, all.values.data());
  const std::vector<bool> visible = visible_keys(tensors, options, row, mask);
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (!visible[j]) all.values[j] = -infinity;
  }
  return all;
}

std::vector<float> above_threshold(float alpha, const std::vector<float>& scores) {
  const float largest = largest_score(scores);
  const auto power = [alpha](float above) {
    return above > 0 ? std::pow(above, 1 / (alpha - 1)) : above <= 0 ? 0.f : above;
  };
  Floats above;
  for (const float score : scores) above.push_back((alpha - 1) * (score - largest));
  // Tau is found by bisection. It is a double, as small probabilities are powers of differences
  // from it.
  double low = -1, high = 0;
  for (int halving = 0; halving < 60; ++halving) {
    const double tau = (low + high) / 2;
    float sum = 0;
    for (const float z : above) sum += power(static_cast<float>(z - tau));
    (sum >= 1 ? low : high) = tau;
  }
  for (float& z : above) z = static_cast<float>(z - low);
  return above;
}

}  // namespace attn::detail
