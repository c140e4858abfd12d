#include "oracle/sequence_calls.hpp"

#include <algorithm>

#include "attention/block_mask.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

Dims prepended(std::int64_t first, const Dims& dims) {
  std::int64_t all[Dims::max_rank] = {first};
  std::copy(dims.begin(), dims.end(), all + 1);
  return {all, dims.rank() + 1};
}

/// The part of a tensor at one index of a dim, without that dim.
template <class Void>
BasicTensorView<Void> at(const BasicTensorView<Void>& tensor, int dim, std::int64_t index) {
  const BasicTensorView<Void> slice = tensor.sliced(dim, index, index + 1);
  return {slice.data, slice.dtype, remove_dim(slice.shape, dim), remove_dim(slice.strides, dim)};
}

/// The part of a tensor that belongs to one sequence, as [1, heads, tokens, ...]. The tensor is
/// [tokens, heads, ...] if there are offsets, else [batch, heads, ...]. Absent stays absent.
template <class Void>
BasicTensorView<Void> of_sequence(const BasicTensorView<Void>& tensor, const TensorView& offsets,
                                  std::int64_t batch) {
  if (tensor.absent()) return tensor;
  if (offsets.absent()) return tensor.sliced(0, batch, batch + 1);
  const BasicTensorView<Void> tokens =
      tensor.sliced(0, integer_at(offsets, batch), integer_at(offsets, batch + 1));
  const BasicTensorView<Void> heads =
      tokens.permuted(tensor.rank() == 2 ? Dims{1, 0} : Dims{1, 0, 2});
  return {heads.data, heads.dtype, prepended(1, heads.shape), prepended(0, heads.strides)};
}

/// The part of a mask that belongs to one sequence, with at most as many keys as it has.
template <class Void>
BasicTensorView<Void> mask_of_sequence(const BasicTensorView<Void>& mask, const SequenceCall& call,
                                       const TensorView& q_offsets) {
  if (mask.absent()) return mask;
  const int last = mask.rank() - 1;
  const std::int64_t columns = mask.shape[last], kv_len = call.tensors.k.shape[2];
  BasicTensorView<Void> rows = mask;
  if (mask.rank() == 4 && mask.shape[0] != 1) rows = rows.sliced(0, call.batch, call.batch + 1);
  if (!q_offsets.absent() && last > 0 && mask.shape[last - 1] != 1) {
    rows = rows.sliced(last - 1, integer_at(q_offsets, call.batch),
                       integer_at(q_offsets, call.batch + 1));
  }
  if (call.options.mask_keys == MaskKeys::last)
    return rows.sliced(last, std::max<std::int64_t>(columns - kv_len, 0), columns);
  return columns == 1 ? rows : rows.sliced(last, 0, std::min(columns, kv_len));
}

/// One key of a sequence in all heads: [num_kv_heads, dim] of k or v, or [num_kv_heads] of scales.
TensorView key_of(const AttentionTensors& tensors, const TensorView& rows, std::int64_t batch,
                  std::int64_t key) {
  if (!tensors.ragged.kv_offsets.absent())
    return at(rows, 0, integer_at(tensors.ragged.kv_offsets, batch) + key);
  std::int64_t entry = batch, row = key;
  if (!tensors.storage.page_table().absent()) {
    const std::int64_t page_size = rows.shape[2];
    entry = integer_at(at(tensors.storage.page_table(), 0, batch), key / page_size);
    row = key % page_size;
  }
  if (!tensors.storage.starts().absent())
    row = (integer_at(tensors.storage.starts(), batch) + key) % rows.shape[2];
  return at(at(rows, 2, row), 0, entry);
}

void multiply_rows(Tensor& rows, const TensorView& factors) {
  const Tensor by = copy_as(factors, DType::f64);
  const std::int64_t width = rows.shape()[1];
  for (std::int64_t n = 0; n < rows.size(); ++n)
    rows.data<double>()[n] *= by.data<double>()[n / width];
}

