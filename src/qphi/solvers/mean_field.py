"""Mean field on fixed draws, and the covariance that it lacks by linear response."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from qphi.solvers.descent import Descent, advance, memory
from qphi.solvers.exact import AbstractGaussianSolver, Fit, Gaussian
from qphi.targets.oracle import Oracle

__all__ = ["MeanField", "MeanFieldState"]

_DIFFERENCE = 1e-4  # in posterior sds: the error of central differences is its square


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanFieldState(Fit):
    """A climb over means and log scales, in the coordinates of the `start`; `q` is the start's until the end."""

    start: Gaussian
    conditional: Float[np.ndarray, " dim"]  # sds of the start, given all other coordinates
    path: Descent
    ended: bool = False

    def at(self, place: Float[np.ndarray, " twice"]) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
        """Mean and sds of the mean field at a place of the path."""
        dim = len(self.conditional)
        mean = self.start.mean + self.start.tril @ place[:dim]
        return mean, self.conditional * np.exp(place[dim:] / math.sqrt(2))


@dataclasses.dataclass(frozen=True)
class MeanField(AbstractGaussianSolver[MeanFieldState]):
    """N(mu, diag(e^xi)^2) nearest on fixed draws, answered with its linear-response covariance.

    BFGS on -(1/M) sum_m log p(mu + e^xi eps_m) - sum_i xi_i, which is an ordinary function once eps is fixed. Its sds
    are those of each coordinate given all others, too small where coordinates are correlated; how the optimal mu moves
    when log p is tilted corrects that,

        Cov = [H^-1]_mu,mu,   H the Hessian of that function in (mu, xi) at its minimum,

    by central differences of gradients. For a Gaussian log p with precision L: mu exact, e^2xi = 1 / diag(L) and
    Cov = L^-1. A step costs one gradient for each draw, the last 4 dim of them. Covariances come out too large for the
    scales of hierarchical models; no answer where H is not positive definite. Invariant to rescaling each coordinate.
    Sources: Giordano, Ingram & Broderick (JMLR 2024, arXiv 2304.05527); Giordano, Broderick & Jordan
    (2018) for linear response.
    """

    def count(self, dim: int) -> int:
        return 64

    def init(self, oracle: Oracle, start: Gaussian) -> MeanFieldState:
        inverse = solve_triangular(start.tril, np.eye(oracle.dim), lower=True)
        conditional = 1 / np.sqrt(np.sum(inverse**2, axis=0))
        return MeanFieldState(
            start, start=start, conditional=conditional, path=Descent(np.zeros(2 * oracle.dim), memory(2 * oracle.dim))
        )

    def step(self, oracle: Oracle, state: MeanFieldState) -> MeanFieldState:
        if state.residual <= self.tolerance:
            return self._respond(oracle, state)
        trial = state.path.trial
        with np.errstate(all="ignore"):
            energy, slope = self._look(oracle, state, trial)
            advance(state.path, trial, energy, slope)
            residual = math.sqrt(2 * state.path.decrement)
        return dataclasses.replace(state, residual=residual, ended=state.path.stuck)

    def finished(self, state: MeanFieldState) -> bool:
        return state.ended

    def _look(
        self, oracle: Oracle, state: MeanFieldState, place: Float[np.ndarray, " twice"]
    ) -> tuple[float, Float[np.ndarray, " twice"]]:
        """What is minimised, and its gradient in the path's coordinates."""
        (mean, scale), eps = state.at(place), self.draws(oracle.dim)
        values, gradients = oracle.gradients(mean + eps * scale)
        in_mean = -state.start.tril.T @ gradients.mean(axis=0)
        in_log_scale = -np.mean(gradients * eps, axis=0) * scale - 1
        energy = -float(np.mean(values)) - float(np.sum(np.log(scale)))
        return energy, np.concatenate([in_mean, in_log_scale / math.sqrt(2)])

    def _respond(self, oracle: Oracle, state: MeanFieldState) -> MeanFieldState:
        """The linear-response Gaussian with its ELBO; without an answer where there is none."""
        ended, dim, place = dataclasses.replace(state, ended=True), oracle.dim, state.path.place
        assert state.path.slope is not None
        hessian = np.empty((2 * dim, 2 * dim))
        for row, step in zip(hessian, _DIFFERENCE * np.eye(2 * dim), strict=True):
            (_, up), (_, down) = (self._look(oracle, state, place + way) for way in (step, -step))
            row[:] = (up - down) / (2 * _DIFFERENCE)
        hessian = 0.5 * (hessian + hessian.T)
        try:
            cholesky(hessian)  # refuses what is not a minimum
            inverse = np.linalg.inv(hessian)
            response = cholesky(inverse[:dim, :dim], lower=True)
        except (LinAlgError, ValueError):
            return ended
        # one step of Newton's with it: what BFGS, which only estimates curvature, has left
        state.path.place = place - inverse @ state.path.slope
        q = Gaussian(state.at(state.path.place)[0], state.start.tril @ response)
        elbo = float(np.mean(oracle.values(q.transport(self.draws(dim))))) + q.entropy
        return dataclasses.replace(ended, q=q, elbo=elbo if math.isfinite(elbo) else -math.inf)
