"""Compares the gradients of `attn_demo backward` with PyTorch's automatic differentiation in float64.

    python3 tests/pytorch/backward.py build/release/attn_demo [--seeds 200] [--seed N] [--verbose]

Needs python3 with torch 2 or newer and numpy. Each seed is a random combination of options. The function that PyTorch
differentiates is written here from the formulas, operation by operation; it knows nothing of the library's gradients. Ends
with 1 if a gradient is further off than rounding can explain.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

F64 = torch.float64
# The largest error that passes, as a share of the gradient's largest element: roundings of the type times the few hundred
# terms of a sum.
ALLOWED = {"f32": 2e-5, "f16": 2e-2, "bf16": 1e-1}
TORCH_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def rounded(array, dtype):
    """The array as attn_demo reads it with --dtype, in float64."""
    return torch.from_numpy(array).to(TORCH_TYPES[dtype]).to(F64)


def entmax(scores, visible, sink, alpha):
    """Probabilities of entmax. tau is found by bisection; one Newton step makes it depend on the scores as it should."""
    z = (alpha - 1) * torch.where(visible, scores, torch.zeros_like(scores))
    if sink is not None:
        z = torch.cat([z, (alpha - 1) * sink.expand(z.shape[:-1] + (1,))], -1)
        visible = torch.cat([visible, torch.ones_like(z[..., :1], dtype=torch.bool)], -1)
    empty = ~visible.any(-1, keepdim=True)
    largest = (
        torch.where(visible, z, torch.full_like(z, -torch.inf)).amax(-1, keepdim=True).detach()
    )
    largest = torch.where(empty, torch.zeros_like(largest), largest)
    z = z - largest
    power = 1 / (alpha - 1)

    def probabilities(tau):
        above = z - tau
        inside = visible & (above > 0)
        return torch.where(
            inside,
            torch.where(inside, above, torch.ones_like(above)) ** power,
            torch.zeros_like(above),
        )

    with torch.no_grad():
        low, high = torch.full_like(largest, -1.0), torch.zeros_like(largest)
        for _ in range(100):
            middle = (low + high) / 2
            enough = probabilities(middle).sum(-1, keepdim=True) >= 1
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        p = probabilities(low)
        slope = power * torch.where(p > 0, p ** (2 - alpha), torch.zeros_like(p)).sum(
            -1, keepdim=True
        )
        slope = torch.where(empty, torch.ones_like(slope), slope)
    tau = low + (probabilities(low).sum(-1, keepdim=True) - 1) / slope
    p = probabilities(tau)
    return p[..., :-1] if sink is not None else p


def forward(case, t):
    """O and lse. lse of a row that sees nothing is 0 here, so that it adds nothing to the loss."""
    q, k, v = t["q"], t["k"], t["v"]
    batch, heads, q_len, dim = q.shape
    kv_len, group = k.shape[2], heads // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = case["scale"] * q @ k.transpose(-1, -2)
    if case["softcap"]:
        scores = case["softcap"] * torch.tanh(scores / case["softcap"])
    lengths = torch.tensor(case["kv_lens"] or [kv_len] * batch)[:, None, None, None]
    offset = lengths - q_len if case["offset"] is None else torch.full_like(lengths, case["offset"])
    i, j = torch.arange(q_len)[:, None] + offset, torch.arange(kv_len)[None, None, None, :]
    visible = (j < lengths).expand(batch, 1, q_len, kv_len)
    if case["causal"]:
        visible = visible & (j <= i)
    if case["window"]:
        left, right = case["window"]
        visible = visible & ((left < 0) | (j >= i - left)) & ((right < 0) | (j <= i + right))
    if "alibi" in t:
        scores = scores - t["alibi"][None, :, None, None] * (i - j).abs()
    if "mask" in t:
        mask, width = t["mask"], t["mask"].shape[-1]
        if width not in (1, kv_len):  # a mask that is shorter than the keys hides the rest
            visible = visible & (j < width)
            mask = (
                torch.nn.functional.pad(mask, (0, kv_len - width))
                if mask.dtype != torch.bool
                else torch.nn.functional.pad(mask, (0, kv_len - width), value=False)
            )
        if mask.dtype == torch.bool:
            visible = visible & mask
        else:
            visible = visible & (mask != -torch.inf)
            scores = scores + torch.where(mask == -torch.inf, torch.zeros_like(mask), mask)
    visible = visible.expand(scores.shape)
    sink = t["sinks"][None, :, None, None] if "sinks" in t else None
    if case["normalizer"] == "sigmoid":
        bias = case["bias"] if case["bias"] is not None else -torch.log(lengths.to(F64))
        return torch.where(
            visible, torch.sigmoid(scores + bias), torch.zeros_like(scores)
        ) @ v, None
    if case["normalizer"] != "softmax":
        p = entmax(scores, visible, sink, case["alpha"])
        return torch.where(visible.any(-1, keepdim=True), p, torch.zeros_like(p)) @ v, None
    largest = (
        torch.where(visible, scores, torch.full_like(scores, -torch.inf))
        .amax(-1, keepdim=True)
        .detach()
    )
    largest = largest if sink is None else torch.maximum(largest, sink.detach())
    largest = torch.where(largest == -torch.inf, torch.zeros_like(largest), largest)
    exponentials = torch.where(
        visible,
        torch.exp(torch.where(visible, scores, largest) - largest),
        torch.zeros_like(scores),
    )
    total = exponentials.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink - largest)
    filled = torch.where(total > 0, total, torch.ones_like(total))
    return (exponentials / filled) @ v, (largest + torch.log(filled))[..., 0] * (total > 0)[..., 0]


def random_case(seed):
    random = np.random.default_rng(seed)
    pick, chance = random.choice, lambda p: random.random() < p
    kv_heads = int(random.integers(1, 4))
    heads, batch = kv_heads * int(random.integers(1, 4)), int(random.integers(1, 4))
    q_len, kv_len = (int(random.integers(1, 40 if chance(0.8) else 200)) for _ in range(2))
    dim, v_dim = (int(random.integers(1, 70)) for _ in range(2))
    normalizer = str(pick(["softmax"] * 5 + ["sigmoid", "sparsemax", "entmax15", "entmax"]))
    case = {
        "dtype": str(pick(["f32", "f32", "f32", "f16", "bf16"])),
        "layout": str(pick(["bhsd", "bshd", "merged"])),
        "scale": float(np.float32(pick([1 / np.sqrt(dim), 0.3, -0.2]))),
        "softcap": 2.5 if chance(0.3) else None,
        "causal": chance(0.4),
        "offset": int(random.integers(-q_len, kv_len + 1)) if chance(0.3) else None,
        "window": [int(random.integers(-1, kv_len)), int(random.integers(-1, kv_len))]
        if chance(0.3)
        else None,
        "kv_lens": [int(n) for n in random.integers(0, kv_len + 1, batch)] if chance(0.3) else None,
        "normalizer": normalizer,
        "alpha": {"sparsemax": 2.0, "entmax15": 1.5, "entmax": float(pick([1.25, 1.75, 2.5]))}.get(
            normalizer
        ),
        "bias": float(pick([0.5, -2])) if chance(0.5) else None,
    }
    arrays = {
        "q": random.standard_normal((batch, heads, q_len, dim)),
        "k": random.standard_normal((batch, kv_heads, kv_len, dim)),
        "v": random.standard_normal((batch, kv_heads, kv_len, v_dim)),
        "dout": random.standard_normal((batch, heads, q_len, v_dim)),
    }
    if normalizer == "softmax" and chance(0.6):
        arrays["dlse"] = random.standard_normal((batch, heads, q_len))
    if chance(0.3):
        arrays["alibi"] = random.standard_normal(heads) * 4 / (kv_len + 4)
    if chance(0.3) and normalizer != "sigmoid":
        arrays["sinks"] = random.standard_normal(heads)
    if chance(0.5):
        last = kv_len if chance(0.7) else int(random.integers(1, kv_len + 1))
        shape = tuple(n if chance(0.6) else 1 for n in (batch, heads, q_len)) + (last,)
        shape = shape[int(random.integers(0, 4)) :]
        hidden = random.random(shape) < 0.2
        arrays["mask"] = (
            ~hidden if chance(0.3) else np.where(hidden, -np.inf, random.standard_normal(shape))
        )
    arrays = {name: a if a.dtype == bool else a.astype(np.float32) for name, a in arrays.items()}
    return case, arrays


def in_layout(array, layout):
    if layout == "bhsd":
        return array
    swapped = array.transpose(0, 2, 1, 3)
    return swapped if layout == "bshd" else swapped.reshape(swapped.shape[0], swapped.shape[1], -1)


def from_layout(array, layout, heads):
    if layout == "merged":
        array = array.reshape(array.shape[0], array.shape[1], heads, -1)
    return array if layout == "bhsd" else array.transpose(0, 2, 1, 3)


def options_of(case, arrays):
    options = [
        "--dtype",
        case["dtype"],
        "--scale",
        repr(case["scale"]),
        "--normalizer",
        case["normalizer"],
    ]
    if case["layout"] == "merged":
        options += ["--heads", arrays["q"].shape[1], "--kv-heads", arrays["k"].shape[1]]
    else:
        options += ["--layout", case["layout"]]
    if case["softcap"]:
        options += ["--softcap", case["softcap"]]
    if case["causal"]:
        options += ["--causal"]
    if case["offset"] is not None:
        options += [f"--q-position={case['offset']}"]
    if case["window"]:
        options += ["--window={},{}".format(*case["window"])]
    if case["normalizer"] == "entmax":
        options += ["--alpha", case["alpha"]]
    if case["normalizer"] == "sigmoid" and case["bias"] is not None:
        options += [f"--sigmoid-bias={case['bias']}"]
    return [str(option) for option in options]


def demo_gradients(program, case, arrays, kernel, folder):
    """Runs attn_demo backward on files. Returns the gradients by the name of their input."""
    command = [program, "backward", "--kernel", kernel] + options_of(case, arrays)
    rows = ("q", "k", "v", "dout")
    for name, array in arrays.items():
        np.save(
            folder / f"{name}.npy",
            np.ascontiguousarray(in_layout(array, case["layout"]) if name in rows else array),
        )
        command += [f"--{name}", str(folder / f"{name}.npy")]
    if case["kv_lens"]:
        np.save(folder / "kv_lens.npy", np.array(case["kv_lens"], np.int64))
        command += ["--kv-lens", str(folder / "kv_lens.npy")]
    wanted = [
        name
        for name in ("q", "k", "v", "mask", "alibi", "sinks")
        if name in arrays and arrays[name].dtype != bool
    ]
    for name in wanted:
        command += [f"--d{name}", str(folder / f"d{name}.safetensors")]
    subprocess.run(command, check=True)
    gradients = {}
    for name in wanted:
        gradient = read_safetensors(folder / f"d{name}.safetensors")
        if name in rows:
            gradient = from_layout(gradient, case["layout"], arrays[name].shape[1])
        gradients[name] = gradient
    return gradients


def read_safetensors(file):
    """The only tensor of a file, as float64. numpy has no bfloat16, so that torch reads the bits."""
    import json

    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    (entry,) = [e for name, e in json.loads(data[8 : 8 + size]).items() if name != "__metadata__"]
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[entry["dtype"]]
    begin, end = entry["data_offsets"]
    bits = bytearray(data[8 + size + begin : 8 + size + end])
    flat = torch.frombuffer(bits, dtype=dtype) if bits else torch.empty(0, dtype=dtype)
    return flat.reshape(entry["shape"]).to(F64).numpy()


def true_gradients(case, arrays):
    tensors = {
        name: torch.from_numpy(a)
        if a.dtype == bool
        else rounded(a, case["dtype"] if name in ("q", "k", "v", "dout") else "f32")
        for name, a in arrays.items()
    }
    inputs = {
        name: t.requires_grad_()
        for name, t in tensors.items()
        if t.dtype == F64 and name not in ("dout", "dlse")
    }
    out, lse = forward(case, {**tensors, **inputs})
    loss = (tensors["dout"] * out).sum()
    if "dlse" in tensors:
        loss = loss + (tensors["dlse"] * lse).sum()
    loss.backward()
    return {
        name: np.zeros(t.shape) if t.grad is None else t.grad.numpy() for name, t in inputs.items()
    }


def check(program, seed, kernels, verbose):
    """Returns whether all gradients are right."""
    case, arrays = random_case(seed)
    truth, right = true_gradients(case, arrays), True
    for kernel in kernels:
        with tempfile.TemporaryDirectory() as folder:
            gradients = demo_gradients(program, case, arrays, kernel, pathlib.Path(folder))
        for name, got in gradients.items():
            largest = np.abs(truth[name]).max(initial=0)
            error = np.abs(got - truth[name]).max(initial=0)
            # A gradient in which everything cancels is as large as the rounding of its terms.
            allowed = ALLOWED[case["dtype"]] * max(largest, 0.5)
            # Above alpha = 2 the derivative has no bound near the threshold, and so neither have errors.
            if case["alpha"] is not None and case["alpha"] > 2:
                allowed *= 50
            if not error <= allowed:
                right = False
                print(
                    f"seed {seed}, {kernel}: d{name} is off by {error:.2e} of {largest:.2e}; {case}, "
                    f"{ {n: a.shape for n, a in arrays.items()} }"
                )
            elif verbose:
                print(
                    f"seed {seed}, {kernel}: d{name} is off by {error:.1e} of {largest:.1e}, {case['dtype']}"
                )
    return right


def main():
    parser = argparse.ArgumentParser(
        description="gradients of attn_demo backward against PyTorch's"
    )
    parser.add_argument("program", help="attn_demo")
    parser.add_argument("--seeds", type=int, default=200, help="how many random calls")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--kernel", choices=["tiled", "naive"], help="only this one; default both")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    kernels = [arguments.kernel] if arguments.kernel else ["tiled", "naive"]
    seeds = range(arguments.seeds) if arguments.seed is None else [arguments.seed]
    wrong = [
        seed for seed in seeds if not check(arguments.program, seed, kernels, arguments.verbose)
    ]
    print(
        f"torch {torch.__version__}: {len(seeds) - len(wrong)} of {len(seeds)} random calls have PyTorch's gradients"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
