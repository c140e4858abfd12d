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

MaskSums mask_sums(const TensorView& dmask, const Sizes& sizes) noexcept {
  if (dmask.absent()) return MaskSums::none;
  const int rank = dmask.rank();
  const std::int64_t keys = dmask.shape[rank - 1];
  const std::int64_t queries = rank > 1 ? dmask.shape[rank - 2] : 1;
  if (keys == 1 && sizes.kv_len != 1) return MaskSums::rows;
  if (queries == 1 && sizes.q_len != 1) return MaskSums::columns;
  return MaskSums::elements;
}

bool heads_share_mask(const TensorView& dmask, const Sizes& sizes) noexcept {
  if (mask_sums(dmask, sizes) != MaskSums::elements) return false;
  const int rank = dmask.rank();
  const std::int64_t batch = rank > 3 ? dmask.shape[rank - 4] : 1;
  const std::int64_t heads = rank > 2 ? dmask.shape[rank - 3] : 1;
  return batch != sizes.batch || heads != sizes.num_q_heads;
}

}  // namespace attn::detail
