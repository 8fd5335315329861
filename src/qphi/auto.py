"""The ladder: from a target to draws and a verdict, without anything to tune.

CHECK   the log density itself (`preflight`)
START   climbs from dispersed places, all at once (`Pathfinder`)
FIT     a full-rank Gaussian at each distinct end (`Newton` on fixed draws)
PROBE   more climbs, from far outside what was found
WEIGH   importance weights under a defensive proposal, lifted; tails of everything that is reported
CORRECT short Markov chains from the weighted draws, where the weights do not suffice
JUDGE   one word, and one for each mean and sd
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.linalg import LinAlgError
from scipy.special import logsumexp

from qphi.checks.judge import Circumstances, Judgement, believable, by_chains, by_weights
from qphi.checks.preflight import Finding, preflight
from qphi.checks.proposal import Proposal
from qphi.checks.settle import settle
from qphi.checks.weighted import (
    Moments,
    WeightCheck,
    check_weights,
    flattened,
    unflattened,
    weighted_moments,
)
from qphi.importance import ImportanceWeights
from qphi.noise import fixed_draws, generator
from qphi.solvers.exact import Gaussian, nearest, solve
from qphi.solvers.newton import Newton, NewtonState, inverse_factor
from qphi.solvers.pathfinder import Path, Pathfinder
from qphi.targets.oracle import Oracle
from qphi.targets.starts import dispersed_starts
from qphi.verdict import Trust, Verdict

__all__ = ["EFFORTS", "Effort", "Inference", "infer"]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work a fit may be, whatever the target."""

    starts: int  # climbs
    probes: int  # climbs from outside
    pairs: int  # checking draws, with their reflections
    chains: int  # 0: never
    most_moves: int  # of each chain
    always_chains: bool  # also when the weights are good
    seconds_of_chains: float


EFFORTS = {
    "quick": Effort(4, 0, 2048, 0, 0, False, 0.0),
    "standard": Effort(8, 8, 4096, 256, 2048, False, 30.0),
    "thorough": Effort(16, 16, 16384, 512, 6144, True, 1800.0),
}

_PATH_DRAWS = 6  # that score a place on a path
_PATH_STEPS, _NEWTON_STEPS, _PROBE_STEPS = 1000, 100, 200
_MOST_MODES = 6
_TOWERS = 3.0  # nats
_NESTED_DIM, _NARROW, _WIDE_STEPS = 20, 3.0, 40
_NEARLY = 0.1  # posterior sds: how close to its end a further fit has to be, to count as a mode
_FAR_BELOW = 30.0  # nats: a path this far below is not worth a fit
_NEGLIGIBLE = 10.0  # nats: a mode this far below the best has no weight
_LEAST_SHARE = 0.05  # of the checking draws, for each mode


@dataclasses.dataclass(frozen=True)
class Inference:
    """Weighted draws of the posterior, the Gaussians they were made from, and the verdict.

    `z` with `weights` (summing to one) are unconstrained; `values` the same draws, named and constrained.
    """

    parts: tuple[Gaussian, ...]
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
    newton_steps: int
    importance: ImportanceWeights  # of plain draws of the Gaussians


@dataclasses.dataclass
class _Search:
    """What a running inference carries from stage to stage."""

    oracle: Oracle
    random: np.random.Generator
    key: PRNGKeyArray
    effort: Effort
    deadline: float
    watch: Callable[[str], None] | None
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    fits: list[NewtonState] = dataclasses.field(default_factory=list)  # one for each mode, the best first
    newton_steps: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def late(self) -> bool:
        return time.monotonic() >= self.deadline

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        if self.watch:
            self.watch(name)
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began


def infer(
    oracle: Oracle,
    key: PRNGKeyArray,
    *,
    effort: Effort,
    deadline: float = math.inf,
    watch: Callable[[str], None] | None = None,
) -> Inference:
    """Fit, check and correct, until there is something to say or `time.monotonic()` passes `deadline`.

    Raises InputError where no start has a finite density. `watch` is told the name of each stage as it begins.
    """
    search = _Search(oracle, generator(key), key, effort, deadline, watch)
    with search.stage("preflight"):
        starts, tried = dispersed_starts(oracle, search.random, effort.starts, key)
        search.findings = preflight(oracle, tried, search.random)
    with search.stage("start"):
        paths = _climb(search, starts, _PATH_STEPS)
    with search.stage("fit"):
        _fit_modes(search, paths)
        _fit_wide(search)
    if effort.probes and search.fits and not search.late:
        with search.stage("probe"):
            _probe(search)
    if not search.fits:
        # No Gaussian has a finite ELBO: say so about the best there is
        best = max(paths, key=lambda path: -path.energy)
        search.fits.append(NewtonState(Gaussian(best.place, 1e-3 * np.eye(oracle.dim)), np.eye(oracle.dim)))
    return _conclude(search)


# START and FIT


