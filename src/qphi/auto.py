"""The ladder: from a target to draws and a verdict, without anything to tune.

CHECK   the log density itself (`preflight`)
START   climbs from dispersed places, all at once (`Pathfinder`), and mean-field fits of some (`fit_level`)
FIT     a full-rank Gaussian at each distinct end (`Newton` on fixed draws, `SteinNewton` where Hessians are dear, or
        the exact solver that was given)
PROBE   more climbs, from far outside what was found, a fit as wide as the mass there, and fits that cross the others
CERTIFY would other draws give another Gaussian? If so, more of them (`certify`)
        (above 1,000 dimensions, instead: scales and a few directions from each start, `fit_many`)
WEIGH   importance weights under a defensive proposal, lifted; tails of everything that is reported
REACH   where these leave moments in doubt: weights of draws that reach far out (`reach`)
BEND    where they do not suffice: scales that follow other coordinates (`Driven`), weighed in the same way
COVER   in few dimensions, where neither does: many small Gaussians, by rounds of weighted draws (`cover`)
CORRECT short Markov chains from the weighted draws, where the weights still do not suffice
DOUBT   a map, or several Gaussians: do chains in plain coordinates leave the draws where they are?
REDRAW  if they do not, or chains in the map's coordinates have not settled: long chains in plain ones, and new weights
LOOK    has a corrected answer mass beyond all of its draws? Have places outside seen more evidence than they?
JUDGE   one word, and one for each mean and sd
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from threadpoolctl import threadpool_limits

from qphi.assess import TELLING_ESS, Weighed, assess_fits, bend
from qphi.checks.beyond import mass_beyond
from qphi.checks.judge import Judgement, beyond_help, by_chains, doubted, outdone, outreached
from qphi.checks.preflight import Finding, preflight, remote, saturated
from qphi.checks.settle import settle
from qphi.checks.tails import with_tails
from qphi.checks.weighted import (
    Moments,
    WeightCheck,
    believable,
    unflattened,
    weighted_moments,
)
from qphi.cover import cover
from qphi.importance import ImportanceWeights
from qphi.many import fit_many, sized
from qphi.modes import PATH_STEPS, AsClimbed, certify, climb, fit_level, fit_modes, fit_wide
from qphi.noise import generator
from qphi.outskirts import Estimate
from qphi.reach import reach
from qphi.redraw import departed, redrawn
from qphi.search import EFFORTS, Effort, Search
from qphi.solvers.driven import Driven, WarpedOracle
from qphi.solvers.exact import (
    MOST_DENSE,
    AbstractExactSolver,
    AbstractGaussian,
    AbstractGaussianSolver,
    Fit,
    Gaussian,
)
from qphi.solvers.newton import SteinNewton
from qphi.solvers.pathfinder import Pathfinder
from qphi.solvers.spiked import SpikedMeanField
from qphi.targets.oracle import Oracle
from qphi.targets.starts import dispersed_starts
from qphi.unseen import probe, seek_more
from qphi.verdict import Trust, Verdict

__all__ = ["EFFORTS", "Effort", "Inference", "explore", "infer"]

_NO_ANSWER = ("proper", "rounding")  # findings that make every answer unusable
# Threads of BLAS gain little on small matrices, and where cores are shared they wait for each other: 42 s for 2 s seen
_SMALL = 300
# Dimensions up to which one gradient after another is better spent than on Hessians
_DEAR = 64
# Dimensions up to which, and coordinates along which, mass beyond all draws is looked for
_LOOKED_BEYOND, _ALONG, _FEW_ALONG = 100, 16, 3


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

    `solver`: what fits the Gaussians in place of Newton's method; with `Pathfinder` they are those of the climbs.
    Raises InputError where no start has a finite density.
    """
    with threadpool_limits(1 if oracle.dim <= _SMALL else None, user_api="blas"):
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
    elif oracle.one_by_one and oracle.dim <= _DEAR:
        search.solver = SteinNewton()
    with search.stage("preflight"):
        if oracle.dim <= MOST_DENSE:
            oracle.prepare(search.solver.count(oracle.dim) if search.solver.uses_hessians else 0)
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
        fit_level(search, starts, paths)
        fit_modes(search, paths)
        fit_wide(search)
    if effort.probes and search.fits and not search.late:
        with search.stage("probe"):
            probe(search)
    with search.stage("probe"):
        seek_more(search)
    with search.stage("certify"):
        certify(search)
    if not search.fits:
        # No Gaussian has a finite ELBO: say so about the best there is
        best = max(paths, key=lambda path: -path.energy)
        search.fits.append(Fit(Gaussian(best.place, 1e-3 * np.eye(oracle.dim))))
    return search


