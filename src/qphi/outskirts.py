"""Where mass may be that a fit knows nothing of: places around it, in the box of starts, and far out along one axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln, logsumexp

from qphi.solvers.exact import AbstractGaussian, Gaussian
from qphi.targets.oracle import Oracle
from qphi.targets.starts import widest_places

__all__ = ["Estimate", "Outskirts", "outskirts"]

_AROUND, _BOXED, _ALONG = 768, 256, 256
_WIDER, _FREEDOM = 3.0, 3.0  # of the t around a fit
_NEAREST, _LONGEST = 0.1, 5.0  # of its own sd, and of the widest: how far along an axis
_MOST_AXES = 20


class Estimate(NamedTuple):
    """A logarithm, nats, and its standard error."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class Outskirts:
    """Places, log p there, and how much room each of them stands for among those that were drawn in its way.

    p exp(log_room), summed over the places of one way, is an estimate of the evidence by importance sampling; of one
    place it is its share. `way`: 0 for those around the fit, 1 for those of the box, 2 for those along an axis.
    """

    z: Float[np.ndarray, "places dim"]
    log_p: Float[np.ndarray, " places"]
    log_room: Float[np.ndarray, " places"]
    way: Int[np.ndarray, " places"]

    @property
    def around(self) -> Bool[np.ndarray, " places"]:
        """Which are from the t."""
        return self.way == 0

    @property
    def along(self) -> Bool[np.ndarray, " places"]:
        """Which are far out along an axis."""
        return self.way == 2

    def by_way(self) -> Iterator[tuple[Float[np.ndarray, "n dim"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
        """The places of each way that have a density, log p there, and log p + log_room."""
        for way in np.unique(self.way):
            there = (self.way == way) & np.isfinite(self.log_p)
            yield self.z[there], self.log_p[there], (self.log_p + self.log_room)[there]

    def evidences(self) -> list[Estimate]:
        """The log evidence by the places of each way alone, where any has a density.

        Where they miss the mass it is too low, as is the error; too high by a factor k it is with a chance of 1 / k at
        most (Markov's inequality), and then by few places, so that the error is near 1.
        """
        found = []
        for _, _, share in self.by_way():
            if len(share):
                highest = share.max()
                parts = np.exp(share - highest)
                total = parts.sum()
                found.append(Estimate(float(highest + np.log(total)), float(np.sqrt(np.sum(parts**2)) / total)))
        return found


def outskirts(oracle: Oracle, q: AbstractGaussian, random: np.random.Generator, many: int) -> Outskirts:
    """`many` times 768 places from a t three times as wide as q, 256 of the widest box of starts, and, in few
    dimensions, 256 that are q's draws but for one of its axes: as far out along this, on a logarithmic scale, as five
    of the widest sds. Mass that crosses q has its peak where q has it, and is wide where q is narrow."""
    d = oracle.dim
    count = many * _AROUND
    far = random.standard_normal((count, d)) * (_WIDER / np.sqrt(random.chisquare(_FREEDOM, (count, 1)) / _FREEDOM))
    boxed = widest_places(oracle, random, many * _BOXED)
    z = [q.transport(far), boxed]
    scaled = np.sum(far**2, axis=1) / (_FREEDOM * _WIDER**2)
    normaliser = gammaln(0.5 * (_FREEDOM + d)) - gammaln(0.5 * _FREEDOM) - 0.5 * d * math.log(_FREEDOM * math.pi)
    log_t = normaliser - 0.5 * (_FREEDOM + d) * np.log1p(scaled) - d * math.log(_WIDER) - q.log_det
    log_box = -d * math.log(np.ptp(boxed, axis=0).max())
    log_room = [-log_t - math.log(count), np.full(len(boxed), -log_box - math.log(len(boxed)))]
    if isinstance(q, Gaussian) and d <= _MOST_AXES:
        places, log_axes = _along_axes(q, random, many * _ALONG)
        z.append(places)
        log_room.append(-log_axes - math.log(len(places)))
    way = np.repeat(np.arange(len(z)), [len(places) for places in z])
    all_z = np.concatenate(z)
    return Outskirts(all_z, oracle.values(all_z), np.concatenate(log_room), way)


def _along_axes(
    q: Gaussian, random: np.random.Generator, count: int
) -> tuple[Float[np.ndarray, "places dim"], Float[np.ndarray, " places"]]:
    """Draws of q with one whitened coordinate of its own axes log-uniform; their log density."""
    d = len(q.mean)
    axes, sds = (np.asarray(part) for part in np.linalg.svd(q.tril)[:2])
    nearest, longest = math.log(_NEAREST), np.log(_LONGEST * sds[0] / sds)
    eps = random.standard_normal((count, d))
    axis = random.integers(d, size=count)
    eps[np.arange(count), axis] = np.sign(eps[np.arange(count), axis]) * np.exp(random.uniform(nearest, longest[axis]))
    inside = -0.5 * eps**2 - 0.5 * math.log(2 * math.pi)
    size = np.log(np.abs(eps))
    on_axis = np.where((size > nearest) & (size <= longest), -size - np.log(2 * (longest - nearest)), -np.inf)
    log_density = np.asarray(logsumexp(np.sum(inside, axis=1, keepdims=True) - inside + on_axis, axis=1))
    return q.mean + (eps * sds) @ axes.T, log_density - math.log(d) - q.log_det
