#include "oracle/plain_backward.hpp"

#include <algorithm>

#include "oracle/row_access.hpp"

namespace attn::detail {

/// A number, and how far rounding may move it.
struct PlainNumber {
  float value = 0;
  double spread = 0;
};

/// A query and a key that it sees.
struct PlainPair {
  std::int64_t key;
  PlainNumber score;
  PlainNumber p;   // the probability
  PlainNumber w;   // dS = w (dP - mean)
  PlainNumber dp;  // dP
  PlainNumber dbiased;
  PlainNumber dscaled;
  double w_biased = 0;  // w, passed back as dS is
  double w_scaled = 0;
};

/// A query with the keys that it sees.
struct PlainRow {
  KeyRun run{};
  std::vector<PlainPair> pairs;
  PlainNumber sink_w;
  PlainNumber mean;       // softmax: delta - dlse
  double lse_spread = 0;  // how far rounding may move all probabilities of the row, relatively
};

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
// Four deviations of a rounding, which is at most half of that.
constexpr double eps = std::numeric_limits<float>::epsilon();
constexpr double bf16_eps = 0x1p-7;

double square(double x) { return x * x; }

Tensor as_floats(const TensorView& tensor) {
  return tensor.absent() ? Tensor(DType::f32, {0}) : copy_as(tensor, DType::f32);
}

float rounded_to_bf16(float value) {
  bf16 rounded{};
  copy_into({&value, {1}}, MutableTensorView{&rounded, {1}});
  copy_into(TensorView{&rounded, {1}}, {&value, {1}});
  return value;
}

/// Sums over the keys of a row, one for each element of an array. Errors of different keys are
/// independent, but that of the row's mean moves all of its terms together, and so does that of its
/// lse.
class RowSums {
 public:
  explicit RowSums(std::int64_t count)
      : values_(static_cast<std::size_t>(count)),
        variances_(values_.size()),
        magnitudes_(values_.size()),
        squares_(values_.size()),
        by_mean_(values_.size()) {}

  /// Adds term * factors[n]; `w` is what the term has of the mean.
  void add(const PlainNumber& term, double w, const float* factors) {
    for (std::size_t n = 0; n < values_.size(); ++n) {
      values_[n] += term.value * factors[n];
      variances_[n] += square(term.spread * double{factors[n]});
      magnitudes_[n] += std::abs(double{term.value} * double{factors[n]});
      squares_[n] += square(double{values_[n]});
      by_mean_[n] += w * double{factors[n]};
    }
  }
  void add_to(PlainSum* sums, double mean_spread, double lse_spread) const {
    for (std::size_t n = 0; n < values_.size(); ++n) {
      sums[n].value += values_[n];
      sums[n].variance += variances_[n] + square(mean_spread * by_mean_[n]) +
                          square(lse_spread * double{values_[n]});
      sums[n].magnitude += magnitudes_[n];
      sums[n].squares += squares_[n] + square(double{sums[n].value});
    }
  }

