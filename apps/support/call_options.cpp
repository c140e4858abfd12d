#include "call_options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "options.hpp"

namespace attn::apps {
namespace {

Choices<DType> float_types() {
  return {{"f32", DType::f32}, {"bf16", DType::bf16}, {"f16", DType::f16}};
}

Window window_value(std::string_view option, std::string_view text) {
  constexpr std::string_view needed =
      "L,R: two integers in 0..9223372036854775807, or -1 for unlimited";
  const std::vector<std::int64_t> sides = integers_value(option, text, needed);
  if (sides.size() != 2 || std::min(sides[0], sides[1]) < -1) reject_value(option, text, needed);
  const auto side = [](std::int64_t n) { return n == -1 ? std::nullopt : std::optional(n); };
  return {side(sides[0]), side(sides[1])};
}

}  // namespace

void add_window_option(CLI::App& command, std::optional<Window>& window) {
  add_value(command, "--window L,R",
            "hide keys further left or right of a query's position than this; -1 is unlimited",
            [&window](auto option, auto text) { window = window_value(option, text); });
}

void add_kernel_option(CLI::App& command, Kernel& kernel) {
  add_choice(command, "--kernel NAME", kernel,
             {{"tiled", Kernel::tiled}, {"naive", Kernel::naive}, {"unfused", Kernel::unfused}},
             "tiled (default), naive (textbook, in double) or unfused (matmul, softmax, matmul)");
}

void add_score_matmul_option(CLI::App& command, ScoreMatmul& score_matmul) {
  add_choice(command, "--score-matmul WHO", score_matmul,
             {{"auto", ScoreMatmul::automatic},
              {"attn", ScoreMatmul::built_in},
              {"onednn", ScoreMatmul::onednn}},
             "who multiplies Q and K^T, and P and V, of whole tiles: auto (default; oneDNN where "
             "it alone has an instruction set, AMX), attn or onednn");
}

void require_tiles(ScoreMatmul asked, Kernel kernel) {
  if (asked != ScoreMatmul::automatic && kernel != Kernel::tiled)
    reject("--score-matmul is for --kernel tiled, which alone has tiles");
}

void add_dtype_option(CLI::App& command, DType& dtype) {
  add_choice(command, "--dtype TYPE", dtype, float_types(),
             "f32 (default), bf16 or f16: the type that inputs are converted to and that the "
             "engine runs in");
}

void add_type_options(CLI::App& command, TypeChoice& choice) {
  constexpr std::int64_t largest_page = std::int64_t{1} << 20;
  add_dtype_option(command, choice.dtype);
  Choices<DType> types = float_types();
  types.emplace_back("i8", DType::i8);
  add_choice(command, "--kv-dtype TYPE", choice.kv_dtype, types,
             "f32, bf16, f16 or i8: K and V are kept in a cache of this type; default --dtype");
  add_integer(command, "--page-size N", choice.page_size, {0, largest_page},
              "K and V are kept in a cache with pages of N keys; 0: without pages");
}

CallSizes sizes_value(std::string_view option, std::string_view text, std::int64_t least) {
  const std::string needed =
      fmt::format("B,H,HKV,SQ,SKV,D[,DV]: six or seven integers of at least {} and at most {}",
                  least, std::numeric_limits<std::int64_t>::max());
  const std::vector<std::int64_t> sizes = integers_value(option, text, needed);
  if ((sizes.size() != 6 && sizes.size() != 7) ||
      *std::min_element(sizes.begin(), sizes.end()) < least)
    reject_value(option, text, needed);
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes.back()};
}

}  // namespace attn::apps
