"""Places to begin at: dispersed, and with a finite density."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from qphi.targets.base import START_RADIUS, finite_start
from qphi.targets.oracle import Oracle

__all__ = ["dispersed_starts", "widest_places"]

_TRIED = 64  # at once: one call of the oracle
_WIDER = 5.0  # a quarter of the starts come from a box this much wider: modes need not be near the centre
_SHRINKAGES = 6  # each a quarter as wide: a thousandth of the first at last


def dispersed_starts(
    oracle: Oracle, random: np.random.Generator, count: int, key: PRNGKeyArray
) -> tuple[Float[np.ndarray, "starts dim"], Float[np.ndarray, "tried dim"]]:
    """`count` points (fewer only where fewer can be found) at which log p and its gradient are finite; the first tried.

    Uniform in a box about the target's centre, (-2, 2)^dim as in Stan, a quarter of them in (-10, 10)^dim, and each
    with its reflection, so that no half of a space is left out; where too few of 64 are finite the box shrinks.
    Raises InputError, with the terms to blame, where no start at all has a finite density.
    """
    center = _center(oracle)
    found: list[np.ndarray] = []
    radius, first = START_RADIUS, None
    for _ in range(_SHRINKAGES):
        places = random.uniform(-radius, radius, (_TRIED // 2, oracle.dim))
        places[::4] *= _WIDER
        z = center + np.stack([places, -places], axis=1).reshape(_TRIED, oracle.dim)
        if not found:
            z[0] = center
        first = z if first is None else first
        value, gradient = oracle.gradients(z)
        finite = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
        found += list(z[1:][finite[1:]]) + list(z[:1][finite[:1]])
        if len(found) >= count:
            break
        radius /= 4
    if not found:
        found.append(np.asarray(finite_start(oracle.target, key), np.float64))
    assert first is not None
    return np.array(found[:count]), first


def widest_places(oracle: Oracle, random: np.random.Generator, count: int) -> Float[np.ndarray, "count dim"]:
    """`count` points of the wider box, whatever log p is there."""
    half = _WIDER * START_RADIUS
    return _center(oracle) + random.uniform(-half, half, (count, oracle.dim))


def _center(oracle: Oracle) -> Float[np.ndarray, " dim"]:
    return np.asarray(oracle.target.center(), np.float64)
