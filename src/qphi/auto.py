"""The ladder: from a target to draws and a verdict, without anything to tune.

START   climbs from dispersed places, all at once (`Pathfinder`)
FIT     a full-rank Gaussian at each distinct end (`Newton` on fixed draws)
PROBE   more climbs, from far outside what was found
CHECK   importance weights under a defensive proposal, lifted; tails of everything that is reported
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
from scipy.linalg import solve_triangular

from qphi.checks.chains import Ensemble, worst_rhat
from qphi.checks.pareto import khat_threshold
from qphi.checks.proposal import Proposal
from qphi.checks.weighted import Moments, WeightCheck, check_weights, weighted_moments
from qphi.importance import ImportanceWeights
from qphi.noise import fixed_draws, generator
from qphi.solvers.exact import Gaussian, solve
from qphi.solvers.newton import Newton, NewtonState
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
_FAR_BELOW = 30.0  # nats: a path this far below is not worth a fit
_NEGLIGIBLE = 10.0  # nats: a mode this far below the best has no weight
_SMALL_VARIANCE = 0.1  # of the lifted log weights: half of it is the KL that is left, nats
_FEWEST_ESS, _ESS_SHARE = 400, 0.05
_MEAN_ERROR, _SD_ERROR = 0.1, 0.1  # Monte Carlo standard errors allowed, in posterior sds
_CANCELLED = 0.003  # posterior sds
_KHAT = 0.7
_WARM_MOVES, _THIN, _FIRST_STATES = 24, 4, 16
_RHAT, _DRIFT = 1.1, 0.1
_FLAT = 1e4  # a scale this many times the starts' box hints at a direction that the data say nothing about


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
    with search.stage("start"):
        starts = dispersed_starts(oracle, search.random, effort.starts, key)
        paths = _climb(search, starts, _PATH_STEPS)
    with search.stage("fit"):
        _fit_modes(search, paths)
    if effort.probes and search.fits and not search.late:
        with search.stage("probe"):
            _probe(search)
    if not search.fits:
        # No Gaussian has a finite ELBO: say so about the best there is
        best = max(paths, key=lambda path: -path.energy)
        search.fits.append(NewtonState(Gaussian(best.place, 1e-3 * np.eye(oracle.dim)), np.eye(oracle.dim)))
    return _conclude(search)


def conclude_from(
    oracle: Oracle,
    q: Gaussian,
    key: PRNGKeyArray,
    *,
    effort: Effort,
    deadline: float = math.inf,
    converged: bool,
) -> Inference:
    """Check, correct and judge a Gaussian that was fitted in another way."""
    search = _Search(oracle, generator(key), key, effort, deadline, None)
    residual = 0.0 if converged else math.inf
    search.fits.append(NewtonState(q, np.eye(oracle.dim), elbo=math.nan, residual=residual))
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
        if search.fits:
            if path.best_elbo < search.fits[0].elbo - _FAR_BELOW or _explained(search, path.place):
                continue
        fits += 1
        fit = _newton(search, path.best)
        if fit is not None and not _explained(search, fit.q.mean):
            search.fits.append(fit)
            search.fits.sort(key=lambda state: -state.elbo)
    best = search.fits[0].elbo if search.fits else -math.inf
    search.fits[:] = [fit for fit in search.fits if fit.elbo > best - _NEGLIGIBLE]


def _newton(search: _Search, start: Gaussian) -> NewtonState | None:
    d = search.oracle.dim
    draws = max(64, 4 * d)
    solver = Newton(fixed_draws(search.random, draws + draws % 2, d))
    for narrower in (1.0, 0.3, 0.03):
        q = Gaussian(start.mean, narrower * start.tril)
        state, steps = solve(search.oracle, solver, q, max_steps=_NEWTON_STEPS, deadline=search.deadline)
        search.newton_steps += steps
        if solver.answer(state) is not None:
            return state
    return None


def _explained(search: _Search, z: Float[np.ndarray, " dim"]) -> bool:
    """Whether z lies where one of the fits has its mass, or not much further out."""
    d = search.oracle.dim
    return any(_radius(fit.q, z[None])[0] < d + 6 * math.sqrt(2 * d) + 9 for fit in search.fits)


def _radius(q: Gaussian, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
    """Squared distance from q's mean in its own metric."""
    return np.sum(solve_triangular(q.tril, (z - q.mean).T, lower=True, check_finite=False) ** 2, axis=0)


