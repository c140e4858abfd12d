// Instruction sets: for which ones kernels are compiled, which of them this processor can run, and
// which one a call uses.
#pragma once

#include <attn/export.hpp>

#include <string_view>
#include <vector>

namespace attn {

/// The enumerators have no order. `baseline` runs on every processor of the architecture (SSE2 on
/// x86-64).
enum class Isa { baseline, avx2, avx512, avx512_bf16 };

/// "baseline", "avx2", "avx512", "avx512_bf16"
ATTN_API std::string_view name_of(Isa isa) noexcept;
/// Throws Error(invalid_argument) for other names; the message lists the known ones.
ATTN_API Isa isa_from_name(std::string_view name);

/// The instruction sets that this build has kernels for and this processor can run, from the least
/// to the most preferred. The first is `baseline`.
ATTN_API std::vector<Isa> available_isas();
/// What a call uses if it names no instruction set: the most preferred available one that oneDNN
/// may use, too. So the environment variable ONEDNN_MAX_CPU_ISA limits both libraries. In a build
/// without oneDNN it has no effect.
ATTN_API Isa default_isa();

}  // namespace attn
