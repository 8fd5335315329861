"""WEIGH and BEND: what weighted draws say of the Gaussians that were found, and of a bent map in their place."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
from jaxtyping import Bool, Float

from qphi.checks.judge import Circumstances, Judgement, by_weights
from qphi.checks.proposal import Proposal
from qphi.checks.reaching import Reaching
from qphi.checks.tails import with_own_tails, with_tails
from qphi.checks.weighted import (
    Moments,
    WeightCheck,
    check_weights,
    flattened,
    weighted_moments,
)
from qphi.importance import ImportanceWeights
from qphi.search import Search
from qphi.solvers.driven import WarpedOracle, fit_driven
from qphi.solvers.exact import MOST_DENSE, AbstractGaussian, Gaussian, nearest
from qphi.targets.oracle import AbstractOracle
from qphi.unseen import follow, more_are_left, seek_more

__all__ = [
    "BETTER",
    "LESS_EVIDENCE",
    "TELLING_ESS",
    "Assessed",
    "Weighed",
    "assess",
    "assess_fits",
    "bend",
    "weigh",
    "without_idle",
]

TELLING_ESS = 200  # pairs: weights that tell something of tails and of modes' shares
_LEAST_SHARE = 0.05  # of the checking draws, for each mode
BETTER, LESS_EVIDENCE = 1.2, 0.05  # the ESS of another q over the Gaussians'; nats that it may miss
_NO_ERROR, _FAIR_SHARE = 0.7, 0.2  # Pareto k; of the pairs: weights that are good but for a tail
_SECONDS_OF_BENDING = 10.0
_FOLLOWED = 2  # rounds of climbs from draws that stand out


@dataclasses.dataclass(frozen=True)
class Weighed:
    """Draws under the proposal with their weights; NaN weights where log p is not finite somewhere."""

    shares: Float[np.ndarray, " parts"]
    z: Float[np.ndarray, "draws dim"]
    is_gaussian: Bool[np.ndarray, " draws"]
    weights: Float[np.ndarray, " draws"]
    excess: Float[np.ndarray, " draws"]  # of each raw log weight over the log of their smoothed mean
    check: WeightCheck
    importance: ImportanceWeights

    @property
    def usable(self) -> bool:
        return bool(np.isfinite(self.weights).all()) and self.check.ess > 0


def weigh(search: Search, proposal: Proposal | Reaching, oracle: AbstractOracle, times: int = 1) -> Weighed:
    """Draws of the proposal, so many `times` what the effort says, with their weights."""
    draws = proposal.draw(search.random, times * search.effort.pairs)
    log_p, log_q = oracle.values(draws.z), proposal.log_gaussian(draws.z)
    check, weights = check_weights(log_p, draws.log_r, log_q, draws.is_gaussian)
    importance = ImportanceWeights.from_log_weights((log_p - log_q)[draws.is_gaussian])
    # raw: smoothing takes the few that stand out for noise
    with np.errstate(invalid="ignore"):  # both infinite: no excess
        excess = log_p - draws.log_r - check.log_evidence
    return Weighed(proposal.shares, draws.z, draws.is_gaussian, weights, excess, check, importance)


def _weigh_fits(search: Search) -> Weighed:
    elbos = np.array([fit.elbo for fit in search.fits])
    with np.errstate(invalid="ignore"):  # a single one may be -inf
        shares = _floored(np.exp(elbos - elbos[0]))
    return weigh(search, Proposal(tuple(fit.q for fit in search.fits), shares), search.oracle)


@dataclasses.dataclass(frozen=True)
class Assessed:
    """Weighted draws in the coordinates of `oracle`, and what they say."""

    oracle: AbstractOracle
    parts: tuple[AbstractGaussian, ...]
    weighed: Weighed
    values: dict[str, np.ndarray]
    moments: Moments
    case: Circumstances
    judgement: Judgement
    residual: float


def assess_fits(search: Search) -> Assessed:
    weighed = _weigh_fits(search)
    for _ in range(_FOLLOWED):
        if not (weighed.usable and search.oracle.dim <= MOST_DENSE and follow(search, weighed.z, weighed.excess)):
            break
        seek_more(search)
        weighed = _weigh_fits(search)
    parts = tuple(fit.q for fit in search.fits)
    if len(parts) > 1 and weighed.usable:  # again, with the shares that the weights found
        shares = np.bincount(nearest(parts, weighed.z), weighed.weights, len(parts))
        weighed = weigh(search, Proposal(parts, _floored(shares)), search.oracle)
        if search.modes_left and weighed.usable and weighed.check.ess > TELLING_ESS:
            log_r = Proposal(parts, weighed.shares).log_prob
            search.modes_left = more_are_left(search, log_r, weighed.check.log_evidence)
    best = search.fits[0]
    case = Circumstances(
        q=best.q,
        modes=len(parts),
        converged=best.residual <= search.solver.tolerance,
        fitted_elbo=best.elbo,
        late=search.late,
        modes_left=search.modes_left,
        largest_log_weight=float(np.max(weighed.excess)) if weighed.usable else math.inf,
        thorough=search.effort.always_chains,
        shares_known=search.oracle.dim <= MOST_DENSE or weighed.check.ess > TELLING_ESS,
    )
    return assess(search.oracle, parts, weighed, case, best.residual)


def assess(
    oracle: AbstractOracle,
    parts: tuple[AbstractGaussian, ...],
    weighed: Weighed,
    case: Circumstances,
    residual: float,
    known: Moments | None = None,  # whose tails count too
) -> Assessed:
    values = oracle.constrained(weighed.z)
    columns = without_idle(flattened(values), weighed.weights)
    moments = weighted_moments(columns, weighed.weights if weighed.usable else np.full(len(columns), np.nan))
    if weighed.check.ess > TELLING_ESS:
        moments = with_own_tails(moments, columns, weighed.weights, weighed.check.ess, weighed.check.khat)
    if known is not None:
        moments = with_tails(moments, known)
    judgement = by_weights(case, weighed.check, moments)
    return Assessed(oracle, parts, weighed, values, moments, case, judgement, residual)


def bend(search: Search, plain: Assessed) -> Assessed:
    """The assessment of a `Driven` map from the best Gaussian, where that does better than the Gaussians; else theirs.

    Better: more effective draws, no heavier tails where the Gaussians have fair ones, no less evidence, and none of the
    modes outside of it (a funnel's neck looks like a mode to a Gaussian).
    """
    d = search.oracle.dim
    if search.late or not 2 <= d <= MOST_DENSE or search.modes_left:
        return plain
    deadline = min(search.deadline, time.monotonic() + max(_SECONDS_OF_BENDING, search.effort.seconds_of_chains))
    fit = fit_driven(search.oracle, search.gaussians[0], search.random, deadline=deadline)
    if fit is None:
        return plain
    oracle = WarpedOracle(search.oracle, fit.warp)
    parts = (Gaussian(np.zeros(d), np.eye(d)),)
    weighed = weigh(search, Proposal(parts, np.ones(1)), oracle)
    old, new = plain.weighed.check, weighed.check
    if not (weighed.usable and new.ess > BETTER * old.ess):
        return plain
    fair = old.ess > _FAIR_SHARE * old.pairs
    if fair and new.khat > max(old.khat, _NO_ERROR):
        return plain  # more even in the bulk is no gain where tails are cut off: chains would not get there either
    if len(plain.parts) > 1:
        places = fit.warp.inverse(np.array([q.mean for q in plain.parts]))
        outside = parts[0].radius(places) > d + 6 * math.sqrt(2 * d) + 9
        noise = 3 * math.hypot(old.log_evidence_standard_error, new.log_evidence_standard_error)
        if outside.any() or new.log_evidence < old.log_evidence - max(LESS_EVIDENCE, noise):
            return plain
    case = dataclasses.replace(
        plain.case,
        modes=1,
        converged=fit.finished,
        fitted_elbo=fit.elbo,
        late=search.late,
        largest_log_weight=float(np.max(weighed.excess)),
    )
    # A map that follows a heavy tail has weights that say nothing of it, and too few draws far out to see it. Weights
    # of Gaussians that were good but for such a tail have seen it; others are wild for reasons of their own
    known = plain.moments if fair and old.khat < _NO_ERROR else None
    return assess(oracle, parts, weighed, case, plain.residual, known)


def _floored(shares: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
    """Shares that sum to one, none so small that its mode would hardly be drawn."""
    shares = np.maximum(np.nan_to_num(shares / np.sum(shares)), _LEAST_SHARE)
    return shares / shares.sum()


def without_idle(
    columns: Float[np.ndarray, "draws columns"], weights: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, "draws columns"]:
    """The values with those of the heaviest draw where one is infinite and its draw has no weight.

    Far out a scale overflows where log p is -inf: it has no part in any moment, and 0 times infinity is none.
    """
    idle = np.isinf(columns) & (weights == 0)[:, None]
    return np.where(idle, columns[np.argmax(weights)], columns)
