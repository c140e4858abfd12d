"""attn.flash_attn: flash-attn's seven functions, against the formulas."""

import inspect
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from attn import flash_attn as fa  # noqa: E402
from reference import attention as reference  # noqa: E402


def tensors(*shapes, dtype=torch.float32, requires_grad=False, seed=41):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [tensor.requires_grad_(requires_grad) for tensor in made]


def expected(q, k, v, *, window_size=(-1, -1), softcap=0.0, causal=False, **options):
    """The formulas on [batch, seq, heads, dim]."""
    window = tuple(None if side < 0 else side for side in window_size)
    q, k, v = (x.detach().float().transpose(1, 2).numpy() for x in (q, k, v))
    out, lse = reference(q, k, v, window=window, softcap=softcap or None, causal=causal, **options)
    return torch.from_numpy(out).float().transpose(1, 2), torch.from_numpy(lse).float()


def close(got, wanted, atol=5e-6):
    torch.testing.assert_close(got.float(), wanted, atol=atol, rtol=1e-5)


def test_signatures():
    common = (
        "dropout_p softmax_scale causal window_size softcap alibi_slopes deterministic "
        "return_attn_probs"
    )
    lengths = "cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k"
    wanted = {
        "flash_attn_func": f"q k v {common}",
        "flash_attn_qkvpacked_func": f"qkv {common}",
        "flash_attn_kvpacked_func": f"q kv {common}",
        "flash_attn_varlen_func": f"q k v {lengths} {common} block_table",
        "flash_attn_varlen_qkvpacked_func": f"qkv cu_seqlens max_seqlen {common}",
        "flash_attn_varlen_kvpacked_func": f"q kv {lengths} {common}",
        "flash_attn_with_kvcache": (
            "q k_cache v_cache k v rotary_cos rotary_sin cache_seqlens cache_batch_idx "
            "cache_leftpad "
            "block_table softmax_scale causal window_size softcap rotary_interleaved alibi_slopes "
            "num_splits return_softmax_lse"
        ),
    }
    defaults = {
        "dropout_p": 0.0,
        "causal": False,
        "window_size": (-1, -1),
        "softcap": 0.0,
        "rotary_interleaved": True,
        "num_splits": 0,
    }
    for name, parameters in wanted.items():
        signature = inspect.signature(getattr(fa, name)).parameters
        assert list(signature) == parameters.split(), name
        for parameter, default in defaults.items():
            if parameter in signature:
                assert signature[parameter].default == default


