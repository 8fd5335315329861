"""COVER: many small Gaussians over a place that no single one fits, straight or bent, in few dimensions.

A ring, a cross, two bananas: each is a row of patches. Weighted draws are parted among Gaussians by EM, and the mixture
draws the next ones, which lowers KL(p || q) from round to round: population Monte Carlo (Cappe, Douc, Guillin, Marin &
Robert 2008, Adaptive importance sampling in general mixture classes, equations 10 to 13). It begins at everything that
was weighed so far: the draws of the fits, and the places outside of them.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError
from scipy.special import logsumexp

from qphi.assess import BETTER, LESS_EVIDENCE, Assessed, assess, weigh
from qphi.checks.proposal import Proposal
from qphi.checks.weighted import check_weights
from qphi.redraw import moment_matched
from qphi.search import Search
from qphi.solvers.driven import WarpedOracle
from qphi.solvers.exact import Gaussian
from qphi.unseen import more_are_left

__all__ = ["cover"]

_MOST_DIM, _PATCHES, _PAIRS = 6, 40, 2048
_ROUNDS, _FIRST_STEPS, _STEPS = 8, 8, 3  # of draws; of EM, at first and then
_FEWEST, _REMEMBERED = 2, 3  # rounds before the last, since tails are learnt late; those that a mixture learns from
_SMALLEST, _LEAST = 1e-3, 0.25  # of the mass: a patch; of an even share, in a proposal
_EVEN, _LIGHT = 0.5, 0.3  # of the pairs' ESS, and their k: there is little more to win
_SECONDS = 10.0
_WIDE = 0.1  # the share of a part that is as wide as all patches together
_FLATTENED = 0.8  # the power of p that patches are fitted to
_NOTHING, _IDLE = 40.0, 1e-3  # nats below the largest weight; of the mean one


class _Mixture(NamedTuple):
    parts: tuple[Gaussian, ...]
    shares: Float[np.ndarray, " parts"]


class _Draws(NamedTuple):
    """Draws whose weights sum to an estimate of the evidence, and how many exact ones they are worth."""

    z: Float[np.ndarray, "draws dim"]
    log_p: Float[np.ndarray, " draws"]
    log_weight: Float[np.ndarray, " draws"]
    ess: float

    @classmethod
    def of(
        cls,
        z: Float[np.ndarray, "draws dim"],
        log_p: Float[np.ndarray, " draws"],
        log_weight: Float[np.ndarray, " draws"],
    ) -> _Draws:
        there = log_weight > log_weight.max() - _NOTHING
        z, log_p, log_weight = z[there], log_p[there], log_weight[there]
        return cls(z, log_p, log_weight, float(np.exp(2 * logsumexp(log_weight) - logsumexp(2 * log_weight))))


def cover(search: Search, plain: Assessed) -> Assessed:
    """The assessment of a mixture of patches, where its weights are better than those there are; else theirs.

    None where the weights are even as they are: what is in doubt then are the tails, of which patches draw less.
    """
    old = plain.weighed.check
    if search.oracle.dim > _MOST_DIM or search.late or old.ess > _EVEN * old.pairs:
        return plain
    deadline = min(search.deadline, time.monotonic() + max(_SECONDS, search.effort.seconds_of_chains / 2))
    best, highest = None, 0.0
    for number, (mixture, ess, khat) in enumerate(_rounds(search, plain)):
        if ess > highest:
            best, highest = mixture, ess
        if (number >= _FEWEST and ess > _EVEN * _PAIRS and khat < _LIGHT) or time.monotonic() > deadline:
            best = mixture
            break
    if best is None:
        return plain
    weighed = weigh(search, Proposal(best.parts, best.shares), search.oracle)
    new = weighed.check
    noise = 3 * math.hypot(old.log_evidence_standard_error, new.log_evidence_standard_error)
    missed = old.log_evidence - new.log_evidence > max(LESS_EVIDENCE, noise)
    if missed or not (weighed.usable and new.ess > BETTER * old.ess):
        return plain
    case = dataclasses.replace(
        plain.case,
        converged=True,
        fitted_elbo=new.elbo,
        late=search.late,
        modes_left=plain.case.modes_left
        and more_are_left(search, Proposal(best.parts, best.shares).log_prob, new.log_evidence),
        largest_log_weight=float(np.max(weighed.excess)),
        shares_known=True,
    )
    return assess(search.oracle, best.parts, weighed, case, plain.residual)


def _known(search: Search, plain: Assessed) -> list[_Draws]:
    """What has been weighed so far: draws around the fits, and places outside of them, each way for itself."""
    weighed = plain.weighed
    z = plain.oracle.warp.transport(weighed.z) if isinstance(plain.oracle, WarpedOracle) else weighed.z
    with np.errstate(divide="ignore"):
        log_weight = np.log(weighed.weights / np.sum(weighed.weights)) + weighed.check.log_evidence
    found = [_Draws.of(z, search.oracle.values(z), log_weight)]
    if search.outskirts is not None:
        found += [_Draws.of(*places) for places in search.outskirts.by_way() if len(places[0])]
    return found


def _rounds(search: Search, plain: Assessed) -> Iterator[tuple[_Mixture, float, float]]:
    """Mixtures, each from the draws of those before it, with the ESS and Pareto's k of its own pairs.

    One part is as wide as all draws: between patches and at their edges weights would have heavy tails.
    """
    known = _known(search, plain)
    z, weights = _pooled(known)
    mixture = _parted(z, weights, _scattered(search, z, weights), _FIRST_STEPS)
    for _ in range(_ROUNDS):
        wide = moment_matched(z, weights)
        if wide is None:
            return
        shares = np.maximum(mixture.shares, _LEAST / len(mixture.shares))
        parts = (*mixture.parts, wide)
        proposal = Proposal(parts, np.append((1 - _WIDE) * shares / shares.sum(), _WIDE))
        draws = proposal.draw(search.random, _PAIRS)
        log_p = search.oracle.values(draws.z)
        log_weight = log_p - draws.log_r - math.log(len(draws.z))
        if not (log_weight < math.inf).all() or not np.isfinite(log_weight).any():  # NaN too
            return
        check, _ = check_weights(log_p, draws.log_r, proposal.log_gaussian(draws.z), draws.is_gaussian)
        yield _Mixture(parts, proposal.shares), check.ess, check.khat
        known.append(_Draws.of(draws.z, log_p, log_weight))
        z, weights = _pooled(known[-_REMEMBERED:])
        mixture = _parted(z, weights, mixture, _STEPS)


def _pooled(known: list[_Draws]) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, " draws"]]:
    """All of them as draws of p^0.8, each estimate with a weight in proportion to its ESS; weights that sum to one.

    Patches with the tails of p itself would end where p's draws do, and weights beyond them have heavy tails.
    """
    log_weight = np.concatenate(
        [math.log(draws.ess) + draws.log_weight - (1 - _FLATTENED) * draws.log_p for draws in known]
    )
    weights = np.exp(log_weight - log_weight.max())
    there = weights > _IDLE * weights.mean()  # the others, together, have less than that of the mass
    return np.concatenate([draws.z for draws in known])[there], weights[there] / weights[there].sum()


def _scattered(
    search: Search,
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
) -> _Mixture:
    """A patch at each of some draws, each as wide as its share of the room that the draws take; and the fits."""
    centres = np.unique(z[search.random.choice(len(z), _PATCHES, p=weights)], axis=0)
    centred = (z - weights @ z) * np.sqrt(weights)[:, None]
    scale = np.sqrt(np.sum(centred**2, axis=0)) * len(centres) ** (-1 / z.shape[1])
    patches = [Gaussian(centre, np.diag(np.maximum(scale, 1e-300))) for centre in centres]
    parts = (*patches, *search.gaussians)
    return _Mixture(parts, np.full(len(parts), 1 / len(parts)))


def _parted(
    z: Float[np.ndarray, "draws dim"], weights: Float[np.ndarray, " draws"], mixture: _Mixture, steps: int
) -> _Mixture:
    """EM on weighted draws. A patch that few draws tell of keeps much of the covariance it had, and is dropped where
    they are too few, or it has next to no mass."""
    fewest = z.shape[1] + 2
    for _ in range(steps):
        heights = [
            math.log(share) - 0.5 * q.radius(z) - q.log_det
            for q, share in zip(mixture.parts, mixture.shares, strict=True)
        ]
        belongs = np.exp(heights - np.max(heights, axis=0))
        belongs *= weights / belongs.sum(axis=0)
        parts, shares = [], []
        for q, part in zip(mixture.parts, belongs, strict=True):
            mass = part.sum()
            if mass < _SMALLEST or (ess := mass**2 / np.sum(part**2)) < fewest:
                continue
            mean = part @ z / mass
            centred = (z - mean) * np.sqrt(part / mass)[:, None]
            covariance = (ess * centred.T @ centred + fewest * q.tril @ q.tril.T) / (ess + fewest)
            try:
                parts.append(Gaussian(mean, np.linalg.cholesky(covariance)))
            except LinAlgError:
                continue
            shares.append(mass)
        if not parts:
            return mixture
        mixture = _Mixture(tuple(parts), np.array(shares) / np.sum(shares))
    return mixture
