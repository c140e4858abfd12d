// Byte pair encoding (Sennrich et al., arXiv:1508.07909): neighboring tokens are merged, in the
// order in which training found the merges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <queue>
#include <span>
#include <unordered_map>
#include <vector>

namespace attn::model {

/// Two of these make one 64-bit key of the table.
using TokenId = std::int32_t;

class Merges {
  struct Candidate {
    std::uint32_t rank;
    std::size_t place;  // of the left token
    TokenId left, right;
  };
  struct Later {
    bool operator()(const Candidate& a, const Candidate& b) const noexcept {
      return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
    }
  };
  struct Node {
    TokenId id;
    std::size_t previous, next;
  };

 public:
  /// Memory that one call after another can use.
  class Scratch {
    friend class Merges;
    std::vector<Node> nodes;
    std::priority_queue<Candidate, std::vector<Candidate>, Later> candidates;
  };

  void reserve(std::size_t count) { table_.reserve(count); }
  /// The merge of lowest rank is done first. If a pair is added twice, the last one counts.
  void add(TokenId left, TokenId right, std::uint32_t rank, TokenId merged) {
    table_[key(left, right)] = {rank, merged};
  }
  /// Merges the tokens of `word` until no pair is in the table, and appends what is left to `ids`.
  /// n tokens take O(n log n).
  void append(std::span<const TokenId> word, Scratch& scratch,
              std::vector<std::int64_t>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank;
    TokenId merged;
  };
  struct Hash {
    std::size_t operator()(std::uint64_t key) const noexcept {
      key *= 0x9e3779b97f4a7c15;  // the golden ratio's bits spread both ids over all of the
                                  // product's upper ones
      return key ^ (key >> 32);
    }
  };

  static std::uint64_t key(TokenId left, TokenId right) noexcept {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  void consider(std::size_t left, Scratch& scratch) const;

  std::unordered_map<std::uint64_t, Merge, Hash> table_;
};

}  // namespace attn::model
