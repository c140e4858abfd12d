// Exact block masks: of documents and of ranges. Both become sets of keys, which queries share.
#include <attn/block_mask.hpp>

#include <fmt/format.h>

#include <array>
#include <numeric>
#include <set>

#include "attention/block_mask_build.hpp"
#include "tensor/indexing.hpp"
#include "tensor/rounding.hpp"

namespace attn {
using namespace detail;
namespace {

/// Neighboring tokens of one document.
struct DocumentRun {
  std::int64_t document;
  KeyRange tokens;
};

std::vector<DocumentRun> runs_of_documents(const TensorView& documents, std::int64_t batch) {
  const bool batched = documents.rank() == 2;
  const std::int64_t len = documents.shape[documents.rank() - 1];
  const std::int64_t stride = documents.strides[documents.rank() - 1];
  const std::int64_t first = batched && documents.shape[0] > 1 ? batch * documents.strides[0] : 0;
  std::vector<DocumentRun> runs;
  for (std::int64_t n = 0; n < len; ++n) {
    const std::int64_t document = integer_at_offset(documents, first + n * stride);
    if (runs.empty() || runs.back().document != document) runs.push_back({document, {n, n}});
    runs.back().tokens.end = n + 1;
  }
  return runs;
}

/// The numbers of the runs by document, in linear time (radix sort). Those of one document stay in
/// their order.
std::vector<std::size_t> by_document(const std::vector<DocumentRun>& runs) {
  constexpr int digit_bits = 11;
  constexpr std::uint64_t digit_mask = (1 << digit_bits) - 1;
  std::vector<std::size_t> order(runs.size()), sorted(runs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (runs.empty()) return order;
  const auto [least, most] = std::minmax_element(
      runs.begin(), runs.end(),
      [](const DocumentRun& a, const DocumentRun& b) { return a.document < b.document; });
  const auto from_least =
      [first = static_cast<std::uint64_t>(least->document)](const DocumentRun& run) {
        return static_cast<std::uint64_t>(run.document) - first;
      };
  const std::uint64_t greatest = from_least(*most);
  for (int shift = 0; shift < 64 && greatest >> shift != 0; shift += digit_bits) {
    std::array<std::size_t, digit_mask + 2> begins{};
    for (const DocumentRun& run : runs) ++begins[(from_least(run) >> shift & digit_mask) + 1];
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    for (const std::size_t n : order)
      sorted[begins[from_least(runs[n]) >> shift & digit_mask]++] = n;
    order.swap(sorted);
  }
  return order;
}

/// Set 0 is empty; set n + 1 has the keys of the n-th document in the order of their numbers.
KeySets sets_of_documents(const std::vector<DocumentRun>& queries,
                          const std::vector<DocumentRun>& keys) {
  KeySets sets;
  sets.offsets.push_back(0);
  std::vector<std::int64_t> documents;
  for (const std::size_t key : by_document(keys)) {
    const DocumentRun& run = keys[key];
    if (documents.empty() || documents.back() != run.document) {
      documents.push_back(run.document);
      sets.offsets.push_back(sets.offsets.back());
    }
    sets.ranges.push_back(run.tokens);
    ++sets.offsets.back();
  }
  sets.queries.resize(queries.size());
  auto document = documents.cbegin();
  for (const std::size_t query : by_document(queries)) {
    const DocumentRun& run = queries[query];
    while (document != documents.cend() && *document < run.document) ++document;
    const bool has_keys = document != documents.cend() && *document == run.document;
    sets.queries[query] = {run.tokens.begin,
                           has_keys ? document - documents.cbegin() + 1 : std::int64_t{0}};
  }
  return sets;
}

/// The union of ranges that are sorted by their first keys, as the last set.
void add_union(const std::multiset<std::pair<std::int64_t, std::int64_t>>& sorted, KeySets& sets) {
  const std::size_t first = sets.ranges.size();
  for (const auto& [begin, end] : sorted) {
    if (sets.ranges.size() > first && begin <= sets.ranges.back().end)
      sets.ranges.back().end = std::max(sets.ranges.back().end, end);
    else
      sets.ranges.push_back({begin, end});
  }
  sets.offsets.push_back(static_cast<std::int64_t>(sets.ranges.size()));
}

/// Queries are swept in order; their keys change where a range begins or ends.
KeySets sets_of_ranges(std::span<const VisibleRange> ranges) {
  struct Change {
    std::int64_t query;
    bool begins;
    std::pair<std::int64_t, std::int64_t> keys;
  };
  std::vector<Change> changes;
  for (const VisibleRange& range : ranges) {
    if (range.q_begin == range.q_end || range.key_begin == range.key_end) continue;
    changes.push_back({range.q_begin, true, {range.key_begin, range.key_end}});
    changes.push_back({range.q_end, false, {range.key_begin, range.key_end}});
  }
  std::sort(changes.begin(), changes.end(),
            [](const Change& a, const Change& b) { return a.query < b.query; });
  KeySets sets;
  std::multiset<std::pair<std::int64_t, std::int64_t>> keys;
  std::size_t n = 0;
  for (std::int64_t query = 0;; query = changes[n].query) {
    for (; n < changes.size() && changes[n].query == query; ++n) {
      const auto& [at, begins, each] = changes[n];
      begins ? void(keys.insert(each)) : void(keys.erase(keys.find(each)));
    }
    sets.queries.push_back({query, sets.num_sets()});
    add_union(keys, sets);
    if (n == changes.size()) return sets;
  }
}

/// The sets of the queries of a block, and by how many of them each is shared.
std::vector<std::pair<std::int64_t, std::int64_t>> sets_of_block(const KeySets& sets,
                                                                 const BlockRow& row) {
  std::vector<std::pair<std::int64_t, std::int64_t>> shared;
  for (auto each = sets.queries_of(row.q_begin()); each != sets.queries.end(); ++each) {
    const bool last = each + 1 == sets.queries.end();
    const KeyRange queries = intersection({each->first, last ? row.q_end() : (each + 1)->first},
                                          {row.q_begin(), row.q_end()});
    if (queries.empty()) break;
    shared.emplace_back(each->set, queries.size());
  }
  std::sort(shared.begin(), shared.end());
  std::size_t count = 0;
  for (const auto& [set, queries] : shared) {
    if (count > 0 && shared[count - 1].first == set)
      shared[count - 1].second += queries;
    else
      shared[count++] = {set, queries};
  }
  shared.resize(count);
  return shared;
}

/// How many keys of a set lie in each block of keys. Ranges of a set that lie in one block are
/// counted together, so that scattered keys cost each block of queries no more than whole blocks.
class CountedSets {
 public:
  CountedSets(const KeySets& sets, std::int64_t width) {
    for (std::int64_t set = 0; set < sets.num_sets(); ++set) {
      const std::size_t first = parts_.size();
      for (const KeyRange& range : sets.set(set)) {
        const std::int64_t block = range.begin / width;
        if (range.end - block * width > width) {
          parts_.push_back({block, 0, range});
        } else if (parts_.size() > first && parts_.back().block == block &&
                   parts_.back().range.empty()) {
          parts_.back().count += range.size();
        } else {
          parts_.push_back({block, range.size(), {}});
        }
      }
      offsets_.push_back(parts_.size());
    }
  }

  /// Adds the pairs of `queries` queries that see a set.
  void add(std::int64_t set, std::int64_t queries, BlockRow& row) const {
    for (std::size_t n = offsets_[set]; n < offsets_[set + 1]; ++n) {
      const Part& part = parts_[n];
      if (part.range.empty())
        row.add(part.block, queries * part.count);
      else
        row.add(part.range, [queries](KeyRange keys) { return queries * keys.size(); });
    }
  }

 private:
  struct Part {
    std::int64_t block;
    std::int64_t count;  // keys in this block
    KeyRange range;      // or keys in this and later ones
  };
  std::vector<std::size_t> offsets_{0};
  std::vector<Part> parts_;
};

BlockMask exact_block_mask(const BlockMaskSizes& sizes, std::vector<KeySets> sets) {
  BlockMask::Blocks blocks;
  blocks.sizes = sizes;
  blocks.exact = true;
  blocks.sets = std::move(sets);
  // The vector keeps its memory when it is moved.
  const std::span<const KeySets> of_entries = blocks.sets;
  std::vector<CountedSets> counted;
  for (const KeySets& entry : of_entries) counted.emplace_back(entry, sizes.block.kv);
  return build_block_mask(std::move(blocks), Threads{}, [&](BlockRow& row) {
    const auto entry = static_cast<std::size_t>(row.batch());
    for (const auto& [set, queries] : sets_of_block(of_entries[entry], row))
      counted[entry].add(set, queries, row);
    row.classify_by_counts();
  });
}

/// Returns the number of tokens.
std::int64_t require_documents(const char* name, const TensorView& documents) {
  if (documents.absent()) reject(fmt::format("{} is missing", name));
  require_data(name, documents);
  require_integers(name, documents);
  if (documents.rank() != 1 && documents.rank() != 2) {
    reject(fmt::format("{} has shape {} of rank {}; it needs [len] or [batch, len]", name,
                       documents.shape.to_string(), documents.rank()));
  }
  return documents.shape[documents.rank() - 1];
}

void require_bounds(std::size_t n, const char* name, KeyRange range, std::int64_t len,
                    const char* len_name) {
  if (0 <= range.begin && range.begin <= range.end && range.end <= len) return;
  reject(fmt::format("ranges[{}] has {} {} to {}; they need to be in order and lie in 0..{} = {}",
                     n, name, range.begin, range.end, len_name, len));
}

}  // namespace

BlockMask BlockMask::from_documents(const TensorView& q_documents, const TensorView& kv_documents,
                                    const BlockSize& block) {
  BlockMaskSizes sizes;
  sizes.block = block;
  sizes.q_len = require_documents("q_documents", q_documents);
  sizes.kv_len = require_documents("kv_documents", kv_documents);
  for (const TensorView* documents : {&q_documents, &kv_documents}) {
    if (documents->rank() == 2 && documents->shape[0] != 1) sizes.batch = documents->shape[0];
  }
  if (q_documents.rank() == 2 && q_documents.shape[0] != 1)
    require_extent("q_documents", q_documents, 0, sizes.batch, "batch of kv_documents");
  require_block_mask_sizes(sizes);
  std::vector<KeySets> sets;
  for (std::int64_t batch = 0; batch < sizes.batch; ++batch) {
    sets.push_back(sets_of_documents(runs_of_documents(q_documents, batch),
                                     runs_of_documents(kv_documents, batch)));
  }
  return exact_block_mask(sizes, std::move(sets));
}

BlockMask BlockMask::from_ranges(std::span<const VisibleRange> ranges,
                                 const BlockMaskSizes& sizes) {
  require_block_mask_sizes(sizes);
  if (sizes.batch != 1 || sizes.num_q_heads != 1) {
    reject(fmt::format("batch is {} and num_q_heads is {}; ranges need 1 and 1", sizes.batch,
                       sizes.num_q_heads));
  }
  for (std::size_t n = 0; n < ranges.size(); ++n) {
    require_bounds(n, "queries", {ranges[n].q_begin, ranges[n].q_end}, sizes.q_len, "q_len");
    require_bounds(n, "keys", {ranges[n].key_begin, ranges[n].key_end}, sizes.kv_len, "kv_len");
  }
  std::vector<KeySets> sets;
  sets.push_back(sets_of_ranges(ranges));
  return exact_block_mask(sizes, std::move(sets));
}

}  // namespace attn
