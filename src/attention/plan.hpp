// Everything that decides how a call is computed: the path of each head, block sizes, splits of
// keys, the number of threads, packed layouts and the sizes of scratch memory. Integers in,
// integers out; no tensors, so it is tested without any.
//
// Results must not depend on the number of threads or on the rest of the batch. Whatever changes
// the order of sums (kv_block, splits) therefore depends on the sizes of one head alone.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "attention/problem.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// How the rows of a KV head are computed. A row is one query of one query head; the rows of a KV
/// head are those of all query heads that share it.
enum class Path {
  one_thread,   // one thread packs K and V and then computes all rows
  cooperative,  // threads pack blocks of keys, then compute blocks of rows, as items of a schedule
  unpacked,     // few rows: K and V are read in place, in splits of keys if there are many keys
  blockwise,    // some rows: K is read in place, V is packed block by block, in splits of keys
};

/// What plans depend on in the kernels of an instruction set.
struct KernelWidths {
  std::int64_t vector_width = 0;  // floats
  std::int64_t panel_width = 0;   // keys, or dims of V, in a packed panel
  bool multiplies_bf16 = false;
};
KernelWidths widths_of(const kernels::Kernels& kernels) noexcept;

/// How the rows and keys of a head are cut into blocks. Rows are numbered position-major: row =
/// q_index * group_size + member. Neighboring rows then see nearly the same keys and share each
/// packed key, for any group size and q_len.
struct Blocking {
  std::int64_t rows = 0;     // of a KV head
  std::int64_t q_block = 0;  // rows of a work item
  std::int64_t kv_block =
      0;  // keys that a work item takes at a time, a multiple of the panel width
  std::int64_t q_blocks = 0;  // number of blocks of rows of a KV head
  std::int64_t kv_blocks = 0;

  // bf16, and i8 as bf16, is multiplied in pairs that are neighbors in depth (the VNNI layout);
  // vnni_factor is 2 then, and depths count pairs. For f32 it is 1.
  std::int64_t vnni_factor = 1;
  std::int64_t key_depth = 0;    // head_dim, in floats or pairs
  std::int64_t key_rows = 0;     // of a packed panel of K: key_depth, or what oneDNN pads it to
  std::int64_t value_width = 0;  // v_head_dim, rounded up to whole vectors
  std::int64_t value_panels = 0;
  std::int64_t value_panel_width = 0;  // dims of V in a panel

  /// Keys of a block as the depth of P V, in floats or pairs.
  std::int64_t value_depth() const noexcept { return kv_block / vnni_factor; }
};

/// How threads share the rows of heads whose K and V are packed.
struct Sharing {
  int num_threads = 1;
  bool causal = false;  // later rows see more keys
  /// oneDNN multiplies blocks at once, so that which rows and keys are in one decides bits. Then
  /// blocks depend on the head dims alone.
  bool fixed = false;
};

/// Blocks of heads whose K and V are packed.
Blocking choose_blocking(const Sizes& sizes, const KernelWidths& widths, std::int64_t vnni_factor,
                         const Sharing& sharing);
/// Blocks of heads with few rows, whose operands are floats whatever K and V are. One block of rows
/// has all rows of a head.
Blocking choose_unpacked_blocking(const Sizes& sizes, const KernelWidths& widths,
                                  std::int64_t most_rows);

/// Up to so many rows of a KV head, dot products with K and V in place are fastest.
std::int64_t most_unpacked_rows(DType kv_type, bool multiplies_bf16);
/// Up to so many rows, reading K in place is faster than packing it.
inline constexpr std::int64_t most_blockwise_rows = 128;

/// Few rows with many keys are split by keys, so that all threads have work. The partial results
/// are merged in order (split-KV).
struct Splits {
  std::int64_t count;
  std::int64_t keys;  // of each split but the last
};
Splits choose_splits(std::int64_t visible_keys, const Sizes& sizes);
/// No head with up to so many keys has more splits.
std::int64_t most_splits(std::int64_t keys, const Sizes& sizes);

/// The number of threads, at most num_threads, that have enough work to be worth waking.
int useful_threads(const Sizes& sizes, int num_threads);

/// What oneDNN is asked for, and what it can do.
struct OnednnSupport {
  bool available = false;
  bool has_amx = false;      // a matrix unit for bf16
  bool f32_panels = false;   // multiplies panels of 64 columns by compiled kernels
  bool bf16_panels = false;  // likewise
};
/// Whether oneDNN multiplies the whole tiles of a call: where it is asked to, or where
/// ScoreMatmul::automatic finds an instruction set for the type that the library has no kernels
/// for. `bf16`: Q, K and V are bf16, and the kernels multiply them as such.
bool takes_onednn(ScoreMatmul asked, bool bf16, const OnednnSupport& support) noexcept;

