// The C interface, in C99: library attn_c. Meanings are those of the C++ headers, which this one
// names; shapes, units and errors are said here as well. attn/functions.h has the softmax family,
// norms and activations.
//
// Status. Every function returns an attn_status, but for those that return a text or a version
// number. On an error nothing is written (unless the user's own function ended the call), a handle
// that was to be created is NULL, and attn_last_error() says what was wrong. No C++ exception
// leaves the library, and it never prints or aborts. A pointer that may be NULL says so below; for
// any other, NULL is ATTN_INVALID_ARGUMENT. Arrays with a count may be NULL if the count is 0.
//
// Handles. What may grow is behind a handle: options, plans, caches. Destroy functions take NULL.
// Functions that take a pointer to const may run on several threads at once with one handle; all
// others need the handle for themselves. A plan keeps what it needs of options and execution, so
// that these may be changed or destroyed after it was created. `user` pointers are kept as they
// are: what they point to has to live as long as the handles and plans that know them.
//
// Compatibility. Numbers of enumerations and layouts of structs stay as they are. Programs that
// were linked with one version run with later ones of the same SONAME.
#pragma once

#include <attn/export.hpp>  // It contains only preprocessor directives.

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATTN_VERSION_MAJOR 0
#define ATTN_VERSION_MINOR 1
#define ATTN_VERSION_PATCH 0
/// For comparisons: 102 is 0.1.2, and 10203 is 1.2.3.
#define ATTN_VERSION (ATTN_VERSION_MAJOR * 10000 + ATTN_VERSION_MINOR * 100 + ATTN_VERSION_PATCH)

/// ATTN_VERSION, and for example "0.1.0", of the library that runs.
ATTN_API int32_t attn_version(void);
ATTN_API const char* attn_version_string(void);

// ---- Status ------------------------------------------------------------------------------------

typedef int32_t attn_status;
enum {
  ATTN_OK = 0,
  ATTN_INVALID_ARGUMENT = 1,  // the arguments contradict each other or are out of range
  ATTN_UNSUPPORTED = 2,       // a valid call that this build or processor cannot run
  ATTN_EXHAUSTED = 3,         // a cache is full
  ATTN_OUT_OF_MEMORY = 4,
  ATTN_CALLBACK_FAILED = 5,  // a function of the user returned something other than 0
  ATTN_INTERNAL_ERROR = 6    // an error of the library or of the system
};

/// The message of the calling thread's last call that failed, "" if none did. It names the
/// argument, what it got and what it needs. Valid until the thread's next failure; messages of more
/// than 1023 bytes are cut.
ATTN_API const char* attn_last_error(void);
/// "ok", "invalid argument", ...; "unknown status" for other numbers.
ATTN_API const char* attn_status_name(attn_status status);

// ---- Tensors (tensor.hpp) ----------------------------------------------------------------------

#define ATTN_MAX_RANK 8

typedef int32_t attn_dtype;
enum {
  ATTN_F32 = 1,
  ATTN_BF16 = 2,  // the upper half of an f32
  ATTN_F16 = 3,   // IEEE half
  ATTN_F64 = 4,
  ATTN_I8 = 5,
  ATTN_I32 = 6,
  ATTN_I64 = 7,
  ATTN_BOOLEAN = 8  // one byte; every byte but 0 is true
};

/// A view of the caller's memory; inputs are only read. `data` points to element (0, ..., 0) and is
/// a multiple of the element's size. Dims are listed from the outermost to the innermost, and
/// strides are in elements: of any value, 0 and negative ones included, for inputs; elements of
/// outputs do not overlap. An optional tensor is absent if its pointer is NULL, or if its data is
/// NULL and its rank 0.
typedef struct attn_tensor {
  void* data;
  attn_dtype dtype;
  int32_t rank;
  int64_t shape[ATTN_MAX_RANK];
  int64_t strides[ATTN_MAX_RANK];
} attn_tensor;

