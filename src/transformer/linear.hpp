// Projections with packed weights.
//
// A weight's panel is 64 outputs (less where vectors are short) by all inputs, words of depth one
// after another:
//
//   8 rows and more   oneDNN's matmul, in pieces of 8, 16, 32, ... rows, so that few kernels are
//   compiled whatever the lengths are fewer rows        the micro-kernel, panel by panel: a panel
//   is read once, in a stream, for all of the rows
//
// The second takes all rows where oneDNN has no kernel for panels.
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "iterate/execution.hpp"
#include "transformer/forward_scratch.hpp"

namespace attn::detail {

/// A weight and what it is called in errors.
struct NamedWeights {
  const char* name;
  const LinearWeights& weights;
  std::int64_t out_features;
};

/// Throws unless the weights are [out_features, in_features] with a fitting bias or none.
void check_linear(const NamedWeights& linear, std::int64_t in_features);

class Linear {
 public:
  /// The outputs of `parts`, one after another. They have been checked.
  Linear(std::span<const NamedWeights> parts, std::int64_t in_features, DType dtype,
         const ResolvedExecution& resources);

  std::int64_t in_features() const noexcept { return in_features_; }
  std::int64_t out_features() const noexcept { return out_features_; }
  std::size_t size_in_bytes() const noexcept { return panels_.size_in_bytes(); }
  /// The type of x: the compute type, or f32 where the instruction set does not multiply bf16.
  DType operands() const noexcept { return operands_; }

  enum class Result { replace, add };
  /// y = x W^T + bias, or +=. x [rows, in_features] of operands(), y [rows, out_features] f32 or
  /// bf16, f32 to be added to; dense.
  void forward(const TensorView& x, const MutableTensorView& y, Result result,
               ForwardScratch::Memory& memory) const;

 private:
  void pack_panel(std::span<const NamedWeights> parts, std::int64_t panel, float* staging);
  std::int64_t onednn_rows(std::int64_t rows, DType result_type) const noexcept;
  onednn::PackedMatmulShape shape(std::int64_t rows, DType result_type, Result result) const;
  void multiply_panel(const TensorView& x, const MutableTensorView& y, Result result,
                      std::int64_t panel) const;

  std::int64_t in_features_;
  std::int64_t out_features_;
  ResolvedExecution resources_;
  const kernels::Arithmetic& arithmetic_;
  DType operands_;
  kernels::PanelLayout layout_;
  Tensor panels_;  // words, [panels, depth, panel_width]
  Tensor bias_;    // f32, to the end of the last panel; empty without
  bool onednn_to_f32_ = false, onednn_to_bf16_ = false;  // oneDNN has kernels with such results
};

}  // namespace attn::detail
