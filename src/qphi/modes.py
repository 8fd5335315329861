"""Where the mass is: climbs from dispersed places, a Gaussian at each distinct end, and the search for more."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray
from scipy.linalg import LinAlgError
from scipy.special import logsumexp

from qphi.checks.preflight import Finding
from qphi.noise import fixed_draws
from qphi.outskirts import Estimate, outskirts
from qphi.solvers.exact import AbstractGaussian, AbstractGaussianSolver, Fit, Gaussian, Spiked, solve
from qphi.solvers.newton import Newton, inverse_factor
from qphi.solvers.pathfinder import Path, Pathfinder
from qphi.solvers.spiked import SpikedFit, SpikedMeanField
from qphi.targets.oracle import Oracle
from qphi.targets.starts import dispersed_starts

__all__ = [
    "EFFORTS",
    "PATH_STEPS",
    "AsClimbed",
    "Effort",
    "Search",
    "certify",
    "climb",
    "fit_level",
    "fit_modes",
    "fit_wide",
    "follow",
    "probe",
    "seek_more",
]

PATH_STEPS, _FIT_STEPS, _PROBE_STEPS = 1000, 100, 200
_MOST_MODES, _MOST_FUTILE = 6, 2
_HALVINGS = 6  # of a further fit, which is no mode where it comes to no rest
_TOWERS = 3.0  # nats: of a peak, or of two over the valley between them
_CROSSED = 10.0  # nats of KL, beyond one a dimension: as large, at one place, and not the same
_SMALL = 0.1  # of the best fit's scale: a Gaussian that begins somewhere else
_BESIDE = 3.0  # sds between means of Gaussians that are one, whatever is between them
_ROUNDS, _MANY_MODES = 4, 16  # of further starts where modes are several; as many modes are not all of them
_LEVEL_DIM, _LEVEL_STARTS, _LEVEL_DRAWS, _LEVEL_STEPS = 6, 2, 16, 400  # of mean-field fits that lead to modes
_KEPT = 1.0  # nats: that an ELBO on a climb's six draws, or the end of another climb, may be off
_ROUGHLY, _START_SCALE = 1e-2, 0.1
_MORE, _CHEAP = 16, 2**21  # times more places, in few dimensions, where that is so many numbers: some milliseconds
_ARMS = 3  # further Gaussians from places that no fit explains
_UNSEEN = 5.0  # nats: places that stand for less of the evidence are not worth a fit
_HEAVY = 20.0  # times the mean weight
_NESTED_DIM, _NARROW, _WIDE_STEPS = 20, 3.0, 40
_NEARLY = 0.02  # posterior sds: how close to its end a further fit has to be, to count as a mode
_COMING = 0.5  # posterior sds: how close, to tell which mode a fit is coming to
_FAR_BELOW = 30.0  # nats: a path this far below is not worth a fit
_DRAW_ERROR, _MOST_TIMES = 0.05, 8  # posterior sds by which other draws would move a coordinate; as many draws
_NEGLIGIBLE = 10.0  # nats: a mode this far below the best has no weight


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work a fit may be, whatever the target."""

    starts: int  # climbs
    probes: int  # climbs from outside
    pairs: int  # checking draws, with their reflections
    chains: int  # 0: never
    most_moves: int  # of each chain
    fewest_states: int  # of each chain that is to stand for the posterior
    always_chains: bool  # also when the weights are good
    seconds_of_chains: float
    doubting_moves: int  # of each chain that checks a map, or the weights of several Gaussians
    seconds_of_doubt: float


EFFORTS = {
    "quick": Effort(4, 0, 2048, 0, 0, 0, False, 0.0, 152, 4.0),
    "standard": Effort(8, 8, 4096, 256, 2200, 16, False, 30.0, 280, 15.0),
    "thorough": Effort(16, 16, 16384, 512, 6144, 128, True, 1800.0, 1048, 450.0),
}