/// How packed operands lie.
enum class PackedLayout {
  panels,         // of the micro-kernel
  onednn_panels,  // panels of 64 columns, padded in depth, which both read
  matrix,         // rows of a block next to each other, which both read too
};

/// Panels of 64 columns where both the micro-kernel and oneDNN's compiled kernels read them, else a
/// matrix.
PackedLayout choose_packed_layout(const OnednnSupport& support, const KernelWidths& widths,
                                  bool bf16) noexcept;
/// Whether none of the sizes makes the products empty.
bool has_products(const Sizes& sizes) noexcept;

/// What decides a plan.
struct PlanInput {
  Sizes sizes;                    // of a ragged batch, the longest lengths
  std::int64_t query_tokens = 0;  // of the whole batch
  DType q_type = DType::f32;
  DType kv_type = DType::f32;
  bool ragged = false;           // lengths of queries or keys are known in a run only
  bool needs_full_rows = false;  // the normalizer needs all scores of a row at once
  ScoreMatmul score_matmul = ScoreMatmul::built_in;
  OnednnSupport onednn{};
  bool causal = false;            // later rows see more keys
  std::int64_t scanned_rows = 0;  // of the dense mask, if there is one
  int max_threads = 1;
  KernelWidths widths;
};

struct CallPlan {
  Sizes sizes;
  DType kv_type = DType::f32;
  bool ragged = false;
  bool needs_full_rows = false;
  bool packs_all = false;        // K and V of few rows too
  std::int64_t onednn_rows = 0;  // that oneDNN multiplies together, at most; 0: none
  int num_threads = 1;
  Blocking packed{};    // of heads whose K and V are packed, or read blockwise
  Blocking unpacked{};  // of heads with few rows
  PackedLayout packed_layout = PackedLayout::panels;  // of K, and of V if not values_in_rows
  bool values_in_rows = false;                        // of value_width floats
  kernels::PanelLayout key_layout{};
  kernels::PanelLayout value_layout{};

  // Scratch memory.
  bool some_packed = false;          // some heads may be packed
  bool some_unpacked = false;        // some heads may be read in place
  std::int64_t blockwise_rows = 0;   // the most rows of a head that may be read blockwise
  std::int64_t transposed_keys = 0;  // keys whose scores are multiplied and transposed together
  std::int64_t packed_slots = 0;     // heads whose packed K and V exist at the same time
  std::int64_t heads_together = 1;   // of a group, which threads pack and compute together
  std::int64_t pack_pieces = 1;      // of each block of keys, packed by different threads
  std::int64_t partial_rows = 0;     // rows of partial results of split heads
  std::int64_t scanned_rows = 0;     // of the dense mask, which are scanned before packed heads
  std::int64_t panel_width = 0;

  std::int64_t most_unpacked_rows() const noexcept {
    return detail::most_unpacked_rows(kv_type, packed.vnni_factor == 2);
  }
  /// The number of keys that oneDNN multiplies for a block with `keys` keys. V, and P, are padded
  /// with zeros.
  std::int64_t onednn_keys(std::int64_t keys) const noexcept;
  /// Whether K and V are multiplied as integers, and scores and probabilities by their scales.
  bool scaled() const noexcept { return kv_type == DType::i8 && packed.vnni_factor == 2; }
  /// The path of the heads of a sequence with that many queries.
  Path path_of(std::int64_t q_len) const noexcept;
};

CallPlan make_plan(const PlanInput& input);

/// oneDNN multiplies blocks of as many rows and keys, rounded up.
inline constexpr std::int64_t onednn_row_step = 16;
inline constexpr std::int64_t onednn_key_step = 32;

/// Whether the keys of a head may be split: each split is a work item.
constexpr bool is_split(Path path) noexcept {
  return path == Path::unpacked || path == Path::blockwise;
}

/// What there is to do for each KV head of one sequence.
struct SequenceWork {
  std::int64_t batch;
  Path path;
  std::int64_t pack_items;
  std::int64_t compute_items;
  std::int64_t partial_rows;
  double cost;
};

/// `visible_keys` is the number of keys from the first to the last that any query sees.
SequenceWork plan_sequence(const CallPlan& plan, std::int64_t batch, std::int64_t q_len,
                           std::int64_t kv_len, std::int64_t visible_keys);

}  // namespace attn::detail
