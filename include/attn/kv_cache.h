// Caches of keys and values in C (kv_cache.hpp): contiguous or rolling, and paged.
//
// Attention over a cache takes the arguments of attn_attention() without k, v and what says where
// they lie: ATTN_ARG_K, _V, _KV_LENS, _KV_OFFSETS, _RING_STARTS, _PAGE_TABLE, _K_SCALES, _V_SCALES.
// A plan over a cache takes these too, from attn_kv_cache_tensor() or attn_paged_kv_cache_tensor().
//
// A function that fails leaves the cache unchanged.
#pragma once

#include <attn/attn.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t attn_cache_layout;
enum {
  ATTN_CACHE_BHSD = 0,  // [.., num_kv_heads, keys, dim]
  ATTN_CACHE_BSHD = 1   // [.., keys, num_kv_heads, dim]
};

/// What a cache is besides its sizes. NULL in its place means the defaults.
typedef struct attn_cache_options attn_cache_options;
ATTN_API attn_status attn_cache_options_create(attn_cache_options** options);
ATTN_API attn_status attn_cache_options_destroy(attn_cache_options* options);
/// Default: head_dim.
ATTN_API attn_status attn_cache_options_set_v_head_dim(attn_cache_options* options,
                                                       int64_t v_head_dim);
/// f32 (the default), bf16, f16, or i8 with one scale for each key and head.
ATTN_API attn_status attn_cache_options_set_dtype(attn_cache_options* options, attn_dtype dtype);
/// Default: ATTN_CACHE_BHSD; of a paged cache, within a page.
ATTN_API attn_status attn_cache_options_set_layout(attn_cache_options* options,
                                                   attn_cache_layout layout);
/// Whether (not 0) a full sequence overwrites its oldest keys. Paged caches refuse it.
ATTN_API attn_status attn_cache_options_set_rolling(attn_cache_options* options, int32_t rolling);

/// `batch` sequences with memory for `capacity` keys each.
typedef struct attn_kv_cache attn_kv_cache;
/// options may be NULL.
ATTN_API attn_status attn_kv_cache_create(attn_kv_cache** cache, int64_t batch,
                                          int64_t num_kv_heads, int64_t capacity, int64_t head_dim,
                                          const attn_cache_options* options);
ATTN_API attn_status attn_kv_cache_destroy(attn_kv_cache* cache);
/// Appends to every sequence: k [batch, num_kv_heads, count, head_dim], v [.., v_head_dim], each
/// f32, bf16 or f16. rope may be NULL. ATTN_EXHAUSTED if a sequence has not enough room.
ATTN_API attn_status attn_kv_cache_append(attn_kv_cache* cache, const attn_tensor* k,
                                          const attn_tensor* v, const attn_rope_tables* rope);
/// Appends to one sequence: k [num_kv_heads, count, head_dim], v [.., v_head_dim].
ATTN_API attn_status attn_kv_cache_append_to(attn_kv_cache* cache, int64_t sequence,
                                             const attn_tensor* k, const attn_tensor* v,
                                             const attn_rope_tables* rope);
/// The number of keys that a sequence holds.
ATTN_API attn_status attn_kv_cache_length(const attn_kv_cache* cache, int64_t sequence,
                                          int64_t* length);
/// The position of its next key, which counts overwritten keys too.
ATTN_API attn_status attn_kv_cache_position(const attn_kv_cache* cache, int64_t sequence,
                                            int64_t* position);
/// Removes the keys from this position on.
ATTN_API attn_status attn_kv_cache_truncate(attn_kv_cache* cache, int64_t sequence,
                                            int64_t position);
/// Makes all sequences empty.
ATTN_API attn_status attn_kv_cache_clear(attn_kv_cache* cache);
/// Bytes of keys, values and scales.
ATTN_API attn_status attn_kv_cache_size(const attn_kv_cache* cache, int64_t* bytes);
/// The cache's tensor for one of the roles above; absent if it has none. It is to be read only, and
/// valid as long as the cache; later appends are visible through it.
ATTN_API attn_status attn_kv_cache_tensor(const attn_kv_cache* cache, attn_role role,
                                          attn_tensor* tensor);
ATTN_API attn_status attn_kv_cache_attention(const attn_kv_cache* cache,
                                             const attn_argument* arguments, int64_t num_arguments,
                                             const attn_options* options,
                                             const attn_execution* execution);

/// A pool of num_pages pages with page_size keys each, shared by any number of sequences.
typedef struct attn_paged_kv_cache attn_paged_kv_cache;
/// options may be NULL.
ATTN_API attn_status attn_paged_kv_cache_create(attn_paged_kv_cache** cache, int64_t num_pages,
                                                int64_t page_size, int64_t num_kv_heads,
                                                int64_t head_dim,
                                                const attn_cache_options* options);
ATTN_API attn_status attn_paged_kv_cache_destroy(attn_paged_kv_cache* cache);
/// Creates an empty sequence; it gets the lowest number that is not in use.
ATTN_API attn_status attn_paged_kv_cache_create_sequence(attn_paged_kv_cache* cache,
                                                         int64_t* sequence);
/// Creates a sequence with the same keys on the same pages, which are copied when one of both is
/// about to write to them.
ATTN_API attn_status attn_paged_kv_cache_fork(attn_paged_kv_cache* cache, int64_t parent,
                                              int64_t* sequence);
ATTN_API attn_status attn_paged_kv_cache_remove(attn_paged_kv_cache* cache, int64_t sequence);
/// As attn_kv_cache_append_to. ATTN_EXHAUSTED if there are not enough free pages.
ATTN_API attn_status attn_paged_kv_cache_append(attn_paged_kv_cache* cache, int64_t sequence,
                                                const attn_tensor* k, const attn_tensor* v,
                                                const attn_rope_tables* rope);
/// Removes the keys from `length` on, and frees the pages that are empty then.
ATTN_API attn_status attn_paged_kv_cache_truncate(attn_paged_kv_cache* cache, int64_t sequence,
                                                  int64_t length);
ATTN_API attn_status attn_paged_kv_cache_length(const attn_paged_kv_cache* cache, int64_t sequence,
                                                int64_t* length);
ATTN_API attn_status attn_paged_kv_cache_free_pages(const attn_paged_kv_cache* cache,
                                                    int64_t* pages);
/// Bytes of keys, values and scales.
ATTN_API attn_status attn_paged_kv_cache_size(const attn_paged_kv_cache* cache, int64_t* bytes);
/// Makes these sequences [num_sequences] the batch of attn_paged_kv_cache_tensor(), in this order;
/// one may be listed several times.
ATTN_API attn_status attn_paged_kv_cache_bind(attn_paged_kv_cache* cache, const int64_t* sequences,
                                              int64_t num_sequences);
/// As attn_kv_cache_tensor(), for the sequences of the last bind. It is valid until the cache
/// changes, is bound again, or attends: an error until the next bind from then on.
ATTN_API attn_status attn_paged_kv_cache_tensor(const attn_paged_kv_cache* cache, attn_role role,
                                                attn_tensor* tensor);
/// Attention with these sequences [num_sequences] as the batch.
ATTN_API attn_status attn_paged_kv_cache_attention(attn_paged_kv_cache* cache,
                                                   const int64_t* sequences, int64_t num_sequences,
                                                   const attn_argument* arguments,
                                                   int64_t num_arguments,
                                                   const attn_options* options,
                                                   const attn_execution* execution);

#ifdef __cplusplus
}
#endif