/// Fills in a dense (row-major) tensor of this shape [rank], each extent 0 or more. `data` may be
/// NULL where only the shape counts; `shape` may be NULL for rank 0.
ATTN_API attn_status attn_dense_tensor(attn_tensor* tensor, const void* data, attn_dtype dtype,
                                       int32_t rank, const int64_t* shape);
/// Copies a tensor to one of the same shape and converts its elements: to nearest even for floats.
/// The two do not overlap.
ATTN_API attn_status attn_copy(const attn_tensor* source, const attn_tensor* destination);

// ---- Execution (execution.hpp, isa.hpp) --------------------------------------------------------

typedef int32_t attn_isa;
enum { ATTN_ISA_BASELINE = 1, ATTN_ISA_AVX2 = 2, ATTN_ISA_AVX512 = 3, ATTN_ISA_AVX512_BF16 = 4 };

/// How a function runs: threads and instruction set. NULL in its place means the defaults. Results
/// have the same bits for any number of threads, whosever they are.
typedef struct attn_execution attn_execution;

/// What an executor lends threads to. It is copied freely, and may be run at any time, also late.
typedef struct attn_task {
  uint64_t opaque[4];
} attn_task;
/// Computes until no work of the call is left; returns at once if it has ended. The task is, or is
/// a copy of, one that an attn_offer has received.
ATTN_API attn_status attn_task_run(const attn_task* task);
/// Asks for up to num_threads >= 1 other threads, each of which calls attn_task_run() with a copy
/// of the task, now or later, or never. It is called from several threads at once, and returns 0;
/// anything else ends the call with ATTN_CALLBACK_FAILED.
typedef int32_t (*attn_offer)(void* user, int32_t num_threads, const attn_task* task);

ATTN_API attn_status attn_execution_create(attn_execution** execution);
ATTN_API attn_status attn_execution_destroy(attn_execution* execution);
/// An upper limit, 1 or more.
ATTN_API attn_status attn_execution_set_num_threads(attn_execution* execution, int32_t num_threads);
/// A call with one that this processor lacks is ATTN_UNSUPPORTED.
ATTN_API attn_status attn_execution_set_isa(attn_execution* execution, attn_isa isa);
/// Whose threads help the calling one. An `offer` of NULL: the library's own, which is the default.
ATTN_API attn_status attn_execution_set_executor(attn_execution* execution, attn_offer offer,
                                                 void* user);
/// OpenMP's threads help.
ATTN_API attn_status attn_execution_set_openmp_executor(attn_execution* execution);

/// The number of threads of a call that names none.
ATTN_API attn_status attn_default_num_threads(int32_t* num_threads);
/// What a call uses that names no instruction set.
ATTN_API attn_status attn_default_isa(attn_isa* isa);
/// 1 if this build has kernels for it and this processor can run them, else 0.
ATTN_API attn_status attn_isa_available(attn_isa isa, int32_t* available);
/// "baseline", "avx2", ...
ATTN_API attn_status attn_isa_name(attn_isa isa, const char** name);

typedef int32_t attn_info_key;
enum {
  ATTN_INFO_COMPILER = 1,       // for example "GCC 12.2.0"
  ATTN_INFO_ONEDNN_VERSION = 2  // for example "2.6.3"; "" in a build without oneDNN
};
/// A text about the build, valid as long as the process.
ATTN_API attn_status attn_info(attn_info_key key, const char** text);

// ---- Options of a call (mask.hpp, normalizer.hpp) ----------------------------------------------

/// What a call computes. NULL in its place means the defaults: softmax over all keys, with the
/// scale 1 / sqrt(head_dim). Setters check enumerators alone; the call checks all values.
typedef struct attn_options attn_options;
typedef struct attn_block_mask attn_block_mask;

ATTN_API attn_status attn_options_create(attn_options** options);
ATTN_API attn_status attn_options_destroy(attn_options* options);

