// Models in files, for fit and predict.
#pragma once

#include <attn/regression.hpp>
#include <attn/tensor.hpp>

#include <string>

#include "apps/support/option_names.hpp"

namespace attn::apps::demo {

/// Reads `weight` and `bias` of a .safetensors file.
SoftmaxRegression read_model(const std::string& file);

/// A model's weight and bias in f32.
struct StoredModel {
  Tensor weight, bias;
};
/// Throws Error for a weight that f32 cannot hold: one beyond its range, and one that is so small
/// that its rounding would move logits of the input that the model was fitted to.
StoredModel stored_model(const SoftmaxRegression& model, const TensorView& input);

/// What the library calls the arguments, and the options that set them.
inline constexpr OptionName regression_option_names[] = {{"input", "--input"},
                                                         {"logits", "--logits"},
                                                         {"target", "--target"},
                                                         {"weight", "--model: weight"},
                                                         {"bias", "--model: bias"},
                                                         {"classes", "--classes"},
                                                         {"l2", "--l2"},
                                                         {"label_smoothing", "--label-smoothing"},
                                                         {"max_iterations", "--max-iterations"},
                                                         {"tolerance", "--tolerance"},
                                                         {"temperature", "--temperature"}};

}  // namespace attn::apps::demo
