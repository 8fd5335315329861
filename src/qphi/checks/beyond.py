"""What lies beyond all draws: the mass along one coordinate, by Laplace's method in all others.

A tail may be a narrow place that chains hardly enter, so that they settle without it, and weights of a Gaussian have
nothing there. A place can be looked at all the same: climb with one coordinate held further out than any draw has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError

from qphi.checks.weighted import flattened, weighted_moments
from qphi.targets.oracle import AbstractOracle

__all__ = ["mass_beyond"]

Look = Callable[[Float[np.ndarray, "1 dim"]], tuple[float, Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]]

_STRETCH, _MOST_STRETCHES = 1.4, 9  # each place further out than the one before: twenty times as far at last
_NEWTON_STEPS, _HALVINGS = 12, 8
_THERE = 0.05  # nats that a further step promises
_VANISHED = 25.0  # nats below the first
_RARE = 1e-4  # of the mass


def mass_beyond(
    oracle: AbstractOracle,
    look: Look,
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
    log_evidence: float,
    along: Sequence[int],
) -> Float[np.ndarray, " columns"]:
    """For each column of the flattened values h, the largest share that the mass beyond all draws would add to its
    variance, along any of these coordinates of z:

        integral of (h - E h)^2 p(c) dc / Var h,    p(c) = exp(log p(z*) - log Z) (2 pi)^((d-1)/2) |-H|^(-1/2),

    z* the highest place with the coordinate at c, and H the Hessian of log p there in all others (Tierney & Kadane
    1986). Rough where the others are not Gaussian given the coordinate: a factor, not a figure. What has less than a
    ten-thousandth of the mass from there on is left out: no sampler would ever see it. `look` gives log p, its gradient
    and its Hessian at a place. 0 where a climb does not end.
    """
    moments = weighted_moments(flattened(oracle.constrained(z)), weights)
    added = np.zeros(len(moments.mean))
    with np.errstate(all="ignore"):
        for coordinate in along:
            both = np.zeros(len(moments.mean))
            for side in (1, -1):
                places, density, width = _walk(oracle, look, z, weights, coordinate, side)
                if len(places):
                    far = (flattened(oracle.constrained(places)) - moments.mean) ** 2
                    mass = np.exp(density - log_evidence) * width
                    mass *= np.cumsum(mass[::-1])[::-1] > _RARE
                    # 0 / 0 of what is constant, and no mass times what overflows, add nothing
                    both += np.nan_to_num(mass @ far / moments.sd**2)
            added = np.maximum(added, both)
    return added


def _walk(
    oracle: AbstractOracle, look: Look, z: np.ndarray, weights: np.ndarray, coordinate: int, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places ever further out, the log of the coordinate's density there, times Z, and the width each stands for."""
    there = z[weights > 0]
    middle = float(weights @ z[:, coordinate])
    outermost = there[np.argmax(side * there[:, coordinate])]
    reach = side * (outermost[coordinate] - middle)
    place = outermost
    places, density, width = [], [], []
    for i in range(1, _MOST_STRETCHES + 1):
        distance = reach * _STRETCH**i
        place = place.copy()
        place[coordinate] = middle + side * distance
        found = _climbed(oracle, look, place, coordinate)
        if found is None:
            break
        place, height = found
        places.append(place)
        density.append(height)
        width.append(distance * math.log(_STRETCH))
        if height < density[0] - _VANISHED:
            break
    return np.array(places), np.array(density), np.array(width)


def _climbed(
    oracle: AbstractOracle, look: Look, place: np.ndarray, coordinate: int
) -> tuple[Float[np.ndarray, " dim"], float] | None:
    """The highest place with the coordinate as it is, by Newton's method, and the log of Laplace's integral there."""
    free = np.delete(np.arange(len(place)), coordinate)
    for _ in range(_NEWTON_STEPS):
        value, gradient, hessian = look(place[None])
        if not (math.isfinite(value) and np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            return None
        try:
            size, axes = np.linalg.eigh(-hessian[np.ix_(free, free)])
        except (LinAlgError, np.linalg.LinAlgError):
            return None
        step = axes @ ((axes.T @ gradient[free]) / np.maximum(np.abs(size), 1e-12))
        promised = float(gradient[free] @ step) / 2
        if promised < _THERE:
            if not (size > 0).all():
                return None
            return place, float(value + promised + 0.5 * np.sum(np.log(2 * np.pi / size)))
        ahead = np.repeat(place[None], _HALVINGS, axis=0)
        ahead[:, free] += 0.5 ** np.arange(_HALVINGS)[:, None] * step
        values = oracle.values(ahead)
        better = np.flatnonzero(values > value)
        if not len(better):
            return None
        place = ahead[better[np.argmax(values[better])]]
    return None
