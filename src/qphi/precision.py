"""Double precision for posteriors, whatever the process is set to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import jax

__all__ = ["double", "in_double", "mixed_precision"]

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


def mixed_precision(error: Exception) -> str:
    """What to do about an error that names both precisions, to be added to a message; otherwise nothing."""
    if not all(name in str(error) for name in ("float32", "float64")):
        return ""
    return (
        " Posteriors are fitted in float64, and an array that was made outside the model is float32: give it as an"
        " argument, make it inside, or make it a NumPy array."
    )
