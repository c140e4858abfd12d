// Instruction sets: which compiled kernels there are, which of them this processor runs, and which
// one a call takes.
#pragma once

#include <string_view>
#include <vector>

namespace attn {

/// Weakest first. `baseline` is what every processor of the architecture runs (SSE2 on x86-64).
enum class Isa { baseline, avx2, avx512, avx512_bf16 };

/// "baseline", "avx2", "avx512", "avx512_bf16"
std::string_view name_of(Isa isa) noexcept;
/// Throws Error(invalid_argument), naming the known ones.
Isa isa_from_name(std::string_view name);

/// The kernels in this build that this processor can run, weakest first.
std::vector<Isa> available_isas();
/// What a call takes when AttentionOptions::isa is empty: the strongest available one that oneDNN
/// would use too, so that the environment variable ONEDNN_MAX_CPU_ISA bounds both.
Isa default_isa();

}  // namespace attn
