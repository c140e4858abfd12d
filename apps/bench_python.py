"""Times the Python package: python apps/bench_python.py [overhead] [block] [llama]

overhead   microseconds of a call that computes next to nothing
block      a vision transformer's block of PyTorch: linear layers and attention take turns
llama      a small random Llama in transformers, forward and backward

Each number is the best of several runs, alternating between what is compared.
"""

import copy
import sys
import time

import attn
import numpy as np


def best(calls, repeats, rounds=7):
    """Seconds of each call, by name: the best of `rounds` means of `repeats`."""
    for call in calls.values():
        call()
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            times[name] = min(times[name], (time.perf_counter() - start) / repeats)
    return times


def overhead():
    x = np.ones((1, 1, 1, 8), np.float32)
    plan = attn.Plan(x, x, x)
    calls = {
        "attention, NumPy": lambda: attn.attention(x, x, x),
        "Plan.run, NumPy": lambda: plan.run(x, x, x),
        "softmax, NumPy": lambda: attn.softmax(x),
    }
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
    else:
        t = torch.ones(1, 1, 1, 8)
        g = torch.ones(1, 1, 1, 8, requires_grad=True)
        sdpa = attn.torch.scaled_dot_product_attention
        calls |= {
            "attention, PyTorch": lambda: attn.attention(t, t, t),
            "scaled_dot_product_attention": lambda: sdpa(t, t, t),
            "scaled_dot_product_attention, recorded": lambda: sdpa(g, g, g),
            "PyTorch's own": lambda: torch.nn.functional.scaled_dot_product_attention(t, t, t),
        }
    for name, seconds in best(calls, 2000).items():
        print(f"{name:40s} {seconds * 1e6:6.1f} us")


def block():
    import torch

    torch.set_num_threads(2)
    tokens, heads, dim = 577, 16, 80
    width = heads * dim
    linear = torch.nn.functional.linear
    weights = [
        [
            torch.randn(n, m) * 0.02
            for n, m in [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        ]
        for _ in range(4)
    ]
    x = torch.randn(1, tokens, width)
    spent = {"linear": 0.0, "attention": 0.0}

    def timed(name, call):
        start = time.perf_counter()
        result = call()
        spent[name] += time.perf_counter() - start
        return result

    def run(attention):
        y = x
        for qkv, out, up, down in weights:
            parts = timed("linear", lambda: linear(y, qkv))
            q, k, v = parts.view(1, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4)
            o = (
                timed("attention", lambda: attention(q, k, v))
                .transpose(1, 2)
                .reshape(1, tokens, width)
            )
            y = y + timed("linear", lambda: linear(o, out))
            y = y + timed("linear", lambda: linear(torch.nn.functional.gelu(linear(y, up)), down))
        return y

    kinds = {
        "attn": attn.torch.scaled_dot_product_attention,
        "PyTorch": torch.nn.functional.scaled_dot_product_attention,
    }
    results = {name: {"linear": [], "attention": []} for name in kinds}
    with torch.no_grad():
        for _ in range(12):
            for name, attention in kinds.items():
                spent.update(linear=0.0, attention=0.0)
                run(attention)
                for part, seconds in spent.items():
                    results[name][part].append(seconds)
    for name, parts in results.items():
        shown = ", ".join(f"{part} {1e3 * min(seconds):6.2f} ms" for part, seconds in parts.items())
        print(f"block with {name:8s} {shown}")


def llama():
    import torch
    import transformers

    attn.transformers.register()
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    ids = torch.randint(0, 1000, (1, 1024))
    models = {}
    for name in ("attn", "sdpa", "eager"):
        torch.manual_seed(0)
        models[name] = transformers.LlamaForCausalLM._from_config(
            copy.deepcopy(config), attn_implementation=name
        )

    def step(model):
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()

    times = best({name: lambda m=model: step(m) for name, model in models.items()}, 1, 4)
    for name, seconds in times.items():
        print(f"Llama, 1024 tokens, forward and backward, {name:6s} {seconds * 1e3:8.1f} ms")

    prompt = ids[:, :128]
    new = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}
    for model in models.values():
        model.eval()
    calls = {name: lambda m=model: m.generate(prompt, **new) for name, model in models.items()}
    for name, seconds in best(calls, 1, 4).items():
        print(f"Llama, 32 tokens generated, {name:6s} {seconds * 1e3:8.1f} ms")


if __name__ == "__main__":
    parts = {"overhead": overhead, "block": block, "llama": llama}
    for part in sys.argv[1:] or parts:
        if part not in parts:
            sys.exit(f"bench_python.py: {part} is none of {', '.join(parts)}")
        parts[part]()
