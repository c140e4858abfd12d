"""The softmax family, cross-entropy and norms of PyTorch's tensors that require grad."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _checks, _native
from ._once import once


class _Slices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, axis: int, parameter: float) -> Any:
        y = getattr(_native, name)(x, axis, parameter, None)
        ctx.save_for_backward(x if name == "logsumexp" else None, y)
        ctx.call = (name, axis, parameter)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, y = ctx.saved_tensors
        name, axis, parameter = ctx.call
        dx = getattr(_native, name + "_backward")(dy, x, y, axis, parameter)
        return (*once((dx,), x, y, dy), None, None, None)


def differentiable_slices(name: str, x: Any, axis: int, parameter: float) -> Any:
    _checks.tensors(x=x)
    return _Slices.apply(x, name, axis, parameter)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Any, weight: Any, *settings: Any) -> Any:
        tensors = [t if isinstance(t, Tensor) else None for t in (target, weight)]
        ctx.save_for_backward(x, *tensors)
        ctx.call = (target if tensors[0] is None else None, weight if tensors[1] is None else None)
        ctx.settings = settings
        ignore_index, label_smoothing, reduction = settings
        return _native.cross_entropy(
            x, target, weight, ignore_index, label_smoothing, reduction, None
        )

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> Any:
        x, target, weight = ctx.saved_tensors
        target = ctx.call[0] if target is None else target
        weight = ctx.call[1] if weight is None else weight
        dx = _native.cross_entropy_backward(dloss, x, target, weight, *ctx.settings)
        return (*once((dx,), x, dloss), *(None,) * 5)


def differentiable_cross_entropy(x: Any, target: Any, weight: Any, *settings: Any) -> Any:
    _checks.tensors(x=x)
    for name, tensor in (("target", target), ("weight", weight)):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            raise NotImplementedError(f"cross_entropy has no gradient of {name}: detach() it")
    return _CrossEntropy.apply(x, target, weight, *settings)


class _Norm(torch.autograd.Function):
    """y = n * scale + bias, where n = (x - mean) * r. With g = dy * scale, dx = r * (g - mean(g) -
    n * mean(g * n)); rms_norm is without mean and mean(g). PyTorch differentiates it again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Any, bias: Any, centered: bool, axis: int, epsilon: float
    ) -> Any:
        y = _native.norm(centered, x, scale, bias, axis, epsilon, None)
        ctx.save_for_backward(x, scale, bias)
        ctx.call = (centered, axis, epsilon)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale, bias = ctx.saved_tensors
        centered, axis, epsilon = ctx.call
        dims = tuple(range(axis % x.dim(), x.dim()))
        values, g = x.float(), dy.float()
        if centered:
            values = values - values.mean(dims, keepdim=True)
        r = torch.rsqrt(values.square().mean(dims, keepdim=True) + epsilon)
        n = values * r
        dscale = (g * n).sum_to_size(scale.shape).to(scale.dtype) if scale is not None else None
        dbias = g.sum_to_size(bias.shape).to(bias.dtype) if bias is not None else None
        if scale is not None:
            g = g * scale.float()
        dx = g - n * (g * n).mean(dims, keepdim=True)
        if centered:
            dx = dx - g.mean(dims, keepdim=True)
        return (r * dx).to(x.dtype), dscale, dbias, None, None, None


def differentiable_norm(
    centered: bool, x: Any, scale: Any, bias: Any, axis: int, epsilon: float
) -> Any:
    _checks.tensors(x=x)
    _checks.optional_tensors(scale=scale, bias=bias)
    return _Norm.apply(x, scale, bias, centered, axis, epsilon)
