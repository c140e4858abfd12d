// Options that attn_demo and attn_bench have in common: the sizes, types and kernel of a call.
#pragma once

#include <attn/attention.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace attn::apps {

enum class Kernel { tiled, naive, unfused };

/// Adds --window.
void add_window_option(CLI::App& command, std::optional<Window>& window);

/// Adds --kernel.
void add_kernel_option(CLI::App& command, Kernel& kernel);

/// Adds --score-matmul.
void add_score_matmul_option(CLI::App& command, ScoreMatmul& score_matmul);
/// It is an error to ask for a matmul of whole tiles where no kernel multiplies in tiles.
void require_tiles(ScoreMatmul asked, Kernel kernel);

/// The types of a call and the pages of its cache.
struct TypeChoice {
  DType dtype = DType::f32;               // of Q, K, V and O
  std::optional<DType> kv_dtype;          // of a cache
  std::optional<std::int64_t> page_size;  // of a cache, in keys
};

/// Adds --dtype.
void add_dtype_option(CLI::App& command, DType& dtype);
/// Adds --dtype, --kv-dtype and --page-size.
void add_type_options(CLI::App& command, TypeChoice& choice);

struct CallSizes {
  std::int64_t batch, num_q_heads, num_kv_heads, q_len, kv_len, head_dim, v_head_dim;
};

/// The sizes in a text B,H,HKV,SQ,SKV,D[,DV]. Throws Error if one of them is below `least`.
CallSizes sizes_value(std::string_view option, std::string_view text, std::int64_t least);

}  // namespace attn::apps
