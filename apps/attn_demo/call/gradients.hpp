// The gradients of an attention call: those that come in, from files or random, and the forward
// results that they belong to.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "call.hpp"

namespace attn::apps::demo {

struct GradientArguments {
  std::optional<std::string> dout, dlse;  // files
};

/// Adds --dout and --dlse. Returns both.
std::vector<CLI::Option*> add_gradient_files(CLI::App& command, GradientArguments& arguments);

/// The gradients of O and lse, and views of them in the layout of the library.
struct IncomingGradients {
  Tensor dout, dlse;
  AttentionGradients gradients;  // the others are absent
};
/// Reads the files: dout in the layout of Q, converted to the type of the call.
IncomingGradients load_gradients(const Call& call, const CallArguments& arguments,
                                 const GradientArguments& files);
/// A random dout.
IncomingGradients random_gradients(const Call& call, std::uint64_t seed);

/// O and lse of a call, in f32 whatever the type of the call, so that the gradients do not inherit
/// the rounding of O.
struct ForwardResults {
  explicit ForwardResults(const Call& call);

  Tensor out, lse;
  AttentionTensors tensors;  // the call with O, and with lse where the normalizer is softmax
};

}  // namespace attn::apps::demo
