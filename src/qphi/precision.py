"""Double precision for posteriors, whatever the process is set to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import jax

__all__ = ["double", "in_double"]

P = ParamSpec("P")
R = TypeVar("R")


def double() -> AbstractContextManager[Any]:
    """Inside, JAX computes in float64; the process's own setting comes back on leaving."""
    return jax.enable_x64(True)


def in_double(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run inside `double()`."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with double():
            return function(*args, **kwargs)

    return inside
