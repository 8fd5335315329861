"""Whether moments exist: what the tails of weighted draws say, and what chains have seen of these tails."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from qphi.checks.pareto import tail_shape
from qphi.checks.weighted import BLOCK, Moments

__all__ = ["existing", "heavy", "missed", "with_ease", "with_own_tails", "with_reach", "with_tails"]

_NO_MOMENT, _HEAVY = 0.9, 0.5  # Pareto k: of weighted values, and of the values themselves
_FURTHEST, _CHAINS_THERE = 256, 5  # weighted draws that are kept, and chains that have to have been as far
# of the mean acceptance of chains; where these agree with long runs of NUTS it is mostly above 0.9, in necks 0.2 to 0.6
_EASE = 2 / 3
_MISSED = 0.1  # share of a moment: a tenth of the variance is a twentieth of the sd


def existing(m: Moments) -> tuple[Bool[np.ndarray, " columns"], Bool[np.ndarray, " columns"]]:
    """For each column, whether its tails leave room for a mean and for an sd."""
    return ~(m.mean_khat > _NO_MOMENT), ~(m.sd_khat > _NO_MOMENT)


def with_own_tails(
    moments: Moments,
    values: Float[np.ndarray, "draws columns"],
    weights: Float[np.ndarray, " draws"],
    ess: float,
    khat: float = math.inf,
) -> Moments:
    """Moments that know of the tails of the values themselves: of as many of them as there are effective draws, chosen
    by weight.

    A product of weight and value has a heavy tail where the value has one, or where a few draws in a place that the
    proposal hardly reaches have large weights: then a value that is never large has it too, and its moments exist.
    Where the weights are bounded (their Pareto `khat` is no more than 0), the products have no heavier tail than the
    values; they may look as if they had, where the furthest values lie close together in a mode, and a few beyond it.
    """
    count = max(int(ess), 1)
    ends = np.cumsum(weights)
    chosen = np.searchsorted(ends / ends[-1], (np.arange(count) + 0.5) / count)
    distance = np.abs(values[np.minimum(chosen, len(values) - 1)] - moments.mean)
    with np.errstate(over="ignore"):
        own = [tail_shape(size) for size in (distance, distance**2)]
    if khat <= 0:
        with np.errstate(invalid="ignore"):
            least = [
                np.fmin(khats, np.maximum(tail, 0.0))
                for khats, tail in zip((moments.mean_khat, moments.sd_khat), own, strict=True)
            ]
        moments = dataclasses.replace(moments, mean_khat=least[0], sd_khat=least[1])
    far = np.full((3, min(_FURTHEST, len(values)), values.shape[1]), np.nan)
    asked = np.flatnonzero(~np.logical_and(*existing(moments)))  # elsewhere nobody will ask
    for columns in (asked[begin : begin + BLOCK] for begin in range(0, asked.size, BLOCK)):
        far[:, :, columns] = _furthest(values[:, columns] - moments.mean[columns], weights)
    return dataclasses.replace(moments, mean_own=own[0], sd_own=own[1], far=far)


def _furthest(
    centred: Float[np.ndarray, "draws columns"], weights: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, "3 furthest columns"]:
    distance = np.abs(centred)
    kept = np.argpartition(-distance, min(_FURTHEST, len(distance) - 1), axis=0)[:_FURTHEST]
    far, weight = np.take_along_axis(distance, kept, axis=0), weights[kept]
    order = np.argsort(-far, axis=0)
    far, weight = (np.take_along_axis(part, order, axis=0) for part in (far, weight))
    with np.errstate(over="ignore", invalid="ignore"):
        shares = [np.cumsum(weight * far**power, axis=0) / (weights @ distance**power) for power in (1, 2)]
    return np.stack([far, *shares])


def with_reach(moments: Moments, values: Float[np.ndarray, "states columns"], chains: int) -> Moments:
    """Moments that know how far chains have been; rows i, i + `chains`, ... are the states of one."""
    furthest = np.abs(values - moments.mean).reshape(-1, chains, values.shape[1]).max(axis=0)
    return dataclasses.replace(moments, reach=np.sort(furthest, axis=0)[-min(_CHAINS_THERE, chains)])


def with_ease(
    moments: Moments, values: Float[np.ndarray, "states columns"], chances: Float[np.ndarray, " states"]
) -> Moments:
    """Moments whose errors are infinite where chains hardly move in the places that a moment is made of.

    `chances`: that a trajectory between a state and the one before was accepted. A narrow place, such as the neck of a
    funnel, keeps out chains with steps that are right elsewhere, and keeps in the few that enter: chains agree with
    each other, and miss it. So the mean chance, each state with its share of E|h - mean| or E(h - mean)^2, has to be
    two thirds of the plain mean, at least.
    """
    errors = [moments.mean_error.copy(), moments.sd_error.copy()]
    for begin in range(0, values.shape[1], BLOCK):
        block = slice(begin, begin + BLOCK)
        distance = np.abs(values[:, block] - moments.mean[block])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for error, size in zip(errors, (distance, distance**2), strict=True):
                ease = chances @ size / size.sum(axis=0)  # NaN of what is constant
                error[block][ease < _EASE * chances.mean()] = np.inf
    return dataclasses.replace(moments, mean_error=errors[0], sd_error=errors[1])


def missed(moved: Moments, weighted: Moments) -> Float[np.ndarray, "2 columns"]:
    """Of the first and the second moment about the mean, the shares that the weighted draws have beyond the chains'
    reach; NaN where that is not known."""
    if weighted.far is None or moved.reach is None:
        return np.full((2, moved.mean.size), np.nan)
    beyond = np.sum(weighted.far[0] > moved.reach, axis=0)
    known = (beyond < len(weighted.far[0])) & ~np.isnan(weighted.far[0, 0])  # not where it is nearer than all kept
    last = np.maximum(beyond - 1, 0)[None]
    shares = np.stack([np.take_along_axis(share, last, axis=0)[0] for share in weighted.far[1:]])
    return np.where(known, np.where(beyond > 0, shares, 0.0), np.nan)


def heavy(own: Float[np.ndarray, "*columns"]) -> Bool[np.ndarray, "*columns"]:
    """Whether tails of this k leave room for a moment that does not exist; NaN does."""
    return ~(own < _HEAVY)


def with_tails(moved: Moments, weighted: Moments) -> Moments:
    """Moments with the tail shapes of the weighted draws, where those say that a moment does not exist.

    A heavy tail is visited in a few long excursions, whose many states look like a light one; independent draws of a
    heavy-tailed proposal reach further. Where the values themselves are known to have no such tails, it is the weights
    that have them, and chains need no weights. Where chains have been as far as all but a tenth of the moment lies,
    what they have not seen of the tail changes little.
    """
    khats, beyond = [], missed(moved, weighted)
    for seen, theirs, own, share in (
        (moved.mean_khat, weighted.mean_khat, weighted.mean_own, beyond[0]),
        (moved.sd_khat, weighted.sd_khat, weighted.sd_own, beyond[1]),
    ):
        room = True if own is None else heavy(own)
        room = room & ~(share < _MISSED)
        khats.append(np.where((theirs > _NO_MOMENT) & room, np.maximum(seen, theirs), seen))
    return dataclasses.replace(moved, mean_khat=khats[0], sd_khat=khats[1])
