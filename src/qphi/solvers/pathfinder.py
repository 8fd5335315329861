"""Pathfinder: quasi-Newton climbs that keep the Gaussian of highest ELBO seen on their way."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky

from qphi.solvers.exact import AbstractExactSolver, Gaussian
from qphi.targets.oracle import Oracle

__all__ = ["Path", "Pathfinder", "advance", "path_from"]

_DRAWS = 6  # that score a place on a path
_SUFFICIENT = 1e-4  # Armijo's constant
_CURVATURE = 1e-10  # least cosine of the angle between a step and its change of gradient
_SHORTEST = 1e-14  # share of a full step
_MOST_DENSE = 100  # dimensions: above, an update of d^2 numbers and a factorisation at each step are too many
_HISTORY = 20  # updates remembered above that
_SCORED_EVERY = 10  # steps above that


class _Dense:
    """BFGS: the inverse Hessian as a matrix."""

    every = 1  # steps between two scores

    def __init__(self, dim: int):
        self._matrix = np.eye(dim)
        self._fresh = True

    def times(self, v: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        return self._matrix @ v

    def matrix(self) -> Float[np.ndarray, "dim dim"]:
        return self._matrix

    def update(self, moved: Float[np.ndarray, " dim"], change: Float[np.ndarray, " dim"], sy: float) -> None:
        """B <- (I - r s y') B (I - r y s') + r s s', r = 1 / s'y.

        Before the first update B is set to the curvature just seen, s'y / y'y (Nocedal & Wright 2006, eq. 6.20).
        """
        b = self._matrix * (sy / float(change @ change)) if self._fresh else self._matrix
        by = b @ change
        cross = np.outer(moved, by) / sy
        self._matrix = b - cross - cross.T + (1 + float(change @ by) / sy) * np.outer(moved, moved) / sy
        self._fresh = False


class _Limited:
    """L-BFGS: the inverse Hessian as a multiple of the identity and the latest updates."""

    every = _SCORED_EVERY

    def __init__(self, dim: int):
        self._dim = dim
        self._scale = 1.0
        self._pairs: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque(maxlen=_HISTORY)
        self._made: tuple[np.ndarray, np.ndarray] | None = None

    def times(self, v: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        if not self._pairs:
            return self._scale * v
        basis, middle = self._compact()
        return self._scale * v + basis @ (middle @ (basis.T @ v))

    def matrix(self) -> Float[np.ndarray, "dim dim"]:
        dense = self._scale * np.eye(self._dim)
        if self._pairs:
            basis, middle = self._compact()
            dense += basis @ middle @ basis.T
        return 0.5 * (dense + dense.T)

    def _compact(self) -> tuple[Float[np.ndarray, "dim twice"], Float[np.ndarray, "twice twice"]]:
        """W and M of B = scale I + W M W', W = [S, scale Y] (Nocedal & Wright 2006, eq. 7.24)."""
        if self._made is None:
            moved, change = (np.array(part).T for part in zip(*self._pairs, strict=True))
            products = moved.T @ change
            upper = np.linalg.inv(np.triu(products))
            diagonal = np.diag(np.diag(products))
            corner = upper.T @ (diagonal + self._scale * change.T @ change) @ upper
            middle = np.block([[corner, -upper.T], [-upper, np.zeros_like(upper)]])
            self._made = np.hstack([moved, self._scale * change]), middle
        return self._made

    def update(self, moved: Float[np.ndarray, " dim"], change: Float[np.ndarray, " dim"], sy: float) -> None:
        self._pairs.append((moved, change))
        self._scale = sy / float(change @ change)
        self._made = None


@dataclasses.dataclass
class Path:
    """One climb. `energy` is -log p; the next trial is `place` + `stride` * `full_step`."""

    place: Float[np.ndarray, " dim"]
    inverse: _Dense | _Limited  # of the Hessian of the energy, as estimated so far: positive definite
    energy: float = math.inf
    slope: Float[np.ndarray, " dim"] | None = None
    stride: float = 1.0
    updates: int = 0  # of `inverse`
    scored: int = 0  # updates when the place was last scored
    steps: int = 0
    best: Gaussian | None = None
    best_elbo: float = -math.inf

    @property
    def full_step(self) -> Float[np.ndarray, " dim"]:
        """To the minimum of the quadratic model."""
        assert self.slope is not None
        return -self.inverse.times(self.slope)

    @property
    def trial(self) -> Float[np.ndarray, " dim"]:
        """Where to look next."""
        return self.place if self.slope is None else self.place + self.stride * self.full_step

    @property
    def stuck(self) -> bool:
        """Whether steps have become too short to matter."""
        return self.stride < _SHORTEST

    @property
    def decrement(self) -> float:
        """Nats that a full step promises."""
        return math.inf if self.slope is None else 0.5 * float(self.slope @ self.inverse.times(self.slope))

    @property
    def due(self) -> bool:
        """Whether the place should be scored before the next step."""
        return self.updates - self.scored >= self.inverse.every