def _climb(search: _Search, starts: Float[np.ndarray, "starts dim"], steps: int) -> list[Path]:
    solver = Pathfinder(fixed_draws(search.random, _PATH_DRAWS, search.oracle.dim))
    paths, _ = solve(search.oracle, solver, starts, max_steps=steps, deadline=search.deadline)
    return sorted(paths, key=lambda path: -path.best_elbo)


def _fit_modes(search: _Search, paths: list[Path]) -> None:
    """A Gaussian at the best path's end, and at those of others that it does not explain."""
    fits = 0
    for path in paths:
        if path.best is None or fits >= _MOST_MODES or search.late:
            continue
        start = path.best
        if search.fits:
            spike = _spike(search, path)
            far_below = path.best_elbo < search.fits[0].elbo - _FAR_BELOW
            if spike is None and (far_below or _explained(search, path.place)):
                continue
            start = start if spike is None else spike
        fits += 1
        fit = _newton(search, start)
        # A further Gaussian that is still on its way is no mode but where a path was given up: in a funnel's neck, say
        if fit is not None and (not search.fits or fit.residual < _NEARLY):
            _keep(search, fit)


def _spike(search: _Search, path: Path) -> Gaussian | None:
    """Laplace's Gaussian at a path's end, where the density towers over what the fits say and has mass to count."""
    if path.slope is None:
        return None
    dim, z = len(path.place), path.place[None]
    height = logsumexp([f.elbo - f.q.entropy + 0.5 * (dim - f.q.radius(z)[0]) for f in search.fits])
    if -path.energy < height + _TOWERS:
        return None
    # the climb's own idea of the curvature may be that of the surroundings; as many rows as the fit's, one program
    _, _, hessian = search.oracle.mean_curvature(np.repeat(z, _newton_draws(dim), axis=0))
    try:
        end = Gaussian(path.place, inverse_factor(-hessian))
    except (LinAlgError, ValueError):
        return None
    mass = -path.energy + end.entropy - 0.5 * dim
    return end if mass > search.fits[0].elbo - _NEGLIGIBLE else None


def _fit_wide(search: _Search) -> None:
    """Once more from a Gaussian as wide as the box of starts: climbs end in the narrowest of nested modes.

    In few dimensions only, where a mode that is much narrower can have as much mass as the one around it.
    """
    dim = search.oracle.dim
    if not search.fits or dim > _NESTED_DIM or search.late:
        return
    q = search.fits[0].q
    if np.sqrt(np.sum(q.tril**2, axis=1)).max() > 1 / _NARROW:
        return  # as wide as that already, give or take
    solver = Newton(fixed_draws(search.random, _newton_draws(dim), dim))
    wide = Gaussian(q.mean, np.eye(dim))
    state, steps = solve(search.oracle, solver, wide, max_steps=_WIDE_STEPS, deadline=search.deadline)
    search.newton_steps += steps
    if solver.answer(state) is not None and state.residual < _NEARLY:
        _keep(search, state)


def _keep(search: _Search, fit: NewtonState) -> None:
    """Add a fit that is none of those there are, and drop those without weight."""
    if any(_same(fit.q, other.q) for other in search.fits):
        return
    search.fits.append(fit)
    search.fits.sort(key=lambda state: -state.elbo)
    best = search.fits[0].elbo
    search.fits[:] = [fit for fit in search.fits if fit.elbo > best - _NEGLIGIBLE]


def _same(q: Gaussian, other: Gaussian) -> bool:
    """Whether the one's mean lies where the other has its mass, and they are about as large."""
    d = len(q.mean)
    reach = d + 6 * math.sqrt(2 * d) + 9
    close = min(q.radius(other.mean[None])[0], other.radius(q.mean[None])[0]) < reach
    return bool(close) and abs(q.entropy - other.entropy) < 1.0 + 0.2 * d


def _newton(search: _Search, start: Gaussian) -> NewtonState | None:
    solver = Newton(fixed_draws(search.random, _newton_draws(search.oracle.dim), search.oracle.dim))
    for narrower in (1.0, 0.3, 0.03):
        q = Gaussian(start.mean, narrower * start.tril)
        state, steps = solve(search.oracle, solver, q, max_steps=_NEWTON_STEPS, deadline=search.deadline)
        search.newton_steps += steps
        if solver.answer(state) is not None:
            return state
    return None


def _newton_draws(dim: int) -> int:
    """4 dim draws while they are cheap. Above 64 dimensions fewer than can be whitened will do: their mean gradient
    and Hessian are exact for a Gaussian target all the same, being antithetic, and a Hessian costs `dim` products."""
    return max(64, 4 * dim) if dim <= 64 else 128 if dim <= 300 else 64


def _explained(search: _Search, z: Float[np.ndarray, " dim"]) -> bool:
    """Whether z lies where one of the fits has its mass, or not much further out."""
    d = search.oracle.dim
    return any(fit.q.radius(z[None])[0] < d + 6 * math.sqrt(2 * d) + 9 for fit in search.fits)