@dataclasses.dataclass(frozen=True)
class AsClimbed(AbstractGaussianSolver[Fit]):
    """Leaves a Gaussian as a climb found it, and takes its ELBO on the draws: Pathfinder's own answer."""

    def count(self, dim: int) -> int:
        return 64

    def init(self, oracle: Oracle, start: Gaussian) -> Fit:
        return Fit(start)

    def step(self, oracle: Oracle, state: Fit) -> Fit:
        elbo = float(np.mean(oracle.values(state.q.transport(self.draws(oracle.dim))))) + state.q.entropy
        return Fit(state.q, elbo, 0.0)

    def finished(self, state: Fit) -> bool:
        return state.residual == 0.0


@dataclasses.dataclass
class Search:
    """What a running inference carries from stage to stage."""

    oracle: Oracle
    random: np.random.Generator
    key: PRNGKeyArray
    effort: Effort
    deadline: float
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    climber: Pathfinder = dataclasses.field(default_factory=Pathfinder)
    solver: AbstractGaussianSolver[Any] = dataclasses.field(default_factory=Newton)
    fits: list[Fit | SpikedFit] = dataclasses.field(default_factory=list)  # one for each mode, the best first
    solver_steps: int = 0
    findings: tuple[Finding, ...] = ()
    draw_error: float = 0.0  # posterior sds by which other draws would have moved the best fit, a coordinate's rms
    modes_left: bool = False  # the last round of starts still found modes
    seen: list[Estimate] = dataclasses.field(default_factory=list)  # of the log evidence, by places outside of the fits

    @property
    def gaussians(self) -> list[Gaussian]:
        """Those of the fits, at most 1,000 dimensions."""
        return [fit.q for fit in self.fits if isinstance(fit.q, Gaussian)]

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside, under a name."""
        began = time.monotonic()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began


def climb(search: Search, starts: Float[np.ndarray, "starts dim"], steps: int) -> list[Path]:
    """Pathfinder from each start, the best path first."""
    solver = search.climber.with_draws(search.random, search.oracle.dim)
    paths, _ = solve(search.oracle, solver, starts, max_steps=steps, deadline=search.deadline)
    return sorted(paths, key=lambda path: -path.best_elbo)


def fit_level(search: Search, starts: Float[np.ndarray, "starts dim"], paths: list[Path]) -> None:
    """Gaussians from mean-field fits, where these do better than the climbs.

    Where many latents share a scale, log p is highest where that scale vanishes, with no mass at all, and climbs end
    there. The ELBO has no such place: scales are fitted from the first step.
    """
    dim = search.oracle.dim
    if isinstance(search.solver, AsClimbed) or dim < _LEVEL_DIM or _agreed(paths):
        return
    solver = SpikedMeanField(fixed_draws(search.random, _LEVEL_DRAWS, dim), tolerance=_ROUGHLY)
    ends = []
    for z in starts[:_LEVEL_STARTS]:
        start = Spiked.diagonal(z, np.full(dim, _START_SCALE))
        end, steps = solve(search.oracle, solver, start, max_steps=_LEVEL_STEPS, deadline=search.deadline)
        search.solver_steps += steps
        if solver.answer(end) is not None and end.elbo > paths[0].best_elbo:
            ends.append(end)
    for end in sorted(ends, key=lambda end: -end.elbo):
        if search.fits and (end.elbo < search.fits[0].elbo - _FAR_BELOW or _explained(search, end.q.mean[None])[0]):
            continue
        fit = _fit(search, Gaussian(end.q.mean, np.diag(end.q.scale)))
        if fit is not None and (not search.fits or fit.residual < _NEARLY):
            _keep(search, fit)


def _agreed(paths: list[Path]) -> bool:
    """Whether no climb ended higher than the best one, whose Gaussian has the mass that its end promises: neither less,
    in a spike, nor more, beside one."""
    best = paths[0]
    if best.best is None or min(path.energy for path in paths) < best.energy - _KEPT:
        return False
    promised = best.best.entropy - 0.5 * len(best.place) - best.energy
    return abs(best.best_elbo - promised) < _KEPT


def fit_modes(search: Search, paths: list[Path]) -> None:
    """A Gaussian at the best path's end, and at those of others that it does not explain.

    In a funnel's neck climbs go on for ever, each with an end of its own: they get few tries.
    """
    fits = futile = 0
    for path in paths:
        endless = path.decrement > 1.0 and not path.stuck
        if path.best is None or fits >= _MOST_MODES or (endless and futile >= _MOST_FUTILE) or search.late:
            continue
        start = path.best
        if search.fits:
            spike = _spike(search, path)
            far_below = path.best_elbo < search.fits[0].elbo - _FAR_BELOW
            if spike is None and (far_below or _explained(search, path.place[None])[0]):
                continue
            start = start if spike is None else spike
        fits += 1
        fit = _fit(search, start)
        new = fit is not None and (not search.fits or _arrived(search, fit)) and _keep(search, fit)
        futile += not new


def _arrived(search: Search, fit: Fit) -> bool:
    """Whether a further Gaussian is a mode.

    One that is still on its way is where a fit was given up, in a funnel's neck, say; but where it crosses another, few
    draws do not settle what the mean Hessian is, and a higher bound is better in any case.
    """
    if fit.residual < _NEARLY or fit.elbo > search.fits[0].elbo + _KEPT:
        return True
    return any(math.isfinite(_distance(fit.q, other)) and _cross(fit.q, other) for other in search.gaussians)


def _spike(search: Search, path: Path) -> Gaussian | None:
    """Laplace's Gaussian at a path's end, where the density towers over what the fits say and has mass to count."""
    if path.slope is None or not (search.solver.uses_hessians or isinstance(search.solver, Newton)):
        return None  # what the solver can do without, the target may lack
    dim, z = len(path.place), path.place[None]
    if -path.energy < _expected(search, z)[0] + _TOWERS:
        return None
    # the climb's own idea of the curvature may be that of the surroundings
    look = search.oracle.mean_curvature if search.solver.uses_hessians else search.oracle.differenced
    _, _, hessian = look(z)
    try:
        end = Gaussian(path.place, inverse_factor(-hessian))
    except (LinAlgError, ValueError):
        return None
    mass = -path.energy + end.entropy - 0.5 * dim
    return end if mass > search.fits[0].elbo - _NEGLIGIBLE else None


def _expected(search: Search, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
    """log p at each row, as the fits have it."""
    heights = [fit.elbo - fit.q.entropy + 0.5 * (search.oracle.dim - fit.q.radius(z)) for fit in search.fits]
    return np.asarray(logsumexp(heights, axis=0))


def fit_wide(search: Search) -> None:
    """Once more from a Gaussian as wide as the box of starts: climbs end in the narrowest of nested modes.

    In few dimensions only, where a mode that is much narrower can have as much mass as the one around it.
    """
    dim = search.oracle.dim
    if not search.fits or dim > _NESTED_DIM or search.late:
        return
    q = search.fits[0].q
    if q.sd.max() > 1 / _NARROW:
        return  # as wide as that already, give or take
    _fit_from(search, Gaussian(q.mean, np.eye(dim)))


def _fit_from(search: Search, wide: Gaussian) -> None:
    solver = search.solver.with_draws(search.random, search.oracle.dim)
    state, steps = solve(search.oracle, solver, wide, max_steps=_WIDE_STEPS, deadline=search.deadline)
    search.solver_steps += steps
    if solver.answer(state) is not None and state.residual < _NEARLY:
        _keep(search, state)


def _keep(search: Search, fit: Fit) -> bool:
    """Add a fit that is none of those there are, and drop those without weight; whether it is there now."""
    if any(_same(search, fit.q, other.q) for other in search.fits):
        return False
    search.fits.append(fit)
    search.fits.sort(key=lambda state: -state.elbo)
    best = search.fits[0].elbo
    search.fits[:] = [fit for fit in search.fits if fit.elbo > best - _NEGLIGIBLE]
    return any(kept is fit for kept in search.fits)


def _same(search: Search, q: Gaussian, other: AbstractGaussian) -> bool:
    """Whether the one's mean lies where the other has its mass, they are about as large, do not cross, and there is no
    valley between them: in many dimensions the typical distance from one mode's mean may be further than the next
    mode."""
    distance = _distance(q, other)
    if not math.isfinite(distance) or _cross(q, other):
        return False
    if distance < _BESIDE**2:
        return True
    along = q.mean + np.linspace(0, 1, 9)[:, None] * (other.mean - q.mean)
    value = search.oracle.values(along)
    return not min(value[0], value[-1]) > value.min() + _TOWERS  # NaN: no valley that one could tell


def _distance(q: Gaussian, other: AbstractGaussian) -> float:
    """Squared, in the one's sds; infinite where they are far apart, or the one is much larger than the other."""
    d = len(q.mean)
    distance = min(q.radius(other.mean[None])[0], other.radius(q.mean[None])[0])
    near = distance < d + 6 * math.sqrt(2 * d) + 9 and abs(q.entropy - other.entropy) < 1.0 + 0.2 * d
    return float(distance) if near else math.inf


