"""Gaussian variational inference in many dimensions: a scale for each coordinate, and a few directions besides."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from qphi.solvers.descent import Descent, Limited, advance
from qphi.solvers.exact import AbstractExactSolver, Spiked
from qphi.targets.oracle import Oracle

__all__ = ["SpikedFit", "SpikedMeanField", "add_spikes"]

_LONGEST = 1.0  # change of a log scale in one step: a quadratic model knows nothing of scales further off
_RECENTRED = 1.0  # change of a log scale after which curvature is learned anew
_TURNS = 8
_STEPS_KEPT = 20  # before that
_IMPROPER = 1e12  # sd of a coordinate that nothing holds
_NUDGE = 1e-3  # sds: of central differences of gradients
_MOST_VECTORS = 120  # of Lanczos
_LOOK_EVERY = 10  # of them
_CONVERGED = 0.05  # error of an eigenvalue, as a share of its distance from 1
_WORTH = 0.02  # nats of KL: less is not worth a direction
_WORTH_LOOKING = 0.1  # nats, of ten more products
_EXHAUSTED = 1e-8  # of a vector orthogonal to all before: they span an invariant space
_NARROWEST = 1e-8  # eigenvalue: a direction this flat, or curved upwards, is left to the scales


@dataclasses.dataclass(frozen=True)
class SpikedFit:
    """The best Gaussian so far, and the descent: `descent` moves (a, b), the mean being origin.mean + C a and the
    scales origin.scale exp(b / 2^(1/2)), in which the posterior's curvature is near the identity.

    `residual` is the length of the step that a quadratic model would still take, in posterior sds.
    """

    origin: Spiked
    noise: Float[np.ndarray, "draws dim"]  # fixed draws in units of the scales
    descent: Descent

    @property
    def q(self) -> Spiked:
        """The Gaussian at the descent's place."""
        return _at(self.origin, self.descent.place)

    @property
    def elbo(self) -> float:
        """On the fixed draws, nats."""
        return -self.descent.energy

    @property
    def residual(self) -> float:
        return math.sqrt(2 * max(self.descent.decrement, 0.0))


@dataclasses.dataclass(frozen=True)
class SpikedMeanField(AbstractExactSolver[SpikedFit]):
    """Means and scales of a `Spiked` Gaussian that maximise the ELBO on fixed draws, by L-BFGS; its rotation is held.

    On z_m = mean + scale * (R eps_m), R = I + V (A - I) V' of the start, the ELBO is a deterministic function

        1/M sum_m log p(z_m) + sum log scale + log det R + entropy of N(0, I)

    of 2 dim numbers. Without directions this is mean-field variational inference; R = I is right for a posterior of
    independent coordinates, and scales are too small where they are correlated (`add_spikes` finds R). A step costs
    one gradient a draw. `eps`: as of `qphi.noise.fixed_draws`, at least 4 for each direction; on them coordinates along
    directions are made uncorrelated with all others, so that a Gaussian that is `Spiked` is found exactly. The error of
    the answer falls as the number of draws rises, and is 1 / M^(1/2) of the coupling of a coordinate to all others that
    no direction shows. Source: Giordano, Ingram & Broderick (JMLR
    2024, arXiv 2304.05527), there by Newton steps.
    """

    tolerance: float = 1e-3  # posterior sds

    def count(self, dim: int) -> int:
        return 64

    @staticmethod
    def unfitted(place: Float[np.ndarray, " dim"]) -> SpikedFit:
        """A narrow Gaussian at a place, for want of a better one: its ELBO is minus infinity."""
        dim = len(place)
        return SpikedFit(Spiked.diagonal(place, np.full(dim, 1e-3)), np.zeros((0, dim)), _fresh(dim))

    def init(self, oracle: Oracle, start: Spiked) -> SpikedFit:
        noise = _uncoupled(self.draws(oracle.dim), start.directions)
        return SpikedFit(start, start.rotate(noise), _fresh(oracle.dim))

    def step(self, oracle: Oracle, state: SpikedFit) -> SpikedFit:
        origin, descent, dim = state.origin, state.descent, oracle.dim
        if descent.slope is not None:
            longest = float(np.max(np.abs(descent.full_step[dim:]))) / math.sqrt(2)
            descent.stride = min(descent.stride, _LONGEST / max(longest, 1e-300))
        trial = descent.trial
        with np.errstate(all="ignore"):
            q = _at(origin, trial)
            value, gradient = oracle.gradients(q.mean + q.scale * state.noise)
            elbo = float(np.mean(value)) + q.entropy
            upwards = np.mean(gradient * state.noise, axis=0) * q.scale + 1
            slope = -np.concatenate([origin.pull(np.mean(gradient, axis=0)[None])[0], upwards / math.sqrt(2)])
            advance(descent, trial, -elbo, slope)
        changed = float(np.max(np.abs(descent.place[dim:]))) / math.sqrt(2)
        if descent.updates >= _STEPS_KEPT and changed > _RECENTRED:
            return dataclasses.replace(state, origin=state.q, descent=_fresh(dim))
        return state

    def finished(self, state: SpikedFit) -> bool:
        return state.residual <= self.tolerance or state.descent.stuck or float(np.max(state.q.scale)) > _IMPROPER

    def answer(self, state: SpikedFit) -> Spiked | None:
        return state.q if state.descent.slope is not None else None


