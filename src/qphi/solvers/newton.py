"""Full-rank Gaussian variational inference by damped Newton steps on fixed draws."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from qphi.solvers.exact import AbstractGaussianSolver, Fit, Gaussian
from qphi.targets.oracle import Oracle

__all__ = ["Newton", "NewtonState", "SteinNewton"]

_TOLERATED_FALL = 0.1  # nats
_REMEMBERED = 5  # full steps
_NEAR = 2.0  # posterior sds: from how far the next full step is extrapolated


class _FullStep(NamedTuple):
    """Where a full step leads, and how far: mean and precision."""

    mean: Float[np.ndarray, " dim"]
    precision: Float[np.ndarray, "dim dim"]
    moved: Float[np.ndarray, " dim"]
    changed: Float[np.ndarray, "dim dim"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewtonState(Fit):
    """An accepted Gaussian with the means over its draws, and how the next step is damped.

    `residual` is the length of the natural gradient: how far the next full step would go, in posterior sds.
    """

    precision: Float[np.ndarray, "dim dim"]
    gradient: Float[np.ndarray, " dim"] | None = None
    hessian: Float[np.ndarray, "dim dim"] | None = None
    damping: float = 1.0
    halvings: int = 0
    latest: tuple[_FullStep, ...] = ()  # from the accepted Gaussians before


@dataclasses.dataclass(frozen=True)
class Newton(AbstractGaussianSolver[NewtonState]):
    """Natural-gradient steps of a full-rank Gaussian with exact Hessians (Price's theorem), damped by halving.

    With g and H the means over the draws of the gradient and Hessian of log p at z = m + C eps,

        P <- (1 - rho) P - rho H,     m <- m + rho P^-1 g,     C C' = P^-1;

    where that P is not positive definite, rho^2/2 (P + H) P^-1 (P + H) is added, which always makes it so (Lin, Schmidt
    & Khan 2020). A step is taken when it shortens the natural gradient, (|C'g|^2 + |C'HC + I|^2 / 2)^(1/2), without
    losing more than 0.1 nat of the ELBO on the draws, or gains more than that; else rho is halved. (Price's identity
    holds on average, not on the draws: near the end their ELBO and their moments disagree about the last hundredths of
    a nat, and it is the moments that are to vanish.) rho = 1 is exact in one step when log p is quadratic. Invariant to
    affine maps of z. `eps` should have at least 2 dim rows.

    Near the end the steps of a skewed posterior (a hierarchical one, say) shrink by a constant factor, and Anderson's
    mixing of the latest five, least squares in the metric of the natural gradient, takes a third as many. What it
    proposes is taken when it shortens the natural gradient; else the plain step is tried.

    Sources: Opper & Archambeau (2009); Khan & Rue (2023, arXiv 2107.04562); Giordano et al. (2024) for fixed draws;
    Walker & Ni (2011) for Anderson's mixing.
    """

    most_halvings: int = 12
    uses_hessians: ClassVar[bool] = True

    def count(self, dim: int) -> int:
        """4 dim draws while they are cheap. Above 64 dimensions fewer than can be whitened will do: their mean
        gradient and Hessian are exact for a Gaussian target all the same, being antithetic, and a Hessian costs `dim`
        products."""
        return max(64, 4 * dim) if dim <= 64 else 128 if dim <= 300 else 64

    def init(self, oracle: Oracle, start: Gaussian) -> NewtonState:
        inverse = solve_triangular(start.tril, np.eye(oracle.dim), lower=True)
        return NewtonState(start, precision=inverse.T @ inverse)

    def step(self, oracle: Oracle, state: NewtonState) -> NewtonState:
        if state.gradient is None or state.hessian is None:
            first = self._look(oracle, state.q, state.precision)
            return first or dataclasses.replace(state, halvings=self.most_halvings + 1)
        latest: tuple[_FullStep, ...] = ()
        if state.damping == 1 and state.residual < _NEAR and (full := _full_step(state)) is not None:
            latest = (*state.latest, full)[-_REMEMBERED:]
            mixed = _mixed(latest, state.q.tril)
            new = None if mixed is None else self._look(oracle, *mixed)
            if new is not None and _better(new, state):
                return dataclasses.replace(new, latest=latest)
            latest = latest[-1:]
        refused = dataclasses.replace(state, damping=state.damping / 2, halvings=state.halvings + 1, latest=())
        with np.errstate(all="ignore"):
            try:
                precision = _blend(state, state.hessian, state.damping)
                tril = inverse_factor(precision)
            except (LinAlgError, ValueError):  # not positive definite, or overflowed
                return refused
            mean = state.q.mean + state.damping * (tril @ (tril.T @ state.gradient))
            new = self._look(oracle, Gaussian(mean, tril), precision)
        if new is None or not _better(new, state):
            return refused
        return dataclasses.replace(new, damping=min(1.0, 2 * state.damping), latest=latest)

    def finished(self, state: NewtonState) -> bool:
        return state.residual <= self.tolerance or state.halvings > self.most_halvings

    def _look(self, oracle: Oracle, q: Gaussian, precision: Float[np.ndarray, "dim dim"]) -> NewtonState | None:
        """The state at q, or None where something is not finite."""
        value, gradient, hessian = self._means(oracle, q)
        if not (math.isfinite(value) and np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            return None
        with np.errstate(all="ignore"):
            slope = q.tril.T @ gradient
            excess = q.tril.T @ hessian @ q.tril + np.eye(len(slope))
            residual = math.sqrt(float(slope @ slope) + 0.5 * float(np.sum(excess**2)))
        if not math.isfinite(residual):
            return None
        return NewtonState(q, value + q.entropy, residual, precision=precision, gradient=gradient, hessian=hessian)

    def _means(
        self, oracle: Oracle, q: Gaussian
    ) -> tuple[float, Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        """Of log p, its gradient and its Hessian, over the draws."""
        return oracle.mean_curvature(q.transport(self.draws(oracle.dim)))


@dataclasses.dataclass(frozen=True)
class SteinNewton(Newton):
    """`Newton` without Hessians: their mean is read from how the gradients g go with the noise, by Stein's identity,

        E[H] = E[C'^-1 eps g'],     made symmetric.

    Exact for a Gaussian target on whitened draws, as Price's is; of other targets it needs some d times as many draws
    for the same error, one gradient each, where a Hessian costs d products or more. So it is ahead where derivatives of
    gradients are dear: decompositions of matrices, differential equations.

    Source: Stein (1981); Lin, Khan & Schmidt (2019, arXiv 1910.13398) for both identities.
    """

    uses_hessians: ClassVar[bool] = False

    def count(self, dim: int) -> int:
        return max(256, 64 * dim)

    def _means(
        self, oracle: Oracle, q: Gaussian
    ) -> tuple[float, Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        eps = self.draws(oracle.dim)
        values, gradients = oracle.gradients(q.transport(eps))
        with np.errstate(all="ignore"):  # not finite: refused by who asked
            by_noise = eps.T @ gradients / len(eps)
            hessian = solve_triangular(q.tril, by_noise, lower=True, trans=1, check_finite=False)
        return float(values.mean()), gradients.mean(axis=0), 0.5 * (hessian + hessian.T)


def _full_step(state: NewtonState) -> _FullStep | None:
    """The undamped step; None where its precision is not positive definite."""
    assert state.gradient is not None
    assert state.hessian is not None
    try:
        tril = inverse_factor(-state.hessian)
    except (LinAlgError, ValueError):
        return None
    moved = tril @ (tril.T @ state.gradient)
    return _FullStep(state.q.mean + moved, -state.hessian, moved, -state.hessian - state.precision)


def _mixed(
    latest: tuple[_FullStep, ...], tril: Float[np.ndarray, "dim dim"]
) -> tuple[Gaussian, Float[np.ndarray, "dim dim"]] | None:
    """Where the full steps would lead if they were linear in where they begin; None where that is no Gaussian.

    The affine combination of the steps is sought that is shortest, with q's own covariance as the metric.
    """
    if len(latest) < 2:
        return None
    upper = np.triu_indices(len(tril))
    with np.errstate(all="ignore"):
        lengths = np.array(
            [
                np.concatenate([solve_triangular(tril, full.moved, lower=True), (tril.T @ full.changed @ tril)[upper]])
                for full in latest
            ]
        )
        weights, *_ = np.linalg.lstsq((lengths[1:] - lengths[:-1]).T, lengths[-1], rcond=1e-8)
        weights = np.diff(weights, prepend=0.0, append=1.0)  # of the steps themselves; they sum to one
        mean = np.tensordot(weights, np.stack([full.mean for full in latest]), 1)
        precision = np.tensordot(weights, np.stack([full.precision for full in latest]), 1)
        try:
            return Gaussian(mean, inverse_factor(precision)), precision
        except (LinAlgError, ValueError):
            return None


def _better(new: NewtonState, old: NewtonState) -> bool:
    gain = new.elbo - old.elbo
    return gain > _TOLERATED_FALL or (new.residual < old.residual and gain > -_TOLERATED_FALL)


def _blend(state: NewtonState, hessian: Float[np.ndarray, "dim dim"], rho: float) -> Float[np.ndarray, "dim dim"]:
    plain = (1 - rho) * state.precision - rho * hessian
    try:
        cholesky(plain)
    except (LinAlgError, ValueError):
        excess = (state.precision + hessian) @ state.q.tril
        return plain + 0.5 * rho**2 * (excess @ excess.T)
    return plain


def inverse_factor(precision: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    """Lower triangular C with C C' = precision^-1. Raises LinAlgError where it is not positive definite.

    With rows and columns reversed, the Cholesky factor of P becomes U of P = U U', upper triangular; C = U'^-1.
    """
    upper = cholesky(precision[::-1, ::-1], lower=True)[::-1, ::-1]
    return solve_triangular(upper, np.eye(len(precision)), lower=False).T
