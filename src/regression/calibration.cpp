// Calibration: bins of top probabilities, and the temperature of least negative log-likelihood.
//
// With beta = 1 / temperature and d = z - max z of a row, the negative log-likelihood is
//
//   f(beta)   = mean log sum_c exp(beta d_c) - beta d_t
//   f'(beta)  = mean sum_c p_c d_c - d_t            p = softmax(beta d)
//   f''(beta) = mean sum_c p_c d_c^2 - (sum_c p_c d_c)^2 >= 0
//
// It is convex. f' rises from mean_rows (mean_c d_c - d_t) at 0 to -mean d_t at infinity, so there
// is one root above 0 if the first is below 0 and the second above.
#include <attn/regression.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "iterate/execution.hpp"
#include "regression/arguments.hpp"
#include "regression/row_blocks.hpp"
#include "softmax/reproducible.hpp"
#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

std::size_t index(std::int64_t n) noexcept { return static_cast<std::size_t>(n); }

constexpr std::int64_t default_bins = 15;
constexpr double greatest_double = std::numeric_limits<double>::max();

/// Sums of the rows of each bin.
class BinSums {
 public:
  BinSums(const Chunks& chunks, std::int64_t num_bins)
      : num_bins_(num_bins), sums_(chunks, num_bins * fields) {}

  void add(std::int64_t chunk, double confidence, bool right) noexcept {
    const auto bin =
        static_cast<std::int64_t>(confidence * static_cast<double>(num_bins_));  // rounded down
    double* const sums = sums_.of(chunk) + std::min(bin, num_bins_ - 1) * fields;
    sums[0] += 1;
    sums[1] += confidence;
    if (right) sums[2] += 1;
  }

  std::vector<CalibrationBin> bins() const {
    std::vector<double> total(index(num_bins_ * fields));
    sums_.add_up(total.data());
    std::vector<CalibrationBin> bins(index(num_bins_));
    for (std::size_t n = 0; n < bins.size(); ++n) {
      const double* const sums = total.data() + n * fields;
      if (sums[0] == 0) continue;
      bins[n] = {static_cast<std::int64_t>(sums[0]), sums[1] / sums[0], sums[2] / sums[0]};
    }
    return bins;
  }

 private:
  static constexpr std::int64_t fields = 3;
  std::int64_t num_bins_;
  ChunkSums sums_;
};

/// The logits of all rows less the greatest of their row, times a power of 2 that makes them at
/// most 4 in magnitude. So no sum of squares overflows, and the bits of other logits do not change.
class ShiftedLogits {
 public:
  ShiftedLogits(const TensorView& logits, std::vector<std::int64_t> targets,
                const Threads& threads);

  /// f and its derivatives.
  struct Curve {
    double loss = 0, slope = 0, curvature = 0;
  };
  Curve operator()(double beta) const;
  std::vector<CalibrationBin> bins(double beta) const;

  /// What all rows have in common.
  struct Summary {
    bool all_right = true;     // the target has the greatest logit
    double slope_at_0 = 0;     // mean_rows (mean_c d_c - d_t)
    double rounding_at_0 = 0;  // how far rounding may move it
    double spread = 0;         // the greatest |d|
    double least_gap = 0;      // the least |d| above 0; 0 if there is none
  };
  Summary summary() const;
  /// beta times this is 1 / temperature.
  int exponent() const noexcept { return exponent_; }

 private:
  struct Lane {
    const double* d;  // of class c at d[c * lanes]
    std::int64_t target;
  };
  Lane row(std::int64_t block, std::int64_t lane) const noexcept {
    return {d_.data() + block * classes_ * lanes + lane, targets_[index(block * lanes + lane)]};
  }
  std::int64_t lanes_of(std::int64_t block) const noexcept {
    return std::min(lanes, rows_ - block * lanes);
  }

  std::int64_t rows_, classes_;
  std::vector<std::int64_t> targets_;
  Chunks chunks_;
  Threads threads_;
  int exponent_ = 0;
  std::vector<double> d_;  // [blocks][classes][lanes]
};

ShiftedLogits::ShiftedLogits(const TensorView& logits, std::vector<std::int64_t> targets,
                             const Threads& threads)
    : rows_(logits.shape[0]),
      classes_(logits.shape[1]),
      targets_(std::move(targets)),
      chunks_((rows_ + lanes - 1) / lanes, 1),
      threads_(threads_for(logits.size(), threads)),
      d_(index(chunks_.blocks * classes_ * lanes)) {
  const RowBlocks blocks(logits, RowBlocks::Ones::no);
  std::vector<RowBlock> scratch(index(threads_.count));
  std::vector<double> greatest(index(chunks_.count));
  for_each_block(chunks_, threads_, [&](std::int64_t number, std::int64_t chunk, int thread) {
    RowBlock& block = scratch[index(thread)];
    blocks.read(number, block);
    for (const double each : block.rows)
      greatest[index(chunk)] = std::max(greatest[index(chunk)], std::abs(each));
    std::copy(block.side_by_side.begin(), block.side_by_side.end(),
              d_.begin() + number * classes_ * lanes);
  });
  const double most = *std::max_element(greatest.begin(), greatest.end());
  if (most > 0) exponent_ = std::ilogb(most);
  for_each_block(chunks_, threads_, [&](std::int64_t number, std::int64_t, int) {
    double* const d = d_.data() + number * classes_ * lanes;
    for (std::int64_t n = 0; n < classes_ * lanes; ++n) d[n] = std::ldexp(d[n], -exponent_);
    subtract_greatest(classes_, d);
  });
}