def _probe(search: _Search) -> None:
    """Climb from the likeliest of many places far outside of everything that was found."""
    q, d = search.fits[0].q, search.oracle.dim
    far = search.random.standard_normal((1024, d)) * (3 / np.sqrt(search.random.chisquare(3, (1024, 1)) / 3))
    z = q.transport(far)
    value = search.oracle.values(z)
    outside = np.isfinite(value) & np.array([not _explained(search, row) for row in z])
    chosen = np.flatnonzero(outside)[np.argsort(-value[outside])][: search.effort.probes]
    if len(chosen):
        _fit_modes(search, _climb(search, z[chosen], _PROBE_STEPS))


# CHECK


def _conclude(search: _Search) -> Inference:
    oracle, effort = search.oracle, search.effort
    parts = tuple(fit.q for fit in search.fits)
    with search.stage("check"):
        shares = _shares(search)
        for _ in range(2 if len(parts) > 1 else 1):  # the second time with the shares that the weights found
            proposal = Proposal(np.array([q.mean for q in parts]), np.array([q.tril for q in parts]), shares)
            draws = proposal.draw(search.random, effort.pairs)
            log_p = oracle.values(draws.z)
            log_q = proposal.log_gaussian(draws.z)
            check, weights = check_weights(log_p, draws.log_r, log_q, draws.is_gaussian)
            if len(parts) > 1 and np.isfinite(weights).all():
                shares = np.maximum(np.bincount(_nearest(parts, draws.z), weights, len(parts)), 0.05)
                shares /= shares.sum()
        usable = np.isfinite(weights).all() and check.ess > 0
        values = oracle.constrained(draws.z)
        flat = _flat(values)
        moments = weighted_moments(flat, weights if usable else np.full(len(flat), np.nan))
    judged = _by_weights(search, check, moments)
    z, made_by, chain_numbers = draws.z, "importance weights", {}
    if usable and effort.chains and (effort.always_chains or not judged[0].usable) and not search.late:
        with search.stage("correct"):
            moved = _chains(search, parts, draws.z, weights)
        if moved is not None:
            chain_z, chain_values, chain_moments, chain_numbers, settled = moved
            chain_judged = _by_chains(search, chain_moments, chain_numbers, settled, judged, moments)
            if not judged[0].usable:
                z, values, moments, judged = chain_z, chain_values, chain_moments, chain_judged
                weights, made_by = np.full(len(z), 1 / len(z)), "Markov chains"
            elif chain_judged[0] is not Trust.CORRECTED:
                judged = chain_judged  # the chains disagree with weights that look good
    trust, reasons, advice = judged
    mean_ok, sd_ok = _believable(moments)
    numbers = {
        "kl": check.kl,
        "log_weight_variance": check.log_weight_variance,
        "khat": check.khat,
        "ess": check.ess,
        "modes": float(len(parts)),
        "residual": search.fits[0].residual,
        **chain_numbers,
    }
    verdict = Verdict(
        trust,
        tuple(reasons),
        advice,
        _unflat(mean_ok, values),
        _unflat(sd_ok, values),
        numbers,
    )
    asked = {
        "values": oracle.values_asked,
        "gradients": oracle.gradients_asked,
        "hessians": oracle.hessians_asked,
    }
    return Inference(
        parts,
        shares,
        z,
        weights,
        values,
        moments,
        check,
        verdict,
        made_by,
        search.stages,
        asked,
        search.newton_steps,
        ImportanceWeights.from_log_weights((log_p - log_q)[draws.is_gaussian]),
    )


def _shares(search: _Search) -> Float[np.ndarray, " parts"]:
    elbos = np.array([fit.elbo for fit in search.fits])
    if len(elbos) == 1:
        return np.ones(1)
    shares = np.maximum(np.exp(elbos - elbos.max()), 0.05)
    return shares / shares.sum()


def _nearest(parts: tuple[Gaussian, ...], z: Float[np.ndarray, "draws dim"]) -> np.ndarray:
    """Which Gaussian each draw is likeliest under."""
    return np.argmax([-0.5 * _radius(q, z) - q.entropy for q in parts], axis=0)


def _flat(values: dict[str, np.ndarray]) -> Float[np.ndarray, "draws columns"]:
    return np.concatenate([np.asarray(v, np.float64).reshape(len(v), -1) for v in values.values()], axis=1)


