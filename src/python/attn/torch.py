"""attn for PyTorch: scaled_dot_product_attention() with torch's meanings, and gradients.

Calls that PyTorch traces, as torch.compile does, go through the custom operators
torch.ops.attn.attention and attention_backward. Others call the library directly, through an
autograd.Function where a gradient is needed.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import _checks, _native, _operators
from ._once import once
from ._options import refuse_forward_mode

__all__ = ["scaled_dot_product_attention"]


class _Attention(torch.autograd.Function):
    """The operator without PyTorch's dispatcher, which takes longer than a small call, and with
    block masks. Tensors are saved as PyTorch wants it, and are not in the options. `biases` are
    mask, slopes and sinks, or none: each argument and each result takes time."""

    @staticmethod
    def forward(ctx: Any, call: Any, q: Any, k: Any, v: Any, *biases: Any) -> Any:
        options, sequences, return_lse = call
        out, lse = _operators.compute(q, k, v, _with_biases(options, biases), sequences)
        ctx.save_for_backward(q, k, v, *biases, out, lse)
        ctx.call = call
        if not return_lse:
            return out
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Any, dlse: Any = None) -> Any:
        none = (None,) * len(ctx.needs_input_grad)
        if dout is None and dlse is None:
            return none
        q, k, v, *biases, out, lse = ctx.saved_tensors
        options, sequences, _ = ctx.call
        wanted = (*ctx.needs_input_grad[1:], *(False,) * 3)[:6]
        with torch.no_grad():
            gradients = _operators.compute_backward(
                _operators.any_dout(dout, out), dlse, out, lse, wanted, (q, k, v),
                _with_biases(options, biases), sequences,
            )  # fmt: skip
        return (None, *once(gradients, q, k, v, *biases, dout, dlse)[: len(none) - 1])


# Function.apply() without its search for torch.func, which _treatment() has done.
_record = super(torch.autograd.Function, _Attention).apply


def _with_biases(options: Tuple[Any, ...], biases: Sequence[Any]) -> Tuple[Any, ...]:
    """Options with mask, slopes and sinks in their places, if they are given."""
    if not biases:
        return options
    mask, slopes, sinks = biases
    return (*options[:5], mask, slopes, options[7], sinks, *options[9:])


def _transformed() -> bool:
    """Whether a function of torch.func, such as grad or vmap, calls."""
    return torch._C._functorch.peek_interpreter_stack() is not None


_PLAIN = (Tensor, torch.nn.Parameter)


def _treatment(tensors: Tuple[Any, ...]) -> Tuple[bool, bool]:
    """Whether a call is traced, since its tensors have no data but are what torch.compile or a mode
    follows, and whether it is recorded for a gradient."""
    traced = (
        torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or _transformed()
    )
    recorded = False
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN:
            if not isinstance(tensor, Tensor):
                continue
            traced = True
        recorded = recorded or tensor.requires_grad
    return traced, recorded and torch.is_grad_enabled()


def differentiable_attention(
    q: Any, k: Any, v: Any, options: Tuple[Any, ...], return_lse: bool, sequences: Any = None
) -> Any:
    """attention() of PyTorch's tensors, recorded where a gradient is needed."""
    mask, slopes, kv_lens, sinks = options[5:9]
    tensors = (q, k, v, mask, slopes, sinks)
    traced, recorded = _treatment(tensors)
    if torch.autograd.forward_ad._current_level >= 0:
        refuse_forward_mode(torch, tensors)
    if not traced and not recorded:
        return _native.attention(
            q, k, v, options, _operators.out_or_none(q, v), return_lse, sequences
        )
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        _checks.tensors(q=q, k=k, v=v)
    return_lse = return_lse is not False and _checks.flag("return_lse", return_lse)
    if return_lse and options[9] != "softmax":
        raise _native.Error(f"lse is asked for with normalizer {options[9]}, which has none")
    biased = mask is not None or slopes is not None or sinks is not None
    if biased:
        _checks.optional_tensors(mask=mask, alibi_slopes=slopes, sinks=sinks)
    if not traced and not biased:
        return _record((options, sequences, return_lse), q, k, v)
    if not traced:
        without = _with_biases(options, (None, None, None))
        return _record((without, sequences, return_lse), *tensors)
    if options[12] is not None:
        raise NotImplementedError("block_mask has no place in a call that PyTorch traces")
    if sequences is not None and (sequences[4] is not None or sequences[5] is not None):
        raise NotImplementedError("keys in pages or rings have no place in a call that it traces")
    _checks.optional_tensors(kv_lens=kv_lens)
    operator: Any = torch.ops.attn.attention
    if not torch.compiler.is_compiling() and _transformed():
        operator = _operators.TransformedAttention.apply
    out, lse = operator(*_operators.to_arguments(q, k, v, options, sequences))
    return (out, lse) if return_lse else out


_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


