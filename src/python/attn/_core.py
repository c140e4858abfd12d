"""Attention, its gradients, plans and caches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Sequence, Tuple, TypeVar, overload

from . import _native
from ._options import pack, refuse_grad, requires_grad, written

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import Unpack

    from ._options import Options

A = TypeVar("A")


@overload
def attention(
    q: A, k: Any, v: Any, *, return_lse: Literal[False] = ..., out: Any = ...,
    **options: Unpack[Options],
) -> A: ...  # fmt: skip
@overload
def attention(
    q: A, k: Any, v: Any, *, return_lse: Literal[True], out: Any = ..., **options: Unpack[Options]
) -> Tuple[A, A]: ...
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: Any = None,
    softcap: Any = None,
    causal: Any = False,
    q_position: Any = None,
    window: Any = None,
    mask: Any = None,
    alibi_slopes: Any = None,
    kv_lens: Any = None,
    sinks: Any = None,
    normalizer: Any = "softmax",
    alpha: Any = None,
    sigmoid_bias: Any = None,
    block_mask: Any = None,
    score_matmul: Any = "auto",
    out: Any = None,
    return_lse: bool = False,
    num_threads: Any = None,
    isa: Any = None,
) -> Any:
    """softmax(scale * q kᵀ) v, in tiles.

    Query head h reads KV head h // (heads / kv_heads). Scores pass through scale, softcap, ALiBi,
    the additive mask and visibility, in this order.

    Args:
        q: [batch, heads, q_len, head_dim]; f32, f16 or bf16, any strides, never copied.
        k: [batch, kv_heads, kv_len, head_dim].
        v: [batch, kv_heads, kv_len, v_head_dim], of the type of k.
        scale: default 1 / sqrt(head_dim).
        softcap: c > 0: a score s becomes c * tanh(s / c).
        causal: False; True or "bottom_right": query i sees key j iff j <= i + kv_len - q_len;
            "top_left": iff j <= i; an int n (0 and 1 too): iff j <= i + n.
        q_position: where query 0 stands on the axis of keys, which windows and ALiBi measure from:
            "bottom_right", "top_left" or an int. Default: as causal says, else bottom right.
        window: (left, right): key j is visible iff p - left <= j <= p + right. None: unlimited.
        mask: bool (true = visible) or a float type (added; -inf hides). [kv_len], [q_len, kv_len],
            [heads, q_len, kv_len] or [batch, heads, q_len, kv_len]; a dim may be 1.
        alibi_slopes: f32 [heads]: key j loses slope * abs(p - j).
        kv_lens: i32 or i64 [batch]: keys from kv_lens[b] on are hidden.
        sinks: f32 [heads]: one more score in each denominator, without a value.
        normalizer: "softmax", "sigmoid" (sigmoid_bias), "sparsemax", "entmax15", "entmax" (alpha).
        block_mask: an attn.BlockMask.
        score_matmul: "auto", "attn" or "onednn": who multiplies whole tiles.
        out: [batch, heads, q_len, v_head_dim], f32, f16 or bf16: where to write the result. Arrays
            that are neither NumPy's nor PyTorch's need it.
        return_lse: also return f32 [batch, heads, q_len], the natural logarithm of the sum of exp
            of the visible scores (softmax only). A row that sees no key has 0 and -inf.
        num_threads: default: set_num_threads(), else torch.get_num_threads() for PyTorch's tensors.
        isa: one of info()["isas"]; default: the strongest.

    Returns:
        out, or (out, lse): of the kind that q was, in its type. PyTorch tensors that require grad
        give a differentiable result.

    Raises:
        attn.Error: the arguments contradict each other. Nothing has been written.
        TypeError: what is no array. NotImplementedError: what is not supported here.
    """
    options = (
        scale, softcap, causal, q_position, window, mask, alibi_slopes, kv_lens, sinks,
        normalizer, alpha, sigmoid_bias, block_mask, score_matmul, num_threads, isa,
    )  # fmt: skip
    if "torch" in sys.modules and requires_grad(q, k, v, mask, alibi_slopes, sinks, out):
        if out is not None:
            raise _native.Error("out is given, but a tensor requires grad: leave it out")
        from . import torch as attn_torch

        return attn_torch.differentiable_attention(q, k, v, options, return_lse)
    result = _native.attention(q, k, v, options, out, return_lse, None)
    if out is not None:
        written(out)
    return result


class Gradients(NamedTuple):
    """What attention_backward() returns; None for what the call does not have."""

    dq: Any
    dk: Any
    dv: Any
    dmask: Any = None
    dalibi: Any = None
    dsinks: Any = None


def attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    dlse: Any = None,
    **options: Unpack[Options],
) -> Gradients:
    """The gradients of sum(dout * out) + sum(dlse * lse).

    Args:
        dout: [batch, heads, q_len, v_head_dim], the gradient of out.
        q, k, v: those of the forward.
        out, lse: what attention(..., return_lse=True) returned. Normalizers other than softmax have
            no lse and take None.
        dlse: f32 [batch, heads, q_len], the gradient of lse.
        **options: those of the forward, without out and return_lse.

    Returns:
        dq, dk, dv in the shapes and types of q, k and v, and where the call has them, in f32, dmask
        (of an additive mask, in its own shape), dalibi [heads] and dsinks [heads].
    """
    values = pack(**options)
    refuse_grad("attention_backward", dout, q, k, v, dlse, values[5], values[6], values[8])
    return Gradients(
        *_native.attention_backward(dout, (q, k, v), out, lse, dlse, values, None, (True,) * 6)
    )


def _listed(name: str, arrays: Any) -> Any:
    """What a sequence of any kind holds, so that no tensor in it is overlooked."""
    if isinstance(arrays, (str, bytes, dict)) or not hasattr(type(arrays), "__getitem__"):
        raise TypeError(f"{name} is of type {type(arrays).__name__}; it needs a sequence of arrays")
    return list(arrays)


def merge(outs: Sequence[A], lses: Sequence[Any]) -> Tuple[A, A]:
    """Merges attention over disjoint sets of keys: (out, lse) of all of them.

    Args:
        outs: arrays [..., v_head_dim], one for each set.
        lses: f32 [...], the log of the sum of exp of each set's scores.
    """
    outs, lses = _listed("outs", outs), _listed("lses", lses)
    refuse_grad("merge", *outs, *lses)
    return _native.merge(outs, lses)  # type: ignore[no-any-return]


class Plan:
    """A call that is checked and planned once and run many times.

    q, k and v have the shapes and types of the runs; their data does not count. Options are those
    of attention() without out and return_lse.
    """

    __slots__ = ("_plan", "_arrays")

    def __init__(self, q: Any, k: Any, v: Any, **options: Unpack[Options]) -> None:
        values = pack(**options)
        self._arrays = (values[5], values[6], values[8])  # mask, alibi_slopes, sinks
        self._plan = _native.Plan(q, k, v, values)

    def run(self, q: A, k: Any, v: Any, out: Any = None, return_lse: bool = False) -> Any:
        """out, or (out, lse), as attention() returns them."""
        refuse_grad("Plan.run", q, k, v, out, *self._arrays)
        result = self._plan.run(q, k, v, out, return_lse)
        if out is not None:
            written(out)
        return result

    @property
    def workspace_size(self) -> int:
        """Bytes of scratch memory that a run needs."""
        return self._plan.workspace_size

    @property
    def num_threads(self) -> int:
        """Threads of a run: at most as many as were asked for."""
        return self._plan.num_threads

    @property
    def description(self) -> str:
        """How the call is computed, for people."""
        return self._plan.description


class KVCache:
    """Keys and values of a batch of sequences, with room for `capacity` keys each.

    A rolling cache keeps the last `capacity` keys; another one that is full is an Error. dtype is
    "f32", "bf16", "f16" or "i8" (one scale for each key and head).
    """

    __slots__ = ("_cache",)

    def __init__(
        self,
        batch: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        v_head_dim: Optional[int] = None,
        dtype: str = "f32",
        rolling: bool = False,
    ) -> None:
        self._cache = _native.KVCache(
            batch, num_kv_heads, capacity, head_dim, v_head_dim, dtype, rolling
        )

    def append(self, k: Any, v: Any) -> None:
        """Appends k [batch, num_kv_heads, n, head_dim] and v [.., v_head_dim] to every sequence."""
        refuse_grad("KVCache.append", k, v)
        self._cache.append(k, v)

    def length(self, b: int) -> int:
        """The number of keys that sequence b holds."""
        return self._cache.length(b)

    def truncate(self, b: int, n: int) -> None:
        """Removes the keys of sequence b from position n on."""
        self._cache.truncate(b, n)

    def clear(self) -> None:
        """Makes all sequences empty."""
        self._cache.clear()

    def attention(
        self, q: Any, *, out: Any = None, return_lse: bool = False, **options: Unpack[Options]
    ) -> Any:
        """attention() of q [batch, heads, q_len, head_dim] on the cache; kv_lens is the cache's."""
        values = pack(**options)
        refuse_grad("KVCache.attention", q, out, values[5], values[6], values[8])
        result = self._cache.attention(q, values, out, return_lse)
        if out is not None:
            written(out)
        return result


