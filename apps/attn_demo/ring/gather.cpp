#include "gather.hpp"

#include <algorithm>
#include <utility>

namespace attn::apps::demo {
namespace {

constexpr int tag_of_parts = 1;
constexpr std::int64_t most_elements_of_part = 1 << 22;

}  // namespace

RowGather::RowGather(MPI_Comm comm, const SequenceCut& cut, const TensorView& own, int rows,
                     DType dtype)
    : comm_(comm), own_(own), rows_dim_(rows), dtype_(dtype), shape_(own.shape) {
  shape_[rows] = cut.length();
  for (int dim = 0; dim < rows; ++dim) num_outer_ *= shape_[dim];
  for (int dim = rows + 1; dim < shape_.rank(); ++dim) row_size_ *= shape_[dim];
  if (row_size_ == 0) num_outer_ = 0;
  const std::int64_t most_rows =
      std::max<std::int64_t>(1, most_elements_of_part / std::max<std::int64_t>(1, row_size_));
  std::vector<std::pair<std::int64_t, Part>> placed;  // by the first token
  for (int rank = 0; rank < cut.num_ranks(); ++rank) {
    std::int64_t row = 0;
    for (const TokenRange& range : cut.ranges(rank)) {
      for (std::int64_t token = range.begin; token < range.end; token += most_rows) {
        const std::int64_t count = std::min(most_rows, range.end - token);
        placed.push_back({token, {rank, {row, row + count}}});
        row += count;
      }
    }
  }
  std::sort(placed.begin(), placed.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [token, part] : placed) parts_.push_back(part);
}

TensorView RowGather::own_part(const TokenRange& rows) const {
  TensorView part = own_.sliced(rows_dim_, rows.begin, rows.end);
  std::int64_t index = outer_;
  for (int dim = rows_dim_ - 1; dim >= 0; --dim) {
    const std::int64_t n = index % shape_[dim];
    part = part.sliced(dim, n, n + 1);
    index /= shape_[dim];
  }
  return part;
}

TensorView RowGather::next() {
  const Part part = parts_[next_];
  const std::int64_t count = part.rows.size() * row_size_;
  int rank = 0;
  MPI_Comm_rank(comm_, &rank);
  const auto bytes = static_cast<int>(count * static_cast<std::int64_t>(size_of(dtype_)));
  TensorView result;
  if (part.rank == rank) {
    part_ = copy_as(own_part(part.rows), dtype_);
    if (rank != 0) MPI_Send(part_.data(), bytes, MPI_BYTE, 0, tag_of_parts, comm_);
  } else if (rank == 0) {
    part_ = Tensor(dtype_, {count});
    MPI_Recv(part_.data(), bytes, MPI_BYTE, part.rank, tag_of_parts, comm_, MPI_STATUS_IGNORE);
  }
  if (rank == 0) result = std::as_const(part_).view();
  if (++next_ == parts_.size()) {
    next_ = 0;
    ++outer_;
  }
  return result;
}

}  // namespace attn::apps::demo
