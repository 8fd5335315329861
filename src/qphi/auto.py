"""The ladder: from a target to draws and a verdict, without anything to tune.

CHECK   the log density itself (`preflight`)
START   climbs from dispersed places, all at once (`Pathfinder`)
FIT     a full-rank Gaussian at each distinct end (`Newton` on fixed draws, or the exact solver that was given)
PROBE   more climbs, from far outside what was found
        (above 1,000 dimensions, instead: scales and a few directions from each start, `fit_many`)
WEIGH   importance weights under a defensive proposal, lifted; tails of everything that is reported
BEND    where they do not suffice: scales that follow other coordinates (`Driven`), weighed in the same way
CORRECT short Markov chains from the weighted draws, where the weights still do not suffice
JUDGE   one word, and one for each mean and sd
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from qphi.checks.judge import Circumstances, Judgement, by_chains, by_weights
from qphi.checks.preflight import Finding, preflight, remote, saturated
from qphi.checks.proposal import Proposal
from qphi.checks.settle import settle
from qphi.checks.weighted import (
    Moments,
    WeightCheck,
    believable,
    check_weights,
    flattened,
    unflattened,
    weighted_moments,
)
from qphi.importance import ImportanceWeights
from qphi.many import fit_many, sized
from qphi.modes import (
    EFFORTS,
    PATH_STEPS,
    AsClimbed,
    Effort,
    Search,
    climb,
    fit_modes,
    fit_wide,
    follow,
    probe,
    seek_more,
)
from qphi.noise import generator
from qphi.solvers.driven import MOST_DRIVEN, Driven, WarpedOracle, fit_driven
from qphi.solvers.exact import (
    MOST_DENSE,
    AbstractExactSolver,
    AbstractGaussian,
    AbstractGaussianSolver,
    Fit,
    Gaussian,
    nearest,
)
from qphi.solvers.pathfinder import Pathfinder
from qphi.solvers.spiked import SpikedMeanField
from qphi.targets.oracle import AbstractOracle, Oracle
from qphi.targets.starts import dispersed_starts
from qphi.verdict import Trust, Verdict

__all__ = ["EFFORTS", "Effort", "Inference", "explore", "infer"]


_LEAST_SHARE = 0.05  # of the checking draws, for each mode
_TELLING_ESS, _NO_MOMENT = 200, 0.9  # pairs; Pareto k
_BETTER, _LESS_EVIDENCE = 1.2, 0.05  # a map's ESS over the Gaussians'; nats that it may miss
_NO_ERROR, _GOOD_SHARE = 0.7, 0.25  # Pareto k; of the pairs: weights that are good but for a tail
_FOLLOWED = 2  # rounds of climbs from draws that stand out


@dataclasses.dataclass(frozen=True)
class Inference:
    """Weighted draws of the posterior, the Gaussians they were made from, and the verdict.

    `z` with `weights` (summing to one) are unconstrained; `values` the same draws, named and constrained.
    """

    parts: tuple[AbstractGaussian, ...]
    shares: Float[np.ndarray, " parts"]
    z: Float[np.ndarray, "draws dim"]
    weights: Float[np.ndarray, " draws"]
    values: dict[str, np.ndarray]
    moments: Moments  # of the flattened values
    check: WeightCheck
    verdict: Verdict
    made_by: str
    stages: dict[str, float]  # seconds
    evaluations: dict[str, int]
    solver_steps: int
    importance: ImportanceWeights  # of plain draws of the Gaussians; the evidence of the defensive ones if not trusted
    warp: Driven | None = None  # q in the place of the Gaussians, where it does better than they


def infer(
    oracle: Oracle,
    key: PRNGKeyArray,
    *,
    effort: Effort,
    deadline: float = math.inf,
    solver: AbstractExactSolver[Any] | None = None,
) -> Inference:
    """Fit, check and correct, until there is something to say or `time.monotonic()` passes `deadline`.

    `solver`: what fits the Gaussians in place of `Newton`; with `Pathfinder` they are those that the climbs found.
    Raises InputError where no start has a finite density.
    """
    return _conclude(explore(oracle, key, effort=effort, deadline=deadline, solver=solver))


def explore(
    oracle: Oracle,
    key: PRNGKeyArray,
    *,
    effort: Effort,
    deadline: float = math.inf,
    solver: AbstractExactSolver[Any] | None = None,
) -> Search:
    """CHECK to PROBE: a Gaussian for each mode that is found, the best first; at least one.

    Raises InputError where no start has a finite density.
    """
    search = Search(oracle, generator(key), key, sized(effort, oracle.dim), deadline)
    if isinstance(solver, Pathfinder):
        search.climber, search.solver = solver, AsClimbed()
    elif isinstance(solver, AbstractGaussianSolver):
        search.solver = solver
    with search.stage("preflight"):
        starts, tried = dispersed_starts(oracle, search.random, effort.starts, key)
        search.findings = preflight(oracle, tried, search.random)
    if oracle.dim > MOST_DENSE:
        with search.stage("fit"):
            fit_many(search, starts[: max(2, effort.starts // 2)])
        if not search.fits:
            search.fits.append(SpikedMeanField.unfitted(starts[0]))
        return search
    with search.stage("start"):
        paths = climb(search, starts, PATH_STEPS)
    with search.stage("fit"):
        fit_modes(search, paths)
        fit_wide(search)
    if effort.probes and search.fits and not search.late:
        with search.stage("probe"):
            probe(search)
    with search.stage("probe"):
        seek_more(search)
    if not search.fits:
        # No Gaussian has a finite ELBO: say so about the best there is
        best = max(paths, key=lambda path: -path.energy)
        search.fits.append(Fit(Gaussian(best.place, 1e-3 * np.eye(oracle.dim))))
    return search


# WEIGH, CORRECT, JUDGE


@dataclasses.dataclass(frozen=True)
class _Weighed:
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


def _weigh(
    search: Search, parts: tuple[AbstractGaussian, ...], shares: Float[np.ndarray, " parts"], oracle: AbstractOracle
) -> _Weighed:
    proposal = Proposal(parts, shares)
    draws = proposal.draw(search.random, search.effort.pairs)
    log_p, log_q = oracle.values(draws.z), proposal.log_gaussian(draws.z)
    check, weights = check_weights(log_p, draws.log_r, log_q, draws.is_gaussian)
    importance = ImportanceWeights.from_log_weights((log_p - log_q)[draws.is_gaussian])
    # raw: smoothing takes the few that stand out for noise
    with np.errstate(invalid="ignore"):  # both infinite: no excess
        excess = log_p - draws.log_r - check.log_evidence
    return _Weighed(shares, draws.z, draws.is_gaussian, weights, excess, check, importance)


def _weigh_fits(search: Search) -> _Weighed:
    elbos = np.array([fit.elbo for fit in search.fits])
    with np.errstate(invalid="ignore"):  # a single one may be -inf
        shares = _floored(np.exp(elbos - elbos[0]))
    return _weigh(search, tuple(fit.q for fit in search.fits), shares, search.oracle)


def _conclude(search: Search) -> Inference:
    effort = search.effort
    with search.stage("check"):
        assessed = _assess_fits(search)
    if assessed.weighed.usable and not assessed.judgement.trust.usable:
        with search.stage("bend"):
            assessed = _bend(search, assessed)
    case, weighed, oracle = assessed.case, assessed.weighed, assessed.oracle
    judgement, values, moments = assessed.judgement, assessed.values, assessed.moments
    search.findings = (
        *search.findings,
        remote(search.oracle, case.q.mean, case.q.widest, "the widest direction of the fit"),
    )
    z, weights, made_by = weighed.z, weighed.weights, "importance weights"
    numbers = {
        "kl": weighed.check.kl,
        "log_weight_variance": weighed.check.log_weight_variance,
        "khat": weighed.check.khat,
        "ess": weighed.check.ess,
        "modes": float(case.modes),
        "residual": assessed.residual,
    }
    wanted = effort.chains > 0 and (effort.always_chains or not judgement.trust.usable)
    wanted &= case.shares_known or case.modes == 1  # else no number of moves would make the draws usable
    if weighed.usable and wanted and not search.late:
        with search.stage("correct"):
            # where a few draws have all the weight, chains begin at draws of q: dispersed
            even = search.oracle.dim > MOST_DENSE and weighed.check.ess < effort.chains
            settling = settle(
                oracle,
                assessed.parts,
                weighed.z,
                weighed.is_gaussian.astype(float) if even else weighed.weights,
                search.random,
                chains=effort.chains,
                most_moves=effort.most_moves,
                deadline=min(search.deadline, time.monotonic() + effort.seconds_of_chains),
            )
        if settling is not None:
            numbers |= {"rhat": settling.rhat, "drift": settling.drift, "moves": float(settling.moves)}
            rows = flattened(settling.values)
            equal = np.full(len(rows), 1 / len(rows))
            moved = weighted_moments(rows, equal)
            if weighed.check.ess > _TELLING_ESS:
                moved = _with_tails(moved, moments)
            good = judgement.trust.usable
            by_moves = by_chains(case, settling, moved, moments if good else None)
            if not good:
                judgement, moments = by_moves, moved
                z, weights, values, made_by = settling.z, equal, settling.values, "Markov chains"
            elif not by_moves.trust.usable and settling.settled:
                judgement = by_moves  # chains that have settled disagree with weights that look good
    search.findings = (*search.findings, saturated(search.oracle, values, weights))
    mean_ok, sd_ok = believable(moments)
    judgement = _with_findings(judgement, search.findings)
    verdict = Verdict(
        judgement.trust,
        judgement.reasons,
        judgement.advice,
        unflattened(mean_ok, values),
        unflattened(sd_ok, values),
        numbers,
    )
    importance = weighed.importance
    if verdict.trust is not Trust.TRUSTED:
        # the defensive weights know more of p than q's own draws do
        evidence, error = weighed.check.log_evidence, weighed.check.log_evidence_standard_error
        importance = dataclasses.replace(importance, log_evidence=evidence, log_evidence_standard_error=error)
    asked = {
        "values": search.oracle.values_asked,
        "gradients": search.oracle.gradients_asked,
        "hessians": search.oracle.hessians_asked,
    }
    warp = oracle.warp if isinstance(oracle, WarpedOracle) else None
    return Inference(
        assessed.parts,
        weighed.shares,
        z if warp is None else warp.transport(z),
        weights,
        values,
        moments,
        weighed.check,
        verdict,
        made_by,
        search.stages,
        asked,
        search.solver_steps,
        importance,
        warp,
    )


@dataclasses.dataclass(frozen=True)
class _Assessed:
    """Weighted draws in the coordinates of `oracle`, and what they say."""

    oracle: AbstractOracle
    parts: tuple[AbstractGaussian, ...]
    weighed: _Weighed
    values: dict[str, np.ndarray]
    moments: Moments
    case: Circumstances
    judgement: Judgement
    residual: float


def _assess_fits(search: Search) -> _Assessed:
    weighed = _weigh_fits(search)
    for _ in range(_FOLLOWED):
        if not (weighed.usable and search.oracle.dim <= MOST_DENSE and follow(search, weighed.z, weighed.excess)):
            break
        seek_more(search)
        weighed = _weigh_fits(search)
    parts = tuple(fit.q for fit in search.fits)
    if len(parts) > 1 and weighed.usable:  # again, with the shares that the weights found
        shares = np.bincount(nearest(parts, weighed.z), weighed.weights, len(parts))
        weighed = _weigh(search, parts, _floored(shares), search.oracle)
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
        shares_known=search.oracle.dim <= MOST_DENSE or weighed.check.ess > _TELLING_ESS,
    )
    return _assess(search.oracle, parts, weighed, case, best.residual)


def _assess(
    oracle: AbstractOracle,
    parts: tuple[AbstractGaussian, ...],
    weighed: _Weighed,
    case: Circumstances,
    residual: float,
    known: Moments | None = None,  # whose tails count too
) -> _Assessed:
    values = oracle.constrained(weighed.z)
    columns = flattened(values)
    moments = weighted_moments(columns, weighed.weights if weighed.usable else np.full(len(columns), np.nan))
    if known is not None:
        moments = _with_tails(moments, known)
    judgement = by_weights(case, weighed.check, moments)
    return _Assessed(oracle, parts, weighed, values, moments, case, judgement, residual)


def _bend(search: Search, plain: _Assessed) -> _Assessed:
    """The assessment of a `Driven` map from the best Gaussian, where that does better than the Gaussians; else theirs.

    Better: more effective draws, no less evidence, and none of the modes outside of it (a funnel's neck looks like a
    mode to a Gaussian).
    """
    d = search.oracle.dim
    if search.late or not 2 <= d <= MOST_DRIVEN or search.modes_left:
        return plain
    fit = fit_driven(search.oracle, search.gaussians[0], search.random, deadline=search.deadline)
    if fit is None:
        return plain
    oracle = WarpedOracle(search.oracle, fit.warp)
    parts = (Gaussian(np.zeros(d), np.eye(d)),)
    weighed = _weigh(search, parts, np.ones(1), oracle)
    old, new = plain.weighed.check, weighed.check
    if not (weighed.usable and new.ess > _BETTER * old.ess):
        return plain
    if len(plain.parts) > 1:
        places = fit.warp.inverse(np.array([q.mean for q in plain.parts]))
        outside = parts[0].radius(places) > d + 6 * math.sqrt(2 * d) + 9
        noise = 3 * math.hypot(old.log_evidence_standard_error, new.log_evidence_standard_error)
        if outside.any() or new.log_evidence < old.log_evidence - max(_LESS_EVIDENCE, noise):
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
    good = old.khat < _NO_ERROR and old.ess > _GOOD_SHARE * old.pairs
    known = plain.moments if good else None
    return _assess(oracle, parts, weighed, case, plain.residual, known)


def _with_tails(moved: Moments, weighted: Moments) -> Moments:
    """Moments with the tail shapes of the weighted draws, where those say that a moment does not exist.

    A heavy tail is visited in a few long excursions, whose many states look like a light one; independent draws of a
    heavy-tailed proposal reach further.
    """
    mean_khat, sd_khat = (
        np.where(theirs > _NO_MOMENT, np.maximum(own, theirs), own)
        for own, theirs in ((moved.mean_khat, weighted.mean_khat), (moved.sd_khat, weighted.sd_khat))
    )
    return dataclasses.replace(moved, mean_khat=mean_khat, sd_khat=sd_khat)


def _floored(shares: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
    """Shares that sum to one, none so small that its mode would hardly be drawn."""
    shares = np.maximum(np.nan_to_num(shares / np.sum(shares)), _LEAST_SHARE)
    return shares / shares.sum()


def _with_findings(judgement: Judgement, findings: tuple[Finding, ...]) -> Judgement:
    """The judgement in the light of the preflight: an improper posterior cannot be usable."""
    for finding in findings:
        if finding.passed:
            continue
        if finding.name == "support" and judgement.trust.usable:
            continue  # an edge that the fit has coped with
        improper = finding.name in ("proper", "rounding")
        usable = judgement.trust.usable and not improper
        trust = Trust.UNRELIABLE if improper and judgement.trust.usable else judgement.trust
        reasons = (*judgement.reasons, finding.found) if usable else (finding.found, *judgement.reasons)
        judgement = Judgement(trust, reasons, judgement.advice if usable else finding.advice)
    return judgement