def _cross(q: Gaussian, other: AbstractGaussian) -> bool:
    """Whether either is wide where the other is narrow, in few dimensions: as large, at one place, and not the same."""
    d = len(q.mean)
    return d <= _NESTED_DIM and min(q.divergence(other), other.divergence(q)) > _CROSSED + d


def _fit(search: Search, start: Gaussian) -> Fit | None:
    solver = search.solver.with_draws(search.random, search.oracle.dim)
    if search.fits and isinstance(solver, Newton):
        solver = dataclasses.replace(solver, most_halvings=_HALVINGS)
    known = search.gaussians

    def old(state: Fit) -> bool:  # on its way to a mode that is known: the rest of it tells nothing new
        return state.residual < _COMING and any(_same(search, state.q, q) for q in known)

    for narrower in (1.0, 0.3, 0.03):
        q = Gaussian(start.mean, narrower * start.tril)
        state, steps = solve(search.oracle, solver, q, max_steps=_FIT_STEPS, deadline=search.deadline, enough=old)
        search.solver_steps += steps
        if solver.answer(state) is not None:
            return state
    return None


def _explained(search: Search, z: Float[np.ndarray, "points dim"]) -> Bool[np.ndarray, " points"]:
    """Whether each z lies where one of the fits has its mass, or not much further out."""
    d = search.oracle.dim
    inside = np.zeros(len(z), bool)
    for fit in search.fits:
        inside |= fit.q.radius(z) < d + 6 * math.sqrt(2 * d) + 9
    return inside


