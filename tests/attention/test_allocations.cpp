// Running a prepared plan allocates no memory.
#include <attn/attention.hpp>
#include <attn/kv_cache.hpp>
#include <attn/transformer.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "support/allocations.hpp"
#include "support/backward_case.hpp"
#include "support/case.hpp"
#include "support/random.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t q_len = 120, kv_len = 300;

Case sized() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 4,
          .q_len = q_len,
          .kv_len = kv_len,
          .head_dim = 32};
}

/// The random parameters of a decoder.
class Weights {
 public:
  TensorView operator()(const Dims& shape, DType dtype) {
    Tensor floats(DType::f32, shape);
    for (std::int64_t n = 0; n < floats.size(); ++n)
      floats.data<float>()[n] = static_cast<float>(0.1 * random_.normal());
    return memory_.emplace_back(copy_as(floats.view(), dtype)).view();
  }

 private:
  Random random_{1};
  std::vector<Tensor> memory_;
};

/// A decoder with every feature of a decode step. All parameters, norms and embedding included,
/// have the decoder's own type.
Decoder llama_like(DType dtype, int num_threads, Weights& made) {
  constexpr std::int64_t hidden = 256, heads = 8, kv_heads = 2, dim = 32, width = 512, vocab = 1000,
                         layers = 2;
  const LayerSettings layer{.attention = {.hidden = hidden,
                                          .num_q_heads = heads,
                                          .num_kv_heads = kv_heads,
                                          .head_dim = dim,
                                          .rope = RopeSettings{},
                                          .max_positions = 64,
                                          .dtype = dtype},
                            .mlp_width = width};
  const DecoderSettings settings{.layers = std::vector<LayerSettings>(layers, layer),
                                 .vocab_size = vocab};
  const auto weight = [&](std::int64_t out, std::int64_t in) {
    return LinearWeights{made({out, in}, dtype), made({out}, dtype)};
  };
  DecoderWeights weights{.embedding = made({vocab, hidden}, dtype),
                         .final_norm = {made({hidden}, dtype)}};
  for (std::int64_t n = 0; n < layers; ++n) {
    weights.layers.push_back({.attention_norm = {made({hidden}, dtype)},
                              .attention = {.q = weight(heads * dim, hidden),
                                            .k = weight(kv_heads * dim, hidden),
                                            .v = weight(kv_heads * dim, hidden),
                                            .out = weight(hidden, heads * dim),
                                            .q_norm = made({dim}, dtype),
                                            .k_norm = made({dim}, dtype)},
                              .mlp_norm = {made({hidden}, dtype)},
                              .mlp = {.gate = weight(width, hidden),
                                      .up = weight(width, hidden),
                                      .down = weight(hidden, width)}});
  }
  return Decoder(settings, weights, {.num_threads = num_threads});
}

/// The number of allocations of a run, after the first has started its threads.
std::int64_t allocations_of_run(const AttentionPlan& plan, const AttentionTensors& tensors) {
  Workspace workspace(plan.workspace_size());
  plan.run(tensors, workspace);
  const std::int64_t before = allocations();
  for (int repeat = 0; repeat < 3; ++repeat) plan.run(tensors, workspace);
  return allocations() - before;
}

void check_allocation_free(Case c, const Inputs& inputs) {
  c.options.score_matmul = ScoreMatmul::built_in;
  for (const Isa isa : available_isas()) {
    c.execution.isa = isa;
    INFO(repeat_line(c));
    Outputs outputs = make_outputs(c);
    const AttentionTensors tensors = bind(inputs, outputs);
    CHECK(allocations_of_run(AttentionPlan(tensors, c.options, c.execution), tensors) == 0);
  }
}

void check_allocation_free(const Case& c) { check_allocation_free(c, make_inputs(c)); }

}  // namespace

TEST_CASE("Memory is counted") {
  const std::int64_t before = allocations();
  const Inputs inputs = make_inputs(sized());
  CHECK(allocations() > before);
}

