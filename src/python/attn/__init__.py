"""Scaled dot-product attention on CPUs.

    import attn
    out = attn.attention(q, k, v, causal=True)     # NumPy arrays, PyTorch tensors, DLPack

attn.torch, attn.flash_attn and attn.transformers stand in for attention of PyTorch, flash-attn and
transformers. They are imported when they are first named.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict, List

from . import _native
from ._core import Gradients, KVCache, PagedKVCache, Plan, attention, attention_backward, merge
from ._functions import (
    cross_entropy,
    entmax,
    entmax15,
    layer_norm,
    log_softmax,
    logsumexp,
    rms_norm,
    softmax,
    sparsemax,
)
from ._native import BlockMask, Error

__all__ = [
    "BlockMask",
    "Error",
    "Gradients",
    "KVCache",
    "PagedKVCache",
    "Plan",
    "attention",
    "attention_backward",
    "cross_entropy",
    "entmax",
    "entmax15",
    "get_num_threads",
    "info",
    "layer_norm",
    "log_softmax",
    "logsumexp",
    "merge",
    "rms_norm",
    "set_num_threads",
    "softmax",
    "sparsemax",
]


def set_num_threads(n: int) -> None:
    """Sets the number of threads of calls that name none, for the whole process."""
    _native.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads of a call on NumPy arrays that names none."""
    return _native.get_num_threads()


def info() -> Dict[str, Any]:
    """What this build is and what it uses here: version, compiler, onednn (None without it), isa
    (the default), isas (those that can be chosen) and num_threads."""
    return _native.info()


__version__: str = info()["version"]

for _name in __all__:  # where people find them, rather than where they are written
    globals()[_name].__module__ = __name__


def __getattr__(name: str) -> Any:
    if name in ("flash_attn", "torch", "transformers"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return [*__all__, "__version__"]
