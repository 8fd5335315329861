"""Do chains that began at draws leave these where they are? Those of the posterior they do."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from qphi.checks.settle import Settling
from qphi.checks.weighted import Moments, constant, flattened

__all__ = ["departure"]

_BY_CHANCE = 0.005  # how often the largest change of right draws is taken for one
_FAR = 3.0  # sds: further is no further
_CENTRAL = (0.025, 0.975)


def departure(
    settling: Settling,
    began: dict[str, np.ndarray],
    values: dict[str, np.ndarray],
    weights: Float[np.ndarray, " draws"],
    moments: Moments,
    independent: int,
) -> float:
    """How far chains have left the weighted draws that they began at: the largest change beyond its noise; 0 if none.

    Chains leave the posterior as it is, however slowly they mix: right draws stay where they are on the whole. That
    they do is no proof that draws are right. Of every column: the change of the mean, in sds; half that of the mean
    square, of the log sd therefore; and four times that of the share outside of the central 95 %. `began`: the values
    at `settling.start`, whose difference from all draws is taken off as a control variate. `moments` are those of the
    draws, of which rows i, i + `independent`, i + 2 `independent`, ... belong together.
    """
    draws, first, late = flattened(values), flattened(began), flattened(settling.values)
    varying = np.flatnonzero(~constant(moments))
    chance = -float(ndtri(_BY_CHANCE / (2 * 3 * max(len(varying), 1))))
    chains = len(first)
    largest = 0.0
    for column in varying:
        low, high = _central((draws[:, column] - moments.mean[column]) / moments.sd[column], weights)
        x, y, base = (
            _seen((points[:, column] - moments.mean[column]) / moments.sd[column], (low, high))
            for points in (first, late, draws)
        )
        usual = (base @ weights)[:, None]
        x, y = x - usual, (y - usual).reshape(3, -1, chains).mean(axis=1)
        together = (weights * (base - usual)).reshape(3, -1, independent).sum(axis=1)
        error = np.sqrt(np.sum(together**2, axis=1))  # of the draws' own averages
        spread = x.var(axis=1)
        slope = np.mean((x - x.mean(axis=1)[:, None]) * y, axis=1) / np.where(spread > 0, spread, 1)
        left = y - slope[:, None] * x
        shift = np.abs(left.mean(axis=1))
        noise = np.hypot(left.std(axis=1, ddof=2) / math.sqrt(chains), error)
        largest = max(largest, float(np.max(shift[shift > chance * noise], initial=0.0)))
    return largest


def _central(column: Float[np.ndarray, " draws"], weights: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """The ends of the central 95 %."""
    order = np.argsort(column)
    middle = np.cumsum(weights[order]) - 0.5 * weights[order]
    low, high = np.interp(_CENTRAL, middle / weights.sum(), column[order])
    return float(low), float(high)


def _seen(u: Float[np.ndarray, " points"], ends: tuple[float, float]) -> Float[np.ndarray, "3 points"]:
    """What is averaged, of standardised values: of a bounded size, so that a far value is one value."""
    clipped = np.clip(u, -_FAR, _FAR)
    return np.stack([clipped, 0.5 * clipped**2, 4.0 * ((u < ends[0]) | (u > ends[1]))])
