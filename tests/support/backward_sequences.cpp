#include "support/backward_sequences.hpp"

#include <algorithm>
#include <numeric>

namespace attn::test {
namespace {

std::int64_t sum(const std::vector<std::int64_t>& lens) {
  return std::accumulate(lens.begin(), lens.end(), std::int64_t{0});
}

StridedTensor copy_of(const TensorView& view) {
  if (view.absent()) return {};
  StridedTensor copy(view.dtype, view.shape);
  copy_into(view, copy.view());
  return copy;
}

Sequences with_settings(Sequences sequences, const Case& common) {
  sequences.common = common;
  return sequences;
}

}  // namespace

BackwardTogether::BackwardTogether(const BackwardCase& common, Sequences sequences)
    : common_(common),
      sequences_(with_settings(std::move(sequences), common.call)),
      together_(sequences_) {
  Case& call = common_.call;
  call.batch = sequences_.count();
  call.q_len = call.kv_len = 0;
  for (const std::int64_t len : sequences_.q_lens) call.q_len = std::max(call.q_len, len);
  for (const std::int64_t len : sequences_.kv_lens) call.kv_len = std::max(call.kv_len, len);
  for (const Alone& alone : together_.alone()) {
    BackwardCase c = common_;
    c.call = alone.c;
    alone_.push_back({c, alone.inputs, make_gradient_inputs(c)});
  }
  gradients_.dout = StridedTensor(common_.dout_type, query_shape(call.value_dim()), call.layout);
  if (!alone_.empty() && !alone_[0].gradients.dlse.view_if_made().absent()) {
    const Dims rows = query_shape(1);
    gradients_.dlse = StridedTensor(DType::f32, Dims(rows.begin(), rows.rank() - 1), call.layout);
  }
  for (std::int64_t b = 0; b < sequences_.count(); ++b) {
    const GradientInputs& from = alone_[static_cast<std::size_t>(b)].gradients;
    copy_into(from.dout.view(), queries_of(gradients_.dout.view(), b));
    if (!from.dlse.view_if_made().absent())
      copy_into(from.dlse.view(), queries_of(gradients_.dlse.view(), b));
  }
}

Dims BackwardTogether::query_shape(std::int64_t width) const {
  const Case& call = common_.call;
  if (sequences_.ragged_queries) return {sum(sequences_.q_lens), call.num_q_heads, width};
  return {call.batch, call.num_q_heads, call.q_len, width};
}

Dims BackwardTogether::key_shape(std::int64_t width) const {
  const Case& call = common_.call;
  if (sequences_.key_form == KeyForm::ragged)
    return {sum(sequences_.kv_lens), call.num_kv_heads, width};
  return {call.batch, call.num_kv_heads, call.kv_len, width};
}

template <class Void>
BasicTensorView<Void> BackwardTogether::queries_of(const BasicTensorView<Void>& tensor,
                                                   std::int64_t sequence) const {
  if (tensor.absent()) return tensor;
  return sequences_.ragged_queries ? tokens_of(tensor, sequences_.q_lens, sequence)
                                   : tensor.sliced(0, sequence, sequence + 1);
}

TensorView BackwardTogether::keys_of(const TensorView& tensor, std::int64_t sequence) const {
  if (tensor.absent()) return tensor;
  if (sequences_.key_form == KeyForm::ragged)
    return tokens_of(tensor, sequences_.kv_lens, sequence);
  const std::int64_t len = sequences_.kv_lens[static_cast<std::size_t>(sequence)];
  return tensor.sliced(0, sequence, sequence + 1).sliced(2, 0, len);
}

AttentionGradients BackwardTogether::gradients() {
  outputs_ = make_gradient_outputs(common_);
  const auto in_shape = [&](Gradient gradient, DType dtype, const Dims& shape) {
    if (wants(common_, gradient))
      outputs_[gradient] = StridedTensor(dtype, shape, common_.call.layout);
  };
  in_shape(Gradient::dq, common_.dq_type, query_shape(common_.call.head_dim));
  in_shape(Gradient::dk, common_.dk_type, key_shape(common_.call.head_dim));
  in_shape(Gradient::dv, common_.dv_type, key_shape(common_.call.value_dim()));
  return bind(gradients_, outputs_);
}

GradientOutputs BackwardTogether::outputs(std::int64_t sequence) const {
  GradientOutputs part;
  part.dq = copy_of(queries_of(outputs_.dq.view_if_made(), sequence));
  part.dk = copy_of(keys_of(outputs_.dk.view_if_made(), sequence));
  part.dv = copy_of(keys_of(outputs_.dv.view_if_made(), sequence));
  return part;
}

bool BackwardTogether::padding_is_zero() const {
  if (sequences_.key_form == KeyForm::ragged) return true;
  for (const StridedTensor* tensor : {&outputs_.dk, &outputs_.dv}) {
    const std::vector<double> values = tensor->values();
    std::size_t n = 0;
    bool zero = true;
    for_each_index(tensor->shape(), [&](const Dims& at) {
      const bool padding = at[2] >= sequences_.kv_lens[static_cast<std::size_t>(at[0])];
      zero = zero && (!padding || values[n] == 0);
      ++n;
    });
    if (!zero) return false;
  }
  return true;
}

}  // namespace attn::test
