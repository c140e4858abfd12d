#include "model/code_set.hpp"

#include <algorithm>

namespace attn::model {

bool CodeSet::contains(std::int32_t code) const noexcept {
  const auto after = std::partition_point(ranges_.begin(), ranges_.end(),
                                          [&](const CodeRange& each) { return each.last < code; });
  return after != ranges_.end() && after->first <= code;
}

CodeSet CodeSet::union_of(std::vector<CodeRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CodeRange& a, const CodeRange& b) { return a.first < b.first; });
  CodeSet joined;
  for (const CodeRange& each : ranges) {
    if (!joined.ranges_.empty() && each.first <= joined.ranges_.back().last + 1) {
      joined.ranges_.back().last = std::max(joined.ranges_.back().last, each.last);
    } else {
      joined.ranges_.push_back(each);
    }
  }
  return joined;
}

CodeSet CodeSet::operator|(const CodeSet& other) const {
  std::vector<CodeRange> all = ranges_;
  all.insert(all.end(), other.ranges_.begin(), other.ranges_.end());
  return union_of(std::move(all));
}

CodeSet CodeSet::operator~() const {
  CodeSet rest;
  std::int32_t next = 0;
  for (const CodeRange& each : ranges_) {
    if (each.first > next) rest.ranges_.push_back({next, each.first - 1});
    next = each.last + 1;
  }
  if (next <= max_code) rest.ranges_.push_back({next, max_code});
  return rest;
}

CodeSet CodeSet::operator&(const CodeSet& other) const { return ~(~*this | ~other); }

}  // namespace attn::model
