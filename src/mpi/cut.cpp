#include <attn/mpi.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "tensor/checks.hpp"

namespace attn {
namespace {

using detail::reject;

/// Leaves out empty ranges, and joins adjacent ones.
std::vector<TokenRange> simplified(const std::vector<TokenRange>& ranges) {
  std::vector<TokenRange> result;
  for (const TokenRange& range : ranges) {
    if (range.size() == 0) continue;
    if (!result.empty() && result.back().end == range.begin)
      result.back().end = range.end;
    else
      result.push_back(range);
  }
  return result;
}

void require_ascending(int rank, const std::vector<TokenRange>& ranges) {
  std::int64_t end = 0;
  for (const TokenRange& range : ranges) {
    if (range.begin < end || range.end < range.begin) {
      reject(fmt::format("cut: rank {} owns the range {}..{} after token {}; ranges need to ascend",
                         rank, range.begin, range.end, end));
    }
    end = range.end;
  }
}

/// The length of the sequence that the ranges of all ranks make up without gap or overlap.
std::int64_t covered_length(const std::vector<std::vector<TokenRange>>& ranges) {
  std::vector<TokenRange> all;
  for (const std::vector<TokenRange>& own : ranges) all.insert(all.end(), own.begin(), own.end());
  std::sort(all.begin(), all.end(), [](const TokenRange& a, const TokenRange& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::int64_t length = 0;
  for (const TokenRange& range : all) {
    if (range.begin != length) {
      reject(fmt::format("cut: token {} is owned by {}; each token needs one rank",
                         std::min(length, range.begin),
                         range.begin > length ? "no rank" : "two ranks"));
    }
    length = range.end;
  }
  return length;
}

/// Where part n of so many begins: the first length % parts of them are longer by 1.
std::int64_t part_begin(std::int64_t length, std::int64_t parts, std::int64_t n) {
  return length / parts * n + std::min(n, length % parts);
}

void require_sizes(std::int64_t length, int num_ranks) {
  if (length < 0) reject(fmt::format("length is {}; it needs 0 or more", length));
  detail::require_positive("num_ranks", num_ranks);
}

}  // namespace

SequenceCut::SequenceCut(std::vector<std::vector<TokenRange>> ranges) {
  detail::require_positive("the number of ranks of a cut",
                           static_cast<std::int64_t>(ranges.size()));
  for (std::size_t rank = 0; rank < ranges.size(); ++rank) {
    require_ascending(static_cast<int>(rank), ranges[rank]);
    ranges_.push_back(simplified(ranges[rank]));
  }
  length_ = covered_length(ranges_);
}

SequenceCut SequenceCut::even(std::int64_t length, int num_ranks) {
  require_sizes(length, num_ranks);
  std::vector<std::vector<TokenRange>> ranges;
  ranges.reserve(static_cast<std::size_t>(num_ranks));
  for (int rank = 0; rank < num_ranks; ++rank) {
    ranges.push_back(
        {{part_begin(length, num_ranks, rank), part_begin(length, num_ranks, rank + 1)}});
  }
  return SequenceCut(std::move(ranges));
}

SequenceCut SequenceCut::zigzag(std::int64_t length, int num_ranks) {
  require_sizes(length, num_ranks);
  const std::int64_t parts = 2 * std::int64_t{num_ranks};
  const auto part = [&](std::int64_t n) {
    return TokenRange{part_begin(length, parts, n), part_begin(length, parts, n + 1)};
  };
  std::vector<std::vector<TokenRange>> ranges;
  ranges.reserve(static_cast<std::size_t>(num_ranks));
  for (int rank = 0; rank < num_ranks; ++rank)
    ranges.push_back({part(rank), part(parts - 1 - rank)});
  return SequenceCut(std::move(ranges));
}

void SequenceCut::append(int rank, std::int64_t count) {
  detail::require_within("rank", rank, 0, num_ranks() - 1, "ranks of the cut");
  if (count < 0) reject(fmt::format("count is {}; it needs 0 or more", count));
  if (count == 0) return;
  std::vector<TokenRange>& own = ranges_[static_cast<std::size_t>(rank)];
  if (own.empty() || own.back().end < length_) own.push_back({length_, length_});
  length_ += count;
  own.back().end = length_;
}

void SequenceCut::truncate(std::int64_t length) {
  detail::require_within("length", length, 0, length_, "tokens of the cut");
  for (std::vector<TokenRange>& own : ranges_) {
    while (!own.empty() && own.back().begin >= length) own.pop_back();
    if (!own.empty()) own.back().end = std::min(own.back().end, length);
  }
  length_ = length;
}

const std::vector<TokenRange>& SequenceCut::ranges(int rank) const {
  detail::require_within("rank", rank, 0, num_ranks() - 1, "ranks of the cut");
  return ranges_[static_cast<std::size_t>(rank)];
}

std::int64_t SequenceCut::num_tokens(int rank) const {
  std::int64_t count = 0;
  for (const TokenRange& range : ranges(rank)) count += range.size();
  return count;
}

}  // namespace attn