class PagedKVCache:
    """Keys and values in a pool of pages of page_size keys, which sequences may share."""

    __slots__ = ("_cache",)

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        v_head_dim: Optional[int] = None,
        dtype: str = "f32",
    ) -> None:
        self._cache = _native.PagedKVCache(
            num_pages, page_size, num_kv_heads, head_dim, v_head_dim, dtype
        )

    def create(self) -> int:
        """Creates an empty sequence and returns its number."""
        return self._cache.create()

    def fork(self, sequence: int) -> int:
        """Creates a sequence with the same keys, on the same pages until one of both writes."""
        return self._cache.fork(sequence)

    def append(self, sequence: int, k: Any, v: Any) -> None:
        """Appends k [num_kv_heads, n, head_dim] and v [num_kv_heads, n, v_head_dim]."""
        refuse_grad("PagedKVCache.append", k, v)
        self._cache.append(sequence, k, v)

    def length(self, sequence: int) -> int:
        """The number of keys of a sequence."""
        return self._cache.length(sequence)

    def truncate(self, sequence: int, n: int) -> None:
        """Removes the keys of a sequence from position n on, and frees pages that are empty."""
        self._cache.truncate(sequence, n)

    def remove(self, sequence: int) -> None:
        """Removes a sequence."""
        self._cache.remove(sequence)

    @property
    def free_pages(self) -> int:
        """The number of pages that no sequence holds."""
        return self._cache.free_pages

    def attention(
        self,
        q: Any,
        sequences: Sequence[int],
        *,
        out: Any = None,
        return_lse: bool = False,
        **options: Unpack[Options],
    ) -> Any:
        """attention() of q [batch, heads, q_len, head_dim] on these sequences, in this order."""
        values = pack(**options)
        refuse_grad("PagedKVCache.attention", q, out, values[5], values[6], values[8])
        result = self._cache.attention(q, sequences, values, out, return_lse)
        if out is not None:
            written(out)
        return result
