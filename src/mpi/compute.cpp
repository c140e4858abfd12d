#include "mpi/compute.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::mpi {
namespace {

const std::byte* bytes_at(const TensorView& tensor, const Dims& index) {
  std::int64_t offset = 0;
  for (int dim = 0; dim < index.rank(); ++dim) offset += index[dim] * tensor.strides[dim];
  return static_cast<const std::byte*>(tensor.data) +
         offset * static_cast<std::int64_t>(size_of(tensor.dtype));
}

/// sum += part, both f32 with adjacent elements in the last dim.
void add(const TensorView& part, const MutableTensorView& sum) {
  if (part.size() == 0) return;
  const std::int64_t count = part.shape[part.rank() - 1];
  const Dims rows(part.shape.begin(), part.rank() - 1);
  Dims row = rows;
  for (int dim = 0; dim < rows.rank(); ++dim) row[dim] = 0;
  for (std::int64_t n = rows.product(); n > 0; --n) {
    const auto* const from = reinterpret_cast<const float*>(bytes_at(part, row));
    auto* const to = const_cast<float*>(reinterpret_cast<const float*>(bytes_at(sum, row)));
    for (std::int64_t d = 0; d < count; ++d) to[d] += from[d];
    for (int dim = rows.rank() - 1; dim >= 0 && ++row[dim] == rows[dim]; --dim) row[dim] = 0;
  }
}

Dims row_shape(const AttentionTensors& tensors) { return {tensors.q.shape.begin(), 3}; }

Dims with_last(const Dims& shape, std::int64_t last) {
  return {shape[0], shape[1], shape[2], last};
}

}  // namespace

MutableTensorView Scratch::tensor(std::size_t number, const Dims& shape) {
  if (tensors_.size() <= number) tensors_.resize(number + 1);
  Tensor& memory = tensors_[number];
  if (memory.size() < shape.product()) memory = Tensor(DType::f32, {shape.product()});
  return {memory.data(), DType::f32, shape};
}

Workspace& Scratch::workspace(std::size_t size) {
  if (!workspace_ || workspace_->size() < size) {
    workspace_.reset();
    workspace_.emplace(size);
  }
  return *workspace_;
}

ForwardSum::ForwardSum(const CutCall& call, const AttentionTensors& tensors)
    : call_(call),
      tensors_(tensors),
      out_(DType::f32, call.out_shape()),
      lse_(DType::f64, row_shape(tensors)) {
  clear(state());
}

void ForwardSum::add(std::span<const Piece> pieces, const KeyBlock& block,
                     const std::atomic<bool>& stop) {
  for (const Piece& piece : pieces) {
    if (stop) return;
    add_piece(piece, block);
  }
}

void ForwardSum::add_piece(const Piece& piece, const KeyBlock& block) {
  const std::int64_t group_size = call_.heads.group_size;
  AttentionTensors part = inputs_of(piece, tensors_, block, group_size, call_.geometry);
  part.out = scratch_.tensor(0, with_last(part.q.shape, call_.heads.v_head_dim));
  part.lse = scratch_.tensor(1, row_shape(part));
  const AttentionPlan plan(part, options_of(piece, call_.options, group_size), call_.execution);
  plan.run(part, scratch_.workspace(plan.workspace_size()));
  const TokenRange q_heads = q_heads_of(piece, group_size);
  const AttentionState sum{part_of(out_.view(), piece.batch, q_heads, piece.unit.queries),
                           part_of(lse_.view(), piece.batch, q_heads, piece.unit.queries)};
  const ConstAttentionState parts[] = {sum, AttentionState{part.out, part.lse}};
  merge(parts, sum, call_.execution);
}

void merge_with_sinks(std::vector<ConstAttentionState> parts, const AttentionTensors& tensors,
                      const Execution& execution) {
  const float zero = 0;
  const TensorView& sinks = tensors.sinks;
  const Dims rows = row_shape(tensors);
  if (!sinks.absent()) {
    // A sink is a part without values.
    parts.emplace_back(TensorView(&zero, tensors.out.shape, {0, 0, 0, 0}),
                       TensorView(sinks.data, sinks.dtype, rows, {0, sinks.strides[0], 0}));
  }
  Tensor unwanted;
  if (tensors.lse.absent()) unwanted = Tensor(DType::f32, rows);
  merge(parts, {tensors.out, tensors.lse.absent() ? unwanted.view() : tensors.lse}, execution);
}

BackwardSum::BackwardSum(const CutCall& call, const AttentionTensors& tensors,
                         const AttentionGradients& gradients)
    : call_(call), tensors_(tensors), gradients_(gradients) {
  if (!gradients.dq.absent()) dq_ = Tensor(DType::f32, tensors.q.shape);
  if (!gradients.dmask.absent()) dmask_ = Tensor(DType::f32, tensors.mask.shape);
  if (!gradients.dalibi.absent()) dalibi_.resize(static_cast<std::size_t>(call.num_q_heads));
}

