"""Times a stack of Llama layers in PyTorch: the peer of `attn_demo layers --arch llama`, with its defaults.

    python3 tests/pytorch/llama_layers.py [--hidden 1024 --heads 16 --kv-heads 4 --layers 8 --seq 1024 --dtype f32 --threads 2]

Needs python3 with torch 2.5 or newer. Prints one line of JSON: prefill of --seq tokens into an empty cache, and steps of one token with
that many keys. Layers only: no embedding, no logits; eager. The layers are written in several ways, and each figure is the best of them:
which one that is depends on how torch was built (in some builds bf16 attention is many times slower than f32's).
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def rope_tables(positions, head_dim, dtype):
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def grouped_attention(q, k, v, causal):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def repeated_attention(q, k, v, causal):
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def matmul_attention(q, k, v, causal):
    with sdpa_kernel(SDPBackend.MATH):
        return grouped_attention(q, k, v, causal)


def float_attention(q, k, v, causal):
    return grouped_attention(q.float(), k.float(), v.float(), causal).to(q.dtype)


ATTENTION = {
    "enable_gqa": grouped_attention,
    "repeated heads": repeated_attention,
    "two matmuls": matmul_attention,
}


class Layer(nn.Module):
    def __init__(self, shape, fused, attend):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            shape.heads,
            shape.kv_heads,
            shape.hidden // shape.heads,
        )
        self.fused, self.attend = fused, attend
        kv_size = self.kv_heads * self.head_dim
        self.qkv_sizes, self.gate_up_sizes = (
            (shape.hidden, kv_size, kv_size),
            (shape.intermediate, shape.intermediate),
        )
        self.qkv_proj = self.projections(shape.hidden, self.qkv_sizes)
        self.gate_up_proj = self.projections(shape.hidden, self.gate_up_sizes)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)
        self.input_norm = nn.RMSNorm(shape.hidden, eps=1e-5)
        self.post_attention_norm = nn.RMSNorm(shape.hidden, eps=1e-5)
        self.register_buffer("key_cache", torch.zeros(1, self.kv_heads, shape.seq, self.head_dim))
        self.register_buffer("value_cache", torch.zeros(1, self.kv_heads, shape.seq, self.head_dim))

    def projections(self, inputs, sizes):
        return nn.ModuleList(
            nn.Linear(inputs, size, bias=False) for size in ([sum(sizes)] if self.fused else sizes)
        )

    def project(self, projections, x, sizes):
        return (
            projections[0](x).split(sizes, dim=-1)
            if self.fused
            else [linear(x) for linear in projections]
        )

    def attention(self, x, cos, sin, start):
        q, k, v = self.project(self.qkv_proj, x, self.qkv_sizes)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        end = start + x.shape[1]
        q = rotate(q, cos[start:end], sin[start:end])
        self.key_cache[:, :, start:end] = rotate(k, cos[start:end], sin[start:end])
        self.value_cache[:, :, start:end] = v
        k, v = self.key_cache[:, :, :end], self.value_cache[:, :, :end]
        out = self.attend(q, k, v, start == 0)
        return self.o_proj(out.transpose(1, 2).flatten(-2))

    def forward(self, x, cos, sin, start):
        x = x + self.attention(self.input_norm(x), cos, sin, start)
        gate, up = self.project(self.gate_up_proj, self.post_attention_norm(x), self.gate_up_sizes)
        return x + self.down_proj(F.silu(gate) * up)


class Stack:
    def __init__(self, shape, dtype, fused, attend):
        torch.manual_seed(0)
        self.layers = (
            nn.Sequential(*(Layer(shape, fused, attend) for _ in range(shape.layers)))
            .to(dtype)
            .eval()
        )
        self.cos, self.sin = rope_tables(shape.seq, shape.hidden // shape.heads, dtype)

    def forward(self, x, start):
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, start)
        return x


def run_ms(run):
    began = time.perf_counter()
    run()
    return 1000.0 * (time.perf_counter() - began)


def median_ms(run, seconds, best):
    """A run that takes more than twice the best median so far is not repeated."""
    run()
    times = [run_ms(run)]
    while times[0] < 2.0 * best and (len(times) < 3 or sum(times) < 1000.0 * seconds):
        times.append(run_ms(run))
    return statistics.median(times)


def measure(shape, dtype):
    """The best of each figure over the ways to write it, and the figures of each way, so that the choice can be seen."""
    tokens = torch.randn(1, shape.seq, shape.hidden).to(dtype)
    attention = (
        ATTENTION if dtype == torch.float32 else ATTENTION | {"attention in f32": float_attention}
    )
    best, ways = {"prefill_ms": math.inf, "decode_ms": math.inf}, {}
    for fused, (name, attend) in itertools.product((True, False), attention.items()):
        stack = Stack(shape, dtype, fused, attend)
        # A step overwrites the last place of the cache: always one query and seq keys, the last its own.
        runs = {"prefill_ms": (tokens, 0), "decode_ms": (tokens[:, -1:], shape.seq - 1)}
        way = {
            key: median_ms(lambda: stack.forward(*call), shape.min_time, best[key])
            for key, call in runs.items()
        }
        best = {key: min(best[key], way[key]) for key in best}
        ways[f"{'fused' if fused else 'separate'}, {name}"] = {
            key: round(value, 3) for key, value in way.items()
        }
    return best, ways


def arguments():
    parser = argparse.ArgumentParser()
    for name, value in {
        "hidden": 1024,
        "heads": 16,
        "kv-heads": 4,
        "layers": 8,
        "seq": 1024,
        "threads": 2,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--intermediate", type=int, help="default: 8/3 of hidden, rounded up to a multiple of 256"
    )
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--min-time", type=float, default=1.0, help="seconds for each figure")
    shape = parser.parse_args()
    shape.intermediate = shape.intermediate or -(-8 * shape.hidden // (3 * 256)) * 256
    return shape


def main():
    shape = arguments()
    torch.set_num_threads(shape.threads)
    with torch.inference_mode():
        best, ways = measure(shape, {"f32": torch.float32, "bf16": torch.bfloat16}[shape.dtype])
    line = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    line |= vars(shape) | {key: round(value, 3) for key, value in best.items()}
    line["prefill_tokens_per_second"] = round(1000.0 * shape.seq / best["prefill_ms"], 1)
    line["decode_tokens_per_second"] = round(1000.0 / best["decode_ms"], 1)
    print(json.dumps(line | {"ways": ways}))


if __name__ == "__main__":
    main()
