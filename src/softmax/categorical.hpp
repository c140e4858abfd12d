// The categorical distribution of one row of logits, filtered, ready to be drawn from.
#pragma once

#include <attn/sample.hpp>

#include <cstdint>
#include <vector>

namespace attn::detail {

/// All of its arithmetic is IEEE double operations in a fixed order, so that it is the same on
/// every machine.
class Categorical {
 public:
  /// Takes the memory for rows of so many classes.
  explicit Categorical(std::int64_t classes);

  /// logits: one for each class, no NaN, no +inf, at least one of them finite. The options are in
  /// their ranges.
  void assign(const float* logits, const SampleOptions& options);
  /// The class at this place, in [0, 1), of the cumulative distribution. Never one of probability
  /// 0.
  std::int64_t at(double uniform) const noexcept;

 private:
  /// The last class that is kept, in the order from the most probable one on, and of equal ones
  /// from the lowest index.
  struct Last {
    float logit;
    std::int64_t index;

    bool keeps(const float* logits, std::int64_t n) const noexcept {
      return logits[n] > logit || (logits[n] == logit && n <= index);
    }
  };

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(sums_.size()); }
  Last last_of(const float* logits, std::int64_t count);
  void weigh(const float* logits, float greatest, float temperature, const Last& last) noexcept;
  void keep_top_p(const float* logits, double p);
  bool reaches(const float* logits, std::int64_t count, double needed);

  std::vector<double>
      sums_;  // weights, relative to that of the greatest logit, and in the end their running sums
  std::vector<float> greatest_;
  std::vector<std::int64_t> most_probable_;
};

}  // namespace attn::detail
