// What is behind the handles that more than one file knows.
#pragma once

#include <attn/attn.h>
#include <attn/attention.hpp>
#include <attn/block_mask.hpp>
#include <attn/execution.hpp>

#include <cstdint>
#include <memory>
#include <optional>

struct attn_execution {
  attn::Execution execution;
  std::shared_ptr<attn::Executor> executor;  // plans, which keep a pointer, share it
};

namespace attn::capi {

/// The fields of Ragged that are options in C.
struct RaggedLimits {
  std::optional<std::int64_t> max_q_len, max_kv_len;
};

}  // namespace attn::capi

struct attn_options {
  attn::AttentionOptions options;
  attn::capi::RaggedLimits limits;
};

struct attn_block_mask {
  attn::BlockMask mask;
};

namespace attn::capi {

// What is behind a handle that may be NULL: the defaults then.

inline Execution execution_of(const attn_execution* execution) {
  return execution == nullptr ? Execution{} : execution->execution;
}

inline const AttentionOptions& options_of(const attn_options* options) {
  static const AttentionOptions defaults;
  return options == nullptr ? defaults : options->options;
}

inline RaggedLimits limits_of(const attn_options* options) {
  return options == nullptr ? RaggedLimits{} : options->limits;
}

/// An instruction set as the C interface numbers it, and back. Throws for a number that is none.
Isa isa_of(attn_isa isa);
attn_isa number_of(Isa isa) noexcept;

/// The user's function as the library calls it; empty for NULL.
MaskMod mask_mod_of(attn_mask_mod function, void* user);

inline QueryPosition position_of(std::int64_t position) {
  return position == ATTN_BOTTOM_RIGHT ? QueryPosition::bottom_right()
                                       : QueryPosition::at(position);
}

}  // namespace attn::capi
