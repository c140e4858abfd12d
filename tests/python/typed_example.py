"""What a type checker says about the package: nothing (test_typing.py)."""

from __future__ import annotations

from typing import Any

import attn
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def layer(q: Array, k: Array, v: Array, cache: attn.KVCache) -> Array:
    out: Array = attn.attention(q, k, v, causal="top_left", window=(3, None), scale=0.5)
    partial, lse = attn.attention(q, k, v, causal=True, return_lse=True)
    whole, _ = attn.merge([out, partial], [lse, lse])
    gradients: attn.Gradients = attn.attention_backward(out, q, k, v, partial, lse, causal=True)
    plan = attn.Plan(q, k, v, softcap=30.0, num_threads=2)
    result: Any = plan.run(q, k, v, return_lse=True)
    cache.append(k, v)
    cached: Any = cache.attention(q, causal=True)
    mask = attn.BlockMask.from_documents(np.arange(4), np.arange(4))
    blocked: Array = attn.attention(q, k, v, block_mask=mask)
    names: dict[str, Any] = attn.info()
    del gradients, result, cached, blocked, names
    return attn.rms_norm(attn.softmax(whole, axis=-1, temperature=0.7), None)


def wrong(q: Array) -> None:
    attn.attention(q, q, q, causl=True)  # type: ignore[call-overload]
    attn.attention(q, q, q, num_threads="two")  # type: ignore[call-overload]
