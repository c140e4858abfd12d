"""A cache of flash_attn_with_kvcache: everything is checked before anything is written."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from attn import _checks, _native


def int32(name: str, tensor: Any) -> Any:
    _checks.tensors(**{name: tensor})
    if tensor.device.type != "cpu":
        raise NotImplementedError(f"{name} is on device {tensor.device}; attn computes on CPUs")
    if tensor.dtype not in (torch.int32, torch.int64):
        raise _native.Error(f"{name} has type {tensor.dtype}; it needs torch.int32")
    if tensor.dtype == torch.int64:
        tensor = tensor.clamp(-(2**31), 2**31 - 1)  # what is too large stays too large
    return tensor.to(torch.int32)


def numbers(name: str, tensor: Any, batch: int, least: int, most: int) -> Any:
    """One integer for each entry of the batch, within least..most, as int64."""
    values = int32(name, tensor).to(torch.int64)
    if values.shape != (batch,):
        raise _native.Error(f"{name} has shape {list(values.shape)}; it needs [{batch}]")
    wrong = ((values < least) | (values > most)).nonzero()
    if len(wrong):
        b = int(wrong[0])
        raise _native.Error(f"{name}[{b}] is {int(values[b])}; it needs to lie in {least}..{most}")
    return values


class Cache:
    """Where the keys of a batch lie. kv_lens counts those that are appended, too."""

    def __init__(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, cache_seqlens: Any, batch_idx: Any,
        leftpad: Any, block_table: Any,
    ) -> None:  # fmt: skip
        self.q, self.k_cache, self.v_cache = q, k_cache, v_cache
        self.new: Optional[Tuple[Tensor, Tensor]] = None
        batch, (rows, self.page_size) = q.shape[0], k_cache.shape[:2]
        self.pages: Optional[Tensor] = None
        self.starts: Optional[Tensor] = None
        if v_cache.shape[:3] != k_cache.shape[:3]:
            raise _native.Error(
                f"v_cache has shape {list(v_cache.shape)}, but k_cache has {list(k_cache.shape)}"
            )
        if block_table is not None:
            if batch_idx is not None or leftpad is not None:
                raise NotImplementedError("cache_batch_idx and cache_leftpad with block_table")
            self.pages = int32("block_table", block_table)
            if self.pages.dim() != 2 or self.pages.shape[0] != batch:
                raise _native.Error(
                    f"block_table has shape {list(self.pages.shape)}; it needs [{batch}, max_pages]"
                )
        elif batch_idx is not None:
            self.pages = numbers("cache_batch_idx", batch_idx, batch, 0, rows - 1)[:, None]
        elif rows != batch:
            raise _native.Error(f"k_cache has batch {rows}, but q has {batch}")
        self.paged = block_table is not None
        pages_of_each = self.pages.shape[1] if self.paged and self.pages is not None else 1
        self.capacity = pages_of_each * self.page_size
        if cache_seqlens is None:
            cache_seqlens = self.capacity
        if not isinstance(cache_seqlens, Tensor):
            number = int(_checks.length("cache_seqlens", cache_seqlens))
            cache_seqlens = torch.full((batch,), min(max(number, -1), 2**31 - 1))
        self.before = numbers("cache_seqlens", cache_seqlens, batch, 0, self.capacity)
        self.kv_lens = self.before
        if leftpad is not None:
            self.starts = numbers("cache_leftpad", leftpad, batch, 0, self.capacity)

    def plan_append(self, k: Any, v: Any) -> None:
        """k and v are going to be appended if all is right."""
        _checks.tensors(k=k, v=v)
        for name, tensor, cache in (("k", k, self.k_cache), ("v", v, self.v_cache)):
            needed = (self.q.shape[0], k.shape[1] if k.dim() == 4 else -1, *cache.shape[2:])
            if tensor.shape != needed:
                raise _native.Error(
                    f"{name} has shape {list(tensor.shape)}; it needs [batch, seqlen_new, nheads_k,"
                    f" headdim] = {list(needed)}"
                )
            if tensor.dtype != cache.dtype:
                raise _native.Error(
                    f"{name} has type {tensor.dtype}; it needs that of its cache, {cache.dtype}"
                )
            if any(n > 1 and step == 0 for n, step in zip(cache.shape, cache.stride())):
                raise _native.Error(
                    f"{name}_cache is expanded (strides {list(cache.stride())}): new keys need "
                    "memory of their own"
                )
        self.kv_lens = self.before + k.shape[1]
        full = (self.kv_lens > self.capacity).nonzero()
        if len(full):
            b = int(full[0])
            raise _native.Error(
                f"cache_seqlens[{b}] is {int(self.before[b])}: {k.shape[1]} new keys do not fit "
                f"a cache of {self.capacity}"
            )
        self.new = (k, v)

    def rotate(self, cos: Any, sin: Any, interleaved: bool, local: bool) -> None:
        if cos is None and sin is None:
            return
        if cos is None or sin is None:
            raise _native.Error("rotary_cos and rotary_sin are given one without the other")
        if self.new is None:
            raise _native.Error("rotary_cos is given without k and v, which it belongs to")
        _checks.tensors("[positions, rotary_dim / 2]", rotary_cos=cos, rotary_sin=sin)
        tables = (cos.float(), sin.float(), interleaved)
        k, v = self.new
        steps = torch.arange(max(k.shape[1], self.q.shape[1]))
        positions = self.before[:, None] + steps
        at = positions[:, : self.q.shape[1]]
        if not local:
            at = self.before[:, None].expand_as(at)
        self.new = (_rotated(k, *tables, positions[:, : k.shape[1]]), v)
        self.q = _rotated(self.q, *tables, at)

    def attention(self, options: Tuple[Any, ...]) -> Tuple[Tensor, Tensor]:
        """Checks the call, appends, and computes it."""
        if self.starts is not None:
            if bool((self.starts > self.kv_lens).any()):
                raise _native.Error("cache_leftpad exceeds the length of its sequence")
            options = (*options[:7], self.kv_lens - self.starts, *options[8:])
        if self.paged:
            self._check_pages()
        k, v = self._keys()
        sequences = self._sequences()
        call = (self.q.transpose(1, 2), k, v, options)
        _native.check(*call, sequences)
        if self.new is not None:
            self._append()
            k, v = self._keys()
        out = self.q.new_empty((*self.q.shape[:3], self.v_cache.shape[3])).transpose(1, 2)
        _, lse = _native.attention(call[0], k, v, options, out, True, sequences)
        return out.transpose(1, 2), lse

    def _keys(self) -> Tuple[Tensor, Tensor]:
        """As the call reads them, without a copy but where a batch index meets a left padding."""
        k, v = self.k_cache.transpose(1, 2), self.v_cache.transpose(1, 2)
        if self.starts is not None and self.pages is not None:
            rows = self.pages[:, 0]
            return k[rows], v[rows]
        return k, v

    def _sequences(self) -> Any:
        """A batch index makes each row of the cache one page; a left padding makes it a ring."""
        if self.starts is not None:
            starts = self.starts.remainder(max(self.capacity, 1))
            return (None, None, None, None, None, starts)
        if self.pages is not None:
            return (None, None, None, None, self.pages.to(torch.int32), None)
        return None

    def _check_pages(self) -> None:
        assert self.pages is not None
        size = max(self.page_size, 1)
        used = (self.kv_lens[:, None] + size - 1) // size > torch.arange(self.pages.shape[1])
        wrong = (used & ((self.pages < 0) | (self.pages >= self.k_cache.shape[0]))).nonzero()
        if len(wrong):
            b, n = (int(index) for index in wrong[0])
            raise _native.Error(
                f"block_table[{b}, {n}] is {int(self.pages[b, n])}; it needs to lie in "
                f"0..{self.k_cache.shape[0] - 1}"
            )

    def _append(self) -> None:
        assert self.new is not None
        k, v = self.new
        at = self.before[:, None] + torch.arange(k.shape[1])
        if self.pages is None:
            rows = torch.arange(k.shape[0])[:, None]
        elif self.paged:
            rows = self.pages.to(torch.int64).gather(1, at // max(self.page_size, 1))
        else:
            rows = self.pages
        places = (rows, at % max(self.page_size, 1))
        self.k_cache.index_put_(places, k)
        self.v_cache.index_put_(places, v)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, positions: Tensor) -> Tensor:
    """x [batch, seq, heads, dim] at positions [batch, seq]."""
    rotated: Tensor = _native.rope(x.transpose(1, 2), cos, sin, interleaved, positions)
    return rotated.transpose(1, 2)
