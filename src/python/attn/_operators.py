"""The custom operators torch.ops.attn.attention and attention_backward, which calls that PyTorch
traces or transforms go through, and what they share with those that it does not."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from . import _native
from ._once import refuse_second

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


def to_arguments(
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
    if q.is_contiguous() and q.size(-1) == v.size(-1):
        return torch.empty_like(q)  # the fastest way to the most frequent result
    if q.dim() != 4 or v.dim() < 1:
        return q.new_empty(q.shape[:-1] + v.shape[-1:])
    batch, heads, length, _ = q.shape
    if heads > 1 and length > 1 and q.stride(1) < q.stride(2):
        return q.new_empty((batch, length, heads, v.shape[-1])).transpose(1, 2)
    return q.new_empty((batch, heads, length, v.shape[-1]))


def out_or_none(q: Any, v: Any) -> Optional[Tensor]:
    """None where the native module is going to say what is wrong."""
    try:
        return _empty_out(q, v)
    except (AttributeError, IndexError, RuntimeError, TypeError, NotImplementedError):
        return None


def compute(
    q: Tensor, k: Tensor, v: Tensor, options: Tuple[Any, ...], sequences: Any
) -> Tuple[Tensor, Tensor]:
    """O and lse, which is empty where the normalizer has none."""
    out = out_or_none(q, v)
    if options[9] != "softmax":
        result = _native.attention(q, k, v, options, out, False, sequences)
        return result, q.new_empty(0, dtype=torch.float32)
    return _native.attention(q, k, v, options, out, True, sequences)  # type: ignore[no-any-return]


def compute_backward(
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
    return compute(q, k, v, *_from_arguments(arguments))


def _backward_operator(
    dout: Tensor, dlse: Any, out: Tensor, lse: Tensor, wanted: Any, *arguments: Any
) -> Tuple[Tensor, ...]:
    gradients = compute_backward(
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


def any_dout(dout: Optional[Tensor], out: Tensor) -> Tensor:
    """Zeros, without memory for them, where only lse has a gradient."""
    return out.new_zeros(()).expand(out.shape) if dout is None else dout


def _operator_gradients(
    ctx: Any, dout: Any, dlse: Any, operator: Any = torch.ops.attn.attention_backward
) -> Tuple[Any, ...]:
    none = (None,) * len(ctx.needs_input_grad)
    if dout is None and dlse is None:
        return none
    *tensors, out, lse = ctx.saved_tensors
    wanted = [bool(needed) for needed in ctx.needs_input_grad[:6]]
    results = operator(any_dout(dout, out), dlse, out, lse, wanted, *tensors, *ctx.values)
    return (*(result if want else None for result, want in zip(results, wanted)), *none[6:])


_library.impl("attention", _operator, "CPU")
_library.impl("attention_backward", _backward_operator, "CPU")
torch.library.register_fake("attn::attention", _fake, lib=_library)
torch.library.register_fake("attn::attention_backward", _backward_fake, lib=_library)
torch.library.register_autograd(
    "attn::attention", _operator_gradients, setup_context=_setup_context, lib=_library
)
torch.library.register_autograd("attn::attention_backward", refuse_second, lib=_library)


class _TransformedBackward(torch.autograd.Function):
    """attention_backward for torch.func, which wants contexts to be set up by themselves."""

    generate_vmap_rule = True
    backward = staticmethod(refuse_second)

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.attn.attention_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, ...]) -> None:
        pass


class TransformedAttention(torch.autograd.Function):
    """attention for torch.func."""

    generate_vmap_rule = True
    setup_context = staticmethod(_setup_context)

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.attn.attention(*arguments)

    @staticmethod
    def backward(ctx: Any, dout: Any, dlse: Any) -> Any:
        return _operator_gradients(ctx, dout, dlse, _TransformedBackward.apply)
