"""Many short Markov chains from a fit: they move towards the posterior, and say how far off the fit was."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from qphi.solvers.exact import AbstractGaussian
from qphi.targets.oracle import AbstractOracle

__all__ = ["Ensemble", "worst_rhat"]

_ACCEPT = 0.8  # aimed at, on average over chains
_SHORTEST_STEP, _LONGEST_STEP = 1e-4, 3.0  # in posterior sds
_MOST_LEAPS = 64


@dataclasses.dataclass
class Ensemble:
    """Chains of Hamiltonian Monte Carlo, each in the coordinates of one fitted Gaussian, z = mean + C u, in step.

    All share one step size, which learns from their mean acceptance while `rate` > 0; nothing else is shared, so the
    chains are independent. Trajectory lengths and steps are jittered, so that no orbit closes and narrow places are
    entered. A trajectory that meets a value that is not finite is refused.

    With `turning`, the force -u of the Gaussian turns (u, p) by an angle, exactly, and steps are of the rest, which
    vanishes where q is right: few steps suffice in any dimension, where leapfrog steps shrink as dim^(-1/4). Worse
    than leapfrog where tails are much heavier than q's. Sources: Neal (2011); Shahbaba, Lan, Johnson & Neal (2014) for
    the splitting; Hoffman & Sountsov (2022) for many short chains.
    """

    parts: tuple[AbstractGaussian, ...]
    part_of: Int[np.ndarray, " chains"]
    u: Float[np.ndarray, "chains dim"]
    log_step: float
    rate: float = 0.5
    turning: bool = False  # whether q's own force is followed exactly, and only the rest in steps
    accepted: float = math.nan  # mean acceptance of the latest move
    moves: int = 0

    @staticmethod
    def at(
        parts: tuple[AbstractGaussian, ...],
        part_of: Int[np.ndarray, " chains"],
        z: Float[np.ndarray, "chains dim"],
        turning: bool = False,
    ) -> Ensemble:
        """Chains at z before their first move."""
        u = np.empty_like(z)
        for c, q in enumerate(parts):
            u[part_of == c] = q.whiten(z[part_of == c])
        return Ensemble(parts, part_of, u, math.log(1.0 if turning else 0.7 * u.shape[1] ** -0.25), turning=turning)

    @property
    def z(self) -> Float[np.ndarray, "chains dim"]:
        """Where the chains are, unconstrained."""
        return self._transport(self.u)

    def move(self, oracle: AbstractOracle, random: np.random.Generator) -> Float[np.ndarray, " chains"]:
        """One trajectory of every chain, accepted or refused one by one; with what chances it was accepted."""
        step = math.exp(self.log_step + random.uniform(math.log(0.3), 0))
        leaps = int(np.clip(math.ceil(random.uniform(0.5, 2.0) / step), 1, _MOST_LEAPS))
        p = random.standard_normal(self.u.shape)
        with np.errstate(all="ignore"):
            value, slope = self._look(oracle, self.u)
            before = value - 0.5 * np.sum(p**2, axis=1)
            u = self.u
            p = p + 0.5 * step * self._force(u, slope)
            for leap in range(leaps):
                if self.turning:
                    u, p = math.cos(step) * u + math.sin(step) * p, math.cos(step) * p - math.sin(step) * u
                else:
                    u = u + step * p
                value, slope = self._look(oracle, u)
                p = p + (step if leap < leaps - 1 else 0.5 * step) * self._force(u, slope)
            log_ratio = value - 0.5 * np.sum(p**2, axis=1) - before
        log_ratio = np.where(np.isfinite(log_ratio), log_ratio, -np.inf)
        taken = np.log(random.uniform(size=len(u))) < log_ratio
        self.u = np.where(taken[:, None], u, self.u)
        chances = np.exp(np.minimum(0.0, log_ratio))
        self.accepted = float(np.mean(chances))
        moved = self.log_step + self.rate * (self.accepted - _ACCEPT)
        self.log_step = float(np.clip(moved, math.log(_SHORTEST_STEP), math.log(_LONGEST_STEP)))
        self.moves += 1
        return chances

    def halve(self) -> None:
        """Go on with every other chain."""
        self.part_of, self.u = self.part_of[::2], self.u[::2]

    def _force(self, u: Float[np.ndarray, "chains dim"], slope: Float[np.ndarray, "chains dim"]):
        """What moves p in steps."""
        return slope + u if self.turning else slope

    def _transport(self, u: Float[np.ndarray, "chains dim"]) -> Float[np.ndarray, "chains dim"]:
        if len(self.parts) == 1:
            return self.parts[0].transport(u)
        z = np.empty_like(u)
        for c, q in enumerate(self.parts):
            z[self.part_of == c] = q.transport(u[self.part_of == c])
        return z

    def _look(self, oracle: AbstractOracle, u: Float[np.ndarray, "chains dim"]):
        """log p and its gradient with respect to u."""
        value, gradient = oracle.gradients(self._transport(u))
        slope = np.empty_like(gradient)
        for c, q in enumerate(self.parts):
            slope[self.part_of == c] = q.pull(gradient[self.part_of == c])
        return value, slope


def worst_rhat(draws: Float[np.ndarray, "times chains columns"]) -> float:
    """The largest rank-normalised R-hat over columns, of the values and of their distances from the median.

    R-hat compares the variance between chains with that within them: 1 when chains have forgotten where they began.
    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
    """
    times, chains, columns = draws.shape
    folded = np.abs(draws - np.median(draws.reshape(-1, columns), axis=0))
    worst = 0.0
    for values in (draws, folded):
        ranks = values.reshape(-1, columns).argsort(axis=0).argsort(axis=0)
        scores = ndtri((ranks + 0.625) / (times * chains + 0.25)).reshape(times, chains, columns)
        within = scores.var(axis=0, ddof=1).mean(axis=0)
        between = scores.mean(axis=0).var(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            rhat = np.sqrt((times - 1) / times + between / within)
        worst = max(worst, float(np.max(np.where(within > 0, rhat, np.where(between > 0, np.inf, 1.0)))))
    return worst
