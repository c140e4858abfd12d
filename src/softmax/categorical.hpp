// The categorical distribution of a row of logits after the filters of SampleOptions.
#pragma once

#include <attn/sample.hpp>

#include <cstdint>
#include <vector>

namespace attn::detail {

/// All arithmetic is done in IEEE 754 double operations in a fixed order, so that the distribution
/// is the same on every machine.
class Categorical {
 public:
  /// Allocates the memory for rows of this many classes.
  explicit Categorical(std::int64_t classes);

  /// Sets the distribution. logits has one number for each class, no NaN, no +inf, and at least one
  /// finite number. The options have been checked.
  void assign(const float* logits, const SampleOptions& options);
  /// The class at a place of the cumulative distribution, which is given as a number in [0, 1).
  /// Never a class of probability 0.
  std::int64_t at(double uniform) const noexcept;

 private:
  /// The last class that is kept. Classes are ordered from the most probable to the least, those of
  /// equal probability by index.
  struct Cutoff {
    float logit;
    std::int64_t index;

    bool keeps(const float* logits, std::int64_t n) const noexcept {
      return logits[n] > logit || (logits[n] == logit && n <= index);
    }
  };

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(sums_.size()); }
  Cutoff cutoff_after(const float* logits, std::int64_t count);
  void set_terms(const float* logits, float greatest, float temperature,
                 const Cutoff& cutoff) noexcept;
  void keep_top_p(const float* logits, float p);
  /// What the sum of some terms has to reach: this part of the sum of all terms.
  struct Target {
    float part;
    double total;

    /// The part is rounded to a float first, as `part` was: of ten equal classes one reaches 0.1f,
    /// which is more than 0.1, and eight reach 0.8f, although their sum in double is less than 0.8.
    /// A sum of n terms is off by less than n 2^-53 of itself, which is less than the half ulp of
    /// a float, 2^-25 or more, for n up to 2^26.
    bool reached_by(double sum) const noexcept { return static_cast<float>(sum / total) >= part; }
  };
  bool keep_within(const float* logits, std::int64_t count, const Target& target);

  /// At first the terms exp((logit - greatest logit) / temperature), which are proportional to the
  /// probabilities, or 0 for classes that are filtered out; in the end their running sums.
  std::vector<double> sums_;
  std::vector<float> greatest_;              // candidates of cutoff_after()
  std::vector<std::int64_t> most_probable_;  // classes, candidates of keep_within()
};

}  // namespace attn::detail
