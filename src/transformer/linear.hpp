// Projections with packed weights.
//
// A weight is packed into panels. A panel holds 64 outputs (fewer where vectors are short) by all
// inputs, one row of outputs for each input, or for each pair of bf16 inputs (the VNNI layout).
//
//   rows of x         multiplied by
//   --------------    -------------------------------------------------------------------------
//   8 and more        oneDNN's matmul, in pieces of 8, 16, 32, .. 256 rows, so that few kernels
//                     are compiled whatever the lengths are
//   the rest          the library's micro-kernel, panel by panel: a panel is read once, as a
//                     stream, for all of the rows
//
// The micro-kernel multiplies all rows where oneDNN has no kernel for panels, and in a build
// without oneDNN.
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "cache/cache_ref.hpp"
#include "iterate/execution.hpp"
#include "transformer/forward_scratch.hpp"

namespace attn::detail {

/// The weights of a projection, and their name in error messages.
struct NamedWeights {
  const char* name;
  const LinearWeights& weights;
  std::int64_t out_features;
};

/// Throws Error(invalid_argument) unless the weight is [out_features, in_features] and the bias
/// [out_features] or absent.
void check_linear(const NamedWeights& linear, std::int64_t in_features);

class Linear {
 public:
  /// Packs the weights of `parts`, which have been checked. The outputs of the parts follow one
  /// another.
  Linear(std::span<const NamedWeights> parts, std::int64_t in_features, DType dtype,
         const ResolvedExecution& resources);

  std::int64_t in_features() const noexcept { return in_features_; }
  std::int64_t out_features() const noexcept { return out_features_; }
  std::size_t size_in_bytes() const noexcept { return panels_.size_in_bytes(); }
  /// The type of x: the compute type, or f32 where the instruction set does not multiply bf16.
  DType operands() const noexcept { return operands_; }

  /// Whether oneDNN multiplies the rows of these tokens, or most of them.
  bool uses_onednn(const TokenShape& tokens) const noexcept;

  enum class Result { replace, add };
  /// y = x W^T + bias, or y += x W^T + bias. x [rows, in_features] of type operands(), dense; y
  /// [rows, out_features], f32 or bf16, dense. Only f32 can be added to.
  ///
  /// With offsets [sequences + 1] into the rows, each sequence gets the bits that it would get
  /// alone: who multiplies a row depends on the number of the rows of its sequence.
  void forward(const TensorView& x, const MutableTensorView& y, Result result,
               ForwardScratch::Memory& memory, std::span<const std::int64_t> offsets = {}) const;

 private:
  void pack_panel(std::span<const NamedWeights> parts, std::int64_t panel, float* staging);
  std::int64_t onednn_rows(std::int64_t rows, DType result_type) const noexcept;
  onednn::PackedMatmulShape shape(std::int64_t rows, DType result_type, Result result) const;
  std::int64_t forward_by_onednn(const TensorView& x, const MutableTensorView& y, Result result,
                                 ForwardScratch::Memory& memory) const;
  void forward_by_micro_kernel(const TensorView& x, const MutableTensorView& y,
                               Result result) const;
  void multiply_panel(const TensorView& x, const MutableTensorView& y, Result result,
                      std::int64_t panel) const;

  std::int64_t in_features_;
  std::int64_t out_features_;
  ResolvedExecution resources_;
  const kernels::Arithmetic& arithmetic_;
  DType operands_;
  kernels::PanelLayout layout_;
  Tensor panels_;  // [panels, depth, panel_width], floats or pairs of bf16
  Tensor bias_;    // f32 [panels * panel_width]; empty if no part has a bias
  // Whether oneDNN has fast kernels with such results.
  bool onednn_to_f32_ = false, onednn_to_bf16_ = false;
};

}  // namespace attn::detail