def _probe(search: _Search) -> None:
    """Climb from the likeliest of many places far outside of everything that was found."""
    q, d = search.fits[0].q, search.oracle.dim
    far = search.random.standard_normal((1024, d)) * (3 / np.sqrt(search.random.chisquare(3, (1024, 1)) / 3))
    z = q.transport(far)
    value = search.oracle.values(z)
    outside = np.isfinite(value) & np.array([not _explained(search, row) for row in z])
    # climbs of many dimensions are long, and lead back
    probes, steps = (search.effort.probes, _PROBE_STEPS) if d <= 100 else (search.effort.probes // 2, _PROBE_STEPS // 2)
    chosen = np.flatnonzero(outside)[np.argsort(-value[outside])][:probes]
    if len(chosen):
        _fit_modes(search, _climb(search, z[chosen], steps))


# WEIGH, CORRECT, JUDGE


@dataclasses.dataclass(frozen=True)
class _Weighed:
    """Draws under the proposal with their weights; NaN weights where log p is not finite somewhere."""

    shares: Float[np.ndarray, " parts"]
    z: Float[np.ndarray, "draws dim"]
    weights: Float[np.ndarray, " draws"]
    check: WeightCheck
    importance: ImportanceWeights

    @property
    def usable(self) -> bool:
        return bool(np.isfinite(self.weights).all()) and self.check.ess > 0


def _weigh(search: _Search, parts: tuple[Gaussian, ...], shares: Float[np.ndarray, " parts"]) -> _Weighed:
    proposal = Proposal(np.array([q.mean for q in parts]), np.array([q.tril for q in parts]), shares)
    draws = proposal.draw(search.random, search.effort.pairs)
    log_p, log_q = search.oracle.values(draws.z), proposal.log_gaussian(draws.z)
    check, weights = check_weights(log_p, draws.log_r, log_q, draws.is_gaussian)
    importance = ImportanceWeights.from_log_weights((log_p - log_q)[draws.is_gaussian])
    return _Weighed(shares, draws.z, weights, check, importance)


def _conclude(search: _Search) -> Inference:
    oracle, effort = search.oracle, search.effort
    parts = tuple(fit.q for fit in search.fits)
    with search.stage("check"):
        weighed = _weigh(search, parts, _floored(np.exp([fit.elbo - search.fits[0].elbo for fit in search.fits])))
        if len(parts) > 1 and weighed.usable:  # again, with the shares that the weights found
            shares = np.bincount(nearest(parts, weighed.z), weighed.weights, len(parts))
            weighed = _weigh(search, parts, _floored(shares))
        values = oracle.constrained(weighed.z)
        columns = flattened(values)
        moments = weighted_moments(columns, weighed.weights if weighed.usable else np.full(len(columns), np.nan))
    best = search.fits[0]
    case = Circumstances(
        q=best.q,
        modes=len(parts),
        converged=best.residual <= Newton.tolerance,
        fitted_elbo=best.elbo,
        late=search.late,
        thorough=effort is EFFORTS["thorough"],
    )
    judgement = by_weights(case, weighed.check, moments)
    z, weights, made_by = weighed.z, weighed.weights, "importance weights"
    numbers = {
        "kl": weighed.check.kl,
        "log_weight_variance": weighed.check.log_weight_variance,
        "khat": weighed.check.khat,
        "ess": weighed.check.ess,
        "modes": float(len(parts)),
        "residual": best.residual,
    }
    wanted = effort.chains > 0 and (effort.always_chains or not judgement.trust.usable)
    if weighed.usable and wanted and not search.late:
        with search.stage("correct"):
            settling = settle(
                oracle,
                parts,
                weighed.z,
                weighed.weights,
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
            good = judgement.trust.usable
            by_moves = by_chains(case, settling, moved, moments if good else None)
            if not good:
                judgement, moments = by_moves, moved
                z, weights, values, made_by = settling.z, equal, settling.values, "Markov chains"
            elif not by_moves.trust.usable and settling.settled:
                judgement = by_moves  # chains that have settled disagree with weights that look good
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
    asked = {
        "values": oracle.values_asked,
        "gradients": oracle.gradients_asked,
        "hessians": oracle.hessians_asked,
    }
    return Inference(
        parts,
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
        search.newton_steps,
        weighed.importance,
    )


def _floored(shares: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
    """Shares that sum to one, none so small that its mode would hardly be drawn."""
    shares = np.maximum(np.nan_to_num(shares / np.sum(shares)), _LEAST_SHARE)
    return shares / shares.sum()


def _with_findings(judgement: Judgement, findings: tuple[Finding, ...]) -> Judgement:
    """The judgement in the light of the preflight: an improper posterior cannot be usable."""
    for finding in findings:
        if finding.passed:
            continue
        improper = finding.name == "proper"
        usable = judgement.trust.usable and not improper
        trust = Trust.UNRELIABLE if improper and judgement.trust.usable else judgement.trust
        reasons = (*judgement.reasons, finding.found) if usable else (finding.found, *judgement.reasons)
        judgement = Judgement(trust, reasons, judgement.advice if usable else finding.advice)
    return judgement
