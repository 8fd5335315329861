"""Chains in plain coordinates, those of the draws' own covariance: whether they leave the draws where they are, and
new draws where they do not.

A map, or several Gaussians, may end where a crooked place goes on. Their weights, and chains in their coordinates, see
nothing of what is beyond; chains in plain ones go there.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
from jaxtyping import Float

from qphi.assess import TELLING_ESS, weigh
from qphi.checks.departure import departure
from qphi.checks.judge import Circumstances, Judgement, by_chains
from qphi.checks.proposal import Proposal
from qphi.checks.settle import Settling, settle
from qphi.checks.tails import with_tails
from qphi.checks.weighted import Moments, WeightCheck
from qphi.search import Search
from qphi.solvers.exact import Gaussian

__all__ = ["Redrawn", "departed", "moment_matched", "redrawn"]

_CHAINS = 256
_RHAT = 1.02  # of chains that began at draws known to be wrong


def departed(
    search: Search,
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
    values: dict[str, np.ndarray],
    moments: Moments,
    independent: int,
) -> float:
    """`departure` of chains in the coordinates of the draws' own covariance; NaN where there was no time for them.

    As many seconds as the fit has taken so far are always there, so that a slow density is no reason for doubt.
    """
    settling = _plain_chains(
        search,
        z,
        weights,
        most_moves=search.effort.doubting_moves,
        fewest=_CHAINS,  # a change is seen in many chains
        seconds=max(search.effort.seconds_of_doubt, sum(search.stages.values())),
    )
    if settling is None:
        return math.nan
    return departure(settling, search.oracle.constrained(settling.start), values, weights, moments, independent)


@dataclasses.dataclass(frozen=True)
class Redrawn:
    settling: Settling
    check: WeightCheck  # of weights under the Gaussian of the new draws' moments: these reach further than q
    judgement: Judgement
    moments: Moments


def redrawn(
    search: Search,
    case: Circumstances,
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
    before: WeightCheck,
    moments: Moments,
) -> Redrawn | None:
    """Chains in the coordinates of the draws' own covariance, for as long as there is; None where none can begin.

    They begin at draws that a crooked map made, in its narrow places too: a chain that cannot leave one differs from
    the others, and R-hat says so.
    """
    settling = _plain_chains(
        search,
        z,
        weights,
        most_moves=search.effort.most_moves,
        seconds=search.effort.seconds_of_chains,
        most_rhat=_RHAT,
        fewest_states=search.effort.fewest_states,
    )
    if settling is None:
        return None
    moments_of = moment_matched(settling.z, np.full(len(settling.z), 1 / len(settling.z)))
    if moments_of is None:
        return None
    weighed = weigh(search, Proposal((moments_of,), np.ones(1)), search.oracle)
    moved = settling.moments
    if before.ess > TELLING_ESS:
        moved = with_tails(moved, moments)
    return Redrawn(settling, weighed.check, by_chains(dataclasses.replace(case, modes=1), settling, moved, None), moved)


def _plain_chains(
    search: Search,
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
    *,
    seconds: float,
    **how: Any,
) -> Settling | None:
    """`settle` in the coordinates of the draws' own covariance; None where there is none, or no time."""
    there = search.random.permutation(np.flatnonzero(weights > 0))  # draws of chains are in the order of the chains
    plain = moment_matched(z[there], weights[there]) if np.isfinite(z[there]).all() else None
    if plain is None:
        return None
    deadline = min(search.deadline, time.monotonic() + seconds)
    return settle(
        search.oracle, (plain,), z[there], weights[there], search.random, chains=_CHAINS, deadline=deadline, **how
    )


def moment_matched(z: Float[np.ndarray, "draws dim"], weights: Float[np.ndarray, " draws"]) -> Gaussian | None:
    """The Gaussian of the draws' mean and covariance; correlations shrunk as few effective draws ask for. None where
    there is none: draws that do not vary, or too far apart for numbers."""
    mean = weights @ z
    with np.errstate(all="ignore"):
        centred = (z - mean) * np.sqrt(weights)[:, None]
        scale = np.sqrt(np.sum(centred**2, axis=0))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    correlation = (centred / scale).T @ (centred / scale)
    shrinkage = len(mean) / (len(mean) + 1 / np.sum(weights**2))
    correlation += shrinkage * (np.eye(len(mean)) - correlation)
    return Gaussian(mean, scale[:, None] * np.linalg.cholesky(correlation))
