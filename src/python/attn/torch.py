"""attn for PyTorch: scaled_dot_product_attention() with torch's meanings, and gradients.

Calls that PyTorch traces, as torch.compile does, go through the custom operators
torch.ops.attn.attention and attention_backward. Others call the library directly, through an
autograd.Function where a gradient is needed.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from . import _checks, _native
from ._once import once, refuse_second
from ._options import refuse_forward_mode

__all__ = ["scaled_dot_product_attention"]

# An operator's arguments: first these tensors, then plain values.
_TENSORS = (
    "Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? alibi_slopes, Tensor? sinks, "
    "Tensor? kv_lens, Tensor? q_offsets, Tensor? kv_offsets"
)
_VALUES = (
    "SymInt? max_q_len, SymInt? max_kv_len, float? scale, float? softcap, str causal, "
    "str q_position, SymInt? window_left, SymInt? window_right, str normalizer, float? alpha, "
    "float? sigmoid_bias, str score_matmul, int? num_threads, str? isa"
)
_NUM_TENSORS = 9

_library = torch.library.Library("attn", "DEF")
_library.define(f"attention({_TENSORS}, {_VALUES}) -> (Tensor out, Tensor lse)")
_library.define(
    f"attention_backward(Tensor dout, Tensor? dlse, Tensor out, Tensor lse, bool[] wanted, "
    f"{_TENSORS}, {_VALUES}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _position_text(value: Any) -> str:
    """Where queries stand, as the operators take it; empty for nothing."""
    if value is None or value is False:
        return ""
    return "bottom_right" if value is True else str(value)


def _position(text: str) -> Any:
    return int(text) if text.lstrip("-").isdigit() else text


def _to_arguments(
    q: Tensor, k: Tensor, v: Tensor, options: Tuple[Any, ...], sequences: Any
) -> Tuple[Any, ...]:
    """The arguments of an operator for the options of a call (_options.pack)."""
    (scale, softcap, causal, q_position, window, mask, slopes, kv_lens, sinks, normalizer, alpha,
     bias, _, score_matmul, num_threads, isa) = options  # fmt: skip
    q_offsets, kv_offsets, max_q_len, max_kv_len, *_ = sequences or (None,) * 6
    left, right = window or (None, None)
    return (
        q, k, v, mask, slopes, sinks, kv_lens, q_offsets, kv_offsets, max_q_len, max_kv_len, scale,
        softcap, _position_text(causal), _position_text(q_position), left, right, normalizer, alpha,
        bias, score_matmul, num_threads, isa,
    )  # fmt: skip


def _from_arguments(arguments: Tuple[Any, ...]) -> Tuple[Any, Any]:
    """The options and sequences that the arguments of an operator stand for."""
    (mask, slopes, sinks, kv_lens, q_offsets, kv_offsets, max_q_len, max_kv_len, scale, softcap,
     causal, q_position, left, right, normalizer, alpha, bias, score_matmul, num_threads,
     isa) = arguments[3:]  # fmt: skip
    options = (
        scale, softcap, _position(causal) if causal else False,
        _position(q_position) if q_position else None,
        None if left is None and right is None else (left, right), mask, slopes, kv_lens, sinks,
        normalizer, alpha, bias, None, score_matmul, num_threads, isa,
    )  # fmt: skip
    ragged = q_offsets is not None or kv_offsets is not None
    return options, (q_offsets, kv_offsets, max_q_len, max_kv_len, None, None) if ragged else None


def _empty_out(q: Tensor, v: Tensor) -> Tensor:
    """Memory for a result, in the order of q's: where that is a view of [batch, seq, heads, dim],
    what follows attention wants that order again."""
    if q.dim() != 4 or v.dim() < 1:
        return q.new_empty(q.shape[:-1] + v.shape[-1:])
    batch, heads, length, _ = q.shape
    if heads > 1 and length > 1 and q.stride(1) < q.stride(2):
        return q.new_empty((batch, length, heads, v.shape[-1])).transpose(1, 2)
    return q.new_empty((batch, heads, length, v.shape[-1]))


def _out_or_none(q: Any, v: Any) -> Optional[Tensor]:
    """None where the native module is going to say what is wrong."""
    try:
        return _empty_out(q, v)
    except (AttributeError, RuntimeError, NotImplementedError):
        return None


def _compute(
    q: Tensor, k: Tensor, v: Tensor, options: Tuple[Any, ...], sequences: Any
) -> Tuple[Tensor, Tensor]:
    """O and lse, which is empty where the normalizer has none."""
    out = _out_or_none(q, v)
    if options[9] != "softmax":
        result = _native.attention(q, k, v, options, out, False, sequences)
        return result, q.new_empty(0, dtype=torch.float32)
    return _native.attention(q, k, v, options, out, True, sequences)  # type: ignore[no-any-return]


def _compute_backward(
    dout: Tensor,
    dlse: Optional[Tensor],
    out: Any,
    lse: Any,
    wanted: Tuple[bool, ...],
    qkv: Tuple[Tensor, Tensor, Tensor],
    options: Tuple[Any, ...],
    sequences: Any,
) -> Tuple[Optional[Tensor], ...]:
    if options[9] != "softmax":
        out = lse = dlse = None
    gradients = _native.attention_backward(dout, qkv, out, lse, dlse, options, sequences, wanted)
    mask = options[5]
    if gradients[3] is None or mask.dtype == torch.float32:
        return gradients
    return (*gradients[:3], gradients[3].to(mask.dtype), *gradients[4:])


def _operator(*arguments: Any) -> Tuple[Tensor, Tensor]:
    q, k, v = arguments[:3]
    return _compute(q, k, v, *_from_arguments(arguments))


def _backward_operator(
    dout: Tensor, dlse: Any, out: Tensor, lse: Tensor, wanted: Any, *arguments: Any
) -> Tuple[Tensor, ...]:
    gradients = _compute_backward(
        dout, dlse, out, lse, tuple(wanted), arguments[:3], *_from_arguments(arguments)
    )
    return tuple(dout.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _fake(*arguments: Any) -> Tuple[Tensor, Tensor]:
    q, v = arguments[0], arguments[2]
    lse_shape = q.shape[:-1] if arguments[_NUM_TENSORS + 8] == "softmax" else (0,)
    return _empty_out(q, v), q.new_empty(lse_shape, dtype=torch.float32)


def _dense_or_nothing(tensor: Optional[Tensor], wanted: bool, like: Tensor) -> Tensor:
    if tensor is None or not wanted:
        return like.new_empty(0)
    return tensor.new_empty(tensor.shape)


def _backward_fake(
    dout: Tensor, dlse: Any, out: Tensor, lse: Tensor, wanted: Any, *arguments: Any
) -> Tuple[Tensor, ...]:
    inputs = list(arguments[:6])
    if inputs[3] is not None and inputs[3].dtype == torch.bool:
        inputs[3] = None
    return tuple(_dense_or_nothing(t, w, dout) for t, w in zip(inputs, wanted))


def _setup_context(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:_NUM_TENSORS], *output)
    ctx.values = inputs[_NUM_TENSORS:]
    ctx.set_materialize_grads(False)


def _any_dout(dout: Optional[Tensor], out: Tensor) -> Tensor:
    """Zeros, without memory for them, where only lse has a gradient."""
    return out.new_zeros(()).expand(out.shape) if dout is None else dout


def _operator_gradients(ctx: Any, dout: Any, dlse: Any) -> Tuple[Any, ...]:
    none = (None,) * len(ctx.needs_input_grad)
    if dout is None and dlse is None:
        return none
    *tensors, out, lse = ctx.saved_tensors
    wanted = [bool(needed) for needed in ctx.needs_input_grad[:6]]
    results = torch.ops.attn.attention_backward(
        _any_dout(dout, out), dlse, out, lse, wanted, *tensors, *ctx.values
    )
    return (*(result if want else None for result, want in zip(results, wanted)), *none[6:])


_library.impl("attention", _operator, "CPU")
_library.impl("attention_backward", _backward_operator, "CPU")
torch.library.register_fake("attn::attention", _fake, lib=_library)
torch.library.register_fake("attn::attention_backward", _backward_fake, lib=_library)
torch.library.register_autograd(
    "attn::attention", _operator_gradients, setup_context=_setup_context, lib=_library
)
torch.library.register_autograd("attn::attention_backward", refuse_second, lib=_library)


class _Attention(torch.autograd.Function):
    """The operator without PyTorch's dispatcher, which takes longer than a small call, and with
    block masks. Tensors are saved as PyTorch wants it, and taken out of the options."""

    @staticmethod
    def forward(
        ctx: Any, q: Any, k: Any, v: Any, mask: Any, slopes: Any, sinks: Any, options: Any,
        sequences: Any,
    ) -> Any:  # fmt: skip
        out, lse = _compute(q, k, v, options, sequences)
        ctx.save_for_backward(q, k, v, mask, slopes, sinks, out, lse)
        ctx.kv_lens = options[7]
        ctx.options = (options[:5], options[9:])
        ctx.sequences = sequences
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Any, dlse: Any) -> Any:
        if dout is None and dlse is None:
            return (None,) * 8
        q, k, v, mask, slopes, sinks, out, lse = ctx.saved_tensors
        before, after = ctx.options
        options = (*before, mask, slopes, ctx.kv_lens, sinks, *after)
        with torch.no_grad():
            gradients = _compute_backward(
                _any_dout(dout, out), dlse, out, lse, ctx.needs_input_grad[:6], (q, k, v), options,
                ctx.sequences,
            )  # fmt: skip
        return (*once(gradients, q, k, v, mask, slopes, sinks, dout, dlse), None, None)


_PLAIN = (Tensor, torch.nn.Parameter)


def _treatment(tensors: Tuple[Any, ...]) -> Tuple[bool, bool]:
    """Whether a call is traced, since its tensors have no data but are what torch.compile or a mode
    follows, and whether it is recorded for a gradient."""
    traced = (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
    recorded = False
    for tensor in tensors:
        if tensor is None or not isinstance(tensor, Tensor):
            continue
        traced = traced or type(tensor) not in _PLAIN
        recorded = recorded or tensor.requires_grad
    return traced, recorded and torch.is_grad_enabled()


def differentiable_attention(
    q: Any, k: Any, v: Any, options: Tuple[Any, ...], return_lse: bool, sequences: Any = None
) -> Any:
    """attention() of PyTorch's tensors, recorded where a gradient is needed."""
    mask, slopes, kv_lens, sinks = options[5:9]
    tensors = (q, k, v, mask, slopes, sinks)
    traced, recorded = _treatment(tensors)
    if not traced and not recorded:
        if torch.autograd.forward_ad._current_level >= 0:
            refuse_forward_mode(torch, tensors)
        return _native.attention(q, k, v, options, _out_or_none(q, v), return_lse, sequences)
    _checks.tensors(q=q, k=k, v=v)
    _checks.optional_tensors(mask=mask, alibi_slopes=slopes, sinks=sinks)
    if return_lse and options[9] != "softmax":
        raise _native.Error(f"lse is asked for with normalizer {options[9]}, which has none")
    if not traced:
        out, lse = _Attention.apply(*tensors, options, sequences)
    elif options[12] is not None:
        raise NotImplementedError("block_mask has no place in a call that PyTorch traces")
    elif sequences is not None and (sequences[4] is not None or sequences[5] is not None):
        raise NotImplementedError("keys in pages or rings have no place in a call that it traces")
    else:
        _checks.optional_tensors(kv_lens=kv_lens)
        arguments = _to_arguments(q, k, v, options, sequences)
        out, lse = torch.ops.attn.attention(*arguments)
    return (out, lse) if return_lse else out


def autocast(*tensors: Tensor) -> Tuple[Tensor, ...]:
    """The tensors in the type that torch.autocast asks for, if it is on."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(tensor.to(dtype) for tensor in tensors)


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
    q, k, v = query, key, value = autocast(query, key, value)
    if not q.dtype == k.dtype == v.dtype:
        raise _native.Error(
            f"query, key and value have types {q.dtype}, {k.dtype} and {v.dtype}; they need one"
        )
    plain = q.dim() == k.dim() == v.dim() == 4 and q.shape[0] == k.shape[0] == v.shape[0]
    lead: Tuple[int, ...] = ()
    if not plain:
        lead, (q, k, v) = _with_four_dims(query, key, value)
    heads, kv_heads = q.shape[1], k.shape[1]
    if v.shape[1] != kv_heads and kv_heads == 1:
        k = k.expand(-1, v.shape[1], -1, -1)
        kv_heads = v.shape[1]
    elif v.shape[1] == 1:
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