TEST_CASE("plain") { check_allocation_free(sized()); }

TEST_CASE("default options") {
  const Inputs inputs = make_inputs(sized());
  Outputs outputs = make_outputs(sized());
  const AttentionTensors tensors = bind(inputs, outputs);
  const AttentionPlan plan(tensors);
  const bool by_onednn =
      plan.description().find("oneDNN") != std::string::npos;  // oneDNN itself allocates a little
  if (!by_onednn) CHECK(allocations_of_run(plan, tensors) == 0);
}

TEST_CASE("causal, with each number of threads") {
  Case c = sized();
  c.options.causal = Causal::bottom_right();
  for (const int num_threads : {1, 2, 3}) {
    c.execution.num_threads = num_threads;
    check_allocation_free(c);
  }
}

TEST_CASE("dense masks") {
  for (const DType dtype : {DType::boolean, DType::f32, DType::bf16}) {
    Case c = sized();
    c.mask = {.dtype = dtype, .shape = {q_len, kv_len}};
    check_allocation_free(c);
  }
}

TEST_CASE("ALiBi, softcap, sinks, lengths and a window") {
  Case c = sized();
  c.alibi = c.sinks = true;
  c.options.softcap = 10.f;
  c.options.window = Window{50, 50};
  c.kv_lens = {kv_len, 77};
  check_allocation_free(c);
}

TEST_CASE("Normalizers that take whole rows") {
  for (const Normalizer& normalizer : {Normalizer::sigmoid(), Normalizer::sparsemax(),
                                       Normalizer::entmax(1.5f), Normalizer::entmax(1.2f)}) {
    Case c = sized();
    c.lse = false;
    c.options.normalizer = normalizer;
    c.options.causal = Causal::bottom_right();
    check_allocation_free(c);
    Inputs inputs = make_inputs(c);
    inputs.v.set({1, 2, 30, 4}, HUGE_VAL);
    check_allocation_free(c, inputs);
  }
}

TEST_CASE("score_mod and mask_mod") {
  Case c = sized();
  c.options.score_mod = [](const KeyRun& run, float* scores) {
    for (std::int64_t n = 0; n < run.count; ++n) scores[n] += 1.f;
  };
  c.options.mask_mod = [](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = run.key_begin + n <= run.q_index;
  };
  check_allocation_free(c);
}

TEST_CASE("shared heads, 16 bits, strides, one query") {
  Case c = sized();
  c.num_kv_heads = 2;
  c.q_type = c.kv_type = c.out_type = DType::bf16;
  c.layout = Layout::strided_dim;
  check_allocation_free(c);
  c.q_len = 1;
  check_allocation_free(c);
}

TEST_CASE("Values that are not finite") {
  Case c = sized();
  Inputs inputs = make_inputs(c);
  inputs.v.set({1, 2, 30, 4}, HUGE_VAL);
  check_allocation_free(c, inputs);
}

TEST_CASE("Few rows: in one part and in several, of each type, with values that are not finite") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8}) {
    Case c = sized();
    c.kv_type = dtype;
    c.q_len = 2;
    check_allocation_free(c);
    c.kv_len = 5000;
    c.q_len = 30;
    check_allocation_free(c);
    c.q_len = 2;
    for (const Layout layout : {Layout::bhsd, Layout::strided_dim}) {
      c.layout = layout;
      Inputs inputs = make_inputs(c);
      if (dtype != DType::i8) inputs.v.set({1, 2, 30, 4}, HUGE_VAL);
      check_allocation_free(c, inputs);
    }
  }
}

