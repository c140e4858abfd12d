"""Small random transformer models in the form that Hugging Face's libraries write them, and what PyTorch computes from them.

    python3 tests/data/make_models.py [DIRECTORY]

Needs python3 with torch 2.5 or newer. README.md beside this file describes every folder that it writes.
"""

import json
import math
import random
import struct
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.dont_write_bytecode = True

from model_configs import GPT2, LLAMA, QWEN2, QWEN3

PROMPT = list(b"Attention is all we need")
NEW_TOKENS = 8

# Chosen so that the greedy continuation never hangs on a hair, wanders, and does not meet the end of text.
SEEDS = {"llama_tiny": 14, "qwen2_tiny": 11, "qwen3_tiny": 0, "gpt2_tiny": 3}
SMALLEST_MARGIN = 0.05
SMALLEST_VARIETY = 5

# ---- weights ----


def stored_type(config):
    return getattr(torch, config.get("dtype") or config["torch_dtype"])


class Weights:
    """Makes named tensors; each is a function of the model's name and its own, so that their order changes nothing."""

    def __init__(self, model, dtype):
        self.model, self.dtype, self.tensors = model, dtype, {}

    def add(self, name, shape, deviation, mean=0.0):
        """Uniform values: they need no library function, so they are the same on every machine."""
        source = random.Random(f"{self.model}/{SEEDS[self.model]}/{name}")
        width = math.sqrt(3.0) * deviation
        values = [mean + width * (2.0 * source.random() - 1.0) for _ in range(math.prod(shape))]
        self.tensors[name] = torch.tensor(values, dtype=torch.float64).reshape(shape).to(self.dtype)

    def linear(self, name, outputs, inputs, gain, bias=0.0):
        self.add(name + ".weight", [outputs, inputs], gain / math.sqrt(inputs))
        if bias:
            self.add(name + ".bias", [outputs], bias)

    def conv1d(self, name, inputs, outputs, gain):
        """GPT-2's projections are stored [in, out]."""
        self.add(name + ".weight", [inputs, outputs], gain / math.sqrt(inputs))
        self.add(name + ".bias", [outputs], 0.3)

    def norm(self, name, size, bias=0.0, mean=1.0):
        self.add(name + ".weight", [size], 0.2, mean)
        if bias:
            self.add(name + ".bias", [size], bias)


