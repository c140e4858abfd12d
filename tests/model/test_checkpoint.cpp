// Folders of models: the parameters of a decoder are found by their names, and broken folders are
// refused.
#include <attn/error.hpp>
#include <attn/io.hpp>
#include <attn/model.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint.hpp"
#include "support/files.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Shapes = std::map<std::string, Dims>;

/// Every element of all tensors has its own value: they are counted from tensor to tensor.
struct Weights {
  std::map<std::string, Tensor> tensors;

  explicit Weights(const Shapes& shapes, DType dtype = DType::f32) {
    float next = 0;
    for (const auto& [name, shape] : shapes) {
      Tensor values(DType::f32, shape);
      for (std::int64_t n = 0; n < values.size(); ++n) values.data<float>()[n] = next++;
      tensors.emplace(name, copy_as(values.view(), dtype));
    }
  }
  void write(const std::string& file) const {
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors) named.push_back({name, tensor.view()});
    write_safetensors(file, named);
  }
};

bool same(const TensorView& view, const TensorView& expected) {
  if (view.dtype != expected.dtype || view.shape != expected.shape) return false;
  const Tensor a = copy_as(view, view.dtype), b = copy_as(expected, view.dtype);
  return std::memcmp(a.data(), b.data(), a.size_in_bytes()) == 0;
}

void check_refused_open(const Folder& folder, const std::string& fault) {
  const std::string message = refusal([&] { ModelFolder model(folder / ""); });
  CAPTURE(message);
  CAPTURE(fault);
  CHECK(message.find(folder / "") == 0);
  CHECK(message.find(fault) != std::string::npos);
}

// A Llama with 4 query heads and 2 KV heads of 4 elements, hidden size 8, MLP width 5.
constexpr const char* llama_config =
    R"({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 5, "vocab_size": 11,
      "max_position_embeddings": 16)";

std::string llama_json(const std::string& more = "") { return llama_config + more + "}"; }

Shapes llama_shapes(bool tied = false) {
  Shapes shapes{{"model.embed_tokens.weight", {11, 8}}, {"model.norm.weight", {8}}};
  if (!tied) shapes["lm_head.weight"] = {11, 8};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    shapes[layer + "input_layernorm.weight"] = {8};
    shapes[layer + "self_attn.q_proj.weight"] = {16, 8};
    shapes[layer + "self_attn.k_proj.weight"] = {8, 8};
    shapes[layer + "self_attn.v_proj.weight"] = {8, 8};
    shapes[layer + "self_attn.o_proj.weight"] = {8, 16};
    shapes[layer + "post_attention_layernorm.weight"] = {8};
    shapes[layer + "mlp.gate_proj.weight"] = {5, 8};
    shapes[layer + "mlp.up_proj.weight"] = {5, 8};
    shapes[layer + "mlp.down_proj.weight"] = {8, 5};
  }
  return shapes;
}

Shapes gpt2_shapes(const std::string& prefix) {
  Shapes shapes{{prefix + "wte.weight", {11, 6}},
                {prefix + "wpe.weight", {7, 6}},
                {prefix + "ln_f.weight", {6}},
                {prefix + "ln_f.bias", {6}}};
  const std::string layer = prefix + "h.0.";
  for (const std::string norm : {"ln_1", "ln_2"})
    shapes[layer + norm + ".weight"] = shapes[layer + norm + ".bias"] = {6};
  const std::vector<std::pair<std::string, Dims>> products{{"attn.c_attn", {6, 18}},
                                                           {"attn.c_proj", {6, 6}},
                                                           {"mlp.c_fc", {6, 24}},
                                                           {"mlp.c_proj", {24, 6}}};
  for (const auto& [name, shape] : products) {
    shapes[layer + name + ".weight"] = shape;
    shapes[layer + name + ".bias"] = {shape[1]};
  }
  return shapes;
}

constexpr const char* gpt2_json =
    R"({"model_type": "gpt2", "n_embd": 6, "n_layer": 1, "n_head": 2, "n_positions": 7,
      "vocab_size": 11})";

Shapes with(Shapes shapes, const std::string& name, const Dims& shape) {
  shapes[name] = shape;
  return shapes;
}

}  // namespace

