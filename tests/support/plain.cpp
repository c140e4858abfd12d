#include "support/plain.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/strided_tensor.hpp"

namespace attn::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

double element(const TensorView& view, const Dims& index) {
  const auto offset =
      offset_of(view.strides, index) * static_cast<std::int64_t>(size_of(view.dtype));
  double value = 0;
  copy_into({static_cast<const std::byte*>(view.data) + offset, view.dtype, {1}}, {&value, {1}});
  return value;
}

float per_head(const TensorView& view, std::int64_t q_head) {
  return static_cast<float>(element(view, {q_head}));
}

std::int64_t key_count(const AttentionTensors& tensors, std::int64_t batch) {
  if (tensors.kv_lens.absent()) return tensors.k.shape[2];
  return static_cast<std::int64_t>(element(tensors.kv_lens, {batch}));
}

std::int64_t position(const AttentionTensors& tensors, const AttentionOptions& options,
                      std::int64_t batch, std::int64_t i) {
  const std::int64_t bottom_right = key_count(tensors, batch) - tensors.q.shape[2];
  return i + options.query_position().offset.value_or(bottom_right);
}

/// The element of a dense mask for a key: false, true, or a number to add. Beyond the end of a
/// short mask it is one that hides.
double mask_value(const TensorView& mask, std::int64_t batch, std::int64_t q_head, std::int64_t i,
                  std::int64_t j) {
  const int rank = mask.rank();
  const std::int64_t last = mask.shape[rank - 1];
  if (last != 1 && j >= last) return mask.dtype == DType::boolean ? 0 : -infinity;
  const std::int64_t full[] = {batch, q_head, i, j};
  Dims index = mask.shape;
  for (int dim = 0; dim < rank; ++dim) index[dim] = mask.shape[dim] == 1 ? 0 : full[4 - rank + dim];
  return element(mask, index);
}

/// The rows of one head as dense floats.
class Floats {
 public:
  explicit Floats(const TensorView& view) : tensor_(copy_as(view, DType::f32)) {}
  const float* row(std::int64_t batch, std::int64_t head, std::int64_t position) const {
    const Dims& shape = tensor_.shape();
    return tensor_.data<float>() + ((batch * shape[1] + head) * shape[2] + position) * shape[3];
  }

 private:
  Tensor tensor_;
};

float dot(const float* a, const float* b, std::int64_t count) {
  float sum = 0;
  for (std::int64_t n = 0; n < count; ++n) sum += a[n] * b[n];
  return sum;
}

/// The scores of a row; -inf where the key is hidden.
std::vector<float> masked_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                                 const KeyRun& row, const float* q, const Floats& k) {
  const std::int64_t head_dim = tensors.q.shape[3];
  const float scale = options.softmax_scale.value_or(1.f / std::sqrt(static_cast<float>(head_dim)));
  const bool additive = !tensors.mask.absent() && tensors.mask.dtype != DType::boolean;
  std::vector<float> scores(static_cast<std::size_t>(row.count));
  for (std::int64_t j = 0; j < row.count; ++j) {
    float score = scale * dot(q, k.row(row.batch, row.kv_head, j), head_dim);
    if (options.softcap) score = *options.softcap * std::tanh(score / *options.softcap);
    if (!tensors.alibi_slopes.absent()) {
      score -= per_head(tensors.alibi_slopes, row.q_head) *
               static_cast<float>(std::abs(row.q_position - j));
    }
    if (additive)
      score += static_cast<float>(mask_value(tensors.mask, row.batch, row.q_head, row.q_index, j));
    scores[static_cast<std::size_t>(j)] = score;
  }
  if (options.score_mod && row.count > 0) options.score_mod(row, scores.data());
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (!visible(tensors, options, row.batch, row.q_head, row.q_index, j))
      scores[static_cast<std::size_t>(j)] = -infinity;
  }
  return scores;
}

/// Replaces scores by exp(score - maximum) and returns the maximum; `sum` is their sum, the sink
/// included.
float exponentiate(std::vector<float>& scores, float sink, float& sum) {
  float maximum = sink;
  for (const float score : scores) maximum = std::max(maximum, score);
  sum = sink == -infinity ? 0 : std::exp(sink - maximum);
  for (float& score : scores) {
    score = score == -infinity ? 0 : std::exp(score - maximum);
    sum += score;
  }
  return maximum;
}

