#include "oracle/plain_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "oracle/row_access.hpp"

namespace attn::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

using Floats = std::vector<float>;

const float* row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                    std::int64_t position) {
  const Dims& shape = tensor.shape();
  return tensor.data<float>() + ((batch * shape[1] + head) * shape[2] + position) * shape[3];
}

float dot(const float* a, const float* b, std::int64_t count) {
  float sum = 0;
  for (std::int64_t n = 0; n < count; ++n) sum += a[n] * b[n];
  return sum;
}

void round_to(DType dtype, Floats& values) {
  if (dtype != DType::bf16 && dtype != DType::f16) return;
  const Dims shape{static_cast<std::int64_t>(values.size())};
  const Tensor rounded = copy_as({values.data(), shape}, dtype);
  copy_into(rounded.view(), {values.data(), shape});
}

std::int64_t kv_length(const AttentionTensors& tensors, std::int64_t batch) {
  return tensors.kv_lens.absent() ? tensors.k.shape[2] : integer_at(tensors.kv_lens, batch);
}

/// A row with a run of all keys.
KeyRun all_keys(const AttentionTensors& tensors, const AttentionOptions& options,
                std::int64_t batch, std::int64_t q_head, std::int64_t q_index) {
  const std::int64_t bottom_right = kv_length(tensors, batch) - tensors.q.shape[2];
  KeyRun row{};
  row.batch = batch;
  row.q_head = q_head;
  row.kv_head = q_head / (tensors.q.shape[1] / tensors.k.shape[1]);
  row.q_index = q_index;
  row.q_position = q_index + options.query_position().offset.value_or(bottom_right);
  row.count = tensors.k.shape[2];
  return row;
}

/// The dense mask of a row: the numbers to add, or 0 (hidden) and 1 (visible) of a boolean mask.
/// Empty without a mask, and shorter than the row where the mask is.
Floats mask_row(const AttentionTensors& tensors, const KeyRun& row) {
  if (tensors.mask.absent()) return {};
  const std::int64_t index[] = {row.batch, row.q_head, row.q_index};
  TensorView mask = tensors.mask;
  const int last = mask.rank() - 1;
  for (int dim = 0; dim < last; ++dim) {
    const std::int64_t at = mask.shape[dim] == 1 ? 0 : index[3 - last + dim];
    mask = mask.sliced(dim, at, at + 1);
  }
  const bool broadcast = mask.shape[last] == 1;
  const std::int64_t count = broadcast ? row.count : mask.shape[last];
  Floats values(static_cast<std::size_t>(count));
  copy_into({mask.data, mask.dtype, {count}, {broadcast ? 0 : mask.strides[last]}},
            {values.data(), {count}});
  return values;
}

std::vector<bool> visible_keys(const AttentionTensors& tensors, const AttentionOptions& options,
                               const KeyRun& row, const Floats& mask) {
  const bool masked = !tensors.mask.absent();
  const float hidden_by_mask = tensors.mask.dtype == DType::boolean ? 0 : -infinity;
  const std::int64_t length = kv_length(tensors, row.batch);
  const auto mask_length = static_cast<std::int64_t>(mask.size());
  const KeyRun range =
      visible_range(row, options.causal.has_value(), options.window.value_or(Window{}),
                    masked ? std::min(length, mask_length) : length);
  const auto by_mask_mod = std::make_unique<bool[]>(static_cast<std::size_t>(row.count));
  if (options.mask_mod && row.count > 0) options.mask_mod(row, by_mask_mod.get());
  std::vector<bool> visible(static_cast<std::size_t>(row.count), false);
  for (std::int64_t j = range.key_begin; j < range.key_begin + range.count; ++j) {
    visible[j] = !(masked && mask[j] == hidden_by_mask) && (!options.mask_mod || by_mask_mod[j]);
  }
  return visible;
}

bool is_hidden(float score) { return score == -infinity; }

/// NaN if any score is NaN.
float maximum(const Floats& scores) {
  float largest = -infinity;
  for (const float score : scores) largest = std::isnan(score) || score > largest ? score : largest;
  return largest;
}

/// Finds tau by bisection.
void entmax(float alpha, Floats& scores) {
  const float largest = maximum(scores);
  const auto power = [alpha](float above) {
    return above > 0 ? std::pow(above, 1 / (alpha - 1)) : above <= 0 ? 0.f : above;
  };
  for (float& score : scores) score = (alpha - 1) * (score - largest);
  float low = -1, high = 0;
  for (int halving = 0; halving < 40; ++halving) {
    const float tau = (low + high) / 2;
    float sum = 0;
    for (const float score : scores) sum += power(score - tau);
    (sum >= 1 ? low : high) = tau;
  }
  for (float& score : scores) score = power(score - low);
}

