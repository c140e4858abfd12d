#include "support/backward_case.hpp"

#include <attn/reference.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "oracle/plain_float.hpp"

namespace attn::test {
namespace {

StridedTensor normal_tensor(Random& random, DType dtype, const Dims& shape, Layout layout) {
  StridedTensor tensor(dtype, shape, layout);
  std::vector<double> values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = random.normal();
  tensor.assign(values);
  return tensor;
}

/// Calls f(index) for each element of a tensor [batch, heads, positions, ...] at the positions that
/// `seen` has 0 for. The tensor may be null, or not made.
template <class F>
void for_each_unseen(const StridedTensor& seen, const StridedTensor* tensor, F f) {
  if (tensor == nullptr || tensor->view_if_made().absent()) return;
  const std::vector<double> flags = seen.values();
  const Dims& shape = seen.shape();
  for_each_index(tensor->shape(), [&](const Dims& at) {
    if (flags[(at[0] * shape[1] + at[1]) * shape[2] + at[2]] == 0) f(at);
  });
}

double value_at(const StridedTensor& tensor, const Dims& index) {
  double value = 0;
  const TensorView view = tensor.view();
  const auto* const data =
      static_cast<const std::byte*>(view.data) +
      offset_of(view.strides, index) * static_cast<std::int64_t>(size_of(view.dtype));
  copy_into(TensorView(data, view.dtype, {1}), {&value, {1}});
  return value;
}

}  // namespace

std::string name_of(Gradient gradient) {
  constexpr const char* names[] = {"dq", "dk", "dv", "dmask", "dalibi", "dsinks"};
  return names[static_cast<std::size_t>(gradient)];
}

BackwardCase with_gradients_in_double(BackwardCase c) {
  c.dq_type = c.dk_type = c.dv_type = c.shared_type = DType::f64;
  return c;
}

std::string to_string(const BackwardCase& c) {
  std::string text =
      to_string(c.call) + fmt::format(" gradient types {} -> {},{},{}", name_of(c.dout_type),
                                      name_of(c.dq_type), name_of(c.dk_type), name_of(c.dv_type));
  if (!c.dlse) text += " without dlse";
  for (const Gradient gradient : c.left_out) text += " without " + name_of(gradient);
  return text;
}

std::string repeat_line(const BackwardCase& c) {
  return to_string(c) + '\n' + repeat_command(c.call.seed);
}

bool wants(const BackwardCase& c, Gradient gradient) {
  if (std::find(c.left_out.begin(), c.left_out.end(), gradient) != c.left_out.end()) return false;
  switch (gradient) {
    case Gradient::dmask: return c.call.mask && c.call.mask->dtype != DType::boolean;
    case Gradient::dalibi: return c.call.alibi;
    case Gradient::dsinks: return c.call.sinks;
    default: return true;
  }
}

GradientInputs make_gradient_inputs(const BackwardCase& c) {
  const Case& call = c.call;
  Random random(call.seed ^ 0x9e3779b97f4a7c15);
  GradientInputs inputs;
  inputs.dout =
      normal_tensor(random, c.dout_type,
                    {call.batch, call.num_q_heads, call.q_len, call.value_dim()}, call.layout);
  if (c.dlse && call.options.normalizer == Normalizer::softmax()) {
    inputs.dlse =
        normal_tensor(random, DType::f32, {call.batch, call.num_q_heads, call.q_len}, call.layout);
  }
  return inputs;
}

StridedTensor& GradientOutputs::operator[](Gradient gradient) {
  StridedTensor* const all[] = {&dq, &dk, &dv, &dmask, &dalibi, &dsinks};
  return *all[static_cast<std::size_t>(gradient)];
}
const StridedTensor& GradientOutputs::operator[](Gradient gradient) const {
  return const_cast<GradientOutputs&>(*this)[gradient];
}

GradientOutputs make_gradient_outputs(const BackwardCase& c) {
  const Case& call = c.call;
  GradientOutputs outputs;
  const auto make = [&](Gradient gradient, DType dtype, const Dims& shape) {
    if (wants(c, gradient)) outputs[gradient] = StridedTensor(dtype, shape, call.layout);
  };
  make(Gradient::dq, c.dq_type, {call.batch, call.num_q_heads, call.q_len, call.head_dim});
  make(Gradient::dk, c.dk_type, {call.batch, call.num_kv_heads, call.kv_len, call.head_dim});
  make(Gradient::dv, c.dv_type, {call.batch, call.num_kv_heads, call.kv_len, call.value_dim()});
  if (call.mask) make(Gradient::dmask, c.shared_type, call.mask->shape);
  make(Gradient::dalibi, c.shared_type, {call.num_q_heads});
  make(Gradient::dsinks, c.shared_type, {call.num_q_heads});
  return outputs;
}

AttentionGradients bind(const GradientInputs& inputs, GradientOutputs& outputs) {
  return {.dout = inputs.dout.view(),
          .dlse = inputs.dlse.view_if_made(),
          .dq = outputs.dq.view_if_made(),
          .dk = outputs.dk.view_if_made(),
          .dv = outputs.dv.view_if_made(),
          .dmask = outputs.dmask.view_if_made(),
          .dalibi = outputs.dalibi.view_if_made(),
          .dsinks = outputs.dsinks.view_if_made()};
}

GradientOutputs run_backward_reference(const BackwardCase& c, const Inputs& inputs,
                                       const GradientInputs& gradients) {
  Outputs none;
  GradientOutputs outputs = make_gradient_outputs(c);
  AttentionTensors tensors = bind(inputs, none);
  tensors.out = {};
  attention_backward_reference(tensors, bind(gradients, outputs), c.call.options, c.call.execution);
  return outputs;
}

Seen seen_by_masks(const BackwardCase& c, const Inputs& inputs) {
  const Case& call = c.call;
  Outputs none;
  const AttentionTensors tensors = bind(inputs, none);
  Seen seen{StridedTensor(DType::f64, {call.batch, call.num_q_heads, call.q_len}),
            StridedTensor(DType::f64, {call.batch, call.num_kv_heads, call.kv_len})};
  for_each_index(seen.keys.shape(), [&](const Dims& key) { seen.keys.set(key, 0); });
  for_each_index(seen.rows.shape(), [&](const Dims& row) {
    const std::vector<bool> visible =
        detail::visible_keys(tensors, call.options, row[0], row[1], row[2]);
    seen.rows.set(row, std::find(visible.begin(), visible.end(), true) != visible.end());
    const std::int64_t kv_head = row[1] / (call.num_q_heads / call.num_kv_heads);
    for (std::int64_t j = 0; j < call.kv_len; ++j) {
      if (visible[j]) seen.keys.set({row[0], kv_head, j}, 1);
    }
  });
  return seen;
}

std::int64_t poison_unseen(const Seen& seen, Inputs& inputs, GradientInputs& gradients,
                           double poison) {
  const auto put = [poison](const StridedTensor& where, StridedTensor* tensor) {
    for_each_unseen(where, tensor, [&](const Dims& at) { tensor->set(at, poison); });
  };
  const bool sinks = !inputs.sinks.view_if_made().absent();
  put(seen.rows, &inputs.q);
  put(seen.rows, &gradients.dout);
  put(seen.rows, sinks ? nullptr : &gradients.dlse);
  put(seen.keys, &inputs.k);
  put(seen.keys, &inputs.v);
  const std::vector<double> rows = seen.rows.values(), keys = seen.keys.values();
  return std::count(rows.begin(), rows.end(), 0.0) + std::count(keys.begin(), keys.end(), 0.0);
}

bool unseen_are_zero(const Seen& seen, const Inputs& inputs, const GradientOutputs& outputs) {
  bool zero = true;
  const auto check = [&zero](const StridedTensor& where, const StridedTensor& tensor) {
    for_each_unseen(where, &tensor,
                    [&](const Dims& at) { zero = zero && value_at(tensor, at) == 0; });
  };
  check(seen.rows, outputs.dq);
  check(seen.keys, outputs.dk);
  check(seen.keys, outputs.dv);
  const std::vector<double> mask = inputs.mask.values(), dmask = outputs.dmask.values();
  for (std::size_t n = 0; n < dmask.size(); ++n)
    zero = zero && (mask[n] != -std::numeric_limits<double>::infinity() || dmask[n] == 0);
  return zero;
}

std::string bit_difference(const GradientOutputs& a, const GradientOutputs& b,
                           std::initializer_list<Gradient> gradients) {
  for (const Gradient gradient : gradients) {
    const std::vector<std::uint64_t> bits = a[gradient].bits(), others = b[gradient].bits();
    const auto [place, other] =
        std::mismatch(bits.begin(), bits.end(), others.begin(), others.end());
    if (place != bits.end() || other != others.end())
      return fmt::format("{}: element {} of {} and {} differs", name_of(gradient),
                         place - bits.begin(), bits.size(), others.size());
  }
  return "";
}

void set_affine_score_mod(AttentionOptions& options) {
  options.score_mod = [](const KeyRun& run, float* scores) {
    for (std::int64_t n = 0; n < run.count; ++n)
      scores[n] = 0.5f * scores[n] + static_cast<float>((run.key_begin + n + run.q_index) % 5);
  };
  options.score_mod_gradient = [](const KeyRun& run, const float*, float* gradient) {
    for (std::int64_t n = 0; n < run.count; ++n) gradient[n] *= 0.5f;
  };
}

void set_curved_score_mod(AttentionOptions& options) {
  options.score_mod = [](const KeyRun& run, float* scores) {
    for (std::int64_t n = 0; n < run.count; ++n) {
      const std::int64_t place = run.key_begin + n + run.q_index + run.q_head + run.batch;
      const auto shift = static_cast<float>(place % 3);
      scores[n] = place % 7 == 2 ? -std::numeric_limits<float>::infinity()
                                 : scores[n] + 0.5f * std::sin(scores[n] + shift);
    }
  };
  options.score_mod_gradient = [](const KeyRun& run, const float* scores, float* gradient) {
    for (std::int64_t n = 0; n < run.count; ++n) {
      const std::int64_t place = run.key_begin + n + run.q_index + run.q_head + run.batch;
      gradient[n] *= 1 + 0.5f * std::cos(scores[n] + static_cast<float>(place % 3));
    }
  };
}

}  // namespace attn::test