def _fresh(dim: int) -> Descent:
    return Descent(np.zeros(2 * dim), Limited(2 * dim))


def _uncoupled(
    eps: Float[np.ndarray, "draws dim"], directions: Float[np.ndarray, "dim rank"]
) -> Float[np.ndarray, "draws dim"]:
    """The draws with S V = V and S_ii = 1, S their second moments: all of it that the spikes' rotation mixes.

    By turns for the one and the other. Two draws that agree by chance along a wide direction and in a coordinate would
    else be taken for a relation of the two, for each of thousands of coordinates.
    """
    if not directions.shape[1]:
        return eps
    for _ in range(_TURNS):
        eps = eps / np.sqrt(np.mean(eps**2, axis=0))
        along = eps @ directions
        u, _, right = np.linalg.svd(along, full_matrices=False)
        rest = eps - along @ directions.T
        eps = math.sqrt(len(eps)) * (u @ right) @ directions.T + rest - u @ (u.T @ rest)
    return eps


def _at(origin: Spiked, place: Float[np.ndarray, " twice"]) -> Spiked:
    dim = len(origin.mean)
    mean = origin.transport(place[None, :dim])[0]
    return dataclasses.replace(origin, mean=mean, scale=origin.scale * np.exp(place[dim:] / math.sqrt(2)))


def add_spikes(
    oracle: Oracle,
    q: Spiked,
    eps: Float[np.ndarray, "draws dim"],
    random: np.random.Generator,
    *,
    rank: int,
    deadline: float = math.inf,
) -> Spiked:
    """q with the directions, `rank` at most, in which the posterior is widest and narrowest against q's scales.

    With H the mean Hessian of log p over z = mean + C eps, the best covariance is -H^-1 (Price's theorem). Lanczos'
    method finds the outer eigenvectors V of -D H D, D = diag(scale), and their eigenvalues l; the spikes are
    l^(-1/2). Those with the largest KL, (l - 1 - log l) / 2, are kept. A product with H is a central difference of
    mean gradients: two gradients a draw, and nothing to compile. Exact where -D H D is the identity but for `rank`
    directions, as when a few parameters are shared by many that are independent given these.
    """
    z = q.transport(eps)

    def product(v: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        step = _NUDGE * q.scale * v
        _, gradient = oracle.gradients(np.concatenate([z - step, z + step]))
        mean = gradient.reshape(2, len(z), -1).mean(axis=1)
        return (mean[0] - mean[1]) * q.scale / (2 * _NUDGE)

    values, vectors = _outer_eigenpairs(product, random.standard_normal(oracle.dim), deadline)
    gain = _gain(values)
    chosen = np.argsort(-gain)[:rank]
    chosen = chosen[gain[chosen] > _WORTH]
    return dataclasses.replace(q, directions=vectors[:, chosen], spikes=values[chosen] ** -0.5)


def _gain(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """Nats of KL between N(0, 1) and N(0, 1 / value); none for a direction that has no curvature to speak of."""
    with np.errstate(all="ignore"):
        return np.where(values > _NARROWEST, 0.5 * (values - 1 - np.log(values)), 0.0)


def _outer_eigenpairs(
    product: Callable[[np.ndarray], np.ndarray], start: Float[np.ndarray, " dim"], deadline: float
) -> tuple[Float[np.ndarray, " found"], Float[np.ndarray, "dim found"]]:
    """Eigenpairs of a symmetric matrix that Lanczos' method, orthogonalised in full, has found from `start`.

    It ends when a further ten products have found nothing of worth.
    """
    most = min(_MOST_VECTORS, len(start))
    basis, diagonal, off = np.empty((0, len(start))), [], []
    w, size, known = start, float(np.linalg.norm(start)), -math.inf
    while True:
        basis = np.vstack([basis, w / size])
        w = product(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        for _ in range(2):  # once leaves rounding that grows
            w = w - basis.T @ (basis @ w)
        size = float(np.linalg.norm(w))
        done = len(basis) == most or not size > _EXHAUSTED or time.monotonic() > deadline
        if done or len(basis) % _LOOK_EVERY == 0:
            values, parts = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
            found = size * np.abs(parts[-1]) < _CONVERGED * np.abs(values - 1)
            worth = float(np.sum(_gain(values[found])))
            if done or worth < known + _WORTH_LOOKING:
                return values[found], basis.T @ parts[:, found]
            known = worth
        off.append(size)
