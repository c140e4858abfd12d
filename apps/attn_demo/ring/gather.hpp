// A tensor whose rows lie on all ranks, brought to rank 0 part by part in the order of a file: rank
// 0 never holds more of it than a part.
#pragma once

#include <attn/mpi.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <vector>

namespace attn::apps::demo {

class RowGather {
 public:
  /// `own` is what this rank has: its rows are dim `rows`, in the order of `cut`. Parts are
  /// converted to a type.
  RowGather(MPI_Comm comm, const SequenceCut& cut, const TensorView& own, int rows, DType dtype);

  /// The shape of the whole.
  const Dims& shape() const noexcept { return shape_; }
  bool done() const noexcept { return next_ == parts_.size() || outer_ == num_outer_; }
  /// The elements that follow, on rank 0; other ranks send theirs, and get an empty view. All ranks
  /// call it until it is done.
  TensorView next();

 private:
  struct Part {
    int rank;
    TokenRange rows;  // of that rank's
  };
  /// This rank's rows of a part, in row-major order.
  TensorView own_part(const TokenRange& rows) const;

  MPI_Comm comm_;
  TensorView own_;
  int rows_dim_;
  DType dtype_;
  Dims shape_;
  std::vector<Part> parts_;  // in the order of the whole
  std::size_t next_ = 0;
  std::int64_t outer_ = 0, num_outer_ = 1;  // the index of the dims before the rows
  std::int64_t row_size_ = 1;               // elements
  Tensor part_;
};

}  // namespace attn::apps::demo