ShiftedLogits::Curve ShiftedLogits::operator()(double beta) const {
  ChunkSums sums(chunks_, 3);
  std::vector<std::vector<double>> scratch(index(threads_.count),
                                           std::vector<double>(index(classes_ * lanes)));
  for_each_block(chunks_, threads_, [&](std::int64_t number, std::int64_t chunk, int thread) {
    double* const p = scratch[index(thread)].data();
    double sum_of_exp[lanes];
    exp_rows(classes_, d_.data() + number * classes_ * lanes, beta, p, sum_of_exp);
    double* const sum = sums.of(chunk);
    for (std::int64_t lane = 0; lane < lanes_of(number); ++lane) {
      const auto [d, target] = row(number, lane);
      double first = 0, second = 0;
      for (std::int64_t c = 0; c < classes_; ++c) {
        const double share = p[c * lanes + lane] / sum_of_exp[lane] * d[c * lanes];
        first += share;
        second += share * d[c * lanes];
      }
      sum[0] += reproducible_log(sum_of_exp[lane]) - beta * d[target * lanes];
      sum[1] += first - d[target * lanes];
      sum[2] += second - first * first;
    }
  });
  double total[3];
  sums.add_up(total);
  const auto rows = static_cast<double>(rows_);
  return {std::min(total[0] / rows, greatest_double), total[1] / rows, total[2] / rows};
}

std::vector<CalibrationBin> ShiftedLogits::bins(double beta) const {
  BinSums sums(chunks_, default_bins);
  std::vector<std::vector<double>> scratch(index(threads_.count),
                                           std::vector<double>(index(classes_ * lanes)));
  for_each_block(chunks_, threads_, [&](std::int64_t number, std::int64_t chunk, int thread) {
    double sum_of_exp[lanes];
    const double* const d = d_.data() + number * classes_ * lanes;
    exp_rows(classes_, d, beta, scratch[index(thread)].data(), sum_of_exp);
    for (std::int64_t lane = 0; lane < lanes_of(number); ++lane)
      sums.add(chunk, 1 / sum_of_exp[lane],
               top_class(classes_, d, lane) == row(number, lane).target);
  });
  return sums.bins();
}

ShiftedLogits::Summary ShiftedLogits::summary() const {
  Summary all;
  const auto rows = static_cast<double>(rows_), classes = static_cast<double>(classes_);
  double least = std::numeric_limits<double>::infinity(), magnitudes = 0;
  for (std::int64_t n = 0; n < rows_; ++n) {
    const auto [d, target] = row(n / lanes, n % lanes);
    double sum = 0;
    for (std::int64_t c = 0; c < classes_; ++c) {
      const double each = d[c * lanes];
      sum += each;
      all.spread = std::max(all.spread, -each);
      if (each < 0) least = std::min(least, -each);
    }
    all.all_right = all.all_right && d[target * lanes] == 0;
    all.slope_at_0 += (sum / classes - d[target * lanes]) / rows;
    magnitudes -= (sum / classes + d[target * lanes]) / rows;
  }
  all.rounding_at_0 = 4 * std::numeric_limits<double>::epsilon() * magnitudes;
  all.least_gap = std::isfinite(least) ? least : 0;
  return all;
}

/// The root of the slope, which is below 0 at 0 and above 0 at infinity: Newton's method within a
/// bracket. Empty if it is beyond what a double can hold.
std::optional<double> best_beta(const ShiftedLogits& logits, double spread) {
  constexpr int most_steps = 200;
  constexpr double farthest = 1e300, precision = 4 * std::numeric_limits<double>::epsilon();
  double low = 0, high = 1 / spread, growth = 2;
  for (; logits(high).slope < 0; growth *= growth) {
    if (high > farthest / growth) return {};
    low = high;
    high *= growth;
  }
  double beta = low + (high - low) / 2;
  for (int step = 0; step < most_steps && high - low > precision * high; ++step) {
    const ShiftedLogits::Curve at = logits(beta);
    if (at.slope == 0) return beta;
    (at.slope < 0 ? low : high) = beta;
    const double next = beta - at.slope / at.curvature;
    const bool inside = next > low && next < high;
    if (inside && std::abs(next - beta) <= precision * beta) return next;
    beta = inside ? next : low > 0 ? std::sqrt(low) * std::sqrt(high) : high / 2;
  }
  return beta;
}

struct Temperature {
  double value, beta;  // of shifted logits
  CalibrationStatus status;
};