void BackwardSum::add(std::span<const Piece> pieces, const KeyBlock& block, const KeyGradients& to,
                      const std::atomic<bool>& stop) {
  for (const Piece& piece : pieces) {
    if (stop) return;
    add_piece(piece, block, to);
  }
}

void BackwardSum::add_piece(const Piece& piece, const KeyBlock& block, const KeyGradients& to) {
  const std::int64_t group_size = call_.heads.group_size;
  const Unit& unit = piece.unit;
  const TokenRange q_heads = q_heads_of(piece, group_size);
  const bool broadcast = call_.geometry.mask && call_.geometry.mask->broadcast;
  AttentionTensors part = inputs_of(piece, tensors_, block, group_size, call_.geometry);
  part.out = part_of(tensors_.out, piece.batch, q_heads, unit.queries);
  part.lse = part_of(tensors_.lse, piece.batch, q_heads, unit.queries);
  AttentionGradients own;
  own.dout = part_of(gradients_.dout, piece.batch, q_heads, unit.queries);
  own.dlse = part_of(gradients_.dlse, piece.batch, q_heads, unit.queries);
  std::vector<std::pair<MutableTensorView, MutableTensorView>> sums;  // of a piece, and all
  const auto sum = [&](MutableTensorView& gradient, const MutableTensorView& all) {
    if (all.absent()) return;
    gradient = scratch_.tensor(sums.size(), all.shape);
    sums.emplace_back(gradient, all);
  };
  if (!gradients_.dq.absent()) sum(own.dq, part_of(dq_.view(), piece.batch, q_heads, unit.queries));
  sum(own.dk, part_of(to.dk, piece.batch, piece.kv_heads, unit.keys));
  sum(own.dv, part_of(to.dv, piece.batch, piece.kv_heads, unit.keys));
  if (!gradients_.dmask.absent())
    sum(own.dmask, mask_part(dmask_.view(), piece, group_size, broadcast));
  if (!gradients_.dalibi.absent()) own.dalibi = scratch_.tensor(sums.size(), {q_heads.size()});
  const AttentionBackwardPlan plan(part, own, options_of(piece, call_.options, group_size),
                                   call_.execution);
  plan.run(part, own, scratch_.workspace(plan.workspace_size()));
  for (const auto& [gradient, all] : sums) mpi::add(gradient, all);
  for (std::int64_t h = 0; h < own.dalibi.size() && !own.dalibi.absent(); ++h)
    dalibi_[static_cast<std::size_t>(q_heads.begin + h)] +=
        static_cast<const float*>(own.dalibi.data)[h];
}

namespace {

/// One head's rows of O, dout, lse and dlse, as dense floats.
struct SinkRows {
  Tensor out, dout, lse, dlse;
  std::int64_t width;

  double delta(std::int64_t row) const {
    const float *o = out.data<float>() + row * width, *d = dout.data<float>() + row * width;
    // O is 0 where no key was seen; then dout does not count, whatever it is.
    if (std::all_of(o, o + width, [](float value) { return value == 0; })) return 0;
    double sum = 0;
    for (std::int64_t n = 0; n < width; ++n) sum += double{o[n]} * d[n];
    return sum;
  }
  double sum(double sink) const {
    double total = 0;
    for (std::int64_t row = 0; row < lse.size(); ++row) {
      const double incoming = dlse.data() == nullptr ? 0 : dlse.data<float>()[row];
      total += std::exp(sink - lse.data<float>()[row]) * (incoming - delta(row));
    }
    return total;
  }
};

}  // namespace

std::vector<double> BackwardSum::dsinks() const {
  std::vector<double> sums(static_cast<std::size_t>(call_.num_q_heads));
  const Tensor sinks = copy_as(tensors_.sinks, DType::f32);
  for (std::int64_t b = 0; b < tensors_.q.shape[0]; ++b) {
    for (std::int64_t h = 0; h < call_.num_q_heads; ++h) {
      const double sink = sinks.data<float>()[h];
      if (sink == -std::numeric_limits<double>::infinity()) continue;  // no sink
      const auto floats = [&](const TensorView& tensor) {
        if (tensor.absent()) return Tensor();
        return copy_as(part_of(tensor, {b, b + 1}, {h, h + 1}, {0, tensors_.q.shape[2]}),
                       DType::f32);
      };
      const SinkRows rows{floats(tensors_.out), floats(gradients_.dout), floats(tensors_.lse),
                          floats(gradients_.dlse), call_.heads.v_head_dim};
      sums[static_cast<std::size_t>(h)] += rows.sum(sink);
    }
  }
  return sums;
}

}  // namespace attn::mpi