ATTN_API attn_status attn_options_set_softmax_scale(attn_options* options, float scale);
/// s becomes softcap * tanh(s / softcap); softcap > 0.
ATTN_API attn_status attn_options_set_softcap(attn_options* options, float softcap);
/// Whether (not 0) a query sees no key after its own position.
ATTN_API attn_status attn_options_set_causal(attn_options* options, int32_t causal);
#define ATTN_TOP_LEFT 0
#define ATTN_BOTTOM_RIGHT INT64_MIN
/// Where query 0 stands on the axis of keys, for causal, window and ALiBi: any number,
/// ATTN_TOP_LEFT, or ATTN_BOTTOM_RIGHT (the default): kv_len - q_len, by kv_lens if they are given.
ATTN_API attn_status attn_options_set_q_position(attn_options* options, int64_t position);
#define ATTN_UNLIMITED INT64_MAX
/// Key j is visible iff p - left <= j <= p + right, where p is the query's position. Both are 0 or
/// more, or ATTN_UNLIMITED.
ATTN_API attn_status attn_options_set_window(attn_options* options, int64_t left, int64_t right);

ATTN_API attn_status attn_options_set_softmax(attn_options* options);
/// bias may be NULL: -log(number of keys).
ATTN_API attn_status attn_options_set_sigmoid(attn_options* options, const float* bias);
/// alpha >= 1; 2 is sparsemax, 1 is softmax.
ATTN_API attn_status attn_options_set_entmax(attn_options* options, float alpha);

typedef int32_t attn_mask_keys;
enum {
  ATTN_MASK_KEYS_FIRST = 0,  // column c of the mask is key c
  ATTN_MASK_KEYS_LAST = 1    // its n columns are the last n keys of each sequence
};
ATTN_API attn_status attn_options_set_mask_keys(attn_options* options, attn_mask_keys keys);
/// mask may be NULL: none. The options share it, so that the handle may be destroyed.
ATTN_API attn_status attn_options_set_block_mask(attn_options* options,
                                                 const attn_block_mask* mask);

typedef int32_t attn_score_matmul;
enum {
  ATTN_SCORE_MATMUL_AUTOMATIC = 0,
  ATTN_SCORE_MATMUL_BUILT_IN = 1,
  ATTN_SCORE_MATMUL_ONEDNN = 2
};
/// Who multiplies Q and K^T, and P and V, of whole tiles, and in gradients Q and K^T, and dout and
/// V^T; automatic is the default. Builds without oneDNN refuse it: ATTN_UNSUPPORTED.
ATTN_API attn_status attn_options_set_score_matmul(attn_options* options, attn_score_matmul matmul);

/// No sequence of a ragged batch is longer. The default is the number of all tokens; attn_attention
/// reads the longest length. They bound the workspace of a plan.
ATTN_API attn_status attn_options_set_max_q_len(attn_options* options, int64_t max_q_len);
ATTN_API attn_status attn_options_set_max_kv_len(attn_options* options, int64_t max_kv_len);

/// Keys key_begin, ..., key_begin + count - 1 of one query row.
typedef struct attn_key_run {
  int64_t batch;
  int64_t q_head;
  int64_t kv_head;
  int64_t q_index;     // row of Q, from 0
  int64_t q_position;  // key j is |q_position - j| away
  int64_t key_begin;
  int64_t count;
} attn_key_run;

/// Functions of the user. They are called from several threads at once, treat each key by itself,
/// and return 0; anything else ends the call with ATTN_CALLBACK_FAILED. They throw nothing.
/// attn_score_mod changes scores [count] in place, also those of hidden keys. Its gradient receives
/// the same scores and turns gradient [count] of the results into that of the scores. attn_mask_mod
/// fills visible [count]: 0 is hidden, all else visible.
typedef int32_t (*attn_score_mod)(void* user, const attn_key_run* run, float* scores);
typedef int32_t (*attn_score_mod_gradient)(void* user, const attn_key_run* run, const float* scores,
                                           float* gradient);
typedef int32_t (*attn_mask_mod)(void* user, const attn_key_run* run, uint8_t* visible);
/// `function` may be NULL: none.
ATTN_API attn_status attn_options_set_score_mod(attn_options* options, attn_score_mod function,
                                                void* user);
