// Calls as ScoreMatmul::automatic plans them on a processor with AMX, computed on this one: oneDNN
// has the tiles of long sequences, and short ones beside them are read as ever, from operands that
// are packed in oneDNN's way.
#include <attn/isa.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/call_tensors.hpp"
#include "attention/prepare.hpp"
#include "attention/run.hpp"
#include "attention/whole_tiles.hpp"
#include "attention/workspace.hpp"
#include "onednn/matmul.hpp"
#include "support/check.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::detail;
using namespace attn::test;

namespace {

/// Plans and runs a call as if oneDNN had AMX for it.
void run_as_with_amx(const AttentionTensors& tensors, const AttentionOptions& options,
                     const Execution& execution) {
  PreparedCall call = prepare(with_longest_sequences(tensors), options, execution);
  call.plan = make_plan({.sizes = call.problem.sizes,
                         .query_tokens = tensors.q.shape[0],
                         .q_type = tensors.q.dtype,
                         .kv_type = tensors.k.dtype,
                         .ragged = true,
                         .score_matmul = ScoreMatmul::automatic,
                         .onednn = {.available = true, .has_amx = true, .bf16_panels = true},
                         .causal = options.causal.has_value(),
                         .max_threads = *execution.num_threads,
                         .widths = widths_of(*call.kernels)});
  REQUIRE(call.plan.onednn_rows > 0);
  call.tile_matmuls = std::make_shared<TileMatmuls>(call.plan);
  std::vector<std::byte> memory(Scratch::size(call.plan));
  run(call, tensors, memory.data());
}

}  // namespace

TEST_CASE("Long sequences by oneDNN, short ones beside them as ever") {
  const std::vector<Isa> isas = available_isas();
  if (isas.back() != Isa::avx512_bf16 || !onednn::Matmul::reads_panels(DType::bf16)) {
    MESSAGE("skipped: bf16 is not multiplied here");
    return;
  }
  for (const std::int64_t v_head_dim : {40, 72}) {
    const Sequences s{.common = {.num_q_heads = 4,
                                 .num_kv_heads = 2,
                                 .head_dim = 40,
                                 .v_head_dim = v_head_dim,
                                 .q_type = DType::bf16,
                                 .kv_type = DType::bf16,
                                 .options = {.causal = Causal::bottom_right()}},
                      .q_lens = {1, 200, 0, 15, 7, 300},
                      .kv_lens = {1100, 900, 20, 1500, 7, 300}};
    Together together(s);
    run_as_with_amx(together.tensors(), together.options(),
                    {.num_threads = 3, .isa = Isa::avx512_bf16});
    for (std::int64_t b = 0; b < s.count(); ++b) {
      CAPTURE(b);
      const Alone& alone = together.alone()[static_cast<std::size_t>(b)];
      CHECK(difference(together.outputs(b), expected_of(alone.c, alone.inputs)) == "");
      constexpr std::int64_t group_size = 2, never_packed_rows = 32;
      if (alone.c.q_len * group_size <= never_packed_rows)
        CHECK(bit_difference(together.outputs(b), run(alone.inputs, alone.c, Isa::avx512_bf16)) ==
              "");
    }
  }
}