TEST_CASE("Llama's tensors are where a decoder looks for them") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Folder folder;
    const Weights weights(llama_shapes(), dtype);
    folder.write("config.json", llama_json());
    weights.write(folder / "model.safetensors");
    ModelFolder first(folder / "");
    const ModelFolder model = std::move(first);
    CHECK_THROWS_WITH_AS(first.settings(), doctest::Contains("moved from"), Error);
    CHECK_THROWS_AS(first.weights(), Error);
    const auto is = [&](const TensorView& view, const std::string& name) {
      CAPTURE(name);
      CHECK(same(view, weights.tensors.at(name).view()));
    };
    const DecoderWeights& got = model.weights();
    is(got.embedding, "model.embed_tokens.weight");
    is(got.final_norm.scale, "model.norm.weight");
    is(got.output, "lm_head.weight");
    CHECK(got.positions.absent());
    REQUIRE(got.layers.size() == 2);
    for (int n = 0; n < 2; ++n) {
      const LayerWeights& layer = got.layers[n];
      const std::string name = "model.layers." + std::to_string(n) + ".";
      is(layer.attention_norm.scale, name + "input_layernorm.weight");
      is(layer.attention.q.weight, name + "self_attn.q_proj.weight");
      is(layer.attention.k.weight, name + "self_attn.k_proj.weight");
      is(layer.attention.v.weight, name + "self_attn.v_proj.weight");
      is(layer.attention.out.weight, name + "self_attn.o_proj.weight");
      is(layer.mlp_norm.scale, name + "post_attention_layernorm.weight");
      is(layer.mlp.gate.weight, name + "mlp.gate_proj.weight");
      is(layer.mlp.up.weight, name + "mlp.up_proj.weight");
      is(layer.mlp.down.weight, name + "mlp.down_proj.weight");
      CHECK(layer.attention.q.bias.absent());
      CHECK(layer.attention.q_norm.absent());
      CHECK(layer.mlp.down.bias.absent());
    }
    CHECK(model.stored_dtype() == dtype);
    CHECK(model.model_type() == "llama");
    CHECK(model.settings().layers.front().attention.head_dim == 4);
    CHECK(model.settings().layers.front().attention.dtype == DType::f32);
    CHECK(model.bos_id() == 1);
    CHECK(model.eos_ids() == std::vector<std::int64_t>{2});
  }
}

TEST_CASE("biases and head norms of the variants of Llama") {
  const Folder folder;
  Shapes shapes = llama_shapes();
  const std::string attention = "model.layers.0.self_attn.", other = "model.layers.1.self_attn.";
  for (const std::string& name : {attention, other}) {
    shapes[name + "q_proj.bias"] = {16};
    shapes[name + "k_proj.bias"] = shapes[name + "v_proj.bias"] = {8};
  }
  const auto config = [](const std::string& type, const std::string& more = "") {
    return R"({"model_type": ")" + type +
           llama_json(more).substr(std::string(R"({"model_type": "llama)").size());
  };
  SUBCASE("qwen2") {
    folder.write("config.json", config("qwen2"));
    const Weights weights(shapes);
    weights.write(folder / "model.safetensors");
    const ModelFolder model(folder / "");
    CHECK(same(model.weights().layers[0].attention.q.bias,
               weights.tensors.at(attention + "q_proj.bias").view()));
    CHECK(same(model.weights().layers[1].attention.k.bias,
               weights.tensors.at(other + "k_proj.bias").view()));
    CHECK(same(model.weights().layers[1].attention.v.bias,
               weights.tensors.at(other + "v_proj.bias").view()));
    CHECK(model.weights().layers[0].attention.out.bias.absent());
    CHECK(!model.bos_id());
    CHECK(model.eos_ids().empty());
  }
  SUBCASE("qwen3 and biases everywhere") {
    for (const std::string& name : {attention, other}) {
      shapes[name + "o_proj.bias"] = {8};
      shapes[name + "q_norm.weight"] = shapes[name + "k_norm.weight"] = {4};
    }
    folder.write("config.json", config("qwen3", R"(, "attention_bias": true)"));
    const Weights weights(shapes);
    weights.write(folder / "model.safetensors");
    const ModelFolder model(folder / "");
    CHECK(same(model.weights().layers[1].attention.q_norm,
               weights.tensors.at(other + "q_norm.weight").view()));
    CHECK(same(model.weights().layers[0].attention.k_norm,
               weights.tensors.at(attention + "k_norm.weight").view()));
    CHECK(same(model.weights().layers[0].attention.out.bias,
               weights.tensors.at(attention + "o_proj.bias").view()));
  }
  SUBCASE("llama with biases in its MLP") {
    for (const std::string mlp : {"model.layers.0.mlp.", "model.layers.1.mlp."}) {
      shapes[mlp + "gate_proj.bias"] = shapes[mlp + "up_proj.bias"] = {5};
      shapes[mlp + "down_proj.bias"] = {8};
    }
    for (const std::string& name : {attention, other}) shapes[name + "o_proj.bias"] = {8};
    folder.write("config.json", config("llama", R"(, "attention_bias": true, "mlp_bias": true)"));
    const Weights weights(shapes);
    weights.write(folder / "model.safetensors");
    const ModelFolder model(folder / "");
    CHECK(same(model.weights().layers[1].mlp.gate.bias,
               weights.tensors.at("model.layers.1.mlp.gate_proj.bias").view()));
    CHECK(same(model.weights().layers[1].mlp.down.bias,
               weights.tensors.at("model.layers.1.mlp.down_proj.bias").view()));
  }
}