ATTN_API attn_status attn_options_set_score_mod_gradient(attn_options* options,
                                                         attn_score_mod_gradient function,
                                                         void* user);
ATTN_API attn_status attn_options_set_mask_mod(attn_options* options, attn_mask_mod function,
                                               void* user);

// ---- The call and its gradients (attention.hpp, attention_backward.hpp, kv_storage.hpp) --------

/// What a tensor is to a call. Types are f32, bf16 or f16 where nothing else is said, K and V
/// alike. Outputs overlap neither an input nor each other.
typedef int32_t attn_role;
enum {
  ATTN_ARG_Q = 1,     // [batch, num_q_heads, q_len, head_dim]
  ATTN_ARG_K = 2,     // [batch, num_kv_heads, kv_len, head_dim]
  ATTN_ARG_V = 3,     // [batch, num_kv_heads, kv_len, v_head_dim]
  ATTN_ARG_OUT = 4,   // [batch, num_q_heads, q_len, v_head_dim], written
  ATTN_ARG_LSE = 5,   // f32 [batch, num_q_heads, q_len], written; only of softmax
  ATTN_ARG_MASK = 6,  // boolean (true = visible) or float (added): [kv_len], [q_len, kv_len],
                      // with heads, with batch and heads; dims of 1 broadcast
  ATTN_ARG_ALIBI_SLOPES = 7,  // f32 [num_q_heads]
  ATTN_ARG_SINKS = 8,         // f32 [num_q_heads]
  ATTN_ARG_KV_LENS = 9,       // i32 or i64 [batch]
  ATTN_ARG_Q_OFFSETS = 10,    // i32 or i64 [batch + 1]: q and out are [tokens, num_q_heads, dim]
  ATTN_ARG_KV_OFFSETS = 11,   // i32 or i64 [batch + 1]: k and v are [tokens, num_kv_heads, dim]
  ATTN_ARG_RING_STARTS = 12,  // i32 or i64 [batch]: k and v are rings, with kv_lens
  ATTN_ARG_PAGE_TABLE = 13,   // i32 [batch, max_pages]: k and v are [num_pages, num_kv_heads,
                              // page_size, dim], with kv_lens
  ATTN_ARG_K_SCALES = 14,     // f32, the shape of k without its last dim: k is i8
  ATTN_ARG_V_SCALES = 15,     // f32, the shape of v without its last dim: v is i8
  ATTN_ARG_DOUT = 16,         // the shape of out
  ATTN_ARG_DLSE = 17,         // f32, the shape of lse; absent: zeros
  ATTN_ARG_DQ = 18,           // the shape of q, written, as are the following
  ATTN_ARG_DK = 19,
  ATTN_ARG_DV = 20,
  ATTN_ARG_DMASK = 21,   // f32, the shape of an additive mask
  ATTN_ARG_DALIBI = 22,  // f32 [num_q_heads]
  ATTN_ARG_DSINKS = 23   // f32 [num_q_heads]
};
/// One tensor of a call. `tensor` may be NULL: it is absent, as are roles that are not listed.
typedef struct attn_argument {
  attn_role role;
  const attn_tensor* tensor;
} attn_argument;

/// Computes out, and lse if it is given. `arguments` [num_arguments] lists the tensors in any
/// order, each role at most once. options and execution may be NULL here and below.
ATTN_API attn_status attn_attention(const attn_argument* arguments, int64_t num_arguments,
                                    const attn_options* options, const attn_execution* execution);
/// Computes those of dq, dk, dv, dmask, dalibi and dsinks that are listed. out and lse are what the
/// forward wrote, and only read; softmax needs both. Keys in rings or pages, and i8, have no
/// gradients: ATTN_UNSUPPORTED. A score_mod needs its gradient.
ATTN_API attn_status attn_attention_backward(const attn_argument* arguments, int64_t num_arguments,
                                             const attn_options* options,
                                             const attn_execution* execution);
