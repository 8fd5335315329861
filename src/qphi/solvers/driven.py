"""Scales and means that follow a few coordinates: fitted on fixed draws, and used as coordinates of the target."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize

from qphi.noise import fixed_draws
from qphi.solvers.exact import Gaussian
from qphi.targets.oracle import AbstractOracle, Oracle

__all__ = ["Driven", "DrivenFit", "WarpedOracle", "fit_driven"]

_DRIVERS = 6
_MOST_FREE = (
    48  # dimensions: above, only what drivers were seen to do is fitted, or the draws would be learned by heart
)
_DRAWS_PER_DIM, _FEWEST_DRAWS, _MOST_DRAWS = 128, 1024, 4096
_ITERATIONS, _MEMORY = 400, 30
_SCOUTS, _MANY_SCOUTS = 256, 4096  # draws that tell which coordinates drive; above `_MOST_FREE`, also by how little
_FEWEST_SCOUTS = 64
_NOTICED = 9.0  # squared z-score of a correlation that counts
_HOPELESS = 1e10  # nats: what a trial that overflows is said to lose, so that the line search turns back


@dataclasses.dataclass(frozen=True)
class Driven:
    """The map of `qphi.families.DrivenGaussian` on the host, z = g(u), for many rows at once."""

    mean: Float[np.ndarray, " dim"]
    lower: Float[np.ndarray, "dim dim"]
    log_scale: Float[np.ndarray, " dim"]
    scale_drive: Float[np.ndarray, "dim features"]
    shift_drive: Float[np.ndarray, "dim features"]
    order: Int[np.ndarray, " dim"]

    def transport(self, u: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        """g(u) of each row."""
        return self.with_log_det(u)[0]

    def with_log_det(
        self, u: Float[np.ndarray, "draws dim"]
    ) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, " draws"]]:
        """g(u) and log |det dg/du| of each row."""
        log_scale, shift = self._driven(u)
        z = np.empty_like(u)
        z[:, self.order] = (u * np.exp(log_scale) + shift) @ self.lower.T
        return self.mean + z, log_scale.sum(axis=1)

    def pull(
        self, u: Float[np.ndarray, "draws dim"], gradient: Float[np.ndarray, "draws dim"]
    ) -> Float[np.ndarray, "draws dim"]:
        """The gradient of f(g(u)) + log |det dg/du| with respect to u, of each row, given f's with respect to z."""
        scale = np.exp(self._driven(u)[0])
        by_h = gradient[:, self.order] @ self.lower
        by_log_scale = by_h * u * scale + 1
        pulled, r = by_h * scale, self._drivers
        bend = u[:, :r] / np.sqrt(1 + u[:, :r] ** 2)
        steep = 1 / np.cosh(u[:, :r]) ** 2
        pulled[:, :r] += by_log_scale @ self.scale_drive[:, :r] + (by_log_scale @ self.scale_drive[:, r:]) * bend
        pulled[:, :r] += (by_h @ self.shift_drive[:, :r]) * bend + (by_h @ self.shift_drive[:, r:]) * steep
        return pulled

    def inverse(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        """u of each row."""
        h = np.linalg.solve(self.lower, (z - self.mean)[:, self.order].T).T
        u = np.zeros_like(h)
        for i in range(self._drivers):  # each needs those before it
            log_scale, shift = self._driven(u)
            u[:, i] = (h[:, i] - shift[:, i]) * np.exp(-log_scale[:, i])
        log_scale, shift = self._driven(u)
        return (h - shift) * np.exp(-log_scale)

    @property
    def _drivers(self) -> int:
        return self.scale_drive.shape[1] // 2

    def _driven(self, u: Float[np.ndarray, "draws dim"]) -> tuple[np.ndarray, np.ndarray]:
        scale_features, shift_features = _features(u[:, : self._drivers])
        return self.log_scale + scale_features @ self.scale_drive.T, shift_features @ self.shift_drive.T


class WarpedOracle(AbstractOracle):
    """A target in the coordinates u of a map z = g(u): log p(g(u)) + log |det dg/du|, and its gradient."""

    def __init__(self, oracle: AbstractOracle, warp: Driven):
        self._oracle, self.warp = oracle, warp

    @property
    def dim(self) -> int:
        return self._oracle.dim

    def values(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        with np.errstate(all="ignore"):  # far out the map overflows: not finite, and refused as such
            places, log_det = self.warp.with_log_det(z)
            return self._oracle.values(places) + log_det

    def gradients(
        self, z: Float[np.ndarray, "points dim"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points dim"]]:
        with np.errstate(all="ignore"):
            places, log_det = self.warp.with_log_det(z)
            value, gradient = self._oracle.gradients(places)
            return value + log_det, self.warp.pull(z, gradient)

    def constrained(self, z: Float[np.ndarray, "points dim"]) -> dict[str, np.ndarray]:
        return self._oracle.constrained(self.warp.transport(z))


@dataclasses.dataclass(frozen=True)
class DrivenFit:
    """The best map found; `elbo` on the draws fitted to, nats; `finished`: the optimiser stopped by itself."""

    warp: Driven
    elbo: float
    finished: bool


def fit_driven(
    oracle: Oracle, start: Gaussian, random: np.random.Generator, *, deadline: float = math.inf
) -> DrivenFit | None:
    """Maximise the ELBO of a `Driven` map on fixed antithetic draws by L-BFGS, from the Gaussian `start`.

    On 128 draws a dimension, 1,024 at least and 4,096 at most; a step asks for the gradient at each. Coordinates are
    ordered by how much they drive others: j drives i where log |d log p / dz_i| is correlated with z_j over draws of
    `start`. Above 48 dimensions all else stays as in `start`. None where no draw of `start` has a finite gradient, or
    `start` is too narrow for numbers.
    """
    d = oracle.dim
    scale = np.sqrt(np.sum(start.tril**2, axis=1))
    driven = _driven_by(oracle, start, scale, random)
    if driven is None:
        return None
    # who drives others most, and is driven least, first
    order = np.argsort(driven.sum(axis=1) - driven.sum(axis=0), kind="stable")
    correlated = (start.tril @ start.tril.T)[np.ix_(order, order)] / np.outer(scale[order], scale[order])
    try:
        tril = np.linalg.cholesky(correlated)
    except np.linalg.LinAlgError:  # correlations of one, rounded
        return None
    diagonal = np.diag(tril)
    shape = _Shape(tril / diagonal, min(_DRIVERS, d), driven[np.ix_(order, order)] > 0 if d > _MOST_FREE else None)
    first = shape.pack(np.zeros(d), shape.lower[:, : shape.free], np.log(diagonal), shape.none, shape.none)
    u = fixed_draws(random, min(_MOST_DRAWS, max(_FEWEST_DRAWS, _DRAWS_PER_DIM * d)), d)
    scale_features, shift_features = _features(u[:, : shape.drivers])
    best = (-math.inf, first)

    def loss(packed: Float[np.ndarray, " numbers"]) -> tuple[float, Float[np.ndarray, " numbers"]]:
        nonlocal best
        shift, lower, log_scale, by_scale, by_shift = shape.unpack(packed)
        with np.errstate(all="ignore"):
            logs = log_scale + scale_features @ by_scale.T
            stretched = u * np.exp(logs)
            h = shift + stretched + shift_features @ by_shift.T
            z = np.empty_like(h)
            z[:, order] = h @ lower.T
            value, gradient = oracle.gradients(start.mean + scale * z)
            elbo = float(np.mean(value + logs.sum(axis=1)))
            if not (math.isfinite(elbo) and np.isfinite(gradient).all()):
                return _HOPELESS, np.zeros_like(packed)
            slope = (gradient * scale)[:, order]
            by_h = slope @ lower
            by_log = by_h * stretched + 1
            parts = (
                by_h.sum(0),
                slope.T @ h[:, : shape.free],
                by_log.sum(0),
                by_log.T @ scale_features,
                by_h.T @ shift_features,
            )
        if elbo > best[0]:
            best = (elbo, packed.copy())
        return -elbo, -shape.pack(*parts) / len(u)

    def look_at_the_clock(intermediate_result: object) -> None:
        if time.monotonic() >= deadline:
            raise StopIteration

    options = {"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "maxcor": _MEMORY, "ftol": 1e-9}
    ended = minimize(loss, first, jac=True, method="L-BFGS-B", callback=look_at_the_clock, options=options)
    elbo, packed = best
    if not math.isfinite(elbo):
        return None
    shift, lower, log_scale, by_scale, by_shift = shape.unpack(packed)
    own = scale[order]  # from units of the start's sds to those of z
    mean = start.mean.copy()
    mean[order] += own * (lower @ shift)
    lower = own[:, None] * lower / own
    warp = Driven(mean, lower, log_scale + np.log(own), by_scale, own[:, None] * by_shift, order)
    entropy = float(np.sum(np.log(own)) + 0.5 * d * (1 + math.log(2 * math.pi)))
    return DrivenFit(warp, elbo + entropy, bool(ended.success))


class _Shape:
    """Where the free numbers of a map lie in one vector; `lower` holds those that are not, and the first of the others.

    Of `lower` the columns before `free` are. `driven`: which of the pairs (i, j) are, all if there is none.
    """

    def __init__(
        self, lower: Float[np.ndarray, "dim dim"], drivers: int, driven: Bool[np.ndarray, "dim dim"] | None = None
    ):
        dim = len(lower)
        self.lower, self.drivers, self.free = lower, drivers, dim if driven is None else drivers
        self.below = np.tril(np.ones((dim, self.free), bool), -1)
        if driven is not None:
            self.below &= driven[:, :drivers]
        earlier = self.below[:, :drivers]
        self.used = np.concatenate([earlier, earlier], axis=1)
        self.none = np.zeros(self.used.shape)

    def pack(self, shift, columns, log_scale, by_scale, by_shift) -> Float[np.ndarray, " numbers"]:
        return np.concatenate([shift, log_scale, columns[self.below], by_scale[self.used], by_shift[self.used]])

    def unpack(self, packed: Float[np.ndarray, " numbers"]):
        dim = len(self.lower)
        sizes = (dim, dim, int(self.below.sum()), int(self.used.sum()))
        shift, log_scale, free, scales, shifts = np.split(packed, np.cumsum(sizes))
        lower, by_scale, by_shift = self.lower.copy(), self.none.copy(), self.none.copy()
        lower[:, : self.free][self.below] = free
        by_scale[self.used], by_shift[self.used] = scales, shifts
        return shift, lower, log_scale, by_scale, by_shift


def _features(drivers: Float[np.ndarray, "draws drivers"]) -> tuple[np.ndarray, np.ndarray]:
    """Of log scales and of shifts. What is linear in a shift is in `lower`."""
    bent = np.sqrt(1 + drivers**2) - 1
    return np.concatenate([drivers, bent], axis=1), np.concatenate([bent, np.tanh(drivers)], axis=1)


def _driven_by(
    oracle: Oracle, q: Gaussian, scale: Float[np.ndarray, " dim"], random: np.random.Generator
) -> Float[np.ndarray, "dim dim"] | None:
    """Row i, column j: the squared correlation that tells that j drives i; 0 where it does not stand out."""
    dim = oracle.dim
    z = q.transport(fixed_draws(random, _MANY_SCOUTS if dim > _MOST_FREE else max(_SCOUTS, 2 * dim), dim))
    gradient = oracle.gradients(z)[1]
    told = np.isfinite(gradient).all(axis=1)
    if told.sum() < _FEWEST_SCOUTS:
        return None
    x = (z[told] - q.mean) / scale
    size = np.log(np.abs(gradient[told]) + np.finfo(float).tiny)
    size = (size - size.mean(axis=0)) / (size.std(axis=0) + 1e-12)
    squared = (size.T @ x / len(x)) ** 2
    np.fill_diagonal(squared, 0)
    squared[squared < _NOTICED / len(x)] = 0
    return squared
