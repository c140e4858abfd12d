#include "oracle/plain_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "oracle/row_access.hpp"

namespace attn::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float eps = std::numeric_limits<float>::epsilon();

using Floats = std::vector<float>;

void round_to(DType dtype, Floats& values) {
  if (dtype != DType::bf16 && dtype != DType::f16) return;
  const Dims shape{static_cast<std::int64_t>(values.size())};
  const Tensor rounded = copy_as({values.data(), shape}, dtype);
  copy_into(rounded.view(), {values.data(), shape});
}

/// Probabilities in the place of scores, and their spread in the place of that of scores.
void entmax(float alpha, Floats& scores, Floats& spread) {
  const auto power = [alpha](float above) {
    return above > 0 ? std::pow(above, 1 / (alpha - 1)) : above <= 0 ? 0.f : above;
  };
  scores = above_threshold(alpha, scores);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    // The score was rounded when the largest was subtracted, too.
    spread[j] = spread_of(power, scores[j], (alpha - 1) * spread[j] + eps / 2);
    scores[j] = power(scores[j]);
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

PlainFloat::PlainFloat(const AttentionTensors& tensors, const AttentionOptions& options,
                       Division division, DType type_of_probabilities)
    : tensors_(tensors),
      options_(options),
      division_(division),
      type_of_probabilities_(type_of_probabilities),
      q_(copy_as(tensors.q, DType::f32)),
      k_(copy_as(tensors.k, DType::f32)),
      v_(copy_as(tensors.v, DType::f32)) {}

PlainFloat::Row PlainFloat::row(std::int64_t batch, std::int64_t q_head,
                                std::int64_t q_index) const {
  const KeyRun run = plain_row(tensors_, options_, batch, q_head, q_index);
  PlainScores scores = plain_scores(tensors_, options_, q_, k_, run);
  const float sink = per_head(tensors_.sinks, q_head, -infinity);
  if (std::all_of(scores.values.begin(), scores.values.end(), is_hidden))
    return {Floats(static_cast<std::size_t>(v_.shape()[3])), sink};
  if (options_.normalizer == Normalizer::softmax()) return softmax_row(run, scores, sink);
  const Floats before = scores.values;
  normalize(options_.normalizer, sink, plain_kv_length(tensors_, batch), scores.values,
            scores.spread);
  return {output_row(run, before, scores.values), sink, output_spread(run, scores.spread)};
}

PlainFloat::Row PlainFloat::softmax_row(const KeyRun& run, const PlainScores& scores,
                                        float sink) const {
  const float largest = largest_score(scores.values);
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
    round_to(type_of_probabilities_, exponentials);
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
      const float* const v = float_row_of(v_, row.batch, row.kv_head, j);
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
    const float* const v = float_row_of(v_, row.batch, row.kv_head, j);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += probabilities[j] * v[d];
  }
  return out;
}

}  // namespace attn::detail
