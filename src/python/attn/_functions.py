"""The softmax family, cross-entropy and norms."""

from __future__ import annotations

from typing import Any, Optional, TypeVar

from . import _native
from ._options import requires_grad, written

A = TypeVar("A")


def _recorded(out: Any, *arrays: Any) -> bool:
    """Whether the call is to be differentiated; then there must be no `out`."""
    if not requires_grad(out, *arrays):
        return False
    if out is not None:
        raise _native.Error("out is given, but a tensor requires grad: leave it out")
    return True


def _result(result: Any, out: Any) -> Any:
    if out is not None:
        written(out)
    return result


def _slices(name: str, x: Any, axis: int, parameter: float, out: Any) -> Any:
    if _recorded(out, x):
        from . import _torch_functions

        return _torch_functions.differentiable_slices(name, x, axis, parameter)
    return _result(getattr(_native, name)(x, axis, parameter, out), out)


def softmax(x: A, axis: int = -1, *, temperature: float = 1.0, out: Any = None) -> A:
    """exp(x / T) / sum exp(x / T) along an axis.

    x is f32, f16 or bf16, of rank 1 or more; the result has its shape and type. A slice of nothing
    but -inf gives zeros.
    """
    return _slices("softmax", x, axis, temperature, out)  # type: ignore[no-any-return]


def log_softmax(x: A, axis: int = -1, *, temperature: float = 1.0, out: Any = None) -> A:
    """x / T - log sum exp(x / T) along an axis, in the shape of x."""
    return _slices("log_softmax", x, axis, temperature, out)  # type: ignore[no-any-return]


def logsumexp(x: A, axis: int = -1, *, temperature: float = 1.0, out: Any = None) -> A:
    """log sum exp(x / T) along an axis, in the shape of x without it."""
    return _slices("logsumexp", x, axis, temperature, out)  # type: ignore[no-any-return]


def sparsemax(x: A, axis: int = -1, *, out: Any = None) -> A:
    """max(x - tau, 0) along an axis, with tau such that it sums to 1; in the shape of x."""
    return _slices("entmax", x, axis, 2.0, out)  # type: ignore[no-any-return]


def entmax15(x: A, axis: int = -1, *, out: Any = None) -> A:
    """entmax with alpha 1.5."""
    return _slices("entmax", x, axis, 1.5, out)  # type: ignore[no-any-return]


def entmax(x: A, axis: int = -1, *, alpha: float, out: Any = None) -> A:
    """max((alpha - 1) x - tau, 0) ** (1 / (alpha - 1)), with alpha >= 1; in the shape of x.

    alpha 1 is softmax, and alpha 2 is sparsemax.
    """
    return _slices("entmax", x, axis, alpha, out)  # type: ignore[no-any-return]


def cross_entropy(
    x: A,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: Optional[int] = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Any = None,
) -> A:
    """How far scores are from a class, or from a distribution over classes.

    Args:
        x: scores [C], or [N, C, ...]: classes are dim 1.
        target: classes, i32 or i64 [N, ...], or a distribution in the shape of x.
        weight: f32 [C].
        ignore_index: targets equal to it do not count.
        label_smoothing: 0 to 1.
        reduction: "none" (f32 [N, ...]), "sum" or "mean" (f32 []).
    """
    arguments = (target, weight, ignore_index, label_smoothing, reduction)
    if _recorded(out, x, target, weight):
        from . import _torch_functions

        return _torch_functions.differentiable_cross_entropy(x, *arguments)  # type: ignore[no-any-return]
    return _result(_native.cross_entropy(x, *arguments, out), out)  # type: ignore[no-any-return]


def rms_norm(x: A, scale: Any, axis: int = -1, epsilon: float = 1e-5, *, out: Any = None) -> A:
    """x / sqrt(mean(x ** 2) + epsilon) * scale, over the dims from `axis` to the last.

    scale is None, or has the shape of these dims or one that broadcasts to it.
    """
    return _norm(False, x, scale, None, axis, epsilon, out)  # type: ignore[no-any-return]


def layer_norm(
    x: A, scale: Any, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, *, out: Any = None
) -> A:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the dims from `axis` to the last.

    scale and bias are None, or have the shape of these dims or one that broadcasts to it.
    """
    return _norm(True, x, scale, bias, axis, epsilon, out)  # type: ignore[no-any-return]


def _norm(
    centered: bool, x: Any, scale: Any, bias: Any, axis: int, epsilon: float, out: Any
) -> Any:
    if _recorded(out, x, scale, bias):
        from . import _torch_functions

        return _torch_functions.differentiable_norm(centered, x, scale, bias, axis, epsilon)
    return _result(_native.norm(centered, x, scale, bias, axis, epsilon, out), out)
