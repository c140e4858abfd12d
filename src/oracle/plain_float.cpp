#include "oracle/plain_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "oracle/row_access.hpp"

namespace attn::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float eps = std::numeric_limits<float>::epsilon();

using Floats = std::vector<float>;

const float* row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                    std::int64_t position) {
  const Dims& shape = tensor.shape();
  return tensor.data<float>() + ((batch * shape[1] + head) * shape[2] + position) * shape[3];
}

/// A sum of products, the sum of their magnitudes, and the sum of the squares of all partial sums.
struct Dot {
  float sum = 0;
  float magnitude = 0;
  double squares = 0;

  /// How far rounding may move the sum. Each step rounds the partial sum, by up to eps / 2 of it
  /// and with a deviation of about eps / 4. So eps times the root of their squares is four
  /// deviations. Other programs add in other orders, in which partial sums of either sign may be
  /// larger than here; eps times the magnitude is the least that is allowed for.
  float spread() const { return eps * std::max(magnitude, static_cast<float>(std::sqrt(squares))); }
};
Dot dot(const float* a, const float* b, std::int64_t count) {
  Dot dot;
  for (std::int64_t n = 0; n < count; ++n) {
    dot.sum += a[n] * b[n];
    dot.magnitude += std::abs(a[n] * b[n]);
    dot.squares += double{dot.sum} * dot.sum;
  }
  return dot;
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

/// How far a function's value moves if its argument moves by `spread`.
template <class F>
float spread_of(F f, float x, float spread) {
  const float value = f(x);
  return std::max(std::abs(f(x + spread) - value), std::abs(value - f(x - spread)));
}

/// Probabilities in the place of scores, and their spread in the place of that of scores.
void entmax(float alpha, Floats& scores, Floats& spread) {
  const float largest = maximum(scores);
  const auto power = [alpha](float above) {
    return above > 0 ? std::pow(above, 1 / (alpha - 1)) : above <= 0 ? 0.f : above;
  };
  for (float& score : scores) score = (alpha - 1) * (score - largest);
  // Tau is found by bisection. It is a double, as small probabilities are powers of differences
  // from it.
  double low = -1, high = 0;
  const auto above = [&](float score) { return static_cast<float>(score - low); };
  for (int halving = 0; halving < 60; ++halving) {
    const double tau = (low + high) / 2;
    float sum = 0;
    for (const float score : scores) sum += power(static_cast<float>(score - tau));
    (sum >= 1 ? low : high) = tau;
  }
  for (std::size_t j = 0; j < scores.size(); ++j) {
    // The score was rounded when the largest was subtracted, too.
    spread[j] = spread_of(power, above(scores[j]), (alpha - 1) * spread[j] + eps / 2);
    scores[j] = power(above(scores[j]));
  }
}

/// The probabilities of another normalizer than softmax in the place of scores, and their spread.
/// The sink is one more score.
void normalize(const Normalizer& normalizer, float sink, std::int64_t kv_len, Floats& scores,
               Floats& spread) {
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    const float bias = normalizer.bias().value_or(-std::log(static_cast<float>(kv_len)));
    const auto sigmoid = [bias](float score) { return 1 / (1 + std::exp(-(score + bias))); };
    for (std::size_t j = 0; j < scores.size(); ++j) {
      spread[j] = spread_of(sigmoid, scores[j], spread[j]);
      scores[j] = sigmoid(scores[j]);
    }
    return;
  }
  scores.push_back(sink);
  spread.push_back(0);
  entmax(normalizer.alpha(), scores, spread);
  scores.pop_back();
  spread.pop_back();
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

/// What is added to a product rounds once.
PlainFloat::Scores PlainFloat::masked_scores(const KeyRun& row) const {
  const std::int64_t head_dim = q_.shape()[3];
  const float scale = options_.softmax_scale.value_or(1 / std::sqrt(static_cast<float>(head_dim)));
  const float* const q = row_of(q_, row.batch, row.q_head, row.q_index);
  const float slope = per_head(tensors_.alibi_slopes, row.q_head, 0);
  const Floats mask = mask_row(tensors_, row);
  const bool additive = tensors_.mask.dtype != DType::boolean;

  Scores all{Floats(static_cast<std::size_t>(row.count)),
             Floats(static_cast<std::size_t>(row.count))};
  Floats& scores = all.values;
  for (std::int64_t j = 0; j < row.count; ++j) {
    const Dot product = dot(q, row_of(k_, row.batch, row.kv_head, j), head_dim);
    float score = scale * product.sum;
    float spread = std::abs(scale) * product.spread();
    if (options_.softcap) {
      const float capped = std::tanh(score / *options_.softcap);
      score = *options_.softcap * capped;
      spread = spread * (1 - capped * capped) + eps * std::abs(score);
    }
    const auto add = [&](float summand) {
      score += summand;
      spread += eps / 2 * (std::abs(summand) + std::abs(score));
    };
    if (!tensors_.alibi_slopes.absent())
      add(-slope * static_cast<float>(std::abs(row.q_position - j)));
    if (additive && j < static_cast<std::int64_t>(mask.size()) && !is_hidden(mask[j])) add(mask[j]);
    if (additive && j < static_cast<std::int64_t>(mask.size()) && is_hidden(mask[j]))
      score = -infinity;
    scores[j] = score;
    all.spread[j] = spread;
  }
  if (options_.score_mod && row.count > 0) options_.score_mod(row, scores.data());
  const std::vector<bool> visible = visible_keys(tensors_, options_, row, mask);
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (!visible[j]) scores[j] = -infinity;
  }
  return all;
}