 private:
  std::vector<float> values_;
  std::vector<double> variances_, magnitudes_, squares_, by_mean_;
};

/// Adds term * factors[n].
void add_terms(PlainSum* sums, const PlainNumber& term, const float* factors, std::int64_t count) {
  for (std::int64_t n = 0; n < count; ++n) {
    sums[n].value += term.value * factors[n];
    sums[n].variance += square(term.spread * double{factors[n]});
    sums[n].magnitude += std::abs(double{term.value} * double{factors[n]});
    sums[n].squares += square(double{sums[n].value});
  }
}

void multiply(std::vector<PlainSum>& sums, float factor) {
  for (PlainSum& sum : sums) {
    sum.value *= factor;
    sum.variance *= square(double{factor});
    sum.magnitude *= std::abs(double{factor});
    sum.squares *= square(double{factor});
  }
}

/// The offset of the mask's element of a row and column. Dims of 1 are broadcast.
std::int64_t mask_element(const Dims& shape, const KeyRun& row, std::int64_t column) {
  const std::int64_t index[] = {row.batch, row.q_head, row.q_index, column};
  std::int64_t offset = 0;
  for (int dim = 0; dim < shape.rank(); ++dim)
    offset = offset * shape[dim] + (shape[dim] == 1 ? 0 : index[4 - shape.rank() + dim]);
  return offset;
}

/// The arguments of exp round as well: a score, here, and lse.
double spread_of_argument(const PlainNumber& score) {
  return score.spread + eps * (1 + std::abs(double{score.value}));
}

// Each of these sets p and w of a row, and w of its sink.

void set_softmax(float lse, float sink, PlainRow& row) {
  row.lse_spread = std::isfinite(lse) ? eps * std::abs(double{lse}) : 0;
  const auto probability = [lse](const PlainNumber& score) {
    const float p = std::exp(score.value - lse);
    return PlainNumber{p, double{p} * spread_of_argument(score)};
  };
  for (PlainPair& pair : row.pairs) pair.p = pair.w = probability(pair.score);
  if (!is_hidden(sink)) row.sink_w = probability({sink, 0});
}

void set_sigmoid(float bias, PlainRow& row) {
  for (PlainPair& pair : row.pairs) {
    const float p = 1 / (1 + std::exp(-(pair.score.value + bias)));
    const double slope = double{p} * (1 - double{p});
    const double spread = spread_of_argument(pair.score) + eps * std::abs(double{bias});
    pair.p = {p, slope * spread + eps * double{p}};
    pair.w = {p * (1 - p), slope * std::abs(1 - 2 * double{p}) * spread + eps * double{p}};
  }
}

/// Both p and w are powers of what a score is above the threshold, which moves by no more than the
/// score that moves most.
void set_entmax(float alpha, float sink, PlainRow& row) {
  std::vector<float> scores;
  double largest_spread = 0;
  for (const PlainPair& pair : row.pairs) {
    scores.push_back(pair.score.value);
    largest_spread = std::max(largest_spread, pair.score.spread);
  }
  scores.push_back(sink);
  const std::vector<float> above = above_threshold(alpha, scores);
  const auto power_of = [&](float exponent, float z, double score_spread) {
    const auto power = [exponent](float x) {
      return x > 0 ? std::pow(x, exponent) : x <= 0 ? 0.f : x;
    };
    const double spread = (double{alpha} - 1) * (score_spread + largest_spread) + eps;
    const float value = power(z);
    return PlainNumber{
        value, double{spread_of(power, z, static_cast<float>(spread))} + eps * double{value}};
  };
  const float of_p = 1 / (alpha - 1), of_w = (2 - alpha) / (alpha - 1);
  for (std::size_t n = 0; n < row.pairs.size(); ++n) {
    row.pairs[n].p = power_of(of_p, above[n], row.pairs[n].score.spread);
    row.pairs[n].w = power_of(of_w, above[n], row.pairs[n].score.spread);
  }
  if (!is_hidden(sink)) row.sink_w = power_of(of_w, above.back(), 0);
}

}  // namespace

PlainBackward::PlainBackward(const AttentionTensors& tensors, const AttentionGradients& gradients,
                             const AttentionOptions& options)
    : tensors_(tensors),
      options_(options),
      rounds_products_(tensors.q.dtype == DType::bf16 && tensors.k.dtype == DType::bf16 &&
                       tensors.v.dtype == DType::bf16 && gradients.dout.dtype == DType::bf16),
      q_(copy_as(tensors.q, DType::f32)),
      k_(copy_as(tensors.k, DType::f32)),
      v_(copy_as(tensors.v, DType::f32)),
      dout_(copy_as(gradients.dout, DType::f32)),
      out_(as_floats(tensors.out)),
      lse_(as_floats(tensors.lse)),
      dlse_(as_floats(gradients.dlse)) {
  const auto heads = static_cast<std::size_t>(tensors.q.shape[1]);
  if (!tensors.mask.absent() && tensors.mask.dtype != DType::boolean)
    dmask.resize(static_cast<std::size_t>(tensors.mask.size()));
  if (!tensors.alibi_slopes.absent()) dalibi.resize(heads);
  if (!tensors.sinks.absent()) dsinks.resize(heads);
}

void PlainBackward::set_probabilities(PlainRow& row) const {
  const Normalizer& normalizer = options_.normalizer;
  const float sink = per_head(tensors_.sinks, row.run.q_head, -infinity);
  switch (normalizer.kind()) {
    case Normalizer::Kind::softmax: {
      const std::int64_t q_len = q_.shape()[2];
      const std::int64_t head = row.run.batch * q_.shape()[1] + row.run.q_head;
      return set_softmax(lse_.data<float>()[head * q_len + row.run.q_index], sink, row);
    }
    case Normalizer::Kind::sigmoid: {
      const auto kv_len = static_cast<float>(plain_kv_length(tensors_, row.run.batch));
      return set_sigmoid(normalizer.bias().value_or(-std::log(kv_len)), row);
    }
    case Normalizer::Kind::entmax: return set_entmax(normalizer.alpha(), sink, row);
  }
}