std::int64_t sequence_length(const Problem& problem, const AttentionTensors& tensors,
                             std::int64_t batch) {
  if (tensors.ragged.kv_offsets.absent()) return kv_length(tensors, problem.sizes, batch);
  return integer_at(tensors.ragged.kv_offsets, batch + 1) -
         integer_at(tensors.ragged.kv_offsets, batch);
}

}  // namespace

bool is_dense(const AttentionTensors& tensors) noexcept {
  return tensors.ragged.q_offsets.absent() && tensors.ragged.kv_offsets.absent() &&
         std::holds_alternative<Contiguous>(tensors.storage.layout) && tensors.k.dtype != DType::i8;
}

SequenceCall sequence_call(const Problem& problem, const AttentionTensors& tensors,
                           const AttentionOptions& options, std::int64_t batch, DType kv_type) {
  const std::int64_t kv_len = sequence_length(problem, tensors, batch);
  const auto shape_of = [&](const TensorView& rows) {
    return Dims{1, rows.shape[1], kv_len, rows.shape[rows.rank() - 1]};
  };
  SequenceCall call{.batch = batch,
                    .tensors = {.q = of_sequence(tensors.q, tensors.ragged.q_offsets, batch),
                                .k = {nullptr, kv_type, shape_of(tensors.k)},
                                .out = of_sequence(tensors.out, tensors.ragged.q_offsets, batch),
                                .alibi_slopes = tensors.alibi_slopes,
                                .sinks = tensors.sinks,
                                .lse = of_sequence(tensors.lse, tensors.ragged.q_offsets, batch)},
                    .options = options};
  call.tensors.mask = mask_of_sequence(tensors.mask, call, tensors.ragged.q_offsets);
  if (!tensors.v.absent()) call.tensors.v = {nullptr, kv_type, shape_of(tensors.v)};
  const auto renumbered = [batch](const auto& function) {
    return [batch, &function](KeyRun run, auto*... values) {
      run.batch = batch;
      function(run, values...);
    };
  };
  if (options.score_mod) call.options.score_mod = renumbered(options.score_mod);
  if (options.score_mod_gradient)
    call.options.score_mod_gradient = renumbered(options.score_mod_gradient);
  if (options.mask_mod) call.options.mask_mod = renumbered(options.mask_mod);
  if (options.block_mask)
    call.options.block_mask = options.block_mask->blocks().cropped(batch, kv_len);
  return call;
}

AttentionGradients gradients_of_sequence(const AttentionTensors& tensors,
                                         const AttentionGradients& gradients,
                                         const SequenceCall& call) {
  const auto of_queries = [&](const auto& tensor) {
    return of_sequence(tensor, tensors.ragged.q_offsets, call.batch);
  };
  // Rows beyond the keys of a padded sequence are not part of its call.
  const auto of_keys = [&](const auto& tensor) {
    const auto rows = of_sequence(tensor, tensors.ragged.kv_offsets, call.batch);
    return rows.absent() ? rows : rows.sliced(2, 0, call.tensors.k.shape[2]);
  };
  return {.dout = of_queries(gradients.dout),
          .dlse = of_queries(gradients.dlse),
          .dq = of_queries(gradients.dq),
          .dk = of_keys(gradients.dk),
          .dv = of_keys(gradients.dv),
          .dmask = mask_of_sequence(gradients.dmask, call, tensors.ragged.q_offsets),
          .dalibi = gradients.dalibi,
          .dsinks = gradients.dsinks};
}

Tensor gather(const AttentionTensors& tensors, const TensorView& rows, const TensorView& scales,
              const SequenceCall& call, DType dtype) {
  const std::int64_t kv_len = call.tensors.k.shape[2];
  Tensor gathered(dtype, {1, rows.shape[1], kv_len, rows.shape[rows.rank() - 1]});
  for (std::int64_t key = 0; key < kv_len; ++key) {
    Tensor heads = copy_as(key_of(tensors, rows, call.batch, key), DType::f64);
    if (!scales.absent()) multiply_rows(heads, key_of(tensors, scales, call.batch, key));
    copy_into(heads.view(), at(at(gathered.view(), 2, key), 0, 0));
  }
  return gathered;
}

}  // namespace attn::detail
