#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/kv_cache.hpp>
#include <attn/reference.hpp>
#include <attn/state.hpp>

#include "support/entries.hpp"

namespace attn::test {
namespace {

using Attend = void (*)(const AttentionTensors&, const AttentionOptions&, const Execution&);

constexpr std::int64_t batch = 2, heads = 4, kv_heads = 2, q_len = 3, kv_len = 5, dim = 8;

Argument q() { return {"q", DType::f32, {batch, heads, q_len, dim}}; }
Argument out() { return {"out", DType::f32, {batch, heads, q_len, dim}, true}; }
Argument lse() { return {"lse", DType::f32, {batch, heads, q_len}, true}; }
Argument kv(const char* name, DType dtype = DType::f32) {
  return {name, dtype, {batch, kv_heads, kv_len, dim}};
}
Argument scales(const char* name) { return {name, DType::f32, {batch, kv_heads, kv_len}}; }
Argument lengths() { return {"kv_lens", DType::i64, {batch}, false, {5, 2}}; }

Entry padded(const char* name, Attend attend) {
  return {name,
          {q(),
           kv("k"),
           kv("v"),
           out(),
           lse(),
           {"mask", DType::f32, {heads, q_len, kv_len}},
           {"alibi_slopes", DType::f32, {heads}},
           {"sinks", DType::f32, {heads}},
           lengths()},
          [attend](const Views& t) {
            attend({.q = t[0],
                    .k = t[1],
                    .v = t[2],
                    .out = t[3],
                    .mask = t[5],
                    .alibi_slopes = t[6],
                    .sinks = t[7],
                    .kv_lens = t[8],
                    .lse = t[4]},
                   {}, {});
          }};
}

Entry ragged(const char* name, Attend attend) {
  const auto offsets = [](const char* of, std::int64_t tokens) {
    return Argument{of, DType::i64, {batch + 1}, false, {0, 2, tokens}};
  };
  return {name,
          {{"q", DType::f32, {6, heads, dim}},
           {"k", DType::f32, {9, kv_heads, dim}},
           {"v", DType::f32, {9, kv_heads, dim}},
           {"out", DType::f32, {6, heads, dim}, true},
           {"lse", DType::f32, {6, heads}, true},
           offsets("q_offsets", 6),
           offsets("kv_offsets", 9),
           {"mask", DType::f32, {heads, 6, 3}}},
          [attend](const Views& t) {
            attend({.q = t[0],
                    .k = t[1],
                    .v = t[2],
                    .out = t[3],
                    .mask = t[7],
                    .lse = t[4],
                    .ragged = {.q_offsets = t[5], .kv_offsets = t[6]}},
                   {.mask_keys = MaskKeys::last}, {});
          }};
}

Entry ring(const char* name, Attend attend) {
  return {name,
          {q(),
           kv("k", DType::i8),
           kv("v", DType::i8),
           out(),
           lengths(),
           {"starts", DType::i32, {batch}},
           scales("k_scales"),
           scales("v_scales")},
          [attend](const Views& t) {
            attend({.q = t[0],
                    .k = t[1],
                    .v = t[2],
                    .out = t[3],
                    .kv_lens = t[4],
                    .storage = {.layout = Ring{t[5]}, .k_scales = t[6], .v_scales = t[7]}},
                   {}, {});
          }};
}

Entry paged(const char* name, Attend attend) {
  return {name,
          {q(),
           kv("k", DType::i8),
           kv("v", DType::i8),
           out(),
           lengths(),
           {"page_table", DType::i32, {batch, 3}},
           scales("k_scales"),
           scales("v_scales")},
          [attend](const Views& t) {
            attend({.q = t[0],
                    .k = t[1],
                    .v = t[2],
                    .out = t[3],
                    .kv_lens = t[4],
                    .storage = {.layout = Paged{t[5]}, .k_scales = t[6], .v_scales = t[7]}},
                   {}, {});
          }};
}

/// What attention() does, but for reading the longest sequences.
void run_plan(const AttentionTensors& tensors, const AttentionOptions& options,
              const Execution& execution) {
  const AttentionPlan plan(tensors, options, execution);
  Workspace workspace(plan.workspace_size());
  plan.run(tensors, workspace);
}

using Differentiate = void (*)(const AttentionTensors&, const AttentionGradients&,
                               const AttentionOptions&, const Execution&);

Entry padded_backward(const char* name, Differentiate differentiate) {
  Entry entry = padded(name, nullptr);
  const auto rows = [](const char* of) {
    return Argument{of, DType::f32, {batch, heads, q_len, dim}};
  };
  const auto written = [](Argument argument, const char* of) {
    argument.name = of;
    argument.output = true;
    return argument;
  };
  const std::vector<Argument> gradients = {rows("dout"),
                                           {"dlse", DType::f32, {batch, heads, q_len}},
                                           written(rows("q"), "dq"),
                                           written(kv("k"), "dk"),
                                           written(kv("v"), "dv"),
                                           {"dmask", DType::f32, {heads, q_len, kv_len}, true},
                                           {"dalibi", DType::f32, {heads}, true},
                                           {"dsinks", DType::f32, {heads}, true}};
  entry.arguments.insert(entry.arguments.end(), gradients.begin(), gradients.end());
  entry.run = [differentiate](const Views& t) {
    differentiate({.q = t[0],
                   .k = t[1],
                   .v = t[2],
                   .out = t[3],
                   .mask = t[5],
                   .alibi_slopes = t[6],
                   .sinks = t[7],
                   .kv_lens = t[8],
                   .lse = t[4]},
                  {.dout = t[9],
                   .dlse = t[10],
                   .dq = t[11],
                   .dk = t[12],
                   .dv = t[13],
                   .dmask = t[14],
                   .dalibi = t[15],
                   .dsinks = t[16]},
                  {}, {});
  };
  return entry;
}

Entry ragged_backward(const char* name, Differentiate differentiate) {
  Entry entry = ragged(name, nullptr);
  const std::vector<Argument> gradients = {
      {"dout", DType::f32, {6, heads, dim}},        {"dlse", DType::f32, {6, heads}},
      {"dq", DType::f32, {6, heads, dim}, true},    {"dk", DType::f32, {9, kv_heads, dim}, true},
      {"dv", DType::f32, {9, kv_heads, dim}, true}, {"dmask", DType::f32, {heads, 6, 3}, true}};
  entry.arguments.insert(entry.arguments.end(), gradients.begin(), gradients.end());
  entry.run = [differentiate](const Views& t) {
    differentiate(
        {.q = t[0],
         .k = t[1],
         .v = t[2],
         .out = t[3],
         .mask = t[7],
         .lse = t[4],
         .ragged = {.q_offsets = t[5], .kv_offsets = t[6]}},
        {.dout = t[8], .dlse = t[9], .dq = t[10], .dk = t[11], .dv = t[12], .dmask = t[13]},
        {.mask_keys = MaskKeys::last}, {});
  };
  return entry;
}

std::vector<Entry> state_entries() {
  return {{"clear",
           {out(), lse()},
           [](const Views& t) {
             clear({t[0], t[1]});
           }},
          {"merge",
           {{"a.out", DType::f32, {2, 3, 4}},
            {"a.lse", DType::f32, {2, 3}},
            {"b.out", DType::f16, {2, 3, 4}},
            {"b.lse", DType::f32, {2, 3}},
            {"into.out", DType::bf16, {2, 3, 4}, true},
            {"into.lse", DType::f32, {2, 3}, true}},
           [](const Views& t) {
             merge(ConstAttentionState{t[0], t[1]}, ConstAttentionState{t[2], t[3]}, {t[4], t[5]});
           }},
          {"merge, in place",
           {{"into.out", DType::f32, {2, 3, 4}, true},
            {"into.lse", DType::f32, {2, 3}, true},
            {"part.out", DType::f16, {2, 3, 4}},
            {"part.lse", DType::f32, {2, 3}}},
           [](const Views& t) {
             merge({t[0], t[1]}, ConstAttentionState{t[2], t[3]});
           }},
          {"reference_scores",
           {q(),
            kv("k"),
            {"mask", DType::boolean, {q_len, kv_len}},
            {"alibi_slopes", DType::f32, {heads}},
            lengths(),
            {"scores", DType::f32, {batch, heads, q_len, kv_len}, true}},
           [](const Views& t) {
             reference_scores(
                 {.q = t[0], .k = t[1], .mask = t[2], .alibi_slopes = t[3], .kv_lens = t[4]}, {},
                 ScoreStage::masked, t[5]);
           }}};
}

std::vector<Entry> cache_entries() {
  return {
      {"KvCache::append",
       {kv("k"), kv("v", DType::f16)},
       [](const Views& t) {
         KvCache cache({.batch = batch, .num_kv_heads = kv_heads, .capacity = 8, .head_dim = dim});
         cache.append(t[0], t[1]);
       }},
      {"KvCache::append_to, with rope",
       {{"k", DType::f32, {kv_heads, 3, dim}},
        {"v", DType::f32, {kv_heads, 3, dim}},
        {"rope.cos", DType::f32, {16, dim / 2}},
        {"rope.sin", DType::f32, {16, dim / 2}}},
       [](const Views& t) {
         KvCache cache({.num_kv_heads = kv_heads, .capacity = 8, .head_dim = dim});
         cache.append_to(0, t[0], t[1], Rope{.cos = t[2], .sin = t[3]});
       }},
      {"PagedKvCache::append",
       {{"k", DType::f32, {kv_heads, 3, dim}}, {"v", DType::bf16, {kv_heads, 3, dim}}},
       [](const Views& t) {
         PagedKvCache cache({.num_pages = 4, .num_kv_heads = kv_heads, .head_dim = dim});
         cache.append(cache.create(), t[0], t[1]);
       }}};
}

}  // namespace

std::vector<Entry> attention_entries() {
  std::vector<Entry> entries = state_entries();
  for (Entry& entry : cache_entries()) entries.push_back(std::move(entry));
  const Attend tiled = attention;
  for (const auto& [name, attend] :
       {std::pair{"attention", tiled}, std::pair{"AttentionPlan::run", &run_plan},
        std::pair{"attention_reference", &attention_reference},
        std::pair{"attention_unfused", &attention_unfused}}) {
    for (const auto make : {padded, ragged, ring, paged}) entries.push_back(make(name, attend));
  }
  const Differentiate tiled_backward = attention_backward;
  for (const auto& [name, differentiate] :
       {std::pair{"attention_backward", tiled_backward},
        std::pair{"attention_backward_reference", &attention_backward_reference}}) {
    for (const auto make : {padded_backward, ragged_backward})
      entries.push_back(make(name, differentiate));
  }
  return entries;
}

}  // namespace attn::test
