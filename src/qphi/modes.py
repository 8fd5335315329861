"""Where the mass is: climbs from dispersed places, and a Gaussian at each distinct end."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import LinAlgError
from scipy.special import logsumexp

from qphi.noise import fixed_draws
from qphi.search import Search
from qphi.solvers.exact import AbstractGaussian, AbstractGaussianSolver, Fit, Gaussian, Spiked, solve
from qphi.solvers.newton import Newton, inverse_factor
from qphi.solvers.pathfinder import Path
from qphi.solvers.spiked import SpikedMeanField
from qphi.targets.oracle import Oracle

__all__ = [
    "NARROW",
    "NESTED_DIM",
    "PATH_STEPS",
    "TOWERS",
    "AsClimbed",
    "arrived",
    "certify",
    "climb",
    "expected",
    "explained",
    "fit_from",
    "fit_gaussian",
    "fit_level",
    "fit_modes",
    "fit_wide",
    "keep",
]

PATH_STEPS, _FIT_STEPS = 1000, 100
_MOST_MODES, _MOST_FUTILE = 6, 2
_HALVINGS = 6  # of a further fit, which is no mode where it comes to no rest
TOWERS = 3.0  # nats: of a peak, or of two over the valley between them
_CROSSED = 10.0  # nats of KL, beyond one a dimension: as large, at one place, and not the same
_OTHER = 6.0  # beyond half a nat a dimension: another optimum of the ELBO, whatever is between them
_BESIDE = 3.0  # sds between means of Gaussians that are one, whatever is between them
_LEVEL_DIM, _LEVEL_STARTS, _LEVEL_DRAWS, _LEVEL_STEPS = 6, 2, 16, 400  # of mean-field fits that lead to modes
_KEPT = 1.0  # nats: that an ELBO on a climb's six draws, or the end of another climb, may be off
_ROUGHLY, _START_SCALE = 1e-2, 0.1
NESTED_DIM, NARROW, _WIDE_STEPS = 20, 3.0, 40
_NEARLY = 0.02  # posterior sds: how close to its end a further fit has to be, to count as a mode
_COMING = 0.5  # posterior sds: how close, to tell which mode a fit is coming to
_FAR_BELOW = 30.0  # nats: a path this far below is not worth a fit
_DRAW_ERROR, _MOST_TIMES = 0.05, 8  # posterior sds by which other draws would move a coordinate; as many draws
_NEGLIGIBLE = 10.0  # nats: a mode this far below the best has no weight


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
        if search.fits and (end.elbo < search.fits[0].elbo - _FAR_BELOW or explained(search, end.q.mean[None])[0]):
            continue
        fit = fit_gaussian(search, Gaussian(end.q.mean, np.diag(end.q.scale)))
        if fit is not None and (not search.fits or fit.residual < _NEARLY):
            keep(search, fit)


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
            if spike is None and (far_below or explained(search, path.place[None])[0]):
                continue
            start = start if spike is None else spike
        fits += 1
        fit = fit_gaussian(search, start)
        new = fit is not None and (not search.fits or arrived(search, fit)) and keep(search, fit)
        futile += not new


def arrived(search: Search, fit: Fit) -> bool:
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
    if -path.energy < expected(search, z)[0] + TOWERS:
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


def expected(search: Search, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
    """log p at each row, as the fits have it."""
    heights = [fit.elbo - fit.q.entropy + 0.5 * (search.oracle.dim - fit.q.radius(z)) for fit in search.fits]
    return np.asarray(logsumexp(heights, axis=0))


def fit_wide(search: Search) -> None:
    """Once more from a Gaussian as wide as the box of starts: climbs end in the narrowest of nested modes.

    In few dimensions only, where a mode that is much narrower can have as much mass as the one around it.
    """
    dim = search.oracle.dim
    if not search.fits or dim > NESTED_DIM or search.late:
        return
    q = search.fits[0].q
    if q.sd.max() > 1 / NARROW:
        return  # as wide as that already, give or take
    fit_from(search, Gaussian(q.mean, np.eye(dim)))


def fit_from(search: Search, wide: Gaussian) -> None:
    solver = search.solver.with_draws(search.random, search.oracle.dim)
    state, steps = solve(search.oracle, solver, wide, max_steps=_WIDE_STEPS, deadline=search.deadline)
    search.solver_steps += steps
    if solver.answer(state) is not None and state.residual < _NEARLY:
        keep(search, state)


def keep(search: Search, fit: Fit) -> bool:
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
    if not math.isfinite(distance) or _apart(q, other) > _OTHER + 0.5 * len(q.mean):
        return False
    if distance < _BESIDE**2:
        return True
    along = q.mean + np.linspace(0, 1, 9)[:, None] * (other.mean - q.mean)
    value = search.oracle.values(along)
    return not min(value[0], value[-1]) > value.min() + TOWERS  # NaN: no valley that one could tell


def _distance(q: Gaussian, other: AbstractGaussian) -> float:
    """Squared, in the one's sds; infinite where they are far apart, or the one is much larger than the other."""
    d = len(q.mean)
    distance = min(q.radius(other.mean[None])[0], other.radius(q.mean[None])[0])
    near = distance < d + 6 * math.sqrt(2 * d) + 9 and abs(q.entropy - other.entropy) < 1.0 + 0.2 * d
    return float(distance) if near else math.inf


def _cross(q: Gaussian, other: AbstractGaussian) -> bool:
    """Whether either is wide where the other is narrow, in few dimensions: as large, at one place, and not the same."""
    return _apart(q, other) > _CROSSED + len(q.mean)


def _apart(q: Gaussian, other: AbstractGaussian) -> float:
    """The smaller KL of the two, in few dimensions."""
    return min(q.divergence(other), other.divergence(q)) if len(q.mean) <= NESTED_DIM else 0.0


def fit_gaussian(search: Search, start: Gaussian) -> Fit | None:
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


def explained(search: Search, z: Float[np.ndarray, "points dim"]) -> Bool[np.ndarray, " points"]:
    """Whether each z lies where one of the fits has its mass, or not much further out."""
    d = search.oracle.dim
    inside = np.zeros(len(z), bool)
    for fit in search.fits:
        inside |= fit.q.radius(z) < d + 6 * math.sqrt(2 * d) + 9
    return inside


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
