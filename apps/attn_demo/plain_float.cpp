#include "plain_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace attn::demo {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

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

float per_head(const TensorView& values, std::int64_t head, float if_absent) {
  return values.absent() ? if_absent
                         : static_cast<const float*>(values.data)[head * values.strides[0]];
}

void round_to(DType dtype, std::vector<float>& values) {
  if (dtype == DType::f32) return;
  const Dims shape{static_cast<std::int64_t>(values.size())};
  const Tensor rounded = copy_as({values.data(), shape}, dtype);
  copy_into(rounded.view(), {values.data(), shape});
}

float largest_score(const std::vector<float>& scores) {
  float largest = -infinity;
  for (const float score : scores) largest = std::isnan(score) || score > largest ? score : largest;
  return largest;
}

/// tau by halving the interval that it lies in.
void entmax(float alpha, std::vector<float>& scores) {
  const float largest = largest_score(scores);
  const auto weight = [alpha](float above) {
    return above > 0 ? std::pow(above, 1 / (alpha - 1)) : above <= 0 ? 0.f : above;
  };
  for (float& score : scores) score = (alpha - 1) * (score - largest);
  float low = -1, high = 0;
  for (int halving = 0; halving < 40; ++halving) {
    const float tau = (low + high) / 2;
    float sum = 0;
    for (const float score : scores) sum += weight(score - tau);
    (sum >= 1 ? low : high) = tau;
  }
  for (float& score : scores) score = weight(score - low);
}