PlainFloat::Row PlainFloat::row(std::int64_t batch, std::int64_t q_head,
                                std::int64_t q_index) const {
  const KeyRun run = all_keys(tensors_, options_, batch, q_head, q_index);
  Scores scores = masked_scores(run);
  const float sink = per_head(tensors_.sinks, q_head, -infinity);
  if (std::all_of(scores.values.begin(), scores.values.end(), is_hidden))
    return {Floats(static_cast<std::size_t>(v_.shape()[3])), sink};
  if (options_.normalizer == Normalizer::softmax()) return softmax_row(run, scores, sink);
  const Floats before = scores.values;
  normalize(options_.normalizer, sink, kv_length(tensors_, batch), scores.values, scores.spread);
  return {output_row(run, before, scores.values), sink, output_spread(run, scores.spread)};
}

PlainFloat::Row PlainFloat::softmax_row(const KeyRun& run, const Scores& scores, float sink) const {
  const float largest = maximum(scores.values);
  const float row_max = std::isnan(largest) ? largest : std::max(largest, sink);
  Floats exponentials(scores.values.size()), spread(scores.values.size());
  float row_sum = std::exp(sink - row_max);
  for (std::size_t j = 0; j < exponentials.size(); ++j) {
    exponentials[j] = is_hidden(scores.values[j]) ? 0 : std::exp(scores.values[j] - row_max);
    row_sum += exponentials[j];
  }
  Row row{{}, row_max + std::log(row_sum)};
  double squares = 0;
  for (std::size_t j = 0; j < exponentials.size(); ++j) {
    spread[j] = exponentials[j] / row_sum * scores.spread[j];
    squares += double{spread[j]} * spread[j];
  }
  row.out_spread = output_spread(run, spread);
  row.lse_spread = std::sqrt(squares);
  if (division_ == Division::before_values) {
    for (float& exponential : exponentials) exponential /= row_sum;
    row.out = output_row(run, scores.values, exponentials);
  } else {
    round_to(tensors_.v.dtype, exponentials);
    row.out = output_row(run, scores.values, exponentials);
    for (float& value : row.out) value /= row_sum;
  }
  return row;
}

/// The greatest of sqrt(sum_j (spread_j (v_j - mean))^2) over the columns of V: errors of different
/// scores are independent. Probabilities that add up to 1 can only move against each other, so that
/// values count by their distance from the mean, weighted with the spread.
double PlainFloat::output_spread(const KeyRun& row, const std::vector<float>& spread) const {
  const bool sum_is_one = options_.normalizer.kind() != Normalizer::Kind::sigmoid;
  const auto width = static_cast<std::size_t>(v_.shape()[3]);
  std::vector<double> sums(width), squares(width);
  const auto for_each_value = [&](auto use) {
    for (std::int64_t j = 0; j < row.count; ++j) {
      if (!(spread[j] > 0)) continue;
      const float* const v = row_of(v_, row.batch, row.kv_head, j);
      for (std::size_t d = 0; d < width; ++d) {
        if (std::isfinite(v[d])) use(d, double{spread[j]}, double{v[d]});
      }
    }
  };
  double total = 0;
  for (const float each : spread) total += each > 0 ? each : 0;
  for_each_value([&](std::size_t d, double each, double v) { sums[d] += each * v; });
  for_each_value([&](std::size_t d, double each, double v) {
    const double distance = sum_is_one ? v - sums[d] / total : v;
    squares[d] += each * distance * each * distance;
  });
  const double largest = squares.empty() ? 0 : *std::max_element(squares.begin(), squares.end());
  return std::sqrt(largest);
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
