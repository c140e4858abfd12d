"""The functions of flash-attn 2.8, on CPU tensors of PyTorch.

    import sys, attn
    sys.modules["flash_attn"] = attn.flash_attn

serves code that imports flash_attn. Names, argument orders, defaults and layouts are flash-attn's;
f32 is taken besides f16 and bf16, and head dims and page sizes may be any. A row that sees no key
has an lse of -inf. All results are deterministic. Dropout is refused.
"""

from __future__ import annotations

from .flash_attn_interface import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
)

__version__ = "2.8.3"  # whose functions these are

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]