OPTIONS = [
    {},
    {"causal": True},
    {"window_size": (3, 1)},
    {"window_size": (2, -1), "causal": True},
    {"softcap": 2.0},
    {"softmax_scale": 0.3},
    {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 1.0]), "causal": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padded(options):
    q, k, v = tensors((2, 5, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8), requires_grad=True)
    named = dict(options)
    scale = named.pop("softmax_scale", None)
    wanted, wanted_lse = expected(q, k, v, scale=scale, **named)
    out, lse, probabilities = fa.flash_attn_func(q, k, v, **options, return_attn_probs=True)
    close(out, wanted)
    close(lse, wanted_lse)
    assert probabilities.numel() == 0 and out.is_contiguous()
    gradients = torch.autograd.grad(out.square().sum(), [q, k, v])
    kv = torch.stack([k, v], 2)
    packed = fa.flash_attn_kvpacked_func(q, kv, **options)
    close(packed, out, 0)
    for a, b in zip(torch.autograd.grad(packed.square().sum(), [q, k, v]), gradients):
        close(a, b, 1e-6)
    qkv = torch.stack([q, q * 0.5, q + 1], 2)
    close(
        fa.flash_attn_qkvpacked_func(qkv, **options),
        fa.flash_attn_func(q, q * 0.5, q + 1, **options),
        0,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_varlen(options):
    q_lens, k_lens = [3, 0, 5, 1], [4, 2, 5, 0]
    offsets = [torch.tensor([0, *x]).cumsum(0, dtype=torch.int32) for x in (q_lens, k_lens)]
    q, k, v = tensors((9, 4, 8), (11, 2, 8), (11, 2, 8), requires_grad=True)
    out, lse, _ = fa.flash_attn_varlen_func(
        q, k, v, *offsets, max(q_lens), max(k_lens), **options, return_attn_probs=True
    )
    assert out.shape == (9, 4, 8) and lse.shape == (4, 9)
    got = torch.autograd.grad((out**2).sum() + lse[:, :8].sum(), [q, k, v])
    parts = zip(q.split(q_lens), k.split(k_lens), v.split(k_lens))
    each = [
        fa.flash_attn_func(*(x[None] for x in part), **options, return_attn_probs=True)
        for part in parts
    ]
    wanted, wanted_lse = torch.cat([x[0][0] for x in each]), torch.cat([x[1][0] for x in each], -1)
    close(out, wanted, 1e-6)
    close(lse, wanted_lse, 1e-6)
    wanted = torch.autograd.grad((wanted**2).sum() + wanted_lse[:, :8].sum(), [q, k, v])
    for a, b in zip(got, wanted):
        close(a, b, 1e-5)
    kv = torch.stack([k, v], 1)
    close(fa.flash_attn_varlen_kvpacked_func(q, kv, *offsets, 5, 5, **options), out, 0)
    qkv = torch.stack([q, q, q], 1)
    close(
        fa.flash_attn_varlen_qkvpacked_func(qkv, offsets[0], 5, **options),
        fa.flash_attn_varlen_func(q, q, q, offsets[0], offsets[0], 5, 5, **options),
        0,
    )


def test_varlen_pages():
    q, pool_k, pool_v = tensors((6, 4, 8), (7, 4, 2, 8), (7, 4, 2, 8))
    table = torch.tensor([[3, 1, 0], [6, 2, -1]], dtype=torch.int32)
    offsets = [torch.tensor(x, dtype=torch.int32) for x in ([0, 4, 6], [0, 9, 14])]
    out = fa.flash_attn_varlen_func(
        q, pool_k, pool_v, *offsets, 4, 9, causal=True, block_table=table
    )
    for b, (begin, end, length) in enumerate([(0, 4, 9), (4, 6, 5)]):
        pages = table[b, : (length + 3) // 4].long()
        k, v = (pool[pages].flatten(0, 1)[:length] for pool in (pool_k, pool_v))
        close(out[begin:end], expected(q[None, begin:end], k[None], v[None], causal=True)[0][0])
    with pytest.raises(NotImplementedError, match="no gradient"):
        fa.flash_attn_varlen_func(
            q.clone().requires_grad_(), pool_k, pool_v, *offsets, 4, 9, block_table=table
        )


def test_slopes_of_each_sequence():
    q, k, v = tensors((2, 5, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8), requires_grad=True)
    slopes = torch.rand(2, 4)
    out = fa.flash_attn_func(q, k, v, alibi_slopes=slopes, causal=True)
    for b in range(2):
        one = fa.flash_attn_func(
            *(x[b : b + 1] for x in (q, k, v)), alibi_slopes=slopes[b], causal=True
        )
        close(out[b : b + 1], one, 0)
    assert out.requires_grad
    with pytest.raises(NotImplementedError):
        fa.flash_attn_varlen_qkvpacked_func(
            torch.randn(5, 3, 4, 8),
            torch.tensor([0, 5], dtype=torch.int32),
            5,
            alibi_slopes=slopes[:1],
        )


def test_16_bit_and_empty_rows():
    q, k, v = tensors((1, 5, 4, 8), (1, 3, 2, 8), (1, 3, 2, 8), dtype=torch.bfloat16)
    out, lse, _ = fa.flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    assert (out[:, :2] == 0).all() and (lse[..., :2] == -torch.inf).all()
    close(out, expected(q, k, v, causal=True)[0], 3e-2)


def rotated(x, cos, sin, positions, interleaved):
    """x [batch, seq, heads, dim], positions [batch, seq]."""
    n = cos.shape[1]
    c, s = cos[positions][:, :, None], sin[positions][:, :, None]
    x, rest = x[..., : 2 * n], x[..., 2 * n :]
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :n], x[..., n:])
    pair = (a * c - b * s, a * s + b * c)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([turned, rest], -1)


