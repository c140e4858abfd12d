// Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

namespace attn {

/// Turns the first rotary_dim elements of a row at position p: (x, y) -> (x cos - y sin, x sin + y
/// cos), with row p of the tables. The other elements stay as they are.
struct Rope {
  TensorView cos;  // f32 [positions, rotary_dim / 2]; for rope() also [batch, seq, rotary_dim / 2]
  TensorView sin;  // the same
  bool interleaved = false;  // pairs are elements 2n and 2n + 1; else n and n + rotary_dim / 2
};

/// y = x turned. x and y are f32, bf16 or f16 [batch, heads, seq, dim], computed in f32 and rounded
/// once; any strides; y may be the very memory of x, and overlaps no input otherwise. position_ids:
/// i32 or i64 [batch, seq], each a row of the tables; absent: 0, 1, ..., seq - 1 for each batch
/// entry. Tables of rank 3 have a row for each place, and take no position_ids. Throws
/// Error(invalid_argument), before anything is written, for what does not fit and for a position
/// outside the tables, naming it.
void rope(const TensorView& x, const Rope& tables, const TensorView& position_ids,
          const MutableTensorView& y, const Execution& execution = {});

/// Positions are divided by `factor` (Chen et al. 2023, arXiv:2306.15595).
struct LinearRopeScaling {
  double factor = 1;

  friend bool operator==(const LinearRopeScaling&, const LinearRopeScaling&) = default;
};
/// Llama 3.1's: frequencies whose wavelength is above original_max_positions / low_freq_factor are
/// divided by `factor`, those below original_max_positions / high_freq_factor stay, and between the
/// two it is a mean of both, linear in 1 / wavelength.
struct Llama3RopeScaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  std::int64_t original_max_positions = 8192;

  friend bool operator==(const Llama3RopeScaling&, const Llama3RopeScaling&) = default;
};

/// How a model turns: pair n of rotary_dim / 2 by position * theta^(-2 n / rotary_dim), scaled.
struct RopeSettings {
  double theta = 10000;
  std::optional<std::int64_t> rotary_dim{};  // even; default: head_dim
  bool interleaved = false;
  std::variant<std::monostate, LinearRopeScaling, Llama3RopeScaling> scaling{};

  friend bool operator==(const RopeSettings&, const RopeSettings&) = default;
};

/// Radians for each position, pair by pair: [rotary_dim / 2]. Throws Error(invalid_argument),
/// naming the setting, for what makes none.
std::vector<double> rope_frequencies(const RopeSettings& settings, std::int64_t head_dim);

/// Tables of the positions 0, 1, ..., positions - 1, made in double and rounded once.
class RopeTables {
 public:
  RopeTables(const RopeSettings& settings, std::int64_t head_dim, std::int64_t positions);
  /// Points to this object's memory, which moving it takes along.
  Rope rope() const noexcept {
    return {.cos = cos_.view(), .sin = sin_.view(), .interleaved = interleaved_};
  }

 private:
  Tensor cos_, sin_;
  bool interleaved_;
};

}  // namespace attn