@dataclasses.dataclass(frozen=True)
class Pathfinder(AbstractExactSolver[list[Path]]):
    """BFGS from each start at once; along the way N(z + B g, B) is scored, B the inverse Hessian estimated so far.

    The answer is the Gaussian of highest ELBO on any path, which need not be at its end: where the density grows
    without bound while its volume vanishes (a funnel's neck), the end is useless and the path is not. A step asks for
    one gradient for each path and for each of the fixed draws `eps` that score it, in one call. A path has finished
    when a full step promises less than `tolerance` nats, or when steps have become too short to matter.

    Differs from the source in a dense B up to 100 dimensions (no history length to choose), in a score at every tenth
    step above that, and in fixed draws. Source: Zhang, Carpenter, Gelman & Vehtari (JMLR 2022, arXiv 2108.03782).
    """

    tolerance: float = 1e-6

    def count(self, dim: int) -> int:
        return _DRAWS

    def init(self, oracle: Oracle, start: Float[np.ndarray, "starts dim"]) -> list[Path]:
        return [path_from(np.array(z)) for z in start]

    def step(self, oracle: Oracle, state: list[Path]) -> list[Path]:
        going = [path for path in state if not self._ended(path)]
        trials = [path.trial for path in going]
        due = [path for path in going if path.due or (path.updates > path.scored and self._climbed(path))]
        scored = [(path, q) for path in due if (q := self._gaussian(path)) is not None]
        for path in due:
            path.scored = path.updates
        eps = self.draws(oracle.dim)
        draws = [q.transport(eps) for _, q in scored]
        with np.errstate(all="ignore"):
            values, gradients = oracle.gradients(np.concatenate([np.array(trials), *draws]))
            for (path, q), log_p in zip(scored, values[len(going) :].reshape(-1, len(eps)), strict=True):
                elbo = float(np.mean(log_p)) + q.entropy
                if elbo > path.best_elbo:  # False for NaN
                    path.best, path.best_elbo = q, elbo
            for path, trial, value, gradient in zip(going, trials, values, gradients, strict=False):
                if not self._climbed(path):
                    advance(path, trial, -float(value), -gradient)
        return state

    def finished(self, state: list[Path]) -> bool:
        return all(self._ended(path) for path in state)

    def answer(self, state: list[Path]) -> Gaussian | None:
        return max(state, key=lambda path: path.best_elbo).best

    def _climbed(self, path: Path) -> bool:
        return path.decrement <= self.tolerance or path.stuck

    def _ended(self, path: Path) -> bool:
        return self._climbed(path) and path.scored == path.updates

    def _gaussian(self, path: Path) -> Gaussian | None:
        try:
            return Gaussian(path.place + path.full_step, cholesky(path.inverse.matrix(), lower=True))
        except (LinAlgError, ValueError):  # ValueError: not finite
            return None


def path_from(place: Float[np.ndarray, " dim"]) -> Path:
    """A climb before its first look."""
    return Path(place, (_Dense if len(place) <= _MOST_DENSE else _Limited)(len(place)))


def advance(path: Path, trial: Float[np.ndarray, " dim"], energy: float, slope: Float[np.ndarray, " dim"]) -> None:
    """Accept the trial, or shorten the stride."""
    finite = math.isfinite(energy) and bool(np.isfinite(slope).all())
    path.steps += 1
    if path.slope is None:
        if finite:
            path.energy, path.slope = energy, slope
            path.stride = 1 / max(1.0, float(np.linalg.norm(slope)))
        else:
            path.stride = 0.0  # a start without a density: this path has ended
        return
    promised = float(path.slope @ path.full_step)  # negative
    if not (finite and energy <= path.energy + _SUFFICIENT * path.stride * promised):
        rise = energy - path.energy - promised * path.stride
        # the minimum of the parabola through what is known, within bounds
        parabola = -0.5 * promised * path.stride / rise if finite and rise > 0 else 0.1
        path.stride *= min(max(parabola, 0.1), 0.5)
        return
    _update(path, trial - path.place, slope - path.slope)
    # without an idea of the scale, twice as far each time
    path.stride = 1.0 if path.updates else 2 * path.stride
    path.place, path.energy, path.slope = trial, energy, slope


def _update(path: Path, moved: Float[np.ndarray, " dim"], change: Float[np.ndarray, " dim"]) -> None:
    """Learn from a step, where there is positive curvature along it."""
    sy = float(moved @ change)
    if sy > _CURVATURE * float(np.linalg.norm(moved) * np.linalg.norm(change)):
        path.inverse.update(moved, change, sy)
        path.updates += 1
