"""Batch and match: full-rank Gaussians by matching scores, from gradients alone."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, eigh

from qphi.solvers.exact import AbstractGaussianSolver, Fit, Gaussian
from qphi.targets.oracle import Oracle

__all__ = ["BatchAndMatch", "MatchState", "matched"]

_GAIN = 0.1  # nats
_MOST_LAMBDA = 1e10  # in place of infinity: of relative effect 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchState(Fit):
    """A Gaussian with the scores at its draws in its own coordinates, C'g, and how the next step is damped."""

    scores: Float[np.ndarray, "draws dim"] | None = None
    damping: float = 1.0
    halvings: int = 0


@dataclasses.dataclass(frozen=True)
class BatchAndMatch(AbstractGaussianSolver[MatchState]):
    """The Gaussian whose scores match those of log p on its own draws (`matched`): for targets without Hessians.

    Where it ends, the scores g at the draws have mean 0 and covariance C^-T C^-1: exact for a Gaussian target,
    otherwise not quite the Gaussian nearest in KL(q || p). A step costs one gradient for each draw.
    lam = rho / (1 - rho), so that rho = 1 matches a quadratic log p in one step; rho is halved where a step neither
    gains a tenth of a nat of the ELBO on the draws nor shortens the residual,

        (|E C'g|^2 + |Cov C'g - I|^2 / 8)^(1/2),

    Invariant to lower triangular affine maps of z. `eps` should have at least 2 dim rows. Source: Cai, Modi,
    Pillaud-Vivien, Margossian, Gower, Blei & Saul (2024, arXiv 2402.14758), where draws are fresh and lam
    follows a schedule.
    """

    most_halvings: int = 12

    def count(self, dim: int) -> int:
        return max(64, 4 * dim)

    def init(self, oracle: Oracle, start: Gaussian) -> MatchState:
        return MatchState(start)

    def step(self, oracle: Oracle, state: MatchState) -> MatchState:
        if state.scores is None:
            return self._look(oracle, state.q) or dataclasses.replace(state, halvings=self.most_halvings + 1)
        refused = dataclasses.replace(state, damping=state.damping / 2, halvings=state.halvings + 1)
        regulariser = min(state.damping / max(1 - state.damping, 1e-300), _MOST_LAMBDA)
        with np.errstate(all="ignore"):
            try:
                shift, root = matched(self.draws(oracle.dim), state.scores, regulariser)
            except (LinAlgError, ValueError):  # overflowed
                return refused
            new = self._look(oracle, Gaussian(state.q.mean + state.q.tril @ shift, state.q.tril @ root))
        if new is not None and (new.residual < state.residual or new.elbo > state.elbo + _GAIN):
            return dataclasses.replace(new, damping=min(1.0, 2 * state.damping))
        return refused

    def finished(self, state: MatchState) -> bool:
        return state.residual <= self.tolerance or state.halvings > self.most_halvings

    def _look(self, oracle: Oracle, q: Gaussian) -> MatchState | None:
        """The state at q, or None where something is not finite."""
        values, gradients = oracle.gradients(q.transport(self.draws(oracle.dim)))
        with np.errstate(all="ignore"):
            scores = gradients @ q.tril
            centre = scores.mean(axis=0)
            excess = _covariance(scores) - np.eye(oracle.dim)
            residual = math.sqrt(float(centre @ centre) + 0.125 * float(np.sum(excess**2)))
            elbo = float(np.mean(values)) + q.entropy
        if not (math.isfinite(residual) and math.isfinite(elbo)):
            return None
        return MatchState(q, elbo, residual, scores=scores)


def matched(
    eps: Float[np.ndarray, "draws dim"], scores: Float[np.ndarray, "draws dim"], regulariser: float
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
    """Mean m and lower triangular factor of S, N(m, S) the match from N(0, I), `scores` of log p at the draws `eps`.

    With means x, g and covariances X, G of draws and scores, and lam the regulariser,

        U = lam G + lam / (1 + lam) g g',     V = I + lam X + lam / (1 + lam) x x',
        S U S + S = V,     m = lam / (1 + lam) (S g + x);

    S = 2 L (I + (I + 4 L'U L)^(1/2))^-1 L' with V = L L', symmetric and positive definite as it stands. The step from
    N(m0, C C') is this one in the coordinates C^-1 (z - m0). Source: Cai et al. (2024).
    """
    share = regulariser / (1 + regulariser)
    x, g = eps.mean(axis=0), scores.mean(axis=0)
    u = regulariser * _covariance(scores) + share * np.outer(g, g)
    v = np.eye(len(x)) + regulariser * _covariance(eps) + share * np.outer(x, x)
    lower = cholesky(v, lower=True)
    values, vectors = eigh(lower.T @ u @ lower)
    root = lower @ vectors * np.sqrt(2 / (1 + np.sqrt(1 + 4 * np.maximum(values, 0))))
    tril = cholesky(root @ root.T, lower=True)
    return share * (tril @ (tril.T @ g) + x), tril


def _covariance(rows: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "dim dim"]:
    centred = rows - rows.mean(axis=0)
    return centred.T @ centred / len(rows)
