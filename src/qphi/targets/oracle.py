"""What solvers and checks ask of a target: values, gradients and Hessians at many points, compiled once each."""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qphi.errors import InputError
from qphi.precision import double
from qphi.targets.base import AbstractTarget

__all__ = ["AbstractOracle", "Oracle"]

_NUMBERS = 2**22  # of data times rows times directions evaluated at once: about 32 MB for each intermediate array
_FACTORISES = re.compile(r"\b(cholesky|triangular_solve|lu|geqrf|eigh|eig|svd|schur|hessenberg|tridiagonal)\b")
_ROWS = (16, 64, 256, 1024)  # sizes of compiled calls; the rest of the last call repeats a row


class AbstractOracle(abc.ABC):
    """A log density of rows, and what its coordinates stand for."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Length of z."""

    @abc.abstractmethod
    def values(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """log p at each row, nats."""

    @abc.abstractmethod
    def gradients(
        self, z: Float[np.ndarray, "points dim"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points dim"]]:
        """log p and its gradient at each row."""

    @abc.abstractmethod
    def constrained(self, z: Float[np.ndarray, "points dim"]) -> dict[str, np.ndarray]:
        """Every named value at each row."""


class Oracle(AbstractOracle):
    """A target as NumPy code sees it, in double precision, with counts of what it was asked.

    The algebra of small matrices is done on the host, where it costs no compilation; only the model's own density is
    compiled: once for values, once for gradients, once for Hessians, in calls of a few fixed sizes. A second oracle of
    the same model and shapes compiles nothing. Counts are of points: one value, gradient or Hessian each. `data`: how
    many numbers a density reads, where that is not all that the target holds.

    A density that factorises matrices is evaluated row by row on a CPU: batched factorisations wait for threads of a
    pool that they share, and where two of them hold the last two threads of it, they wait for ever (seen in jaxlib
    0.10 on two cores, in triangular solves of 64 rows).
    """

    def __init__(self, target: AbstractTarget, data: int | None = None):
        self.target = target
        self.values_asked = self.gradients_asked = self.hessians_asked = 0
        with double():
            self._names = tuple(target.shapes())
            try:  # nothing is computed: shapes that do not fit are found before anything is compiled
                traced = jax.make_jaxpr(target.log_density)(jax.ShapeDtypeStruct((target.dim,), jnp.zeros(()).dtype))
            except InputError:
                raise
            except (TypeError, ValueError) as error:
                line = str(error).strip().split("\n")[0].rstrip(".")
                raise InputError(
                    f"The log density cannot be computed: {type(error).__name__}: {line}. Check that the shapes of "
                    "the data fit the model's."
                ) from error
        self._one_by_one = jax.default_backend() == "cpu" and _FACTORISES.search(str(traced)) is not None
        held = sum(a.size for a in jax.tree.leaves(eqx.filter(target, eqx.is_array)))
        self._data = max(1, held if data is None else data)

    @property
    def dim(self) -> int:
        return self.target.dim

    def values(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        self.values_asked += len(z)
        return self._map(_values, z, 1)

    def gradients(
        self, z: Float[np.ndarray, "points dim"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points dim"]]:
        self.gradients_asked += len(z)
        return self._map(_gradients, z, 2)

    def mean_curvature(
        self, z: Float[np.ndarray, "points dim"]
    ) -> tuple[float, Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        """Means over the rows of log p, its gradient and its Hessian."""
        self.hessians_asked += len(z)
        total: Any = None
        with double():
            for rows, count in self._calls(z, 2 * self.dim):
                weights = jnp.asarray((np.arange(len(rows)) < count) / len(z))
                part = jax.tree.map(
                    np.asarray, _weighted_curvature(self.target, self._one_by_one, jnp.asarray(rows), weights)
                )
                total = part if total is None else jax.tree.map(np.add, total, part)
        value, gradient, hessian = total
        return float(value), gradient, 0.5 * (hessian + hessian.T)

    def constrained(self, z: Float[np.ndarray, "points dim"]) -> dict[str, np.ndarray]:
        found = self._map(_constrained, z, 1)
        return {name: found[name] for name in self._names}  # compiled code sorts them

    def _map(self, compiled: Callable[[AbstractTarget, bool, Array], Any], z: np.ndarray, width: int) -> Any:
        with double():
            pieces = [
                jax.tree.map(
                    lambda a, n=count: np.asarray(a)[:n], compiled(self.target, self._one_by_one, jnp.asarray(rows))
                )
                for rows, count in self._calls(z, width)
            ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def _calls(self, z: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, int]]:
        """Rows in calls of one of a few sizes, with how many of them count."""
        most = max(1, _NUMBERS // ((self._data + self.dim) * width))
        size = next((rows for rows in _ROWS if rows >= len(z)), _ROWS[-1])
        if size > most:
            size = 2 ** int(math.log2(most))
        for begin in range(0, len(z), size):
            rows = z[begin : begin + size]
            count = len(rows)
            if count < size:
                rows = np.concatenate([rows, np.broadcast_to(rows[:1], (size - count, z.shape[1]))])
            yield rows, count


def _over_rows(function: Callable[[Array], Any], rows: Float[Array, "rows width"], one_by_one: bool) -> Any:
    return jax.lax.map(function, rows) if one_by_one else jax.vmap(function)(rows)


@eqx.filter_jit
def _values(target: AbstractTarget, one_by_one: bool, z: Float[Array, "rows dim"]) -> Float[Array, " rows"]:
    return _over_rows(target.log_density, z, True) if one_by_one else target.log_density_many(z)


@eqx.filter_jit
def _gradients(
    target: AbstractTarget, one_by_one: bool, z: Float[Array, "rows dim"]
) -> tuple[Float[Array, " rows"], Float[Array, "rows dim"]]:
    return _over_rows(jax.value_and_grad(target.log_density), z, one_by_one)


@eqx.filter_jit
def _weighted_curvature(
    target: AbstractTarget, one_by_one: bool, z: Float[Array, "rows dim"], weights: Float[Array, " rows"]
) -> tuple[Float[Array, ""], Float[Array, " dim"], Float[Array, "dim dim"]]:
    def at(row: Float[Array, " dim"]):
        # linearised once: the value, the gradient and its products with the unit vectors share one pass
        (value, gradient), push = jax.linearize(jax.value_and_grad(target.log_density), row)
        return value, gradient, _over_rows(push, jnp.eye(target.dim, dtype=row.dtype), one_by_one)[1]

    # padding has weight 0 and repeats a row, so that it is finite where that is
    return jax.tree.map(lambda rows: jnp.tensordot(weights, rows, axes=1), _over_rows(at, z, one_by_one))


@eqx.filter_jit
def _constrained(target: AbstractTarget, one_by_one: bool, z: Float[Array, "rows dim"]) -> dict[str, Array]:
    return _over_rows(target.constrain, z, one_by_one)
