"""attn as an attention implementation of transformers.

import attn.transformers
attn.transformers.register()
model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="attn")
"""

from __future__ import annotations

import sys
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from . import _checks, _native
from ._options import pack
from .torch import autocast, differentiable_attention

__all__ = ["attention_forward", "register"]

# What models pass along that means nothing for the scores, or is in the mask already.
_WITHOUT_EFFECT = frozenset({
    "cache", "cache_position", "deterministic", "dim", "hidden_act", "hidden_dim", "hidden_states",
    "num_items_in_batch", "output_hidden_states", "output_router_logits", "past_key_values",
    "position_embeddings", "position_ids", "return_dict", "seq_idx", "use_cache",
})  # fmt: skip
# Packed sequences without a mask are described by these; max_length_* follows from them.
_PACKED = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"})


def register(name: str = "attn") -> None:
    """Registers attention and its masks with transformers under a name.

    Models then take attn_implementation=name. The masks are those of "sdpa", so that padding,
    windows and packed sequences reach attention as a mask of bools.
    """
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    if not isinstance(name, str):
        raise TypeError(f"name is of type {type(name).__name__}; it needs a string")

    def mask(*arguments: Any, config: Any = None, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            _refuse_own_attention(config)
        return sdpa_mask(*arguments, config=config, **kwargs)

    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, mask)


def _refuse_own_attention(config: Any) -> None:
    """Some models ask for a mask and then compute attention themselves, which would take the bools
    for numbers to add. They are known by the table of implementations that they do not import."""
    module = sys.modules.get(type(config).__module__.replace(".configuration_", ".modeling_"))
    if module is None or module.__name__ == type(config).__module__:
        return
    if not hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
        raise NotImplementedError(
            f"models of {type(config).__name__} compute attention themselves: attn_implementation "
            "has to be eager"
        )


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Optional[Tensor],
    dropout: float = 0.0,
    scaling: Optional[float] = None,
    sliding_window: Optional[int] = None,
    softcap: Optional[float] = None,
    is_causal: Optional[bool] = None,
    s_aux: Optional[Tensor] = None,
    position_bias: Optional[Tensor] = None,
    **kwargs: Any,
) -> Tuple[Tensor, None]:
    """What transformers calls: query [batch, heads, q_len, dim] to [batch, q_len, heads, dim].

    attention_mask is bool (true takes part) or float (added), [batch, 1 or heads, q_len, kv_len],
    or the padding [batch, kv_len]. Without one, several queries of a causal module are causal from
    the top left, which a static cache's first pass needs. s_aux is the sinks, position_bias is
    added to the scores.
    """
    _refuse(dropout, kwargs)
    layout = "[batch, heads, seq, head_dim]"
    _checks.tensors(layout, query=query, key=key, value=value)
    _checks.optional_tensors(
        attention_mask=attention_mask, s_aux=s_aux, position_bias=position_bias
    )
    q_len, kv_len = query.shape[2], key.shape[2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    is_causal = _checks.flag("is_causal", is_causal)
    causal: Any = "top_left" if is_causal and q_len > 1 else False
    window = _window(sliding_window, is_causal)
    mask = attention_mask
    if mask is not None and mask.dim() > 0 and mask.shape[-1] != 1 and mask.shape[-1] < kv_len:
        raise _native.Error(
            f"attention_mask has shape {list(mask.shape)}; its last dim needs {kv_len} or more"
        )
    if mask is None and kwargs.get("cu_seq_lens_q") is not None:
        mask, causal, window = _packed_mask(kwargs, is_causal, window), False, None
    elif mask is not None and mask.dim() == 2:
        mask = mask[:, None, None, -kv_len:].bool()
        causal = "bottom_right" if causal else False
    elif mask is not None:  # all is in it
        mask, causal, window = mask[..., :kv_len], False, None
    if position_bias is not None:
        mask = _with_bias(position_bias[..., :kv_len], mask)
    query, key, value = autocast(query, key, value)
    if query.shape[0] == 1 != key.shape[0]:
        query = query.expand(key.shape[0], -1, -1, -1)
    options = pack(
        scale=scaling,
        softcap=softcap,
        causal=causal,
        window=window,
        mask=mask,
        sinks=None if s_aux is None else s_aux.float(),
    )
    out: Tensor = differentiable_attention(query, key, value, options, False)
    return out.transpose(1, 2).contiguous(), None


def _refuse(dropout: float, kwargs: Any) -> None:
    if _checks.number("dropout", dropout) != 0:
        raise NotImplementedError(
            f"dropout is {dropout}; attn has none: set the model's attention dropout to 0"
        )
    for name, value in kwargs.items():
        if value is None or value is False or name in _WITHOUT_EFFECT or name in _PACKED:
            continue
        raise NotImplementedError(f"attn does not know the argument {name} of this model")


def _window(sliding_window: Optional[int], is_causal: bool) -> Optional[Tuple[int, Optional[int]]]:
    """transformers counts the query itself, but not in windows to both sides."""
    if sliding_window is None:
        return None
    sliding_window = int(_checks.length("sliding_window", sliding_window))
    return (sliding_window - 1, None) if is_causal else (sliding_window, sliding_window)


def _packed_mask(kwargs: Any, causal: bool, window: Optional[Tuple[int, Optional[int]]]) -> Tensor:
    """Sequences that stand one after another in one row, and that no mask divides: a query sees
    the keys of its own sequence, aligned at the bottom right."""
    q_ends, k_ends = kwargs["cu_seq_lens_q"][1:], kwargs["cu_seq_lens_k"][1:]
    q_at, k_at = torch.arange(int(q_ends[-1])), torch.arange(int(k_ends[-1]))
    q_of = torch.searchsorted(q_ends, q_at, right=True)
    k_of = torch.searchsorted(k_ends, k_at, right=True)
    behind = (q_at - q_ends[q_of])[:, None] - (k_at - k_ends[k_of])
    seen = q_of[:, None] == k_of
    if causal:
        seen = seen & (behind >= 0)
    if window is not None:
        seen = seen & (behind <= window[0])
        if window[1] is not None:
            seen = seen & (behind >= -window[1])
    return seen


def _with_bias(bias: Tensor, mask: Optional[Tensor]) -> Tensor:
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, -torch.inf)
    return bias + mask