def probe(search: Search) -> None:
    """Climb from the likeliest of many places far outside of everything that was found, and from those there or in the
    widest box of starts where log p is furthest above what the fits say; fit a Gaussian as wide as the mass out there,
    where that is far wider; and one that begins where there is most mass that no fit has, which climbs may leave."""
    q, d = search.fits[0].q, search.oracle.dim
    many = 1 if d > _NESTED_DIM else min(_MORE, max(1, search.oracle.rows_within(_CHEAP) // 1024))
    places = outskirts(search.oracle, q, search.random, many)
    value = search.oracle.values(places.z)
    outside = np.isfinite(value) & ~_explained(search, places.z)
    expected = _expected(search, places.z)
    weight = value + places.log_room  # by density alone, the nearest would always win
    # climbs of many dimensions are long, and lead back
    probes, steps = (search.effort.probes, _PROBE_STEPS) if d <= 100 else (search.effort.probes // 2, _PROBE_STEPS // 2)
    around = np.flatnonzero(outside & places.around)
    if outside.any():
        # behind another mode log p may be as low as it likes, and is above the fits all the same
        above = np.flatnonzero(outside & ~places.along)
        above = above[np.argsort(-(value - expected)[above])]
        chosen = dict.fromkeys((*around[np.argsort(-weight[around])][: probes // 2], *above[: probes // 2]))
        fit_modes(search, climb(search, places.z[list(chosen)], steps))
    if d > _NESTED_DIM or not isinstance(q, Gaussian):
        return
    search.seen = places.evidences(value)
    for _ in range(_ARMS):
        unknown = np.flatnonzero(value > _expected(search, places.z) + _TOWERS)
        share = np.asarray(logsumexp(weight[unknown])) if len(unknown) else -math.inf
        if share < search.fits[0].elbo - _UNSEEN:
            break
        if not fit_at(search, places.z[unknown[np.argmax(weight[unknown])]]):
            break
    if not len(around):
        return
    share = np.exp(weight[around] - weight[around].max())
    radius = q.radius(places.z[around])
    width = math.sqrt(float(share @ radius) / float(share.sum()) / d)
    if width > _NARROW:
        _fit_from(search, Gaussian(q.mean, width * q.tril))


def fit_at(search: Search, place: Float[np.ndarray, " dim"]) -> bool:
    """A Gaussian from a small one at this place; whether it is none of those there were. Climbs leave a place whose
    mass and another's have their peak in common, as the arms of a cross have."""
    best = search.fits[0].q
    if search.late or not isinstance(best, Gaussian):
        return False
    fit = _fit(search, Gaussian(place, _SMALL * best.tril))
    return fit is not None and _arrived(search, fit) and _keep(search, fit)


def certify(search: Search) -> None:
    """Would other draws have given another Gaussian? If so the fits go on with twice as many, three times at most.

    The residual on fresh draws is how far a step on them would go, in posterior sds. Where draws are given, or
    the solver is none of Newton's, there is nothing to see.
    """
    if not (isinstance(search.solver, Newton) and search.solver.eps is None):
        return
    dim = search.oracle.dim
    for i, fit in enumerate(search.fits):
        times, error = 1, math.inf
        while isinstance(fit, Fit) and not search.late:
            fresh = search.solver.with_draws(search.random, dim, times)
            error = fresh.step(search.oracle, fresh.init(search.oracle, fit.q)).residual / math.sqrt(dim)
            if error < _DRAW_ERROR or times == _MOST_TIMES:
                break
            times *= 2
            more = search.solver.with_draws(search.random, dim, times)
            state, steps = solve(search.oracle, more, fit.q, max_steps=_FIT_STEPS, deadline=search.deadline)
            search.solver_steps += steps
            if more.answer(state) is None:
                break
            fit = search.fits[i] = state
        if i == 0:
            search.draw_error = error


def seek_more(search: Search) -> None:
    """Where there is more than one mode: climb from new starts until a round of them finds none that is new."""
    for _ in range(_ROUNDS):
        known = len(search.fits)
        if known < 2 or search.late:
            return
        if known >= _MANY_MODES:
            break
        starts, _ = dispersed_starts(search.oracle, search.random, 2 * search.effort.starts, search.key)
        fit_modes(search, climb(search, starts, _PROBE_STEPS))
        if len(search.fits) == known:
            return
    search.modes_left = True


def follow(search: Search, z: Float[np.ndarray, "draws dim"], excess: Float[np.ndarray, " draws"]) -> bool:
    """Climb from draws whose log weight exceeds that of the mean by far; whether that has found a mode."""
    heavy = np.flatnonzero(excess > math.log(_HEAVY))
    if not len(heavy) or search.late:
        return False
    chosen = heavy[np.argsort(-excess[heavy])][: max(search.effort.starts, 4)]
    known = len(search.fits)
    paths = climb(search, z[chosen], _PROBE_STEPS)
    # also places that a fit covers: what weighs so much there may be much narrower
    fit_modes(search, paths)
    if len(search.fits) == known and search.oracle.dim <= _NESTED_DIM:
        return fit_at(search, z[chosen[0]])
    return len(search.fits) > known