/// Replaces scores by the probabilities of sigmoid, which need no sum over keys.
void sigmoid(std::vector<float>& scores, float bias) {
  for (float& score : scores) score = score == -infinity ? 0 : 1 / (1 + std::exp(-(score + bias)));
}

/// Replaces scores by the probabilities of entmax, with tau found by bisection.
void entmax(std::vector<float>& scores, float alpha) {
  const float maximum = *std::max_element(scores.begin(), scores.end());
  const auto weight = [alpha](float above) {
    return above > 0 ? std::pow(above, 1 / (alpha - 1)) : 0;
  };
  for (float& score : scores) score = (alpha - 1) * (score - maximum);
  float low = -1, high = 0;
  for (int halving = 0; halving < 40; ++halving) {
    const float tau = (low + high) / 2;
    float sum = 0;
    for (const float score : scores) sum += weight(score - tau);
    (sum >= 1 ? low : high) = tau;
  }
  for (float& score : scores) score = weight(score - low);
}

/// Replaces scores by probabilities. The sink is one more score.
void normalize(const Normalizer& normalizer, std::int64_t kv_len, float sink,
               std::vector<float>& scores) {
  const bool none =
      std::all_of(scores.begin(), scores.end(), [](float score) { return score == -infinity; });
  if (none) return scores.assign(scores.size(), 0.f);
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    return sigmoid(scores, normalizer.bias().value_or(-std::log(static_cast<float>(kv_len))));
  }
  scores.push_back(sink);
  entmax(scores, normalizer.alpha());
  scores.pop_back();
}

}  // namespace

bool visible(const AttentionTensors& tensors, const AttentionOptions& options, std::int64_t batch,
             std::int64_t q_head, std::int64_t i, std::int64_t j) {
  const std::int64_t p = position(tensors, options, batch, i);
  if (j >= key_count(tensors, batch)) return false;
  if (options.causal && j > p) return false;
  if (options.window && options.window->left && j < p - *options.window->left) return false;
  if (options.window && options.window->right && j > p + *options.window->right) return false;
  if (!tensors.mask.absent()) {
    const double value = mask_value(tensors.mask, batch, q_head, i, j);
    if (value == (tensors.mask.dtype == DType::boolean ? 0 : -infinity)) return false;
  }
  bool seen = true;
  if (options.mask_mod) {
    const std::int64_t kv_head = q_head / (tensors.q.shape[1] / tensors.k.shape[1]);
    options.mask_mod({batch, q_head, kv_head, i, p, j, 1}, &seen);
  }
  return seen;
}

PlainResult attention_plain(const AttentionTensors& tensors, const AttentionOptions& options) {
  const Floats queries(tensors.q), k(tensors.k), v(tensors.v);
  const std::int64_t v_head_dim = tensors.v.shape[3];
  PlainResult result;
  for_each_index(
      {tensors.q.shape[0], tensors.q.shape[1], tensors.q.shape[2]}, [&](const Dims& index) {
        const std::int64_t batch = index[0], q_head = index[1], i = index[2];
        const std::int64_t kv_head = q_head / (tensors.q.shape[1] / tensors.k.shape[1]);
        const KeyRun row{
            batch, q_head, kv_head, i, position(tensors, options, batch, i), 0, tensors.k.shape[2]};
        std::vector<float> weights =
            masked_scores(tensors, options, row, queries.row(batch, q_head, i), k);
        const float sink = tensors.sinks.absent() ? -infinity : per_head(tensors.sinks, q_head);
        float sum = 1, maximum = 0;
        if (options.normalizer == Normalizer::softmax()) {
          maximum = exponentiate(weights, sink, sum);
        } else {
          normalize(options.normalizer, key_count(tensors, batch), sink, weights);
        }
        std::vector<float> out(static_cast<std::size_t>(v_head_dim), 0.f);
        for (std::int64_t j = 0; j < row.count; ++j) {
          const float weight = weights[static_cast<std::size_t>(j)] / sum;
          if (!(weight > 0)) continue;
          for (std::int64_t d = 0; d < v_head_dim; ++d)
            out[static_cast<std::size_t>(d)] += weight * v.row(batch, kv_head, j)[d];
        }
        result.out.insert(result.out.end(), out.begin(), out.end());
        if (options.normalizer == Normalizer::softmax())
          result.lse.push_back(maximum + std::log(sum));
      });
  return result;
}

}  // namespace attn::test