TEST_CASE("GPT-2's fused and transposed weights are split without copies") {
  for (const std::string prefix : {"", "transformer."}) {
    CAPTURE(prefix);
    const Folder folder;
    Shapes shapes = gpt2_shapes(prefix);
    // Buffers are ignored, whatever they hold. A separate output projection is used, tied or not.
    shapes[prefix + "h.0.attn.bias"] = {1, 1, 7, 7};
    shapes[prefix + "h.0.attn.masked_bias"] = {};
    shapes["lm_head.weight"] = {11, 6};
    const Weights weights(shapes);
    folder.write("config.json", gpt2_json);
    weights.write(folder / "model.safetensors");
    const ModelFolder model(folder / "");
    const auto tensor = [&](const std::string& name) {
      return weights.tensors.at(prefix + name).view();
    };
    const DecoderWeights& got = model.weights();
    CHECK(same(got.embedding, tensor("wte.weight")));
    CHECK(same(got.positions, tensor("wpe.weight")));
    CHECK(same(got.final_norm.scale, tensor("ln_f.weight")));
    CHECK(same(got.final_norm.bias, tensor("ln_f.bias")));
    CHECK(same(got.output, weights.tensors.at("lm_head.weight").view()));
    REQUIRE(got.layers.size() == 1);
    const LayerWeights& layer = got.layers[0];
    const std::vector<LinearWeights> parts{layer.attention.q, layer.attention.k, layer.attention.v};
    const float* const fused = static_cast<const float*>(tensor("h.0.attn.c_attn.weight").data);
    for (int part = 0; part < 3; ++part) {
      const LinearWeights& linear = parts[part];
      REQUIRE(linear.weight.shape == Dims{6, 6});
      const Tensor dense = copy_as(linear.weight, DType::f32);
      for (int out = 0; out < 6; ++out) {
        for (int in = 0; in < 6; ++in)
          CHECK(dense.data<float>()[out * 6 + in] == fused[in * 18 + part * 6 + out]);
      }
      CHECK(same(linear.bias, tensor("h.0.attn.c_attn.bias").sliced(0, part * 6, part * 6 + 6)));
      const auto distance = static_cast<const float*>(linear.weight.data) -
                            static_cast<const float*>(parts[0].weight.data);
      CHECK(distance == part * 6);
    }
    CHECK(same(layer.attention.out.weight, tensor("h.0.attn.c_proj.weight").permuted({1, 0})));
    CHECK(same(layer.mlp.up.weight, tensor("h.0.mlp.c_fc.weight").permuted({1, 0})));
    CHECK(same(layer.mlp.down.weight, tensor("h.0.mlp.c_proj.weight").permuted({1, 0})));
    CHECK(same(layer.mlp.down.bias, tensor("h.0.mlp.c_proj.bias")));
    CHECK(same(layer.attention_norm.scale, tensor("h.0.ln_1.weight")));
    CHECK(same(layer.mlp_norm.bias, tensor("h.0.ln_2.bias")));
  }
}

TEST_CASE("a tied output, a body alone, ids of generation_config.json") {
  const Folder folder;
  Shapes shapes;
  for (const auto& [name, shape] : llama_shapes(true))
    shapes[name.substr(std::string("model.").size())] = shape;
  shapes["layers.0.self_attn.rotary_emb.inv_freq"] = {2};
  folder.write("config.json",
               llama_json(R"(, "tie_word_embeddings": true, "eos_token_id": [3, 4])"));
  Weights(shapes).write(folder / "model.safetensors");
  CHECK(ModelFolder(folder / "").weights().output.absent());
  CHECK(ModelFolder(folder / "").eos_ids() == std::vector<std::int64_t>{3, 4});
  folder.write("generation_config.json", R"({"bos_token_id": 9, "eos_token_id": [5, 6, 7]})");
  CHECK(ModelFolder(folder / "").bos_id() == 9);
  CHECK(ModelFolder(folder / "").eos_ids() == std::vector<std::int64_t>{5, 6, 7});
  folder.write("generation_config.json", R"({"eos_token_id": [5, -6]})");
  check_refused_open(
      folder, "generation_config.json: 'eos_token_id[1]' is -6; it needs a whole number in 0..");
}