def _unflat(columns: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    named, begin = {}, 0
    for name, value in values.items():
        size = math.prod(value.shape[1:])
        named[name] = columns[begin : begin + size].reshape(value.shape[1:])
        begin += size
    return named


def _believable(m: Moments) -> tuple[np.ndarray, np.ndarray]:
    """For each column, whether its mean and its sd have errors that are small and can be relied on."""
    constant = m.sd <= 1e-12 * (1 + np.abs(m.mean))
    with np.errstate(invalid="ignore"):
        # Where reflected draws cancel, what is left is rounding, whose tail says nothing
        mean_ok = constant | ((m.mean_khat < _KHAT) & (m.mean_error < _MEAN_ERROR * m.sd))
        mean_ok |= m.mean_error < _CANCELLED * m.sd
        sd_ok = constant | ((m.sd_khat < _KHAT) & (m.sd_error < _SD_ERROR * m.sd))
    return mean_ok, sd_ok


# JUDGE

Judged = tuple[Trust, list[str], str]


def _by_weights(search: _Search, check: WeightCheck, moments: Moments) -> Judged:
    fit = search.fits[0]
    mean_ok, sd_ok = _believable(moments)
    if not math.isfinite(check.log_evidence):
        return Trust.FAILED, ["no Gaussian could be fitted: log p is not finite around the best place"], _CHECK_MODEL
    reasons = []
    finished = fit.residual <= Newton.tolerance
    if search.late:
        reasons.append("the time budget ended before the checks did")
    if not finished and (flat := _flat_direction(fit.q)):
        reasons.append(flat)
    # the draws the fit was made on against fresh ones
    gap = abs(check.elbo - fit.elbo)
    if len(search.fits) == 1 and gap > 0.5 + 4 * check.elbo_standard_error:  # False for NaN
        reasons.append(f"fresh draws put the ELBO at {check.elbo:.2f} nats, those it was fitted on at {fit.elbo:.2f}")
    if not (mean_ok.all() and sd_ok.all()):
        reasons.append(_doubtful(mean_ok, sd_ok))
    if len(search.fits) > 1:
        reasons.append(f"{len(search.fits)} modes were found; their weights come from importance sampling")
    good = check.log_weight_variance < _SMALL_VARIANCE
    if good and not reasons:
        return Trust.TRUSTED, [f"q is within {max(check.log_weight_variance / 2, 0.001):.2g} nats of the posterior"], ""
    ess_needed = max(_FEWEST_ESS, _ESS_SHARE * check.pairs)
    usable = good or (check.khat < khat_threshold(check.pairs) and check.ess > ess_needed)
    if not usable:
        reasons.append(f"importance weights have Pareto k {check.khat:.2f} and ESS {check.ess:.0f} of {check.pairs}")
    if usable and not search.late and mean_ok.all() and sd_ok.all():
        reasons.append(f"moments are importance weighted (ESS {check.ess:.0f} of {check.pairs})")
        return Trust.CORRECTED, reasons, ""
    return Trust.UNRELIABLE, reasons, _LONGER if search.effort is not EFFORTS["thorough"] else _CHECK_MODEL


def _by_chains(
    search: _Search, moments: Moments, numbers: dict[str, float], settled: bool, before: Judged, weighted: Moments
) -> Judged:
    mean_ok, sd_ok = _believable(moments)
    said = f"{search.effort.chains} Markov chains from q, {numbers['moves']:.0f} moves"
    reasons = []
    if len(search.fits) > 1:
        reasons.append(f"{len(search.fits)} modes were found; their weights come from importance sampling")
    if not settled:
        reasons.append(f"{said}, have not settled (R-hat {numbers['rhat']:.2f}, drift {numbers['drift']:.2f} sd)")
        return Trust.UNRELIABLE, reasons, _LONGER if search.effort is not EFFORTS["thorough"] else _CHECK_MODEL
    reasons.append(f"draws are those of {said} (R-hat {numbers['rhat']:.2f})")
    if not (mean_ok.all() and sd_ok.all()):
        return Trust.UNRELIABLE, [_doubtful(mean_ok, sd_ok), *reasons], _TAILS
    if before[0].usable:
        with np.errstate(invalid="ignore", divide="ignore"):
            moved = np.abs(moments.mean - weighted.mean) / weighted.sd
        if np.nanmax(moved, initial=0.0) > 3 * _DRIFT:
            return Trust.UNRELIABLE, ["chains moved away from weights that looked good", *reasons], _CHECK_MODEL
    return Trust.CORRECTED, reasons, ""


_LONGER = "try effort='thorough', which runs Markov chains from q for longer, or rewrite the model (see the reasons)."
_CHECK_MODEL = "check the model: a prior that is missing, a direction without data, or another parameterisation."
_TAILS = "report medians and quantiles of the values marked, whose means or sds may not exist."


def _doubtful(mean_ok: np.ndarray, sd_ok: np.ndarray) -> str:
    return f"the tails leave {np.sum(~mean_ok)} mean(s) and {np.sum(~sd_ok)} sd(s) uncertain"


def _flat_direction(q: Gaussian) -> str:
    scale = np.sqrt(np.sum(q.tril**2, axis=1))
    widest = int(np.argmax(scale))
    if scale[widest] < _FLAT:
        return "the fit has not converged"
    return (
        f"unconstrained coordinate {widest} has an sd of {scale[widest]:.1g} and growing: the posterior may be improper"
    )


# CORRECT


def _chains(
    search: _Search, parts: tuple[Gaussian, ...], z: Float[np.ndarray, "draws dim"], weights: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], Moments, dict[str, float], bool] | None:
    """Draws moved by chains from weighted draws; None when there is no time for any."""
    oracle, random, effort = search.oracle, search.random, search.effort
    n = effort.chains
    places = (np.arange(n) + random.uniform()) / n
    chosen = np.minimum(np.searchsorted(np.cumsum(weights) / weights.sum(), places), len(z) - 1)
    chosen = random.permutation(chosen)
    part_of = _nearest(parts, z[chosen])
    chains = Ensemble.at(parts, part_of, z[chosen])
    began = time.monotonic()
    allowed = min(search.deadline, began + effort.seconds_of_chains)
    for i in range(_WARM_MOVES):
        chains.rate = 0.5 / math.sqrt(1 + i / 4)
        chains.move(oracle, random)
        if time.monotonic() > allowed:
            return None
    chains.rate = 0.0
    states: list[np.ndarray] = []
    wanted, settled = _FIRST_STATES, False
    while True:
        while len(states) < wanted and time.monotonic() <= allowed:
            for _ in range(_THIN):
                chains.move(oracle, random)
            states.append(chains.z)
        if len(states) < 8:
            return None
        late = np.array(states[len(states) // 2 :])
        values = oracle.constrained(late.reshape(-1, oracle.dim))
        flat = _flat(values).reshape(len(late), n, -1)
        rhat, drift = _settling(flat, part_of)
        settled = rhat < _RHAT and drift < _DRIFT
        spent = len(states) < wanted or chains.moves + _THIN * len(states) > effort.most_moves
        if settled or spent:
            break
        wanted = 2 * len(states)
    numbers = {"rhat": rhat, "drift": drift, "moves": float(chains.moves), "acceptance": chains.accepted}
    rows = flat.reshape(-1, flat.shape[-1])
    equal = np.full(len(rows), 1 / len(rows))
    moments = weighted_moments(rows, equal)
    return late.reshape(-1, oracle.dim), values, moments, numbers, settled


def _settling(flat: Float[np.ndarray, "times chains columns"], part_of: np.ndarray) -> tuple[float, float]:
    """The worst R-hat, and how far (in sds) means moved from the first half of the times to the second.

    Within the chains of each mode: chains of different modes never meet, and need not.
    """
    rhat, drift = 1.0, 0.0
    moving = flat.reshape(-1, flat.shape[-1]).std(axis=0) > 0
    flat = flat[:, :, moving]
    for c in np.unique(part_of):
        own = flat[:, part_of == c]
        if own.shape[1] < 4:
            continue
        rhat = max(rhat, worst_rhat(own))
        half = len(own) // 2
        ranks = own.reshape(-1, own.shape[-1]).argsort(axis=0).argsort(axis=0).reshape(own.shape)
        # in ranks, scaled to sds of a uniform: heavy tails have no say
        scaled = ranks / ranks[..., 0].size * math.sqrt(12)
        moved = np.abs(scaled[:half].mean(axis=(0, 1)) - scaled[half:].mean(axis=(0, 1)))
        noise = 3 * math.sqrt(4 / ranks[..., 0].size)
        drift = max(drift, float(np.max(moved - noise, initial=0.0)))
    return rhat, drift
