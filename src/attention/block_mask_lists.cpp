// Block masks that are given as lists of their blocks.
#include <attn/block_mask.hpp>

#include <fmt/format.h>

#include <string>

#include "attention/block_mask_build.hpp"
#include "tensor/indexing.hpp"

namespace attn {
using namespace detail;
namespace {

const char* name_of(BlockKind kind) { return kind == BlockKind::full ? "full" : "partial"; }

void require_lists(const BlockLists& lists, BlockKind kind, std::int64_t rows) {
  const std::string offsets = fmt::format("{}.offsets", name_of(kind)),
                    columns = fmt::format("{}.columns", name_of(kind));
  if (lists.offsets.absent() && lists.columns.absent()) return;
  for (const auto& [name, tensor] :
       {std::pair{&offsets, &lists.offsets}, std::pair{&columns, &lists.columns}}) {
    if (tensor->absent()) reject(fmt::format("{} is missing", *name));
    require_data(name->c_str(), *tensor);
    require_integers(name->c_str(), *tensor);
    require_rank(name->c_str(), *tensor, 1, tensor == &lists.offsets ? "[rows + 1]" : "[blocks]");
  }
  require_extent(offsets.c_str(), lists.offsets, 0, rows + 1, "batch * num_q_heads * q_blocks + 1");
  if (integer_at(lists.offsets, 0) != 0)
    reject(fmt::format("{}[0] is {}; it needs 0", offsets, integer_at(lists.offsets, 0)));
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t begin = integer_at(lists.offsets, row),
                       end = integer_at(lists.offsets, row + 1);
    if (end < begin) {
      reject(fmt::format("{0}[{1}] is {2}, below {0}[{3}] = {4}: offsets never decrease", offsets,
                         row + 1, end, row, begin));
    }
  }
  if (integer_at(lists.offsets, rows) != lists.columns.shape[0]) {
    reject(fmt::format("{}[{}] is {}; it needs {}, the number of columns", offsets, rows,
                       integer_at(lists.offsets, rows), lists.columns.shape[0]));
  }
}

void require_new_block(const BlockRow& row, BlockKind kind, std::int64_t n, std::int64_t column) {
  const std::span<const BlockKind> kinds = row.kinds();
  if (column >= 0 && column < static_cast<std::int64_t>(kinds.size()) &&
      kinds[static_cast<std::size_t>(column)] == BlockKind::empty)
    return;
  const std::string name = fmt::format("{}.columns[{}]", name_of(kind), n);
  require_within(name.c_str(), column, 0, static_cast<std::int64_t>(kinds.size()) - 1,
                 "kv_blocks - 1");
  reject(fmt::format("{} is {}, a block that row {} has already", name, column, row.index()));
}

void mark(const BlockLists& lists, BlockKind kind, BlockRow& row) {
  if (lists.offsets.absent()) return;
  const std::int64_t end = integer_at(lists.offsets, row.index() + 1);
  for (std::int64_t n = integer_at(lists.offsets, row.index()); n < end; ++n) {
    const std::int64_t column = integer_at(lists.columns, n);
    require_new_block(row, kind, n, column);
    kind == BlockKind::full ? row.set_full(column) : row.set_partial(column);
  }
}

}  // namespace

BlockMask BlockMask::from_lists(const BlockLists& full, const BlockLists& partial,
                                const BlockMaskSizes& sizes) {
  require_block_mask_sizes(sizes);
  Blocks blocks;
  blocks.sizes = sizes;
  blocks.stands_for_mask_mod = blocks.stands_for_mask = true;
  require_lists(full, BlockKind::full, blocks.rows());
  require_lists(partial, BlockKind::partial, blocks.rows());
  return build_block_mask(std::move(blocks), Threads{}, [&](BlockRow& row) {
    mark(full, BlockKind::full, row);
    mark(partial, BlockKind::partial, row);
  });
}

}  // namespace attn