/// A row without keys has none but -dlse. What dout holds there is not read.
void PlainBackward::set_mean(PlainRow& row) const {
  const KeyRun& run = row.run;
  const bool empty = row.pairs.empty();
  switch (options_.normalizer.kind()) {
    case Normalizer::Kind::sigmoid: return;
    case Normalizer::Kind::softmax: {
      const PlainDot delta = plain_dot(float_row_of(dout_, run.batch, run.q_head, run.q_index),
                                       float_row_of(out_, run.batch, run.q_head, run.q_index),
                                       empty ? 0 : dout_.shape()[3]);
      const std::int64_t index =
          (run.batch * q_.shape()[1] + run.q_head) * q_.shape()[2] + run.q_index;
      const float dlse = dlse_.size() > 0 ? dlse_.data<float>()[index] : 0;
      row.mean.value = delta.sum - dlse;
      row.mean.spread = double{delta.spread()} + eps * std::abs(double{row.mean.value});
      return;
    }
    case Normalizer::Kind::entmax: break;
  }
  if (empty) return;
  std::vector<float> w = {row.sink_w.value}, dp = {0}, ones(row.pairs.size() + 1, 1.f);
  for (const PlainPair& pair : row.pairs) {
    w.push_back(pair.w.value);
    dp.push_back(pair.dp.value);
  }
  const auto count = static_cast<std::int64_t>(w.size());
  const PlainDot weighted = plain_dot(w.data(), dp.data(), count),
                 sum = plain_dot(w.data(), ones.data(), count);
  row.mean.value = weighted.sum / sum.sum;
  const double mean = std::abs(double{row.mean.value});
  double variance = square(row.sink_w.spread * mean);
  for (const PlainPair& pair : row.pairs)
    variance += square(pair.w.spread * double{pair.dp.value - row.mean.value}) +
                square(double{pair.w.value} * pair.dp.spread);
  row.mean.spread =
      (std::sqrt(variance) + double{weighted.spread()} + mean * double{sum.spread()}) /
          double{sum.sum} +
      eps * mean;
}

/// Passes dS back through score_mod and the softcap.
void PlainBackward::pass_back(const PlainScores& scores, PlainRow& row) const {
  const auto derivative = [&](float direction) {
    std::vector<float> moved = scores.biased, slopes(moved.size());
    for (std::size_t j = 0; j < moved.size(); ++j) moved[j] += direction * scores.spread[j];
    for (const PlainPair& pair : row.pairs) slopes[pair.key] = 1;
    if (options_.score_mod && !moved.empty())
      options_.score_mod_gradient(row.run, moved.data(), slopes.data());
    return slopes;
  };
  const std::vector<float> slopes = derivative(0), up = derivative(1), down = derivative(-1);
  for (PlainPair& pair : row.pairs) {
    const std::int64_t j = pair.key;
    const PlainNumber mod{
        slopes[j], double{std::max(std::abs(up[j] - slopes[j]), std::abs(slopes[j] - down[j]))} +
                       eps * std::abs(double{slopes[j]})};
    const PlainNumber cap{scores.softcap_slope[j], double{scores.softcap_slope_spread[j]}};
    const float distance = pair.dp.value - row.mean.value, ds = pair.w.value * distance;
    const double ds_spread = std::sqrt(square(pair.w.spread * double{distance}) +
                                       square(double{pair.w.value} * pair.dp.spread)) +
                             2 * eps * std::abs(double{ds});
    const auto passed = [](const PlainNumber& gradient, const PlainNumber& slope) {
      return PlainNumber{gradient.value * slope.value,
                         std::abs(double{slope.value}) * gradient.spread +
                             std::abs(double{gradient.value}) * slope.spread};
    };
    pair.dbiased = passed({ds, ds_spread}, mod);
    pair.dscaled = passed(pair.dbiased, cap);
    pair.w_biased = double{pair.w.value} * double{mod.value};
    pair.w_scaled = pair.w_biased * double{cap.value};
  }
}

PlainRow PlainBackward::differentiated_row(const KeyRun& run) const {
  PlainRow row;
  row.run = run;
  const PlainScores scores = plain_scores(tensors_, options_, q_, k_, run);
  const float* const dout = float_row_of(dout_, run.batch, run.q_head, run.q_index);
  for (std::int64_t j = 0; j < run.count; ++j) {
    if (is_hidden(scores.values[j])) continue;
    const PlainDot dp = plain_dot(dout, float_row_of(v_, run.batch, run.kv_head, j), v_.shape()[3]);
    PlainPair pair{};
    pair.key = j;
    pair.score = {scores.values[j], double{scores.spread[j]}};
    pair.dp = {dp.sum, dp.spread()};
    row.pairs.push_back(pair);
  }
  set_probabilities(row);
  set_mean(row);
  pass_back(scores, row);
  return row;
}