Temperature best_temperature(const ShiftedLogits& logits) {
  constexpr double sharp = 40;  // exp(-40) does not count
  constexpr int flat = 20;      // 2^-20 < 1e-6
  constexpr double farthest = 1e300, least = std::numeric_limits<double>::min();
  const ShiftedLogits::Summary all = logits.summary();
  const auto at = [&](double value, CalibrationStatus status) -> Temperature {
    value = std::clamp(value, least, greatest_double);
    return {value, std::min(std::ldexp(1 / value, logits.exponent()), farthest), status};
  };
  if (all.spread == 0) return at(1, CalibrationStatus::none_is_better);
  if (all.slope_at_0 >= -all.rounding_at_0) {
    return at(std::max(1., std::ldexp(all.spread, logits.exponent() + flat)),
              CalibrationStatus::none_is_better);
  }
  const std::optional<double> beta = all.all_right ? std::nullopt : best_beta(logits, all.spread);
  if (!beta) {
    return at(std::min(1., std::ldexp(all.least_gap / sharp, logits.exponent())),
              CalibrationStatus::all_right);
  }
  return {std::clamp(std::ldexp(1 / *beta, logits.exponent()), least, greatest_double), *beta,
          CalibrationStatus::best};
}

}  // namespace

TemperatureCalibration calibrate_temperature(const TensorView& logits, const TensorView& target,
                                             const Execution& execution) {
  require_matrix("logits", logits, "[rows, classes]");
  for (const auto& [dim, needed, meaning] :
       {std::tuple{0, 1, "rows"}, std::tuple{1, 2, "classes"}}) {
    if (logits.shape[dim] < needed)
      reject(fmt::format("logits has shape {}: dim {} is {}; it needs {} or more ({})",
                         logits.shape.to_string(), dim, logits.shape[dim], needed, meaning));
  }
  const ResolvedExecution resolved = resolve(execution);
  std::vector<std::int64_t> targets =
      checked_targets(target, "logits", logits.shape[0], logits.shape[1]);
  require_values("logits", logits, Values::finite, resolved.threads);

  const ShiftedLogits shifted(logits, std::move(targets), resolved.threads);
  const double beta_before = std::ldexp(1, shifted.exponent());
  Temperature best = best_temperature(shifted);
  TemperatureCalibration result;
  result.nll_before = shifted(beta_before).loss;
  result.nll_after = shifted(best.beta).loss;
  if (result.nll_after > result.nll_before) {  // by its rounding, where 1 is as good
    best = {1, beta_before, best.status};
    result.nll_after = result.nll_before;
  }
  result.temperature = best.value;
  result.status = best.status;
  result.bins_before = shifted.bins(beta_before);
  result.bins_after = shifted.bins(best.beta);
  return result;
}

std::vector<CalibrationBin> calibration_bins(const TensorView& probabilities,
                                             const TensorView& target, std::int64_t num_bins,
                                             const Execution& execution) {
  constexpr std::int64_t most_bins = 1 << 20;
  require_matrix("probabilities", probabilities, "[rows, classes]");
  const std::int64_t rows = probabilities.shape[0], classes = probabilities.shape[1];
  if (classes == 0) {
    reject(fmt::format("probabilities has shape {}: dim 1 is 0; it needs 1 or more (classes)",
                       probabilities.shape.to_string()));
  }
  require_within("num_bins", num_bins, 1, most_bins, "bins");
  const ResolvedExecution resolved = resolve(execution);
  const std::vector<std::int64_t> targets = checked_targets(target, "probabilities", rows, classes);
  require_values("probabilities", probabilities, Values::fractions, resolved.threads);

  const RowBlocks blocks(probabilities, RowBlocks::Ones::no);
  const Chunks chunks(blocks.blocks(), num_bins);
  BinSums sums(chunks, num_bins);
  const Threads threads = threads_for(probabilities.size() / lanes, resolved.threads);
  std::vector<RowBlock> scratch(index(threads.count));
  for_each_block(chunks, threads, [&](std::int64_t number, std::int64_t chunk, int thread) {
    RowBlock& block = scratch[index(thread)];
    blocks.read(number, block);
    for (std::int64_t lane = 0; lane < block.count; ++lane) {
      const double* const p = block.rows.data() + lane * classes;
      const double* const top = std::max_element(p, p + classes);
      sums.add(chunk, *top, top - p == targets[index(block.first + lane)]);
    }
  });
  return sums.bins();
}

double expected_calibration_error(std::span<const CalibrationBin> bins) {
  double sum = 0;
  std::int64_t rows = 0;
  for (const CalibrationBin& bin : bins) {
    sum += static_cast<double>(bin.rows) * std::abs(bin.accuracy - bin.confidence);
    rows += bin.rows;
  }
  return rows == 0 ? 0 : sum / static_cast<double>(rows);
}

double expected_calibration_error(const TensorView& probabilities, const TensorView& target,
                                  std::int64_t num_bins, const Execution& execution) {
  return expected_calibration_error(calibration_bins(probabilities, target, num_bins, execution));
}

}  // namespace attn
