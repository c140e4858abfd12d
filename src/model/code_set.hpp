// Sets of characters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace attn::model {

/// The code points first..last.
struct CodeRange {
  std::int32_t first, last;
  bool operator==(const CodeRange&) const = default;
};

class CodeSet {
 public:
  static constexpr std::int32_t max_code = 0x10ffff;

  CodeSet() = default;
  CodeSet(std::int32_t first, std::int32_t last) : ranges_{{first, last}} {}
  /// Of ranges that are sorted and do not touch.
  explicit CodeSet(std::span<const CodeRange> ranges) : ranges_(ranges.begin(), ranges.end()) {}

  /// Sorted, and between two of them is at least one code point that is not in the set.
  const std::vector<CodeRange>& ranges() const noexcept { return ranges_; }
  bool contains(std::int32_t code) const noexcept;
  /// Of sets with many ranges, or-ing one by one takes quadratic time; see union_of().
  CodeSet operator|(const CodeSet& other) const;
  CodeSet operator&(const CodeSet& other) const;
  CodeSet operator~() const;
  bool operator==(const CodeSet&) const = default;

  /// The union of ranges in any order.
  static CodeSet union_of(std::vector<CodeRange> ranges);

 private:
  std::vector<CodeRange> ranges_;
};

}  // namespace attn::model
