"""flash-attn's seven functions. All but flash_attn_with_kvcache are differentiable."""

from __future__ import annotations

from typing import Any, Optional, Tuple, Union

import torch
from torch import Tensor

from attn import _checks, _native
from attn._options import pack, refuse_grad
from attn.flash_attn import _cache
from attn.torch import differentiable_attention

Result = Union[Tensor, Tuple[Tensor, ...]]


def _options(
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Any,
    deterministic: bool,
    kv_lens: Any = None,
) -> Tuple[Any, ...]:
    """flash-attn's options as those of attention(): -1 is an unlimited side, 0 is no softcap. All
    results are deterministic."""
    _checks.flag("deterministic", deterministic)
    if _checks.number("dropout_p", dropout_p) != 0:
        raise NotImplementedError(f"dropout_p is {dropout_p}; attn has no dropout: it needs 0")
    left, right = _checks.sides("window_size", window_size)
    _checks.optional_tensors(alibi_slopes=alibi_slopes)
    return pack(
        scale=softmax_scale,
        softcap=None if _checks.number("softcap", softcap) == 0 else softcap,
        causal=_checks.flag("causal", causal),
        window=None if left is None and right is None else (left, right),
        alibi_slopes=alibi_slopes,
        kv_lens=kv_lens,
    )


# What the library calls arguments of flash-attn's functions.
_NAMES = {
    "q_offsets": "cu_seqlens_q",
    "kv_offsets": "cu_seqlens_k",
    "max_q_len": "max_seqlen_q",
    "max_kv_len": "max_seqlen_k",
    "page_table": "block_table",
    "tables.cos": "rotary_cos",
    "tables.sin": "rotary_sin",
}


def _named(function: Any, *arguments: Any) -> Any:
    """Calls the function; errors then have flash-attn's names of arguments."""
    try:
        return function(*arguments)
    except _native.Error as error:
        message = str(error)
        for name, known in _NAMES.items():
            message = message.replace(name, known)
        raise _native.Error(message) from None


def _results(out: Tensor, lse: Tensor, return_attn_probs: bool) -> Result:
    """With probabilities asked for, flash-attn returns them for dropout alone; else this."""
    wanted = _checks.flag("return_attn_probs", return_attn_probs)
    return (out, lse, out.new_empty(0)) if wanted else out


def _padded(
    q: Tensor, k: Tensor, v: Tensor, options: Tuple[Any, ...], return_attn_probs: bool
) -> Result:
    """q, k and v of [batch, seq, heads, dim]."""
    slopes = options[6]
    if isinstance(slopes, Tensor) and slopes.dim() == 2:
        return _slopes_of_each(q, k, v, options, return_attn_probs)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, lse = differentiable_attention(q, k, v, options, True)
    return _results(out.transpose(1, 2), lse, return_attn_probs)


