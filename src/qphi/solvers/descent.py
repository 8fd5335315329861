"""Quasi-Newton descent: a line search, and two memories of curvature."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
from jaxtyping import Float

__all__ = ["Dense", "Descent", "Limited", "advance", "memory"]

_SUFFICIENT = 1e-4  # Armijo's constant
_CURVATURE = 1e-10  # least cosine of the angle between a step and its change of gradient
_SHORTEST = 1e-14  # share of a full step
_MOST_DENSE = 100  # dimensions: above, an update of d^2 numbers and a factorisation at each step are too many
_HISTORY = 20  # updates that a limited memory keeps


class Dense:
    """BFGS: the inverse Hessian as a matrix."""

    def __init__(self, dim: int):
        self._matrix = np.eye(dim)
        self._fresh = True

    def times(self, v: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        return self._matrix @ v

    def matrix(self) -> Float[np.ndarray, "dim dim"]:
        return self._matrix

    def update(self, moved: Float[np.ndarray, " dim"], change: Float[np.ndarray, " dim"], sy: float) -> None:
        """B <- (I - r s y') B (I - r y s') + r s s', r = 1 / s'y.

        Before the first update B is set to the curvature just seen, s'y / y'y (Nocedal & Wright 2006, eq. 6.20).
        """
        b = self._matrix * (sy / float(change @ change)) if self._fresh else self._matrix
        by = b @ change
        cross = np.outer(moved, by) / sy
        self._matrix = b - cross - cross.T + (1 + float(change @ by) / sy) * np.outer(moved, moved) / sy
        self._fresh = False


class Limited:
    """L-BFGS: the inverse Hessian as a multiple of the identity and the latest updates."""

    def __init__(self, dim: int):
        self._dim = dim
        self._scale = 1.0
        self._pairs: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque(maxlen=_HISTORY)
        self._made: tuple[np.ndarray, np.ndarray] | None = None

    def times(self, v: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        if not self._pairs:
            return self._scale * v
        basis, middle = self._compact()
        return self._scale * v + basis @ (middle @ (basis.T @ v))

    def matrix(self) -> Float[np.ndarray, "dim dim"]:
        dense = self._scale * np.eye(self._dim)
        if self._pairs:
            basis, middle = self._compact()
            dense += basis @ middle @ basis.T
        return 0.5 * (dense + dense.T)

    def _compact(self) -> tuple[Float[np.ndarray, "dim twice"], Float[np.ndarray, "twice twice"]]:
        """W and M of B = scale I + W M W', W = [S, scale Y] (Nocedal & Wright 2006, eq. 7.24)."""
        if self._made is None:
            moved, change = (np.array(part).T for part in zip(*self._pairs, strict=True))
            products = moved.T @ change
            upper = np.linalg.inv(np.triu(products))
            diagonal = np.diag(np.diag(products))
            corner = upper.T @ (diagonal + self._scale * change.T @ change) @ upper
            middle = np.block([[corner, -upper.T], [-upper, np.zeros_like(upper)]])
            self._made = np.hstack([moved, self._scale * change]), middle
        return self._made

    def update(self, moved: Float[np.ndarray, " dim"], change: Float[np.ndarray, " dim"], sy: float) -> None:
        self._pairs.append((moved, change))
        self._scale = sy / float(change @ change)
        self._made = None


def memory(dim: int) -> Dense | Limited:
    """The better one for so many dimensions, empty."""
    return Dense(dim) if dim <= _MOST_DENSE else Limited(dim)


@dataclasses.dataclass
class Descent:
    """A way down. The next trial is `place` + `stride` * `full_step`."""

    place: Float[np.ndarray, " dim"]
    inverse: Dense | Limited  # of the Hessian, as estimated so far: positive definite
    energy: float = math.inf
    slope: Float[np.ndarray, " dim"] | None = None
    stride: float = 1.0
    updates: int = 0  # of `inverse`
    steps: int = 0
    # of the slope and the inverse as they are: each is asked for several times a step
    _full_step: Float[np.ndarray, " dim"] | None = None
    _decrement: float = math.inf

    @property
    def full_step(self) -> Float[np.ndarray, " dim"]:
        """To the minimum of the quadratic model."""
        assert self._full_step is not None
        return self._full_step

    def lean(self, slope: Float[np.ndarray, " dim"]) -> None:
        """Take a place's slope, after the inverse has learned from it."""
        self.slope, self._full_step = slope, -self.inverse.times(slope)
        self._decrement = -0.5 * float(slope @ self._full_step)

    @property
    def trial(self) -> Float[np.ndarray, " dim"]:
        """Where the energy is to be asked for next."""
        return self.place if self.slope is None else self.place + self.stride * self.full_step

    @property
    def decrement(self) -> float:
        """What a full step promises."""
        return self._decrement

    @property
    def stuck(self) -> bool:
        """Whether steps have become too short to matter: before there is an idea of the scale, in length."""
        unit = 1.0 if self.updates or self._full_step is None else max(1.0, float(np.max(np.abs(self._full_step))))
        return self.stride * unit < _SHORTEST


def advance(
    descent: Descent, trial: Float[np.ndarray, " dim"], energy: float, slope: Float[np.ndarray, " dim"]
) -> None:
    """Accept the trial, or shorten the stride."""
    finite = math.isfinite(energy) and bool(np.isfinite(slope).all())
    descent.steps += 1
    if descent.slope is None:
        if finite:
            descent.energy = energy
            descent.lean(slope)
            descent.stride = 1 / max(1.0, float(np.linalg.norm(slope)))
        else:
            descent.stride = 0.0  # a start without a density: this descent has ended
        return
    promised = -2 * descent.decrement  # negative
    if not (finite and energy <= descent.energy + _SUFFICIENT * descent.stride * promised):
        rise = energy - descent.energy - promised * descent.stride
        # the minimum of the parabola through what is known, within bounds
        parabola = -0.5 * promised * descent.stride / rise if finite and rise > 0 else 0.1
        descent.stride *= min(max(parabola, 0.1), 0.5)
        return
    _update(descent, trial - descent.place, slope - descent.slope)
    # without an idea of the scale, twice as far each time
    descent.stride = 1.0 if descent.updates else 2 * descent.stride
    descent.place, descent.energy = trial, energy
    descent.lean(slope)


def _update(descent: Descent, moved: Float[np.ndarray, " dim"], change: Float[np.ndarray, " dim"]) -> None:
    """Learn from a step, where there is positive curvature along it."""
    sy = float(moved @ change)
    if sy > _CURVATURE * float(np.linalg.norm(moved) * np.linalg.norm(change)):
        descent.inverse.update(moved, change, sy)
        descent.updates += 1