TEST_CASE("missing, unknown and misshapen tensors are named") {
  const Folder folder;
  folder.write("config.json", llama_json());
  const auto check = [&](const Shapes& shapes, const std::string& fault, DType dtype = DType::f32) {
    Weights(shapes, dtype).write(folder / "model.safetensors");
    check_refused_open(folder, fault);
  };
  Shapes shapes = llama_shapes();
  shapes.erase("model.layers.1.mlp.up_proj.weight");
  check(shapes, "1 missing: 'model.layers.1.mlp.up_proj.weight'");
  shapes["model.layers.1.mlp.up_proj.bias"] = {5};
  check(shapes,
        "1 missing: 'model.layers.1.mlp.up_proj.weight'; 1 that the model does not have: "
        "'model.layers.1.mlp.up_proj.bias'");
  check(llama_shapes(true), "1 missing: 'lm_head.weight'");
  check(
      with({}, "x", {1}),
      "21 missing: 'model.embed_tokens.weight', 'model.layers.0.input_layernorm.weight', "
      "'model.layers.0.self_attn.q_proj.weight', 'model.layers.0.self_attn.k_proj.weight', "
      "'model.layers.0.self_attn.v_proj.weight' and 16 more; 1 that the model does not have: 'x'");
  check(with(llama_shapes(), "model.layers.2.input_layernorm.weight", {8}),
        "1 that the model does not have: 'model.layers.2.");
  check(with(llama_shapes(), "model.norm.weight", {9}),
        "model.safetensors: tensor 'model.norm.weight' has shape [9]; it needs [8]");
  check(with(llama_shapes(), "model.layers.1.self_attn.o_proj.weight", {16, 8}),
        "o_proj.weight' has shape [16, 8]; it needs [8, 16]");
  check(with(llama_shapes(), "model.embed_tokens.weight", {8, 11}),
        "embed_tokens.weight' has shape [8, 11]; it needs [11, 8]");
  check(llama_shapes(), "embed_tokens.weight' has type f64; it needs f32, bf16 or f16", DType::f64);

  folder.write("config.json", gpt2_json);
  check(with(gpt2_shapes(""), "h.0.attn.c_attn.weight", {18, 6}),
        "'h.0.attn.c_attn.weight' has shape [18, 6]; it needs [6, 18]");
  check(with(gpt2_shapes(""), "wpe.weight", {8, 6}),
        "'wpe.weight' has shape [8, 6]; it needs [7, 6]");
  check(with(gpt2_shapes(""), "h.0.attn.c_attn.extra", {1}),
        "does not have: 'h.0.attn.c_attn.extra'");
  Shapes lacking = gpt2_shapes("transformer.");
  lacking.erase("transformer.h.0.attn.c_attn.weight");
  check(lacking, "1 missing: 'transformer.h.0.attn.c_attn.weight'");
  folder.write(
      "model.safetensors",
      safetensors(table(entry("wte.weight", "F8_E5M2", "[11,6]", 0, 66)), std::string(66, 'x')));
  check_refused_open(
      folder,
      "model.safetensors: tensor 'wte.weight' has element type 'F8_E5M2', which is not supported");
}

TEST_CASE("folders that hold no model") {
  const Folder folder;
  check_refused_open(folder, "config.json: no such file");
  folder.write("config.json", llama_json());
  check_refused_open(folder, "holds neither model.safetensors nor model.safetensors.index.json");
  Weights(llama_shapes()).write(folder / "model.safetensors");
  const std::string whole = bytes_of(folder / "model.safetensors");
  folder.write("model.safetensors", whole.substr(0, whole.size() - 1));
  check_refused_open(folder, "model.safetensors: data_offsets");
  folder.write("model.safetensors", little_endian(std::uint64_t{1} << 60, 8) + whole);
  check_refused_open(folder,
                     "model.safetensors: truncated, or no .safetensors file: its header should "
                     "have 1152921504606846976 bytes");
  folder.write("model.safetensors", "");
  check_refused_open(folder, "model.safetensors: is empty");
  CHECK(refusal([&] {
          model::Checkpoint(folder / "config.json");
        }).find("is no folder of a model") != std::string::npos);
}