def _slopes_of_each(
    q: Tensor, k: Tensor, v: Tensor, options: Tuple[Any, ...], return_attn_probs: bool
) -> Result:
    """Slopes of [batch, heads]: each sequence is a call, since a call has one slope for a head."""
    slopes = options[6]
    if slopes.shape[0] != q.shape[0]:
        raise _native.Error(
            f"alibi_slopes has shape {list(slopes.shape)}; it needs [nheads] or [batch, nheads], "
            f"and batch is {q.shape[0]}"
        )
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise _native.Error("q, k and v differ in batch")
    if q.shape[0] == 0:
        return _padded(q, k, v, (*options[:6], None, *options[7:]), return_attn_probs)
    parts: Any = [
        _padded(q[b : b + 1], k[b : b + 1], v[b : b + 1],
                (*options[:6], slopes[b], *options[7:]), True)
        for b in range(q.shape[0])
    ]  # fmt: skip
    out, lse = (torch.cat([part[n] for part in parts]) for n in (0, 1))
    return _results(out, lse, return_attn_probs)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Attention of q [batch, seqlen, nheads, headdim].

    k and v are [batch, seqlen_k, nheads_k, headdim].

    causal and window_size (left, right; -1 is unlimited) are aligned at the bottom right.
    alibi_slopes: f32 [nheads] or [batch, nheads]. Returns out [batch, seqlen, nheads, headdim], and
    with return_attn_probs (out, lse [batch, nheads, seqlen], an empty tensor).
    """
    _checks.tensors("[batch, seqlen, nheads, headdim]", q=q, k=k, v=v)
    options = _options(
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic
    )
    return _padded(q, k, v, options, return_attn_probs)


def _unpacked(name: str, packed: Any, layout: str, parts: int) -> Tuple[Tensor, ...]:
    _checks.tensors(layout, **{name: packed})
    if packed.shape[-3] != parts:
        raise _native.Error(f"{name} has shape {list(packed.shape)}; it needs {layout}")
    return packed.unbind(-3)  # type: ignore[no-any-return]


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """flash_attn_func() of qkv [batch, seqlen, 3, nheads, headdim]."""
    q, k, v = _unpacked("qkv", qkv, "[batch, seqlen, 3, nheads, headdim]", 3)
    options = _options(
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic
    )
    return _padded(q, k, v, options, return_attn_probs)


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """flash_attn_func() of q and kv [batch, seqlen_k, 2, nheads_k, headdim]."""
    _checks.tensors("[batch, seqlen, nheads, headdim]", q=q)
    k, v = _unpacked("kv", kv, "[batch, seqlen, 2, nheads_k, headdim]", 2)
    options = _options(
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic
    )
    return _padded(q, k, v, options, return_attn_probs)


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tuple[Any, Any],
    lengths: Tuple[Any, Any],
    options: Tuple[Any, ...],
    return_attn_probs: bool,
) -> Result:
    _checks.tensors("[batch + 1]", cu_seqlens_q=offsets[0], cu_seqlens_k=offsets[1])
    if offsets[0].shape != offsets[1].shape:
        raise _native.Error(
            f"cu_seqlens_q has shape {list(offsets[0].shape)}, but cu_seqlens_k has "
            f"{list(offsets[1].shape)}"
        )
    if isinstance(options[6], Tensor) and options[6].dim() == 2:
        raise NotImplementedError("alibi_slopes of [batch, nheads] with cu_seqlens")
    longest = [_checks.length(f"max_seqlen_{of}", n) for of, n in zip("qk", lengths)]
    sequences = (*offsets, *longest, None, None)
    out, lse = _named(differentiable_attention, q, k, v, options, True, sequences)
    return _results(out, lse.transpose(0, 1), return_attn_probs)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Optional[Tensor] = None,
) -> Result:
    """Attention of sequences that stand one after another.

    q is [total_q, nheads, headdim], k and v [total_k, nheads_k, headdim]; sequence b has the tokens
    cu_seqlens[b] to cu_seqlens[b + 1] - 1 (i32 [batch + 1]). With block_table (i32 [batch,
    max_pages]), k and v are pages [num_pages, page_size, nheads_k, headdim], without gradients.
    Returns out [total_q, nheads, headdim], and with return_attn_probs (out, lse [nheads, total_q],
    an empty tensor).
    """
    _checks.tensors("[total_q, nheads, headdim]", q=q)
    layout = (
        "[total_k, nheads_k, headdim]"
        if block_table is None
        else "[num_pages, page_size, nheads_k, headdim]"
    )
    _checks.tensors(layout, k=k, v=v)
    options = _options(
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic
    )
    offsets, lengths = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    if block_table is None:
        return _varlen(q, k, v, offsets, lengths, options, return_attn_probs)
    refuse_grad("flash_attn_varlen_func with block_table", q, k, v, alibi_slopes)
    _checks.tensors("[batch + 1]", cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    kv_lens = cu_seqlens_k.diff()
    options = (*options[:7], kv_lens, *options[8:])
    pages = _cache.int32("block_table", block_table)
    sequences = (
        cu_seqlens_q,
        None,
        _checks.length("max_seqlen_q", max_seqlen_q),
        None,
        pages,
        None,
    )
    out, lse = _named(
        differentiable_attention, q, k.transpose(1, 2), v.transpose(1, 2), options, True, sequences
    )
    return _results(out, lse.transpose(0, 1), return_attn_probs)


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """flash_attn_varlen_func() of qkv [total, 3, nheads, headdim]."""
    q, k, v = _unpacked("qkv", qkv, "[total, 3, nheads, headdim]", 3)
    options = _options(
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic
    )
    return _varlen(
        q, k, v, (cu_seqlens, cu_seqlens), (max_seqlen, max_seqlen), options, return_attn_probs
    )


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """flash_attn_varlen_func() of q and kv [total_k, 2, nheads_k, headdim]."""
    _checks.tensors("[total_q, nheads, headdim]", q=q)
    k, v = _unpacked("kv", kv, "[total_k, 2, nheads_k, headdim]", 2)
    options = _options(
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic
    )
    return _varlen(
        q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k), options,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Optional[Tensor] = None,
    v: Optional[Tensor] = None,
    rotary_cos: Optional[Tensor] = None,
    rotary_sin: Optional[Tensor] = None,
    cache_seqlens: Optional[Union[int, Tensor]] = None,
    cache_batch_idx: Optional[Tensor] = None,
    cache_leftpad: Optional[Tensor] = None,
    block_table: Optional[Tensor] = None,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Optional[Tensor] = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Result:
    """Appends k and v to a cache, in place, and attends to it. It has no gradient.

    Args:
        q: [batch, seqlen, nheads, headdim].
        k_cache, v_cache: [batch_cache, seqlen_cache, nheads_k, headdim], or with block_table, pages
            [num_pages, page_size, nheads_k, headdim].
        k, v: [batch, seqlen_new, nheads_k, headdim], written from position cache_seqlens on.
        rotary_cos, rotary_sin: [positions, rotary_dim / 2]: rotate k, and q: at the positions from
            cache_seqlens on if causal or with a window, else all at cache_seqlens.
        cache_seqlens: int or i32 [batch], the lengths before k. None: the whole cache.
        cache_batch_idx: i32 [batch], which rows of the cache are the batch.
        cache_leftpad: i32 [batch], where each sequence begins in the cache.
        block_table: i32 [batch, max_pages].
        num_splits: a hint for flash-attn; attn splits as it sees fit, with the same result.

    Returns:
        out [batch, seqlen, nheads, headdim], or (out, lse [batch, nheads, seqlen]). After an Error
        the cache is unchanged.
    """
    refuse_grad(
        "flash_attn_with_kvcache", q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, alibi_slopes
    )
    return_softmax_lse = _checks.flag("return_softmax_lse", return_softmax_lse)
    _checks.tensors("[batch, seqlen, nheads, headdim]", q=q)
    layout = "[batch_cache, seqlen_cache, nheads_k, headdim]"
    _checks.tensors(layout, k_cache=k_cache, v_cache=v_cache)
    if _checks.length("num_splits", num_splits) < 0:
        raise _native.Error(f"num_splits is {num_splits}; it needs 0 or more")
    if isinstance(alibi_slopes, Tensor) and alibi_slopes.dim() == 2:
        raise NotImplementedError("alibi_slopes of [batch, nheads] with a cache")
    with torch.no_grad():
        cache = _cache.Cache(
            q, k_cache, v_cache, cache_seqlens, cache_batch_idx, cache_leftpad, block_table
        )
        if k is not None or v is not None:
            cache.plan_append(k, v)
        window = _checks.sides("window_size", window_size)
        local = _checks.flag("causal", causal) or window != (None, None)
        interleaved = _checks.flag("rotary_interleaved", rotary_interleaved)
        _named(cache.rotate, rotary_cos, rotary_sin, interleaved, local)
        options = _options(
            0.0, softmax_scale, causal, window_size, softcap, alibi_slopes, True, cache.kv_lens
        )
        out, lse = _named(cache.attention, options)
    return (out, lse) if return_softmax_lse else out