def head_dim_of(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def llama_weights(model, config):
    """Llama, Qwen2 and Qwen3. Gains of q and k make scores of deviation 1 to 2."""
    weights = Weights(model, stored_type(config))
    hidden, inner, head_dim = (
        config["hidden_size"],
        config["intermediate_size"],
        head_dim_of(config),
    )
    tied, bias = config["tie_word_embeddings"], 0.5 if config["model_type"] == "qwen2" else 0.0
    queries, keys = (
        config["num_attention_heads"] * head_dim,
        config["num_key_value_heads"] * head_dim,
    )
    # Tied, the embedding makes the logits too; else it is as small as in real models, where the first norm's epsilon counts.
    weights.add(
        "model.embed_tokens.weight",
        [config["vocab_size"], hidden],
        2.0 / math.sqrt(hidden) if tied else 0.02,
    )
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights.norm(prefix + "input_layernorm", hidden)
        weights.linear(prefix + "self_attn.q_proj", queries, hidden, 1.3, bias)
        weights.linear(prefix + "self_attn.k_proj", keys, hidden, 1.3, bias)
        weights.linear(prefix + "self_attn.v_proj", keys, hidden, 1.0, bias)
        weights.linear(prefix + "self_attn.o_proj", hidden, queries, 2.0 if tied else 1.0)
        if config["model_type"] == "qwen3":
            weights.norm(prefix + "self_attn.q_norm", head_dim, mean=1.3)
            weights.norm(prefix + "self_attn.k_norm", head_dim, mean=1.3)
        weights.norm(prefix + "post_attention_layernorm", hidden)
        weights.linear(prefix + "mlp.gate_proj", inner, hidden, 1.0)
        weights.linear(prefix + "mlp.up_proj", inner, hidden, 1.0)
        weights.linear(prefix + "mlp.down_proj", hidden, inner, 3.0 if tied else 1.5)
    weights.norm("model.norm", hidden)
    if not tied:
        weights.linear("lm_head", config["vocab_size"], hidden, 2.0)
    return weights.tensors


def gpt2_weights(model, config):
    weights = Weights(model, stored_type(config))
    hidden = config["n_embd"]
    weights.add("transformer.wte.weight", [config["vocab_size"], hidden], 2.0 / math.sqrt(hidden))
    weights.add("transformer.wpe.weight", [config["n_positions"], hidden], 0.2)
    for layer in range(config["n_layer"]):
        prefix = f"transformer.h.{layer}."
        weights.norm(prefix + "ln_1", hidden, bias=0.2)
        weights.conv1d(prefix + "attn.c_attn", hidden, 3 * hidden, 1.3)
        weights.conv1d(prefix + "attn.c_proj", hidden, hidden, 2.0)
        weights.norm(prefix + "ln_2", hidden, bias=0.2)
        weights.conv1d(prefix + "mlp.c_fc", hidden, 4 * hidden, 1.0)
        weights.conv1d(prefix + "mlp.c_proj", 4 * hidden, hidden, 2.0)
    weights.norm("transformer.ln_f", hidden, bias=0.2)
    return weights.tensors


# ---- what they compute ----


def llama3_frequency(frequency, scaling):
    """One frequency as Llama 3.1 scales it."""
    turns = (
        scaling["original_max_position_embeddings"] * frequency / (2.0 * math.pi)
    )  # in the original context
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    if turns > high:
        return frequency
    if turns < low:
        return frequency / factor
    smooth = (turns - low) / (high - low)
    return (1.0 - smooth) * frequency / factor + smooth * frequency


def llama3_frequencies(plain, scaling):
    """The same by wavelengths, over a whole tensor: a second opinion."""
    wavelengths = 2.0 * math.pi / plain
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    context = scaling["original_max_position_embeddings"]
    smooth = ((context / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return torch.lerp(plain / scaling["factor"], plain, smooth)


def inverse_frequencies(head_dim, theta, scaling):
    plain = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    kind = (scaling or {}).get("rope_type") or (scaling or {}).get("type") or "default"
    if kind == "llama3":
        scaled = torch.tensor(
            [llama3_frequency(f, scaling) for f in plain.tolist()], dtype=torch.float64
        )
        torch.testing.assert_close(scaled, llama3_frequencies(plain, scaling), rtol=1e-14, atol=0.0)
        return scaled
    if kind == "linear":
        return plain / scaling["factor"]
    assert kind == "default", kind
    return plain


def frequencies_of(config):
    parameters = config.get("rope_parameters") or config
    return inverse_frequencies(
        head_dim_of(config), parameters["rope_theta"], config.get("rope_scaling")
    )


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x):
    return x.transpose(-3, -2).flatten(-2)


def llama_attention(x, layer, config, cos, sin):
    def project(name):
        return F.linear(x, layer(f"self_attn.{name}.weight"), layer(f"self_attn.{name}.bias"))

    q = split_heads(project("q_proj"), config["num_attention_heads"])
    k = split_heads(project("k_proj"), config["num_key_value_heads"])
    v = split_heads(project("v_proj"), config["num_key_value_heads"])
    if config["model_type"] == "qwen3":
        q = F.rms_norm(q, q.shape[-1:], layer("self_attn.q_norm.weight"), config["rms_norm_eps"])
        k = F.rms_norm(k, k.shape[-1:], layer("self_attn.k_norm.weight"), config["rms_norm_eps"])
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return F.linear(merge_heads(out), layer("self_attn.o_proj.weight"))


def llama_forward(weights, config, ids):
    """Logits [batch, seq, vocab], and the residual stream after each layer [layers, batch, seq, hidden]."""
    embedding, eps = weights["model.embed_tokens.weight"], config["rms_norm_eps"]
    angles = torch.outer(
        torch.arange(ids.shape[-1], dtype=torch.float64), frequencies_of(config)
    ).repeat(1, 2)
    cos, sin = angles.cos().to(embedding.dtype), angles.sin().to(embedding.dtype)
    x, streams = F.embedding(ids, embedding), []
    for index in range(config["num_hidden_layers"]):

        def layer(name):
            return weights.get(f"model.layers.{index}.{name}")

        normed = F.rms_norm(x, x.shape[-1:], layer("input_layernorm.weight"), eps)
        x = x + llama_attention(normed, layer, config, cos, sin)
        normed = F.rms_norm(x, x.shape[-1:], layer("post_attention_layernorm.weight"), eps)
        gate, up = (
            F.linear(normed, layer("mlp.gate_proj.weight")),
            F.linear(normed, layer("mlp.up_proj.weight")),
        )
        x = x + F.linear(F.silu(gate) * up, layer("mlp.down_proj.weight"))
        streams.append(x)
    x = F.rms_norm(x, x.shape[-1:], weights["model.norm.weight"], eps)
    return F.linear(
        x, embedding if config["tie_word_embeddings"] else weights["lm_head.weight"]
    ), torch.stack(streams)


def gpt2_forward(weights, config, ids):
    """As llama_forward."""
    embedding, eps, heads = (
        weights["transformer.wte.weight"],
        config["layer_norm_epsilon"],
        config["n_head"],
    )
    x, streams = (
        F.embedding(ids, embedding) + weights["transformer.wpe.weight"][: ids.shape[-1]],
        [],
    )
    for index in range(config["n_layer"]):

        def norm(name, x, prefix=f"transformer.h.{index}."):
            return F.layer_norm(
                x,
                x.shape[-1:],
                weights[f"{prefix}{name}.weight"],
                weights[f"{prefix}{name}.bias"],
                eps,
            )

        def project(name, x, prefix=f"transformer.h.{index}."):
            return x @ weights[f"{prefix}{name}.weight"] + weights[f"{prefix}{name}.bias"]

        q, k, v = (
            split_heads(part, heads)
            for part in project("attn.c_attn", norm("ln_1", x)).chunk(3, dim=-1)
        )
        x = x + project(
            "attn.c_proj", merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        )
        x = x + project(
            "mlp.c_proj", F.gelu(project("mlp.c_fc", norm("ln_2", x)), approximate="tanh")
        )
        streams.append(x)
    x = F.layer_norm(
        x, x.shape[-1:], weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"], eps
    )
    return F.linear(x, embedding), torch.stack(streams)


def greedy(forward, weights, config, ids):
    """The continuation, and the smallest distance from the best logit to the next one."""
    new, margin = [], math.inf
    for _ in range(NEW_TOKENS):
        best = forward(weights, config, torch.tensor([ids + new]))[0][0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        new.append(int(best.indices[0]))
    return new, margin


def converted(weights, dtype):
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


# ---- files ----


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def write_npy(path, tensor):
    descr = {torch.float32: "<f4", torch.float64: "<f8", torch.int64: "<i8"}[tensor.dtype]
    header = str({"descr": descr, "fortran_order": False, "shape": tuple(tensor.shape)})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + raw(tensor)
    )


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_safetensors(path, tensors):
    """Length of the header, the header, padded to 8 bytes with spaces, and the tensors in the order of their names."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in sorted(tensors.items()):
        values = raw(tensor)
        offsets = [len(data), len(data) + len(values)]
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_shards(folder, tensors):
    """Two files, cut in the middle, and the index that says which tensor lies in which."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    shards, written = [{}, {}], 0
    for name, tensor in tensors.items():
        shards[2 * written >= total][name] = tensor
        written += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard)
        weight_map.update(dict.fromkeys(shard, file))
    parameters = sum(tensor.numel() for tensor in tensors.values())
    metadata = {"total_parameters": parameters, "total_size": total}
    write_json(
        folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": weight_map}
    )


def two_digits(value):
    return float(f"{value:.1e}")


def write_expected(folder, forward, weights, config):
    ids, exact_weights = torch.tensor([PROMPT]), converted(weights, torch.float64)
    logits, streams = forward(exact_weights, config, ids)
    new, margin = greedy(forward, exact_weights, config, PROMPT)
    assert (
        margin > SMALLEST_MARGIN
        and len(set(new)) >= SMALLEST_VARIETY
        and config["eos_token_id"] not in new
    ), (margin, new)
    write_npy(folder / "prompt.npy", ids)
    write_npy(folder / "logits.npy", logits.float())
    write_npy(folder / "greedy.npy", torch.tensor([new]))
    expected = {
        "greedy": new,
        "greedy_margin": two_digits(margin),
        "largest_logit": two_digits(logits.abs().max()),
    }
    for dtype in (torch.float32, torch.bfloat16):
        error = (forward(converted(weights, dtype), config, ids)[0].double() - logits).abs().max()
        expected[f"torch_{str(dtype).removeprefix('torch.')}_error"] = two_digits(error)
    write_json(folder / "expected.json", expected)
    return streams


def write_model(directory, model, config):
    folder = directory / model
    folder.mkdir(parents=True, exist_ok=True)
    make, forward = (
        (gpt2_weights, gpt2_forward)
        if config["model_type"] == "gpt2"
        else (llama_weights, llama_forward)
    )
    weights = make(model, config)
    write_json(folder / "config.json", config)
    if model == "qwen3_tiny":
        write_shards(folder, weights)
    else:
        write_safetensors(folder / "model.safetensors", weights)
    streams = write_expected(folder, forward, weights, config)
    if model == "llama_tiny":
        write_npy(folder / "hidden.npy", streams.float())
    if config["model_type"] != "gpt2":
        write_npy(folder / "inv_freq.npy", frequencies_of(config))


def write_frequencies(directory):
    """The frequencies of real models: Llama 3.1, and Llama 2 stretched to twice its context."""
    folder = directory / "rope"
    folder.mkdir(parents=True, exist_ok=True)
    llama3 = LLAMA["rope_scaling"] | {"original_max_position_embeddings": 8192}
    write_npy(folder / "llama3_inv_freq.npy", inverse_frequencies(128, 500000.0, llama3))
    write_npy(
        folder / "linear_inv_freq.npy",
        inverse_frequencies(128, 10000.0, {"rope_type": "linear", "factor": 2.0}),
    )


def main():
    torch.set_num_threads(1)
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with torch.inference_mode():
        for model, config in {
            "llama_tiny": LLAMA,
            "qwen2_tiny": QWEN2,
            "qwen3_tiny": QWEN3,
            "gpt2_tiny": GPT2,
        }.items():
            write_model(directory, model, config)
        write_frequencies(directory)


if __name__ == "__main__":
    main()