def autocast(*tensors: Tensor) -> Tuple[Tensor, ...]:
    """The tensors in the type that torch.autocast asks for, if it is on. It leaves f64 alone."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(t.to(dtype) if t.dtype in _AUTOCAST else t for t in tensors)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention on CPUs, with its meanings.

    Args:
        query: [L, E], [heads, L, E], [batch, heads, L, E] or [.., .., heads, L, E].
        key: [..., kv_heads, S, E]; value: [..., kv_heads, S, Ev]. Leading dims broadcast.
        attn_mask: bool (true takes part) or float (added), broadcasts to [..., heads, L, S].
        dropout_p: 0; NotImplementedError otherwise.
        is_causal: query i sees key j iff j <= i (top left). Not with attn_mask.
        scale: default 1 / sqrt(E).
        enable_gqa: query heads may share key heads.

    Returns:
        [..., heads, L, Ev], differentiable in query, key, value and a float attn_mask, once. A row
        that sees no key is 0.
    """
    if not (isinstance(query, Tensor) and isinstance(key, Tensor) and isinstance(value, Tensor)):
        _checks.tensors(query=query, key=key, value=value)
    if _checks.number("dropout_p", dropout_p) != 0:
        raise NotImplementedError(f"dropout_p is {dropout_p}; attn has no dropout: it needs 0")
    is_causal = _checks.flag("is_causal", is_causal)
    if is_causal and attn_mask is not None:
        raise _native.Error("attn_mask is given with is_causal: one of both says what is visible")
    if torch.is_autocast_enabled("cpu"):
        query, key, value = autocast(query, key, value)
    q, k, v = query, key, value
    if not q.dtype == k.dtype == v.dtype:
        raise _native.Error(
            f"query, key and value have types {q.dtype}, {k.dtype} and {v.dtype}; they need one"
        )
    shapes = q.shape, k.shape, v.shape  # a tensor makes a new one each time that it is asked
    plain = [len(shape) for shape in shapes] == [4, 4, 4]
    plain = plain and shapes[0][0] == shapes[1][0] == shapes[2][0]
    lead: Tuple[int, ...] = ()
    if not plain:
        lead, (q, k, v) = _with_four_dims(query, key, value)
        shapes = q.shape, k.shape, v.shape
    heads, kv_heads, v_heads = shapes[0][1], shapes[1][1], shapes[2][1]
    if v_heads != kv_heads and kv_heads == 1:
        k = k.expand(-1, v_heads, -1, -1)
        kv_heads = v_heads
    elif v_heads == 1 != kv_heads:
        v = v.expand(-1, kv_heads, -1, -1)
    if heads != kv_heads and kv_heads != 1 and not _checks.flag("enable_gqa", enable_gqa):
        raise _native.Error(
            f"query has {heads} heads, but key and value have {kv_heads}: enable_gqa=True lets "
            "query heads share them"
        )
    if attn_mask is not None:
        attn_mask = _mask_of_four_dims(attn_mask, query, key, lead)
    options = (
        scale, None, "top_left" if is_causal else False, None, None, attn_mask, None, None, None,
        "softmax", None, None, None, "auto", None, None,
    )  # fmt: skip
    out: Tensor = differentiable_attention(q, k, v, options, False)
    if plain:
        return out
    if query.dim() == 2:
        return out[0, 0]
    return out.reshape(lead + out.shape[1:])


def _with_four_dims(
    query: Tensor, key: Tensor, value: Tensor
) -> Tuple[Tuple[int, ...], Tuple[Tensor, ...]]:
    """The leading dims of the result, and the tensors as [batch, heads, length, dim]."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() < 2 or tensor.dim() > 5:
            raise _native.Error(f"{name} has rank {tensor.dim()}; it needs 2 to 5")
    tensors = [t.unsqueeze(0) if t.dim() == 2 else t for t in (query, key, value)]
    try:
        lead = tuple(torch.broadcast_shapes(*(tensor.shape[:-3] for tensor in tensors)))
    except RuntimeError:
        shapes = ", ".join(str(list(t.shape)) for t in (query, key, value))
        raise _native.Error(f"leading dims of query, key and value differ: {shapes}") from None
    batch = 1
    for extent in lead:
        batch *= extent
    return lead, tuple(
        tensor.expand(lead + tensor.shape[-3:]).reshape((batch, *tensor.shape[-3:]))
        for tensor in tensors
    )


def _mask_of_four_dims(mask: Tensor, query: Tensor, key: Tensor, lead: Tuple[int, ...]) -> Tensor:
    _checks.tensors(attn_mask=mask)
    kv_len = key.shape[-2]
    if mask.dim() < 1 or mask.shape[-1] not in (1, kv_len):
        raise _native.Error(
            f"attn_mask has shape {list(mask.shape)}; its last dim needs {kv_len}, or 1"
        )
    if mask.dim() <= 4 and len(lead) <= 1:
        return mask
    if mask.dim() <= 3:
        return mask
    try:
        full = mask.expand(lead + mask.shape[-3:])
    except RuntimeError:
        raise _native.Error(
            f"attn_mask has shape {list(mask.shape)}, which does not broadcast to the leading dims "
            f"{list(lead)} of query"
        ) from None
    return full.reshape((-1, *mask.shape[-3:]))