/// The probabilities of another normalizer than softmax. The sink is one more score.
Floats normalized(const Normalizer& normalizer, Floats scores, float sink, std::int64_t kv_len) {
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    const float bias = normalizer.bias().value_or(-std::log(static_cast<float>(kv_len)));
    for (float& score : scores) score = 1 / (1 + std::exp(-(score + bias)));
    return scores;
  }
  scores.push_back(sink);
  entmax(normalizer.alpha(), scores);
  scores.pop_back();
  return scores;
}

}  // namespace

std::vector<bool> visible_keys(const AttentionTensors& tensors, const AttentionOptions& options,
                               std::int64_t batch, std::int64_t q_head, std::int64_t q_index) {
  const KeyRun row = all_keys(tensors, options, batch, q_head, q_index);
  return visible_keys(tensors, options, row, mask_row(tensors, row));
}

PlainFloat::PlainFloat(const AttentionTensors& tensors, const AttentionOptions& options,
                       Division division)
    : tensors_(tensors),
      options_(options),
      division_(division),
      q_(copy_as(tensors.q, DType::f32)),
      k_(copy_as(tensors.k, DType::f32)),
      v_(copy_as(tensors.v, DType::f32)) {}

std::vector<float> PlainFloat::masked_scores(const KeyRun& row) const {
  const std::int64_t head_dim = q_.shape()[3];
  const float scale = options_.softmax_scale.value_or(1 / std::sqrt(static_cast<float>(head_dim)));
  const float* const q = row_of(q_, row.batch, row.q_head, row.q_index);
  const float slope = per_head(tensors_.alibi_slopes, row.q_head, 0);
  const Floats mask = mask_row(tensors_, row);
  const bool additive = tensors_.mask.dtype != DType::boolean;

  Floats scores(static_cast<std::size_t>(row.count));
  for (std::int64_t j = 0; j < row.count; ++j) {
    float score = scale * dot(q, row_of(k_, row.batch, row.kv_head, j), head_dim);
    if (options_.softcap) score = *options_.softcap * std::tanh(score / *options_.softcap);
    if (!tensors_.alibi_slopes.absent())
      score -= slope * static_cast<float>(std::abs(row.q_position - j));
    if (additive && j < static_cast<std::int64_t>(mask.size())) score += mask[j];
    scores[j] = score;
  }
  if (options_.score_mod && row.count > 0) options_.score_mod(row, scores.data());
  const std::vector<bool> visible = visible_keys(tensors_, options_, row, mask);
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (!visible[j]) scores[j] = -infinity;
  }
  return scores;
}

PlainFloat::Row PlainFloat::row(std::int64_t batch, std::int64_t q_head,
                                std::int64_t q_index) const {
  const KeyRun run = all_keys(tensors_, options_, batch, q_head, q_index);
  const Floats scores = masked_scores(run);
  const float sink = per_head(tensors_.sinks, q_head, -infinity);
  Row row{Floats(static_cast<std::size_t>(v_.shape()[3])), sink};
  if (std::all_of(scores.begin(), scores.end(), is_hidden)) return row;
  if (options_.normalizer != Normalizer::softmax()) {
    const std::int64_t length = kv_length(tensors_, batch);
    row.out = output_row(run, scores, normalized(options_.normalizer, scores, sink, length));
    return row;
  }
  const float largest = maximum(scores);
  const float row_max = std::isnan(largest) ? largest : std::max(largest, sink);
  Floats exponentials(scores.size());
  float row_sum = std::exp(sink - row_max);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    exponentials[j] = is_hidden(scores[j]) ? 0 : std::exp(scores[j] - row_max);
    row_sum += exponentials[j];
  }
  if (division_ == Division::before_values) {
    for (float& exponential : exponentials) exponential /= row_sum;
    row.out = output_row(run, scores, exponentials);
  } else {
    round_to(tensors_.v.dtype, exponentials);
    row.out = output_row(run, scores, exponentials);
    for (float& value : row.out) value /= row_sum;
  }
  row.lse = row_max + std::log(row_sum);
  return row;
}

/// Values of hidden keys are not read, because V may hold anything there.
std::vector<float> PlainFloat::output_row(const KeyRun& row, const std::vector<float>& scores,
                                          const std::vector<float>& probabilities) const {
  Floats out(static_cast<std::size_t>(v_.shape()[3]));
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (is_hidden(scores[j])) continue;
    const float* const v = row_of(v_, row.batch, row.kv_head, j);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += probabilities[j] * v[d];
  }
  return out;
}

}  // namespace attn::detail
