"""Gradients that are computed once."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, Tuple

import torch


def refuse_second(ctx: Any, *gradients: Any) -> Any:
    raise NotImplementedError("attn has no second derivatives")


class _Once(torch.autograd.Function):
    """Gradients that refuse to be differentiated again, rather than to be taken for constants."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Any) -> Any:
        return tuple(gradient.view_as(gradient) for gradient in tensors[:count])

    backward = staticmethod(refuse_second)


def once(gradients: Tuple[Any, ...], *sources: Any) -> Tuple[Any, ...]:
    """Marks gradients that were made from `sources`, if PyTorch records (create_graph)."""
    if not torch.is_grad_enabled():
        return gradients
    made = [gradient for gradient in gradients if gradient is not None]
    marked = iter(_Once.apply(len(made), *made, *sources))
    return tuple(None if gradient is None else next(marked) for gradient in gradients)
