#include "backward/context.hpp"

namespace attn::detail {

AttentionTensors in_place_of_tensors(const AttentionTensors& tensors,
                                     const AttentionGradients& gradients) {
  const auto unchanged = [](const TensorView& view) {
    return MutableTensorView(const_cast<void*>(view.data), view.dtype, view.shape, view.strides);
  };
  AttentionTensors in_place = tensors;
  in_place.q = gradients.dq;
  in_place.k = gradients.dk;
  in_place.v = gradients.dv;
  in_place.out = unchanged(gradients.dout);  // it is only read
  in_place.lse = unchanged(gradients.dlse);
  return in_place;
}

MaskSums mask_sums(const TensorView& dmask, const AttentionTensors& tensors,
                   const Problem& problem) noexcept {
  if (dmask.absent()) return MaskSums::none;
  const int rank = dmask.rank();
  const std::int64_t keys = dmask.shape[rank - 1];
  const std::int64_t queries = rank > 1 ? dmask.shape[rank - 2] : 1;
  const bool one_for_all_keys = keys == 1 && problem.mask_keys == MaskKeys::first;
  const bool ragged = !tensors.ragged.q_offsets.absent();
  if (one_for_all_keys && problem.sizes.kv_len != 1) return MaskSums::rows;
  if (queries == 1 && (ragged ? tensors.q.shape[0] : problem.sizes.q_len) != 1)
    return MaskSums::columns;
  return MaskSums::elements;
}

bool heads_share_mask(const TensorView& dmask, const Sizes& sizes) noexcept {
  const int rank = dmask.rank();
  const std::int64_t batch = rank > 3 ? dmask.shape[rank - 4] : 1;
  const std::int64_t heads = rank > 2 ? dmask.shape[rank - 3] : 1;
  return batch != sizes.batch || heads != sizes.num_q_heads;
}

}  // namespace attn::detail
