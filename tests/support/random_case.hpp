// Random combinations of all options. Sizes are drawn first, and options that fit them.
#pragma once

#include <algorithm>
#include <optional>

#include "support/case.hpp"
#include "support/random.hpp"

namespace attn::test {

inline void choose_types(Random& random, Case& c) {
  if (random.chance(0.4)) return;
  if (random.chance(0.4)) {
    c.q_type = c.kv_type = DType::bf16;
    return;
  }
  const auto type = [&] { return random.pick({DType::f32, DType::bf16, DType::f16}); };
  c.q_type = type();
  c.kv_type = random.chance(0.3) ? DType::i8 : type();
  c.out_type = type();
}

inline void choose_options(Random& random, Case& c) {
  if (random.chance(0.3)) c.options.softmax_scale = static_cast<float>(random.normal() * 0.3);
  if (random.chance(0.05)) c.options.softmax_scale = 0.f;
  if (random.chance(0.25)) c.options.softcap = static_cast<float>(random.uniform() * 5 + 0.2);
  if (random.chance(0.5)) {
    const std::int64_t any = random.integer(-c.q_len - 3, c.kv_len + 3);
    c.options.causal =
        random.pick({Causal::bottom_right(), Causal::top_left(), Causal::with_offset(any)});
  }
  if (random.chance(0.4)) {
    const auto side = [&] {
      return random.chance(0.4) ? std::nullopt : std::optional(random.integer(0, c.kv_len));
    };
    c.options.window = Window{side(), side()};
  }
  if (random.chance(0.2)) {
    c.options.score_mod = [](const KeyRun& run, float* scores) {
      for (std::int64_t n = 0; n < run.count; ++n)
        scores[n] = 0.5f * scores[n] + static_cast<float>((run.key_begin + n + run.q_index) % 5);
    };
  }
  if (random.chance(0.2)) {
    c.options.mask_mod = [](const KeyRun& run, bool* visible) {
      for (std::int64_t n = 0; n < run.count; ++n)
        visible[n] = (run.key_begin + n + run.q_index + run.q_head + run.batch) % 4 != 1;
    };
  }
  c.execution.num_threads = static_cast<int>(random.integer(1, 4));
}

/// `tokens` is the number of all queries where they are ragged.
inline void choose_mask(Random& random, Case& c, std::optional<std::int64_t> tokens = {}) {
  const int rank = static_cast<int>(random.integer(tokens ? 1 : 2, tokens ? 3 : 4));
  const std::int64_t full[] = {
      c.batch, c.num_q_heads, tokens.value_or(c.q_len),
      c.kv_len > 0 && random.chance(0.3) ? random.integer(1, c.kv_len) : c.kv_len};
  Dims shape(full + 4 - rank, rank);
  for (int dim = 0; dim < rank; ++dim) {
    if (random.chance(0.25)) shape[dim] = 1;
  }
  if (random.chance(0.3)) {
    c.options.mask_keys = MaskKeys::last;
    shape[rank - 1] = std::min(c.kv_len, random.chance(0.6) ? random.integer(1, 12) : c.kv_len);
  }
  const DType dtype =
      random.pick({DType::boolean, DType::boolean, DType::f32, DType::bf16, DType::f16});
  c.mask = {.dtype = dtype, .shape = shape, .hidden = random.pick({0.1, 0.5, 0.95})};
}

inline void choose_side_tensors(Random& random, Case& c, std::optional<std::int64_t> tokens = {}) {
  if (random.chance(0.5)) choose_mask(random, c, tokens);
  c.alibi = random.chance(0.25);
  c.sinks = random.chance(0.25);
  c.lse = random.chance(0.8);
  if (random.chance(0.35)) {
    for (std::int64_t b = 0; b < c.batch; ++b) c.kv_lens.push_back(random.integer(0, c.kv_len));
    c.kv_lens_type = random.pick({DType::i32, DType::i64});
  }
}

/// Sometimes another normalizer than softmax, without the features that only softmax has. Its
/// probabilities change by no more than the scores.
inline void choose_normalizer(Random& random, Case& c) {
  if (random.chance(0.7)) return;
  c.options.normalizer =
      random.pick({Normalizer::sigmoid(), Normalizer::sigmoid(-1.5f), Normalizer::sparsemax(),
                   Normalizer::entmax(1.5f), Normalizer::entmax(1.1f), Normalizer::entmax(1.7f)});
  c.lse = false;
  if (c.options.normalizer.kind() == Normalizer::Kind::sigmoid) c.sinks = false;
}

}  // namespace attn::test