TEST_CASE("Sequences of different lengths, with keys in each form") {
  for (const KeyForm form : key_forms) {
    for (const DType dtype : {DType::f32, DType::i8}) {
      Together together(
          {.common = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 64, .kv_type = dtype},
           .q_lens = {1, 60, 0, 7, 130},
           .kv_lens = {1100, 300, 20, 0, 600},
           .key_form = form});
      const AttentionTensors tensors = together.tensors();
      for (const Isa isa : available_isas()) {
        const AttentionPlan plan(tensors, {.score_matmul = ScoreMatmul::built_in}, {.isa = isa});
        CHECK(allocations_of_run(plan, tensors) == 0);
      }
    }
  }
}

TEST_CASE("A decode step: append and bind") {
  const std::int64_t heads = 2, dim = 16;
  const StridedTensor row(DType::bf16, {1, heads, 1, dim}), key(DType::bf16, {heads, 1, dim});
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    for (const bool rolling : {false, true}) {
      KvCache cache({.num_kv_heads = heads,
                     .capacity = 40,
                     .head_dim = dim,
                     .dtype = dtype,
                     .rolling = rolling});
      const std::int64_t before = allocations();
      for (int step = 0; step < 40; ++step) {
        cache.append(row.view(), row.view());
        cache.bind({});
      }
      CHECK(allocations() == before);
    }
    PagedKvCache cache(
        {.num_pages = 20, .page_size = 4, .num_kv_heads = heads, .head_dim = dim, .dtype = dtype});
    const std::array sequences{cache.create(), cache.create()};
    const auto grow = [&] {
      for (int step = 0; step < 30; ++step) {
        for (const auto sequence : sequences) cache.append(sequence, key.view(), key.view());
        cache.bind({}, sequences);
      }
    };
    grow();
    for (const auto sequence : sequences) cache.truncate(sequence, 0);
    const std::int64_t before = allocations();
    grow();
    CHECK(allocations() == before);
  }
}

TEST_CASE("A decoder's step") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int num_threads : {1, 2}) {
      for (const std::int64_t batch : {1, 7}) {
        CAPTURE(name_of(dtype));
        CAPTURE(num_threads);
        CAPTURE(batch);
        Weights weights;
        Decoder decoder = llama_like(dtype, num_threads, weights);
        std::vector<KvCache> caches = make_caches(decoder.settings(), batch, 40);
        const std::vector<CacheRef> refs(caches.begin(), caches.end());
        const std::vector<std::int32_t> ids(static_cast<std::size_t>(batch), 3);
        Tensor logits(DType::f32, {batch, decoder.settings().vocab_size});
        const auto step = [&] { decoder.forward({ids.data(), {batch, 1}}, refs, logits.view()); };
        step();
        const std::int64_t before = allocations();
        for (int n = 0; n < 30; ++n) step();
        CHECK(allocations() == before);
      }
    }
  }
}

TEST_CASE("The backward pass") {
  for (const Normalizer& normalizer :
       {Normalizer::softmax(), Normalizer::sigmoid(), Normalizer::entmax(1.5f)}) {
    BackwardCase c{.call = sized()};
    c.call.options.normalizer = normalizer;
    c.call.options.causal = Causal::bottom_right();
    c.call.options.softcap = 10.f;
    c.call.mask = {.dtype = DType::f32, .shape = {q_len, kv_len}};
    c.call.alibi = true;
    c.call.lse = normalizer == Normalizer::softmax();
    c.call.execution.num_threads = 2;
    INFO(repeat_line(c));
    const Inputs inputs = make_inputs(c.call);
    Outputs forward = run(inputs, c.call);
    const GradientInputs incoming = make_gradient_inputs(c);
    GradientOutputs wanted = make_gradient_outputs(c);
    const AttentionTensors tensors = bind(inputs, forward);
    const AttentionGradients gradients = bind(incoming, wanted);
    const AttentionBackwardPlan plan(tensors, gradients, c.call.options, c.call.execution);
    Workspace workspace(plan.workspace_size());
    plan.run(tensors, gradients, workspace);
    const std::int64_t before = allocations();
    plan.run(tensors, gradients, workspace);
    CHECK(allocations() == before);
  }
}
