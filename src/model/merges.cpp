#include "model/merges.hpp"

namespace attn::model {
namespace {

constexpr TokenId merged_away = -1;

}  // namespace

void Merges::consider(std::size_t left, Scratch& scratch) const {
  const std::size_t right = scratch.nodes[left].next;
  if (right == scratch.nodes.size()) return;
  const TokenId left_id = scratch.nodes[left].id, right_id = scratch.nodes[right].id;
  const auto found = table_.find(key(left_id, right_id));
  if (found != table_.end()) scratch.candidates.push({found->second.rank, left, left_id, right_id});
}

// The tokens are a linked list, and the pairs of it that can merge are in a priority queue. A pair
// of which one token has been merged since is skipped when it comes to the front.
void Merges::append(std::span<const TokenId> word, Scratch& scratch,
                    std::vector<std::int64_t>& ids) const {
  std::vector<Node>& nodes = scratch.nodes;
  nodes.clear();
  for (std::size_t n = 0; n < word.size(); ++n)
    nodes.push_back({word[n], n == 0 ? word.size() : n - 1, n + 1});
  for (std::size_t n = 0; n < nodes.size(); ++n) consider(n, scratch);

  while (!scratch.candidates.empty()) {
    const Candidate best = scratch.candidates.top();
    scratch.candidates.pop();
    Node& left = nodes[best.place];
    if (left.id != best.left || left.next == nodes.size() || nodes[left.next].id != best.right)
      continue;
    Node& right = nodes[left.next];
    left.id = table_.find(key(best.left, best.right))->second.merged;
    left.next = right.next;
    right.id = merged_away;
    if (left.next != nodes.size()) nodes[left.next].previous = best.place;
    if (left.previous != nodes.size()) consider(left.previous, scratch);
    consider(best.place, scratch);
  }

  for (std::size_t n = 0; n < nodes.size(); n = nodes[n].next) ids.push_back(nodes[n].id);
}

}  // namespace attn::model
