"""The options of a call, which several functions and methods share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Optional, Tuple, Union

from . import _native

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    Position = Union[int, str]

    class Options(TypedDict, total=False):
        """Keyword arguments of a call; attention() explains them."""

        scale: Optional[float]
        softcap: Optional[float]
        causal: Union[bool, Position]
        q_position: Optional[Position]
        window: Optional[Tuple[Optional[int], Optional[int]]]
        mask: Any
        alibi_slopes: Any
        kv_lens: Any
        sinks: Any
        normalizer: str
        alpha: Optional[float]
        sigmoid_bias: Optional[float]
        block_mask: Optional[_native.BlockMask]
        score_matmul: str
        num_threads: Optional[int]
        isa: Optional[str]


def pack(
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
    num_threads: Any = None,
    isa: Any = None,
) -> Tuple[Any, ...]:
    """The options in the order in which the native module reads them."""
    return (
        scale, softcap, causal, q_position, window, mask, alibi_slopes, kv_lens, sinks,
        normalizer, alpha, sigmoid_bias, block_mask, score_matmul, num_threads, isa,
    )  # fmt: skip


def requires_grad(*arrays: Any) -> bool:
    """Whether PyTorch records what is done with one of these. Imports nothing."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    if torch is None or tensor is None:
        return False
    if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
        refuse_forward_mode(torch, arrays)
    if not torch.is_grad_enabled():
        return False
    for array in arrays:  # twice as fast as any()
        if array is not None and isinstance(array, tensor) and array.requires_grad:
            return True
    return False


def refuse_forward_mode(torch: Any, arrays: Tuple[Any, ...]) -> None:
    """Tangents would be lost without a word."""
    for array in arrays:
        if not isinstance(array, torch.Tensor):
            continue
        if torch.autograd.forward_ad.unpack_dual(array).tangent is not None:
            raise NotImplementedError("attn has no derivatives in forward mode")


def refuse_grad(function: str, *arrays: Any) -> None:
    """Refuses tensors whose gradient would be lost without a word."""
    if requires_grad(*arrays):
        raise NotImplementedError(
            f"{function} has no gradient, but a tensor requires one: call it under torch.no_grad()"
        )


def written(out: Any) -> None:
    """Tells PyTorch that a tensor has changed, so that it does not take it for what it saved."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(out, torch.Tensor) and not out.is_inference():
        torch.autograd.graph.increment_version(out)