void PlainBackward::add_row(const PlainRow& row, Head& head) {
  const KeyRun& run = row.run;
  const std::int64_t group_size = q_.shape()[1] / k_.shape()[1], head_dim = q_.shape()[3];
  const std::int64_t v_head_dim = v_.shape()[3];
  const float* const q = float_row_of(q_, run.batch, run.q_head, run.q_index);
  const float* const dout = float_row_of(dout_, run.batch, run.q_head, run.q_index);
  RowSums dq(head_dim);
  for (const PlainPair& pair : row.pairs) {
    PlainNumber p = pair.p, ds = pair.dscaled;
    if (rounds_products_) {
      for (PlainNumber* factor : {&p, &ds}) {
        factor->value = rounded_to_bf16(factor->value);
        factor->spread = std::hypot(factor->spread, bf16_eps * double{factor->value});
      }
    }
    dq.add(ds, pair.w_scaled, float_row_of(k_, run.batch, run.kv_head, pair.key));
    // In a sum over rows, the errors of a row's mean and lse are independent of others.
    p.spread = std::hypot(p.spread, row.lse_spread * double{p.value});
    ds.spread =
        std::hypot(ds.spread, row.mean.spread * pair.w_scaled, row.lse_spread * double{ds.value});
    add_terms(&head.dk[pair.key * head_dim], ds, q, head_dim);
    add_terms(&head.dv[pair.key * v_head_dim], p, dout, v_head_dim);
  }
  const std::int64_t place = (run.q_head % group_size * q_.shape()[2] + run.q_index) * head_dim;
  dq.add_to(&head.dq[place], row.mean.spread, row.lse_spread);
}

void PlainBackward::add_shared(const PlainRow& row) {
  const auto add = [&](PlainSum& sum, const RowSums& terms) {
    terms.add_to(&sum, row.mean.spread, row.lse_spread);
  };
  constexpr float one = 1;
  if (!dmask.empty()) {
    const Dims& shape = tensors_.mask.shape;
    const bool last_keys = options_.mask_keys == MaskKeys::last;
    const bool broadcast = shape[shape.rank() - 1] == 1 && !last_keys;
    const std::int64_t first = plain_first_key(tensors_, options_, row.run.batch);
    RowSums all(1);
    for (const PlainPair& pair : row.pairs) {
      if (pair.key < first) continue;
      all.add(pair.dbiased, pair.w_biased, &one);
      if (broadcast) continue;
      add(dmask[mask_element(shape, row.run, pair.key - first)], all);
      all = RowSums(1);
    }
    if (broadcast) add(dmask[mask_element(shape, row.run, 0)], all);
  }
  if (!dalibi.empty()) {
    RowSums all(1);
    for (const PlainPair& pair : row.pairs) {
      const auto distance = -static_cast<float>(std::abs(row.run.q_position - pair.key));
      all.add(pair.dbiased, pair.w_biased, &distance);
    }
    add(dalibi[row.run.q_head], all);
  }
  if (!dsinks.empty()) {
    RowSums all(1);
    const float minus_mean = -row.mean.value;
    all.add(row.sink_w, 0, &minus_mean);
    all.add({0, double{row.sink_w.value} * row.mean.spread}, 0, &one);
    add(dsinks[row.run.q_head], all);
  }
}

PlainBackward::Head PlainBackward::head(std::int64_t batch, std::int64_t kv_head) {
  const std::int64_t group_size = q_.shape()[1] / k_.shape()[1], q_len = q_.shape()[2];
  const auto size = [](std::int64_t rows, std::int64_t width) {
    return static_cast<std::size_t>(rows * width);
  };
  Head head{std::vector<PlainSum>(size(group_size * q_len, q_.shape()[3])),
            std::vector<PlainSum>(size(k_.shape()[2], k_.shape()[3])),
            std::vector<PlainSum>(size(v_.shape()[2], v_.shape()[3]))};
  for (std::int64_t q_head = kv_head * group_size; q_head < (kv_head + 1) * group_size; ++q_head) {
    for (std::int64_t i = 0; i < q_len; ++i) {
      const PlainRow row = differentiated_row(plain_row(tensors_, options_, batch, q_head, i));
      add_row(row, head);
      add_shared(row);
    }
  }
  const float scale =
      options_.softmax_scale.value_or(1 / std::sqrt(static_cast<float>(q_.shape()[3])));
  multiply(head.dq, scale);
  multiply(head.dk, scale);
  return head;
}

}  // namespace attn::detail
