"""Laplace's approximation: the Gaussian of the curvature at a mode."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, eigh

from qphi.solvers.exact import AbstractGaussianSolver, Fit, Gaussian
from qphi.solvers.newton import inverse_factor
from qphi.targets.oracle import Oracle

__all__ = ["Laplace", "LaplaceState"]

_SUFFICIENT = 1e-4  # Armijo's constant


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaplaceState(Fit):
    """A place (the mean of `q`), log p there, the Newton step from it, and how much of that is tried next.

    `residual` is the Newton decrement, (g' |H|^-1 g)^(1/2): the length of the step in posterior sds. At the mode `q`
    has the curvature's covariance; before, the start's.
    """

    value: float = -math.inf
    newton_step: Float[np.ndarray, " dim"] | None = None
    hessian: Float[np.ndarray, "dim dim"] | None = None
    stride: float = 1.0
    halvings: int = 0
    ended: bool = False


@dataclasses.dataclass(frozen=True)
class Laplace(AbstractGaussianSolver[LaplaceState]):
    """N(z*, (-H)^-1), z* the mode that Newton's method climbs to from the start's mean, H the Hessian of log p there.

    The step is |H|^-1 g, with the absolute values of H's eigenvalues, so that it climbs away from saddles; it is halved
    until log p rises by a share of what it promises. A start or a preconditioner, exact for a Gaussian target: where
    the posterior is skewed its mean is not at its mode, and where it is a funnel there is no mode worth having. No
    answer where the curvature at the end is not negative definite. `eps` measures the ELBO once, at the end; a step
    costs one Hessian. Source: Tierney & Kadane (1986); Dauphin et al. (2014) for |H|.
    """

    most_halvings: int = 30
    uses_hessians: ClassVar[bool] = True

    def count(self, dim: int) -> int:
        return 64

    def init(self, oracle: Oracle, start: Gaussian) -> LaplaceState:
        return LaplaceState(start)

    def step(self, oracle: Oracle, state: LaplaceState) -> LaplaceState:
        if state.residual <= self.tolerance:
            return self._end(oracle, state)
        if state.newton_step is None:
            first = self._look(oracle, state.q)
            return first or dataclasses.replace(state, ended=True)
        trial = Gaussian(state.q.mean + state.stride * state.newton_step, state.q.tril)
        new = self._look(oracle, trial)
        if new is not None and new.value >= state.value + _SUFFICIENT * state.stride * state.residual**2:
            return new
        halvings = state.halvings + 1
        return dataclasses.replace(
            state, stride=state.stride / 2, halvings=halvings, ended=halvings > self.most_halvings
        )

    def finished(self, state: LaplaceState) -> bool:
        return state.ended

    def _look(self, oracle: Oracle, q: Gaussian) -> LaplaceState | None:
        """The state at q's mean, or None where something is not finite."""
        value, gradient, hessian = oracle.mean_curvature(q.mean[None])
        with np.errstate(all="ignore"):
            try:
                curvature, axes = eigh(hessian)
            except (LinAlgError, ValueError):  # not finite
                return None
            newton_step = axes @ (axes.T @ gradient / np.abs(curvature))
            residual = math.sqrt(max(float(gradient @ newton_step), 0.0))
        if not (math.isfinite(value) and math.isfinite(residual) and np.isfinite(newton_step).all()):
            return None
        return LaplaceState(q, residual=residual, value=value, newton_step=newton_step, hessian=hessian)

    def _end(self, oracle: Oracle, state: LaplaceState) -> LaplaceState:
        assert state.newton_step is not None
        assert state.hessian is not None
        try:
            # the last step is taken without another look: it is below the tolerance
            q = Gaussian(state.q.mean + state.newton_step, inverse_factor(-state.hessian))
        except (LinAlgError, ValueError):  # a saddle, or flat
            return dataclasses.replace(state, ended=True)
        elbo = float(np.mean(oracle.values(q.transport(self.draws(oracle.dim))))) + q.entropy
        return dataclasses.replace(state, q=q, elbo=elbo if math.isfinite(elbo) else -math.inf, ended=True)