/// A sink is one more score.
std::vector<float> weights_of(const Normalizer& normalizer, std::vector<float> scores, float sink,
                              std::int64_t kv_len) {
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

PlainFloat::PlainFloat(const AttentionTensors& tensors, const AttentionOptions& options)
    : tensors_(tensors),
      options_(options),
      q_(copy_as(tensors.q, DType::f32)),
      k_(copy_as(tensors.k, DType::f32)),
      v_(copy_as(tensors.v, DType::f32)) {}

float PlainFloat::largest_value() const {
  float largest = 0;
  const float* const values = v_.data<float>();
  for (std::int64_t n = 0; n < v_.size(); ++n) {
    if (std::isfinite(values[n])) largest = std::max(largest, std::abs(values[n]));
  }
  return largest;
}

std::int64_t PlainFloat::kv_length(std::int64_t batch) const {
  const TensorView& lengths = tensors_.kv_lens;
  if (lengths.absent()) return k_.shape()[2];
  const std::int64_t at = batch * lengths.strides[0];
  return lengths.dtype == DType::i32 ? static_cast<const std::int32_t*>(lengths.data)[at]
                                     : static_cast<const std::int64_t*>(lengths.data)[at];
}

KeyRun PlainFloat::all_keys(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const {
  const std::int64_t offset =
      options_.query_position().offset.value_or(kv_length(batch) - q_.shape()[2]);
  KeyRun row{};
  row.batch = batch;
  row.q_head = q_head;
  row.kv_head = q_head / (q_.shape()[1] / k_.shape()[1]);
  row.q_index = q_index;
  row.q_position = q_index + offset;
  row.count = k_.shape()[2];
  return row;
}

/// What the dense mask adds, or 0 (hidden) and 1 (visible); shorter than the row where the mask is.
/// Empty without a mask.
std::vector<float> PlainFloat::mask_row(const KeyRun& row) const {
  if (tensors_.mask.absent()) return {};
  const std::int64_t index[] = {row.batch, row.q_head, row.q_index};
  TensorView mask = tensors_.mask;
  const int last = mask.rank() - 1;
  for (int dim = 0; dim < last; ++dim) {
    const std::int64_t at = mask.shape[dim] == 1 ? 0 : index[3 - last + dim];
    mask = mask.sliced(dim, at, at + 1);
  }
  // A last dim of 1 serves all keys.
  const bool broadcast = mask.shape[last] == 1;
  const std::int64_t count = broadcast ? row.count : mask.shape[last];
  std::vector<float> values(static_cast<std::size_t>(count));
  copy_into({mask.data, mask.dtype, {count}, {broadcast ? 0 : mask.strides[last]}},
            {values.data(), {count}});
  return values;
}

void PlainFloat::hide(const KeyRun& row, const std::vector<float>& mask,
                      std::vector<float>& scores) const {
  const Window window = options_.window.value_or(Window{});
  const std::int64_t p = row.q_position;
  const std::int64_t length = kv_length(row.batch);
  const float hidden_by_mask = tensors_.mask.dtype == DType::boolean ? 0 : -infinity;
  const auto modded = std::make_unique<bool[]>(scores.size());
  if (options_.mask_mod && row.count > 0) options_.mask_mod(row, modded.get());
  for (std::int64_t j = 0; j < row.count; ++j) {
    const bool beyond = j >= length || (options_.causal && j > p);
    const bool outside =
        (window.left && j < p - *window.left) || (window.right && j > p + *window.right);
    const bool masked = !tensors_.mask.absent() &&
                        (j >= static_cast<std::int64_t>(mask.size()) || mask[j] == hidden_by_mask);
    if (beyond || outside || masked || (options_.mask_mod && !modded[j])) scores[j] = -infinity;
  }
}

std::vector<float> PlainFloat::masked_scores(const KeyRun& row) const {
  const std::int64_t head_dim = q_.shape()[3];
  const float scale = options_.softmax_scale.value_or(1 / std::sqrt(static_cast<float>(head_dim)));
  const float* const q = row_of(q_, row.batch, row.q_head, row.q_index);
  const float slope = per_head(tensors_.alibi_slopes, row.q_head, 0);
  const std::vector<float> mask = mask_row(row);
  const bool additive = tensors_.mask.dtype != DType::boolean;

  std::vector<float> scores(static_cast<std::size_t>(row.count));
  for (std::int64_t j = 0; j < row.count; ++j) {
    float score = scale * dot(q, row_of(k_, row.batch, row.kv_head, j), head_dim);
    if (options_.softcap) score = *options_.softcap * std::tanh(score / *options_.softcap);
    if (!tensors_.alibi_slopes.absent())
      score -= slope * static_cast<float>(std::abs(row.q_position - j));
    if (additive && j < static_cast<std::int64_t>(mask.size())) score += mask[j];
    scores[j] = score;
  }
  if (options_.score_mod && row.count > 0) options_.score_mod(row, scores.data());
  hide(row, mask, scores);
  return scores;
}

PlainFloat::Row PlainFloat::row(std::int64_t batch, std::int64_t q_head,
                                std::int64_t q_index) const {
  const KeyRun run = all_keys(batch, q_head, q_index);
  const std::vector<float> scores = masked_scores(run);
  const float sink = per_head(tensors_.sinks, q_head, -infinity);
  Row row{std::vector<float>(static_cast<std::size_t>(v_.shape()[3])), sink};

  const auto hidden = [](float score) { return score == -infinity; };
  if (std::all_of(scores.begin(), scores.end(), hidden)) return row;
  if (options_.normalizer != Normalizer::softmax()) {
    row.out = weighted_values(run, scores,
                              weights_of(options_.normalizer, scores, sink, kv_length(batch)));
    return row;
  }
  const float largest = largest_score(scores),
              row_max = std::isnan(largest) ? largest : std::max(largest, sink);
  std::vector<float> weights(scores.size());
  float sum = std::exp(sink - row_max);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    weights[j] = hidden(scores[j]) ? 0 : std::exp(scores[j] - row_max);
    sum += weights[j];
  }
  round_to(tensors_.v.dtype, weights);
  row.out = weighted_values(run, scores, weights);
  for (float& value : row.out) value /= sum;
  row.lse = row_max + std::log(sum);
  return row;
}

/// Of the keys that are not hidden.
std::vector<float> PlainFloat::weighted_values(const KeyRun& run, const std::vector<float>& scores,
                                               const std::vector<float>& weights) const {
  std::vector<float> out(static_cast<std::size_t>(v_.shape()[3]));
  for (std::int64_t j = 0; j < run.count; ++j) {
    if (scores[j] == -infinity) continue;
    const float* const v = row_of(v_, run.batch, run.kv_head, j);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weights[j] * v[d];
  }
  return out;
}

}  // namespace attn::demo
