#include "gradients.hpp"

#include <utility>

#include "apps/support/random.hpp"

namespace attn::apps::demo {

std::vector<CLI::Option*> add_gradient_files(CLI::App& command, GradientArguments& arguments) {
  return {add_file(command, "--dout FILE", arguments.dout,
                   "the gradient of the output, in the layout of Q"),
          add_file(command, "--dlse FILE", arguments.dlse,
                   "the gradient of lse, [batch, heads, q_len]; default zeros")};
}

IncomingGradients load_gradients(const Call& call, const CallArguments& arguments,
                                 const GradientArguments& files) {
  IncomingGradients incoming;
  const std::int64_t heads = call.tensors.q.shape[1];
  incoming.dout = read_floats("--dout", *files.dout, call.dtype);
  const Layout layout = layout_of("--dout", incoming.dout, arguments, heads);
  incoming.gradients.dout = heads_first(std::as_const(incoming.dout).view(), layout, heads);
  if (files.dlse) {
    incoming.dlse = read_floats("--dlse", *files.dlse, DType::f32);
    incoming.gradients.dlse = std::as_const(incoming.dlse).view();
  }
  return incoming;
}

IncomingGradients random_gradients(const Call& call, std::uint64_t seed) {
  IncomingGradients incoming;
  incoming.dout = normal_tensor(output_shape(call.tensors), call.dtype, seed);
  incoming.gradients.dout = std::as_const(incoming.dout).view();
  return incoming;
}

ForwardResults::ForwardResults(const Call& call)
    : out(DType::f32, output_shape(call.tensors)), tensors(call.tensors) {
  tensors.out = out.view();
  if (call.options.normalizer != Normalizer::softmax()) return;
  const Dims& q = call.tensors.q.shape;
  lse = Tensor(DType::f32, {q[0], q[1], q[2]});
  tensors.lse = lse.view();
}

}  // namespace attn::apps::demo
