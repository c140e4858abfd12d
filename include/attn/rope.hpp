// Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

namespace attn {

/// Rotates pairs of the first rotary_dim elements of a row at position p by the angles in row p of
/// the tables: (x, y) becomes (x cos - y sin, x sin + y cos). The other elements are unchanged.
struct Rope {
  TensorView cos;  // f32 [positions, rotary_dim / 2]; for rope() also [batch, seq, rotary_dim / 2]
  TensorView sin;  // f32, in the shape of cos
  bool interleaved = false;  // a pair is elements 2n and 2n + 1; otherwise n and n + rotary_dim / 2
};

/// y = the rotated x. Both are f32, bf16 or f16 [batch, heads, seq, dim] with any strides; results
/// are computed in f32 and rounded once. y may be the memory of x (with the same pointer, strides
/// and type); otherwise it overlaps no input.
///
/// position_ids are i32 or i64 [batch, seq], each the number of a row of the tables; if absent,
/// they are 0, 1, ..., seq - 1 for each batch entry. Tables of rank 3 have a row for each row of x,
/// and do not accept position_ids.
///
/// Throws Error(invalid_argument), before anything is written, for arguments that do not fit and
/// for a position outside the tables, and names them.
ATTN_API void rope(const TensorView& x, const Rope& tables, const TensorView& position_ids,
                   const MutableTensorView& y, const Execution& execution = {});

/// Divides positions by `factor` (Chen et al. 2023, arXiv:2306.15595).
struct LinearRopeScaling {
  double factor = 1;

  friend bool operator==(const LinearRopeScaling&, const LinearRopeScaling&) = default;
};
/// Raises theta with the length L of a sequence that is longer than original_max_positions P
/// ("dynamic NTK", as Transformers computes it): theta * (factor L / P - (factor - 1))^(d / (d -
/// 2)) for a rotary_dim of d. Shorter sequences are not scaled.
struct DynamicRopeScaling {
  double factor = 1;
  std::int64_t original_max_positions = 2048;

  friend bool operator==(const DynamicRopeScaling&, const DynamicRopeScaling&) = default;
};
/// The scaling of Llama 3.1. Frequencies whose wavelength is above original_max_positions /
/// low_freq_factor are divided by `factor`, those below original_max_positions / high_freq_factor
/// are unchanged, and between the two both are mixed, linearly in 1 / wavelength.
struct Llama3RopeScaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  std::int64_t original_max_positions = 8192;

  friend bool operator==(const Llama3RopeScaling&, const Llama3RopeScaling&) = default;
};

/// YaRN (Peng et al. 2023, arXiv:2309.00071, section 3.2 "NTK-by-parts" and 3.4). Pairs that turn
/// more than beta_fast times within original_max_positions are unchanged, those that turn less than
/// beta_slow times are divided by `factor`, and between the two both are mixed, linearly in the
/// number of the pair. `truncate` rounds the ends of that range outwards to whole pairs. Cosines
/// and sines are multiplied by attention_factor; if absent, by 0.1 ln(factor) + 1.
struct YarnRopeScaling {
  double factor = 1;
  std::int64_t original_max_positions = 2048;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;
  std::optional<double> attention_factor{};

  friend bool operator==(const YarnRopeScaling&, const YarnRopeScaling&) = default;
};
/// LongRoPE (Ding et al. 2024, arXiv:2402.13753), as Phi-3 has it: each pair's frequency is divided
/// by its element of short_factors, or of long_factors for a sequence of more than
/// original_max_positions tokens. Cosines and sines are multiplied by attention_factor.
struct LongRopeScaling {
  std::vector<double> short_factors{};  // [rotary_dim / 2]
  std::vector<double> long_factors{};   // [rotary_dim / 2]
  std::int64_t original_max_positions = 4096;
  double attention_factor = 1;

  friend bool operator==(const LongRopeScaling&, const LongRopeScaling&) = default;
};

/// The angles of a model: pair n of rotary_dim / 2 is rotated by position * theta^(-2 n /
/// rotary_dim) radians, with a scaled frequency.
struct RopeSettings {
  double theta = 10000;
  std::optional<std::int64_t> rotary_dim{};  // even; default: head_dim
  bool interleaved = false;
  std::variant<std::monostate, LinearRopeScaling, Llama3RopeScaling, DynamicRopeScaling,
               YarnRopeScaling, LongRopeScaling>
      scaling{};

  friend bool operator==(const RopeSettings&, const RopeSettings&) = default;
};

/// The frequencies of pairs, [rotary_dim / 2], in radians for each position, in a sequence of
/// `length` tokens: of dynamic scaling and LongRoPE they depend on it. Throws
/// Error(invalid_argument) for a setting that gives none, and names it.
ATTN_API std::vector<double> rope_frequencies(const RopeSettings& settings, std::int64_t head_dim,
                                              std::int64_t length = 0);
/// The factor of cosines and sines, which is 1 except for YaRN and LongRoPE.
ATTN_API double rope_attention_factor(const RopeSettings& settings);

/// Owns the tables for the positions 0, 1, ..., positions - 1 of a sequence of that many tokens,
/// computed in double and rounded once.
class ATTN_API RopeTables {
 public:
  RopeTables(const RopeSettings& settings, std::int64_t head_dim, std::int64_t positions);
  /// A view of this object's memory. It stays valid if the object is moved.
  Rope rope() const noexcept {
    return {.cos = cos_.view(), .sin = sin_.view(), .interleaved = interleaved_};
  }

 private:
  Tensor cos_, sin_;
  bool interleaved_;
};

}  // namespace attn