/// The same two by the textbook, in double and without blocks (reference.hpp). Tensors of f64 are
/// taken as well, and out and lse may be absent in the backward.
ATTN_API attn_status attn_attention_reference(const attn_argument* arguments, int64_t num_arguments,
                                              const attn_options* options,
                                              const attn_execution* execution);
ATTN_API attn_status attn_attention_backward_reference(const attn_argument* arguments,
                                                       int64_t num_arguments,
                                                       const attn_options* options,
                                                       const attn_execution* execution);

/// A call that is prepared once and run many times. Only shapes, types and presence of the tensors
/// count in create; their data may be NULL. In run, data and strides may be others; shapes, types
/// and presence must be the same. A run allocates nothing; it needs a workspace of at least
/// workspace_size bytes, at any address, which no tensor overlaps. Several threads may run one plan
/// at a time, each with its own workspace. A description is for people, and valid as long as the
/// plan.
typedef struct attn_plan attn_plan;
ATTN_API attn_status attn_plan_create(attn_plan** plan, const attn_argument* arguments,
                                      int64_t num_arguments, const attn_options* options,
                                      const attn_execution* execution);
ATTN_API attn_status attn_plan_destroy(attn_plan* plan);
ATTN_API attn_status attn_plan_workspace_size(const attn_plan* plan, int64_t* bytes);
ATTN_API attn_status attn_plan_num_threads(const attn_plan* plan, int32_t* num_threads);
ATTN_API attn_status attn_plan_isa(const attn_plan* plan, attn_isa* isa);
ATTN_API attn_status attn_plan_description(const attn_plan* plan, const char** description);
ATTN_API attn_status attn_plan_run(const attn_plan* plan, const attn_argument* arguments,
                                   int64_t num_arguments, void* workspace, int64_t workspace_size);

/// The same for gradients.
typedef struct attn_backward_plan attn_backward_plan;
ATTN_API attn_status attn_backward_plan_create(attn_backward_plan** plan,
                                               const attn_argument* arguments,
                                               int64_t num_arguments, const attn_options* options,
                                               const attn_execution* execution);
ATTN_API attn_status attn_backward_plan_destroy(attn_backward_plan* plan);
ATTN_API attn_status attn_backward_plan_workspace_size(const attn_backward_plan* plan,
                                                       int64_t* bytes);
ATTN_API attn_status attn_backward_plan_num_threads(const attn_backward_plan* plan,
                                                    int32_t* num_threads);
ATTN_API attn_status attn_backward_plan_isa(const attn_backward_plan* plan, attn_isa* isa);
ATTN_API attn_status attn_backward_plan_description(const attn_backward_plan* plan,
                                                    const char** description);
ATTN_API attn_status attn_backward_plan_run(const attn_backward_plan* plan,
                                            const attn_argument* arguments, int64_t num_arguments,
                                            void* workspace, int64_t workspace_size);

/// What a call wrote for part of the keys (state.hpp): out [..., v_head_dim] and lse f32 [...].
typedef struct attn_state {
  const attn_tensor* out;
  const attn_tensor* lse;
} attn_state;
/// Sets a state to that of no keys: out = 0, lse = -inf.
ATTN_API attn_status attn_clear(const attn_state* state);
/// into = the state of the keys of a and of b, which have none in common. `into` may be a or b.
ATTN_API attn_status attn_merge(const attn_state* a, const attn_state* b, const attn_state* into);

/// Tables of rotary positions (rope.hpp) for attn_rope() and for caches, which rotate keys before
/// they store them: f32 [positions, rotary_dim / 2], a row for each position.
typedef struct attn_rope_tables {
  const attn_tensor* cos;
  const attn_tensor* sin;
  int32_t interleaved;  // 0: a pair is elements n and n + rotary_dim / 2; else 2n and 2n + 1
} attn_rope_tables;

#ifdef __cplusplus
}
#endif

#include <attn/block_mask.h>
#include <attn/functions.h>
#include <attn/kv_cache.h>
