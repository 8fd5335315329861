"""What is given with each datum of a conditional model: covariates, and the size factors of counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qphi.errors import InputError

__all__ = ["Given", "fit_given"]


@dataclasses.dataclass(frozen=True)
class Given:
    """Covariates are standardised, (c - offset) / scale, as at the fit; a size factor goes in as its log."""

    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    sized: bool = False

    def pack(self, rows: np.ndarray | int, covariates: Any = None, size_factors: Any = None) -> np.ndarray:
        """Rows with what is given behind them, float32: (n, numbers + given).

        `rows` is data (n, ...), which come back as they are in a model without anything given, or a number of rows
        for which only what is given is wanted, (n, given). One row of covariates or one size factor serves all rows;
        a size factor that is left out is 1. Raises InputError.
        """
        n = rows if isinstance(rows, int) else len(rows)
        parts = [] if isinstance(rows, int) else [rows.reshape(n, -1) if self else rows]
        if covariates is not None and not self.offset:
            raise InputError("covariates= were given, but the model was fitted without any. Leave them out, or refit.")
        if size_factors is not None and not self.sized:
            raise InputError("size_factors= were given, but the model was fitted without. Leave them out, or refit.")
        if self.offset:
            if covariates is None:
                raise InputError(
                    f"the model was fitted with {len(self.offset)} covariates: give covariates= of shape "
                    f"({n}, {len(self.offset)}), or one row for all."
                )
            given = _covariates(covariates, n, len(self.offset))
            given = np.broadcast_to(given, (n, given.shape[1]))
            if given.shape[1] != len(self.offset):
                raise InputError(
                    f"covariates have {given.shape[1]} columns, but the model was fitted with {len(self.offset)}. "
                    "Give the columns of the fit."
                )
            parts.append((given - np.asarray(self.offset)) / np.asarray(self.scale))
        if self.sized:
            sizes = np.ones(n) if size_factors is None else _sizes(size_factors, n)
            parts.append(np.log(sizes)[:, None])
        if not parts:
            return np.zeros((n, 0), np.float32)
        return parts[0] if len(parts) == 1 and not self else np.concatenate(parts, axis=1).astype(np.float32)

    def __bool__(self) -> bool:
        return bool(self.offset) or self.sized

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Given:
        """The inverse of `to_json`."""
        return Given(tuple(values["offset"]), tuple(values["scale"]), bool(values["sized"]))


def fit_given(n: int, covariates: Any = None, size_factors: Any = None) -> Given:
    """Look at what is given with n training rows once. Raises InputError."""
    if size_factors is not None:
        _sizes(size_factors, n)
    if covariates is None:
        return Given(sized=size_factors is not None)
    c = _covariates(covariates, n)
    if len(c) != n:
        raise InputError(f"covariates have {len(c)} rows for {n} data. Give one row for each.")
    scale = c.std(axis=0)
    scale = np.where(scale > 1e-10 * np.maximum(np.abs(c).max(axis=0), 1e-30), scale, 1.0)  # constants stay 0
    return Given(tuple(c.mean(axis=0).tolist()), tuple(scale.tolist()), size_factors is not None)


def _covariates(values: Any, n: int, columns: int = 1) -> np.ndarray:
    """(n, columns) or (1, columns). A flat one is a column where there is one, else one row for all."""
    c = np.asarray(values)
    if c.dtype.kind not in "buif":
        raise InputError(f"covariates have dtype {c.dtype}; numbers are needed. Give categories as columns of 0 and 1.")
    c = c.astype(np.float64)
    c = c[:, None] if c.ndim == 1 and len(c) == n and columns == 1 else c[None] if c.ndim == 1 else c
    if c.ndim != 2 or len(c) not in (1, n) or not c.size:
        raise InputError(f"covariates have shape {np.shape(values)}; (n, columns) with n = {n} is needed.")
    if not np.isfinite(c).all():
        raise InputError("covariates have values that are NaN or infinity. Fill or remove them, with their rows of X.")
    return c


def _sizes(values: Any, n: int) -> np.ndarray:
    sizes = np.asarray(values, np.float64)
    if sizes.shape not in ((), (1,), (n,)):
        raise InputError(f"size_factors have shape {sizes.shape}; one number for each of the {n} rows is needed.")
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(
            "size_factors must be positive and finite, such as X.sum(1) / X.sum(1).mean(). Drop rows without counts."
        )
    return np.broadcast_to(sizes, (n,))
