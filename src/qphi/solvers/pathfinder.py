"""Pathfinder: quasi-Newton climbs that keep the Gaussian of highest ELBO seen on their way."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from qphi.solvers.descent import Dense, Descent, advance, memory
from qphi.solvers.exact import AbstractExactSolver, Gaussian
from qphi.targets.oracle import Oracle

__all__ = ["Path", "Pathfinder"]

_DRAWS = 6  # that score a place on a path
_SCORED_EVERY = 10  # steps, of a climb with limited memory


@dataclasses.dataclass
class Path(Descent):
    """One climb: `energy` is -log p, and its places are scored."""

    scored: int = 0  # updates when the place was last scored
    best: Gaussian | None = None
    best_elbo: float = -math.inf

    @property
    def due(self) -> bool:
        """Whether the place should be scored before the next step."""
        return self.updates - self.scored >= (1 if isinstance(self.inverse, Dense) else _SCORED_EVERY)


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
        return [Path(np.array(z), memory(oracle.dim)) for z in start]

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
                if elbo > path.best_elbo and math.isfinite(elbo):  # a density can overflow, too
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
            return Gaussian(path.place + path.full_step, np.linalg.cholesky(path.inverse.matrix()))
        except np.linalg.LinAlgError:
            return None