def _conclude(search: Search) -> Inference:
    effort = search.effort
    with search.stage("check"):
        assessed = assess_fits(search)
    covered = False
    endless = False
    if assessed.weighed.usable and not assessed.judgement.trust.usable:
        with search.stage("reach"):
            assessed = reach(search, assessed)
        endless = beyond_help(assessed.weighed.check, assessed.moments)
    if assessed.weighed.usable and not assessed.judgement.trust.usable and not endless:
        with search.stage("bend"):
            straight, assessed = assessed, bend(search, assessed)
            if assessed is not straight and not assessed.judgement.trust.usable:
                assessed = reach(search, assessed)
        if not assessed.judgement.trust.usable:
            with search.stage("cover"):
                straight, assessed = assessed, cover(search, assessed)
            covered = assessed is not straight
            endless = beyond_help(assessed.weighed.check, assessed.moments)
    case, weighed, oracle = assessed.case, assessed.weighed, assessed.oracle
    judgement, values, moments = assessed.judgement, assessed.values, assessed.moments
    independent = len(weighed.z) // 2  # pairs
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
        "draw_error": search.draw_error,
    }
    bent, stuck = oracle is not search.oracle, False
    wanted = effort.chains > 0 and (effort.always_chains or not judgement.trust.usable)
    wanted &= (
        case.shares_known or case.modes == 1
    ) and not endless  # else no number of moves would make the draws usable
    improper = any(finding.name in _NO_ANSWER and not finding.passed for finding in search.findings)
    if weighed.usable and wanted and not improper and not search.late:
        # twice as long as the fit has taken, at least: a slow density is no reason to stop short
        seconds = max(effort.seconds_of_chains, 2 * sum(search.stages.values()))
        told = weighed.check.ess > TELLING_ESS
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
                deadline=min(search.deadline, time.monotonic() + seconds),
                fewest_states=0 if judgement.trust.usable else effort.fewest_states,  # 0: they only check
                weighted=moments if told else None,
            )
        if settling is not None:
            numbers |= {"rhat": settling.rhat, "drift": settling.drift, "moves": float(settling.moves)}
            equal, moved = np.full(len(settling.z), 1 / len(settling.z)), settling.moments
            if told:
                moved = with_tails(moved, moments)
            good = judgement.trust.usable
            by_moves = by_chains(case, settling, moved, moments if good else None)
            stuck = (bent or covered or case.modes > 1) and not (settling.settled or case.modes_left)
            if not good:
                judgement, moments = by_moves, moved
                z, weights, values, made_by = settling.z, equal, settling.values, "Markov chains"
                independent = settling.chains
            elif settling.settled and not by_moves.trust.usable:
                judgement = by_moves  # chains that have settled disagree with weights that look good
    warp = oracle.warp if isinstance(oracle, WarpedOracle) else None
    z = z if warp is None else warp.transport(z)
    crooked = bent or covered or (case.modes > 1 and judgement.trust is Trust.CORRECTED and made_by != "Markov chains")
    if crooked and judgement.trust.usable and not improper and search.oracle.dim <= MOST_DENSE:
        with search.stage("doubt"):
            numbers["departure"] = departed(search, z, weights, values, moments, independent)
        judgement = doubted(case, judgement, numbers["departure"])
        stuck = numbers["departure"] > 0 and not judgement.trust.usable
    importance = weighed.importance
    # the defensive weights know more of p than q's own draws do
    evidence, error = weighed.check.log_evidence, weighed.check.log_evidence_standard_error
    if stuck and effort.chains > 0 and not judgement.trust.usable and not search.late:
        with search.stage("redraw"):
            anew = redrawn(search, case, z, weights, weighed.check, moments)
        if anew is not None and anew.judgement.trust.usable:
            settling, judgement, moments = anew.settling, anew.judgement, anew.moments
            z, weights, values = settling.z, np.full(len(settling.z), 1 / len(settling.z)), settling.values
            made_by = "Markov chains"
            numbers |= {"rhat": settling.rhat, "drift": settling.drift, "moves": float(settling.moves)}
            evidence, error = anew.check.log_evidence, anew.check.log_evidence_standard_error
    if judgement.trust is Trust.CORRECTED and not search.late and search.oracle.dim <= _LOOKED_BEYOND:
        with search.stage("doubt"):
            added = _added_beyond(search, weighed, z, weights, evidence)
        numbers["beyond"] = float(added.max(initial=0.0))
        judgement, moments = outreached(case, judgement, moments, added)
    judgement = outdone(case, judgement, search.seen, Estimate(evidence, error))
    search.findings = (*search.findings, saturated(search.oracle, z, values, weights))
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
    if verdict.trust is not Trust.TRUSTED:
        importance = dataclasses.replace(importance, log_evidence=evidence, log_evidence_standard_error=error)
    asked = {
        "values": search.oracle.values_asked,
        "gradients": search.oracle.gradients_asked,
        "hessians": search.oracle.hessians_asked,
    }
    return Inference(
        assessed.parts,
        weighed.shares,
        z,
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


def _added_beyond(
    search: Search,
    weighed: Weighed,
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
    log_evidence: float,
) -> Float[np.ndarray, " columns"]:
    """`mass_beyond` along the coordinates that have the heaviest tails by the weights: few where Hessians are dear."""
    oracle = search.oracle
    tails = weighted_moments(weighed.z, weighed.weights).sd_khat
    along = np.argsort(-np.nan_to_num(tails, nan=math.inf))[: _FEW_ALONG if oracle.one_by_one else _ALONG]
    look = oracle.mean_curvature if search.solver.uses_hessians else oracle.differenced
    return mass_beyond(oracle, look, z, weights, log_evidence, [int(coordinate) for coordinate in along])


def _with_findings(judgement: Judgement, findings: tuple[Finding, ...]) -> Judgement:
    """The judgement in the light of the preflight: an improper posterior cannot be usable."""
    for finding in findings:
        if finding.passed:
            continue
        if finding.name == "support" and judgement.trust.usable:
            continue  # an edge that the fit has coped with
        improper = finding.name in _NO_ANSWER
        usable = judgement.trust.usable and not improper
        trust = Trust.UNRELIABLE if improper and judgement.trust.usable else judgement.trust
        reasons = (*judgement.reasons, finding.found) if usable else (finding.found, *judgement.reasons)
        judgement = Judgement(trust, reasons, judgement.advice if usable else finding.advice)
    return judgement