@pytest.mark.parametrize("form", ["rows", "index", "pages", "leftpad", "leftpad and index"])
@pytest.mark.parametrize("options", [{"causal": True}, {}, {"window_size": (3, 0)}], ids=str)
@pytest.mark.parametrize("rotary", [None, True, False])
def test_with_kvcache(form, options, rotary):
    q, k, v, pool_k, pool_v = tensors(
        (2, 3, 4, 16), (2, 3, 2, 16), (2, 3, 2, 16), (6, 8, 2, 16), (6, 8, 2, 16)
    )
    before = torch.tensor([4, 2], dtype=torch.int32)
    start = [1, 2] if "leftpad" in form else [0, 0]
    rows = [5, 2] if "index" in form else [0, 1]
    arguments = {"cache_seqlens": before}
    if form == "pages":
        arguments["block_table"] = torch.tensor([[4, 1], [0, -5]], dtype=torch.int32)
    if "leftpad" in form:
        arguments["cache_leftpad"] = torch.tensor(start, dtype=torch.int32)
    if "index" in form:
        arguments["cache_batch_idx"] = torch.tensor(rows, dtype=torch.int32)
    k_cache, v_cache = (
        x.clone() if form in ("pages", "index", "leftpad and index") else x[:2].clone()
        for x in (pool_k, pool_v)
    )
    turned_q, turned_k = q, k
    if rotary is not None:
        angles = torch.arange(16)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01])
        cos, sin = angles.cos(), angles.sin()
        arguments |= {"rotary_cos": cos, "rotary_sin": sin, "rotary_interleaved": rotary}
        positions = before[:, None].long() + torch.arange(3)
        turned_k = rotated(k, cos, sin, positions, rotary)
        at = positions if options else positions[:, :1].expand(2, 3)
        turned_q = rotated(q, cos, sin, at, rotary)
    out, lse = fa.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, **arguments, **options, return_softmax_lse=True
    )
    for b in range(2):
        length = int(before[b])
        if form == "pages":
            table = arguments["block_table"][b, : (length + 3 + 7) // 8].long()
            keys, values = (x[table].flatten(0, 1) for x in (pool_k, pool_v))
            stored = k_cache[table].flatten(0, 1)
        else:
            keys, values, stored = pool_k[rows[b]], pool_v[rows[b]], k_cache[rows[b]]
        keys = torch.cat([keys[start[b] : length], turned_k[b]])
        values = torch.cat([values[start[b] : length], v[b]])
        close(stored[length : length + 3], turned_k[b], 1e-6)
        wanted, wanted_lse = expected(turned_q[b][None], keys[None], values[None], **options)
        close(out[b][None], wanted)
        close(lse[b][None], wanted_lse)
    changed = (k_cache != pool_k[: len(k_cache)]).any(-1).any(-1).sum()
    assert changed == 6


def test_with_kvcache_without_new_keys():
    q, k_cache, v_cache = tensors((2, 1, 4, 16), (2, 8, 2, 16), (2, 8, 2, 12))
    whole = fa.flash_attn_with_kvcache(q, k_cache, v_cache)
    close(whole, expected(q, k_cache, v_cache)[0])
    part = fa.flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=5, num_splits=3)
    close(part, expected(q, k_cache[:, :5], v_cache[:, :5])[0])
    lengths = torch.tensor([3, 0])
    part = fa.flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=lengths, softcap=2.0)
    close(part, expected(q, k_cache, v_cache, kv_lens=lengths, softcap=2.0)[0])
    assert part.shape == (2, 1, 4, 12) and part.is_contiguous()


def test_stands_in():
    program = """
import sys, attn
sys.modules["flash_attn"] = attn.flash_attn
import torch, flash_attn
from flash_attn import flash_attn_func, flash_attn_varlen_qkvpacked_func
from flash_attn.flash_attn_interface import flash_attn_with_kvcache
from flash_attn.bert_padding import index_first_axis, pad_input, unpad_input
assert flash_attn.__version__.startswith("2.8")
x = torch.randn(2, 5, 3, 4, 8)
mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
tokens, indices, offsets, longest, used = unpad_input(x, mask)
assert tokens.shape == (8, 3, 4, 8) and longest == 5 and used.tolist() == [3, 5]
packed = flash_attn_varlen_qkvpacked_func(tokens, offsets, longest, causal=True)
out = pad_input(packed, indices, 2, 5)
whole = flash_attn_func(*x.unbind(2), causal=True)
assert (out[0, 3:] == 0).all()
torch.testing.assert_close(out[mask.bool()], whole[mask.bool()], atol=1e-6, rtol=0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


@pytest.mark.parametrize("packed", [False, True])
def test_compile(packed):
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)

    def function(x):
        if packed:
            return fa.flash_attn_varlen_qkvpacked_func(x[0], offsets, 5, causal=True).square().sum()
        return fa.flash_attn_qkvpacked_func(x, causal=True, window_size=(4, 0)).square().sum()

    torch._dynamo.reset()
    fast = torch.compile(function, fullgraph=True, backend="aot_eager")
    (x,) = tensors((1, 9, 3, 2, 8), requires_grad=True)
    got, wanted = (torch.autograd.grad(f(x), x)[0] for f in (fast, function))
    close(got, wanted, 1e-6)
