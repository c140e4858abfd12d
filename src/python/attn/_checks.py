"""Checks of arguments that Python code looks at before the native module does."""

from __future__ import annotations

import numbers
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from . import _native


def _reject(name: str, value: Any, needed: str) -> None:
    raise TypeError(f"{name} is of type {type(value).__name__}; it needs {needed}")


def tensors(layout: Optional[str] = None, **values: Any) -> None:
    """Each is a tensor, and of as many dims as the layout names."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            _reject(name, value, "a torch.Tensor")
        if layout is not None and value.dim() != layout.count(",") + 1:
            raise _native.Error(f"{name} has shape {list(value.shape)}; it needs {layout}")


def optional_tensors(**values: Any) -> None:
    tensors(**{name: value for name, value in values.items() if value is not None})


def number(name: str, value: Any) -> Any:
    """An int or a float, and no bool."""
    if type(value) is float:
        return value
    symbolic = isinstance(value, (torch.SymInt, torch.SymFloat))
    if isinstance(value, bool) or not (symbolic or isinstance(value, numbers.Real)):
        _reject(name, value, "a number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _native.Error(f"{name} is an integer of more than 64 bits")
    return value


def flag(name: str, value: Any) -> bool:
    """A bool, or 0 or 1, which Python programs write for one."""
    if not (isinstance(value, (bool, torch.SymBool)) or type(value).__name__ in ("bool", "bool_")):
        if not isinstance(value, int) or value not in (0, 1):
            _reject(name, value, "a bool")
    return bool(value)


def length(name: str, value: Any) -> Any:
    """An int, or a tensor of one, as sums and maxima of lengths are."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_floating_point() or value.is_complex():
            raise _native.Error(f"{name} is a tensor of {list(value.shape)}; it needs one integer")
        if value.device.type != "cpu":
            raise NotImplementedError(f"{name} is on device {value.device}; attn computes on CPUs")
        return int(value)
    if not isinstance(number(name, value), (int, numbers.Integral, torch.SymInt)):
        _reject(name, value, "an integer")
    return value


def sides(name: str, value: Any) -> Tuple[Any, Any]:
    """A pair of integers, where -1 is an unlimited side; None instead."""
    if not isinstance(value, (tuple, list)):
        _reject(name, value, "a pair (left, right)")
    if len(value) != 2:
        raise _native.Error(f"{name} has {len(value)} entries; it needs 2")
    left, right = (length(name, side) for side in value)
    return (None if left == -1 else left, None if right == -1 else right)
