// Block masks in C (block_mask.hpp): which blocks of queries and keys need to be computed, found
// once and used by many calls through attn_options_set_block_mask().
#pragma once

#include <attn/attn.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Queries, and keys, of a block where there is no reason for another size.
#define ATTN_BLOCK_SIZE 64

/// batch and num_q_heads are 1 where all entries, or all heads, are alike; q_block and kv_block are
/// the queries and keys of a block, 1 or more.
typedef struct attn_block_mask_sizes {
  int64_t q_len;
  int64_t kv_len;
  int64_t batch;
  int64_t num_q_heads;
  int64_t q_block;
  int64_t kv_block;
} attn_block_mask_sizes;

/// What an attn_mask_mod is told besides the indices: group_size = num_q_heads / num_kv_heads, and
/// where query 0 stands, as in attn_options_set_q_position().
typedef struct attn_mask_mod_context {
  int64_t group_size;
  int64_t q_position;
} attn_mask_mod_context;

/// The pairs of queries q_begin, ..., q_end - 1 and keys key_begin, ..., key_end - 1.
typedef struct attn_visible_range {
  int64_t q_begin;
  int64_t q_end;
  int64_t key_begin;
  int64_t key_end;
} attn_visible_range;

/// Blocks of one kind as compressed rows: row n has the blocks columns[offsets[n]], ...,
/// columns[offsets[n + 1] - 1] of keys. offsets are i32 or i64 [batch * num_q_heads * q_blocks + 1]
/// and columns [offsets[last]]. Both may be NULL: no block.
typedef struct attn_block_lists {
  const attn_tensor* offsets;
  const attn_tensor* columns;
} attn_block_lists;

/// A summary of a mask_mod, which is called for all pairs once; a call with the block mask needs
/// the mask_mod too. context may be NULL: group_size 1 and ATTN_BOTTOM_RIGHT.
ATTN_API attn_status attn_block_mask_from_mask_mod(attn_block_mask** mask, attn_mask_mod function,
                                                   void* user, const attn_block_mask_sizes* sizes,
                                                   const attn_mask_mod_context* context,
                                                   const attn_execution* execution);
/// A summary of a dense mask, in any form that ATTN_ARG_MASK takes; a call with the block mask
/// needs the dense mask too.
ATTN_API attn_status attn_block_mask_from_mask(attn_block_mask** mask,
                                               const attn_tensor* dense_mask,
                                               const attn_block_mask_sizes* sizes,
                                               const attn_execution* execution);
/// Exact: a query sees the keys of its own document. i32 or i64 [q_len] or [batch, q_len], and
/// [kv_len] or [batch, kv_len]: any numbers in any order.
ATTN_API attn_status attn_block_mask_from_documents(attn_block_mask** mask,
                                                    const attn_tensor* q_documents,
                                                    const attn_tensor* kv_documents,
                                                    int64_t q_block, int64_t kv_block);
/// Exact: a query sees the keys of all ranges [num_ranges] that it belongs to. batch and
/// num_q_heads of the sizes are 1.
ATTN_API attn_status attn_block_mask_from_ranges(attn_block_mask** mask,
                                                 const attn_visible_range* ranges,
                                                 int64_t num_ranges,
                                                 const attn_block_mask_sizes* sizes);
/// A summary as lists of its full and its partial blocks; the others are empty.
ATTN_API attn_status attn_block_mask_from_lists(attn_block_mask** mask,
                                                const attn_block_lists* full,
                                                const attn_block_lists* partial,
                                                const attn_block_mask_sizes* sizes);
ATTN_API attn_status attn_block_mask_destroy(attn_block_mask* mask);

ATTN_API attn_status attn_block_mask_get_sizes(const attn_block_mask* mask,
                                               attn_block_mask_sizes* sizes);
typedef int32_t attn_block_kind;
enum { ATTN_BLOCK_EMPTY = 0, ATTN_BLOCK_PARTIAL = 1, ATTN_BLOCK_FULL = 2 };
/// The number of blocks of a kind, in all entries and heads that are not alike.
ATTN_API attn_status attn_block_mask_count(const attn_block_mask* mask, attn_block_kind kind,
                                           int64_t* count);
ATTN_API attn_status attn_block_mask_get_kind(const attn_block_mask* mask, int64_t batch,
                                              int64_t q_head, int64_t q_block, int64_t kv_block,
                                              attn_block_kind* kind);
/// The visible pairs as a share of all; NaN if it is not known, for lists with partial blocks.
ATTN_API attn_status attn_block_mask_density(const attn_block_mask* mask, double* density);
/// Fills visible [run->count] as an attn_mask_mod does: 0 for the keys that the block mask hides.
ATTN_API attn_status attn_block_mask_visible_keys(const attn_block_mask* mask,
                                                  const attn_key_run* run, uint8_t* visible);

#ifdef __cplusplus
}
#endif
