"""What solvers and checks ask of a target: values, gradients and Hessians at many points, compiled once each."""

from __future__ import annotations

import abc
import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qphi.errors import InputError
from qphi.precision import double
from qphi.targets.base import AbstractTarget
from qphi.targets.sparsity import FEWEST, Pattern, find_pattern

__all__ = ["FACTORISES", "AbstractOracle", "Oracle"]

_NUMBERS = 2**22  # of data times rows times directions evaluated at once: about 32 MB for each intermediate array
_CACHED = 2**19  # the same for values and gradients: larger arrays leave the cache, and a row takes longer
FACTORISES = re.compile("cholesky|triangular_solve|lu|geqrf|eigh|eig|svd|schur|hessenberg|tridiagonal")
_ONE_BY_ONE = re.compile(rf"= ({FACTORISES.pattern}|while)\b")
_REPEATS = re.compile(r"= (scan|while)\b")
_ROWS = (16, 64, 256)  # sizes of compiled calls; the rest of the last call repeats a row
_STEP = 0.02  # of differences of gradients, in sds of the rows: solvers of equations leave 1e-6 of noise
_SHORTENINGS = 12
_CURVED = 64
_CLIMBS = 64  # rows of gradients that climbs ask for, again and again: only chains ask for more
_CHEAP = 2**19  # numbers evaluated in about a millisecond: less than another size would take to compile


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
    compiled: once for values, once for gradients, once for Hessians, in calls of one size where that costs little and
    of a few otherwise. A second oracle of the same model and shapes compiles nothing. Counts are of points: one value,
    gradient or Hessian each. `data`: how many numbers a density reads, where that is not all that the target holds.

    Where derivatives have no derivatives forward (solvers of differential equations, code of one's own behind
    `jax.custom_vjp`), Hessians are differences of gradients, `2 dim` each.

    A density that factorises matrices is evaluated row by row on a CPU: batched factorisations wait for threads of a
    pool that they share, and where two of them hold the last two threads of it, they wait for ever (seen in jaxlib
    0.10 on two cores, in triangular solves of 64 rows). So is one that loops until it is done, as solvers of
    differential equations do: together, all rows take as many rounds as the worst of them.
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
                remedy = "Check that the shapes of the data fit the model's"
                if isinstance(error, jax.errors.TracerArrayConversionError):
                    remedy = (
                        "Make NumPy's arrays in the model JAX's, jnp.asarray(data), or give them to fit as arguments"
                    )
                elif isinstance(error, jax.errors.ConcretizationTypeError):
                    remedy = "Put jnp.where or jax.lax.cond where the model asks `if` of a latent, or float() of it"
                raise InputError(
                    f"The log density cannot be computed: {type(error).__name__}: {line}. {remedy}."
                ) from error
        # whether rows are evaluated one after the other, and derivatives of gradients are dear
        steps = str(traced)
        self.one_by_one = jax.default_backend() == "cpu" and _ONE_BY_ONE.search(steps) is not None
        self._repeats = _REPEATS.search(steps) is not None  # so that the numbers it reads say little of its cost
        held = sum(a.size for a in jax.tree.leaves(eqx.filter(target, eqx.is_array)))
        self._data = max(1, held if data is None else data)
        self._rest, self._arrays = _split(target)
        self._coming: dict[Any, Future[Any]] = {}
        self._curved = 0  # rows of a call for Hessians, as the first of them needed
        self._forward = True  # whether gradients can be differentiated
        self._pattern: Pattern | None = None  # of Hessians
        self._perhaps_sparse = target.dim >= FEWEST

    @property
    def dim(self) -> int:
        return self.target.dim

    def prepare(self, hessians: int) -> None:
        """Compile what a fit asks for after its first gradients, beside other work: Hessians of so many rows, values.

        Most of a first fit is compilation, which leaves Python free. Tracing does not, and programs with effects are
        not to be traced in two threads, so that it is done here.
        """
        workers = ThreadPoolExecutor(1)
        with double():
            compiled: Any
            for compiled, rows in ((_weighted_curvature, hessians), (_values, 1), (_constrained, _ROWS[-1])):
                if not rows:
                    continue
                curved = compiled is _weighted_curvature
                size = self._curved_size(rows) if curved else self._size(rows, 1)
                last = np.zeros(size) if curved else _count(size)
                with contextlib.suppress(Exception):  # what cannot be traced says so where it is asked for
                    rows_of_size = np.zeros((size, self.dim))
                    lowered = compiled.lower(self._rest, self.one_by_one, self._arrays, rows_of_size, last)
                    self._coming[compiled] = workers.submit(lowered.compile)
        workers.shutdown(wait=False)

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
        if self._forward:
            try:
                found = self._differentiated(z)
            except (TypeError, ValueError, NotImplementedError):  # raised while tracing what has been traced before
                self._forward = False
            else:
                self.hessians_asked += len(z)
                return found
        return self.differenced(z)

    def _differentiated(
        self, z: Float[np.ndarray, "points dim"]
    ) -> tuple[float, Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        self._curved = self._curved or self._curved_size(len(z))  # more rows take more calls
        if self._pattern is None and self._perhaps_sparse and len(z) > 1:
            hessian = self._products(z[: self._curved], self._curved, None)[2]
            if np.isfinite(hessian).all():
                self._pattern = find_pattern(hessian)
                self._perhaps_sparse = self._pattern is not None
        if self._pattern is not None:
            size = self._size(min(len(z), _ROWS[-1]), 2 * len(self._pattern.seeds), pad=False)
            value, gradient, products = self._products(z, size, self._pattern.seeds)
            hessian = self._pattern.matrix(products)
            if hessian is not None:
                return float(value), gradient, hessian
            self._pattern, self._perhaps_sparse = None, False
        value, gradient, hessian = self._products(z, self._curved, None)
        return float(value), gradient, 0.5 * (hessian + hessian.T)

    def _products(self, z: Float[np.ndarray, "points dim"], size: int, seeds: np.ndarray | None) -> tuple[Any, ...]:
        """Means over the rows of log p, its gradient and the Hessian's products with `seeds`, or the Hessian itself."""
        total: Any = None
        for rows, count in self._calls(z, size):
            weights = (np.arange(len(rows)) < count) / len(z)
            part = self._call(_weighted_curvature, rows, weights, *(() if seeds is None else (seeds,)))
            total = part if total is None else jax.tree.map(np.add, total, part)
        return total

    def differenced(
        self, z: Float[np.ndarray, "points dim"]
    ) -> tuple[float, Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        """`mean_curvature` by central differences of gradients along `_directions`: their error is that of a secant of
        2 % of the rows' spread."""
        z = z[:1] if (z == z[0]).all() else z
        values, gradients = self.gradients(z)
        value, gradient = float(np.mean(values)), gradients.mean(axis=0)
        steps = self._directions(z, value)
        moved = [z + side * step for step in steps for side in (1, -1)]
        ahead = self.gradients(np.concatenate(moved))[1].reshape(self.dim, 2, len(z), self.dim).mean(axis=2)
        with np.errstate(all="ignore"):
            hessian = np.linalg.solve(steps, (ahead[:, 0] - ahead[:, 1]) / 2)
        return value, gradient, 0.5 * (hessian + hessian.T)

    def _directions(self, z: Float[np.ndarray, "points dim"], value: float) -> Float[np.ndarray, "dim dim"]:
        """Steps, a row each, that are small in the coordinates of the rows' own covariance; of one point, along axes,
        as long as keeps log p a parabola's within a hundredth of a nat or so."""
        if len(z) > 2 * self.dim:
            with contextlib.suppress(np.linalg.LinAlgError):  # too stretched to be positive definite, rounded
                return _STEP * np.linalg.cholesky(np.cov(z.T).reshape(self.dim, self.dim)).T
        if len(z) > 1:
            return _STEP * np.diag(np.maximum(z.std(axis=0), np.finfo(float).tiny))
        length = _STEP * np.maximum(1.0, np.abs(z[0]))
        for _ in range(_SHORTENINGS):
            sides = self.values(np.concatenate([z + np.diag(length), z - np.diag(length)])).reshape(2, self.dim)
            fall = np.abs(sides.sum(axis=0) - 2 * value)
            long = ~(fall < _STEP)
            if not long.any():
                break
            length[long] /= 8
        return np.diag(length)

    def constrained(self, z: Float[np.ndarray, "points dim"]) -> dict[str, np.ndarray]:
        found = self._map(_constrained, z, 1)
        return {name: found[name] for name in self._names}  # compiled code sorts them

    def _map(self, compiled: Any, z: np.ndarray, width: int) -> Any:
        pieces = [
            jax.tree.map(lambda a, n=count: a[:n], self._call(compiled, rows, _count(count)))
            for rows, count in self._calls(z, self._size(len(z), width))
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def _call(self, compiled: Any, rows: np.ndarray, *rest: np.ndarray) -> Any:
        """The program's answer as NumPy arrays. NumPy's are given, too: to make JAX arrays of them takes programs."""
        coming = self._coming.pop(compiled, None)
        if coming is not None:
            coming.exception()  # waits; what went wrong goes wrong again below
        with double():
            return jax.tree.map(np.asarray, compiled(self._rest, self.one_by_one, self._arrays, rows, *rest))

    def rows_within(self, numbers: int) -> int:
        """How many rows of values may be asked for, so that no more numbers than that are evaluated; no more than one
        call of them where one row is evaluated after the other, or each takes many steps."""
        rows = numbers // (self._data + self.dim)
        return min(rows, _ROWS[-1]) if self.one_by_one or self._repeats else rows

    def _curved_size(self, count: int) -> int:
        """How many rows a call for Hessians has: few, because those that only fill it up cost as much as others."""
        return self._size(min(count, _CURVED), 2 * self.dim, pad=False)

    def _size(self, count: int, width: int, *, pad: bool = True) -> int:
        """How many rows a call has that is to evaluate `count`, `width` times the density's numbers each."""
        cost = (self._data + self.dim) * width
        numbers = _CACHED if width <= 2 and not self.one_by_one else _NUMBERS
        most = 2 ** int(math.log2(max(1, numbers // cost)))
        if self.one_by_one:  # rows that do not count are not evaluated
            return min(_ROWS[-1], most)
        least = min(count, _ROWS[-1])
        if pad:
            least = max(least, min(_CHEAP // cost, _ROWS[-1] if width == 1 else _CLIMBS))
        return min(most, next(rows for rows in _ROWS if rows >= least))

    def _calls(self, z: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
        """Rows in calls of one size, with how many of them count."""
        z = np.asarray(z, np.float64)
        for begin in range(0, len(z), size):
            rows = z[begin : begin + size]
            count = len(rows)
            if count < size:
                rows = np.concatenate([rows, np.broadcast_to(rows[:1], (size - count, z.shape[1]))])
            yield rows, count


class _Rest:
    """What of a target is no array, to tell programs apart by. Hashed once: a climb makes hundreds of calls."""

    def __init__(self, leaves: tuple[Any, ...], structure: Any):
        self._all = leaves, structure
        self._hash = hash(self._all)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Rest) and self._all == other._all)

    def whole(self, arrays: list[Any]) -> AbstractTarget:
        leaves, structure = self._all
        remaining = iter(arrays)
        return structure.unflatten([next(remaining) if leaf is _ARRAY else leaf for leaf in leaves])


_ARRAY = object()  # stands for one among leaves


def _split(target: AbstractTarget) -> tuple[_Rest, list[Any]]:
    leaves, structure = jax.tree.flatten(target)
    traced = [isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves]
    rest = tuple(_ARRAY if array else leaf for leaf, array in zip(leaves, traced, strict=True))
    return _Rest(rest, structure), [leaf for leaf, array in zip(leaves, traced, strict=True) if array]


def _count(number: int) -> np.ndarray:
    return np.asarray(number, np.int64)


def _over_rows(function: Callable[[Array], Any], rows: Float[Array, "rows width"], count: Any = None) -> Any:
    """The function of each row, all at once; with a `count`, of the first so many rows, one by one."""
    if count is None:
        return jax.vmap(function)(rows)
    found = jax.tree.map(lambda a: jnp.zeros((len(rows), *a.shape), a.dtype), jax.eval_shape(function, rows[0]))

    def step(row: Int[Array, ""], found: Any) -> Any:
        return jax.tree.map(lambda every, one: every.at[row].set(one), found, function(rows[row]))

    return jax.lax.fori_loop(0, count, step, found)


# not `eqx.filter_jit`, whose work at each call is longer than many a density's
_compiled = functools.partial(jax.jit, static_argnums=(0, 1))


@_compiled
def _values(
    rest: _Rest, one_by_one: bool, arrays: list[Any], z: Float[Array, "rows dim"], count: Int[Array, ""]
) -> Float[Array, " rows"]:
    target = rest.whole(arrays)
    return _over_rows(target.log_density, z, count) if one_by_one else target.log_density_many(z)


@_compiled
def _gradients(
    rest: _Rest, one_by_one: bool, arrays: list[Any], z: Float[Array, "rows dim"], count: Int[Array, ""]
) -> tuple[Float[Array, " rows"], Float[Array, "rows dim"]]:
    target = rest.whole(arrays)
    return _over_rows(jax.value_and_grad(target.log_density), z, count if one_by_one else None)


@_compiled
def _weighted_curvature(
    rest: _Rest,
    one_by_one: bool,
    arrays: list[Any],
    z: Float[Array, "rows dim"],
    weights: Float[Array, " rows"],
    seeds: Float[Array, "products dim"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, " dim"], Float[Array, "products dim"]]:
    target = rest.whole(arrays)
    along = jnp.eye(target.dim, dtype=z.dtype) if seeds is None else seeds

    def at(row: Float[Array, " dim"]):
        # linearised once: the value, the gradient and its products with the unit vectors share one pass
        (value, gradient), push = jax.linearize(jax.value_and_grad(target.log_density), row)
        return value, gradient, _over_rows(push, along, every)[1]

    every = len(along) if one_by_one else None
    found = _over_rows(at, z, jnp.sum(weights > 0) if one_by_one else None)
    # padding has weight 0 and repeats a row, so that it is finite where that is
    return jax.tree.map(lambda rows: jnp.tensordot(weights, rows, axes=1), found)


@_compiled
def _constrained(
    rest: _Rest, one_by_one: bool, arrays: list[Any], z: Float[Array, "rows dim"], count: Int[Array, ""]
) -> dict[str, Array]:
    return _over_rows(rest.whole(arrays).constrain, z, count if one_by_one else None)
