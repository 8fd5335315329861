"""The proposal that fits are checked under: fitted Gaussians with tails heavy enough to find fault with them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammaln, logsumexp

from qphi.noise import stratified_normal
from qphi.solvers.exact import AbstractGaussian

__all__ = ["Draws", "Proposal"]


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws in pairs: row i and row n/2 + i are reflections of each other about their component's mean.

    `log_r` is the proposal's log density, nats; `is_gaussian` marks draws of the fitted Gaussians themselves.
    """

    z: Float[np.ndarray, "draws dim"]
    log_r: Float[np.ndarray, " draws"]
    is_gaussian: Bool[np.ndarray, " draws"]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Each fitted Gaussian as half of a mixture with two Student-t distributions of its location and scale.

        r(z) = sum_c share_c [ 1/2 N(m_c, S_c) + 2/5 t_nu(m_c, S_c) + 1/10 t_nu'(m_c, 1.5^2 S_c) ]

    with nu = max(7, d/2), nu' = max(3, d/4): in many dimensions heavier tails would only waste draws. Importance
    weights p / r are at most 2 p / q, and stay bounded where p's tails are heavier than a Gaussian's but lighter than
    nu' degrees of freedom (a defensive mixture: Hesterberg 1995; Owen & Zhou 2000). Every part is symmetric about its
    mean, so draws come in reflected pairs, which lifts any skewness that is odd (Pozza, Durante & Szabo 2026).
    """

    parts: tuple[AbstractGaussian, ...]
    shares: Float[np.ndarray, " components"]

    @property
    def dim(self) -> int:
        """Length of z."""
        return len(self.parts[0].mean)

    def draw(self, random: np.random.Generator, pairs: int) -> Draws:
        """`pairs` reflected pairs, stratified over components and parts."""
        blocks, gaussian = [], []
        for q, share in zip(self.parts, self.shares, strict=True):
            for part, degrees, inflation in self._parts:
                count = max(1, round(pairs * share * part))
                u = stratified_normal(random, count, self.dim) * inflation
                if math.isfinite(degrees):
                    u *= np.sqrt(degrees / random.chisquare(degrees, count))[:, None]
                blocks.append((q.stretch(u), q.mean))
                gaussian.append(np.full(count, not math.isfinite(degrees)))
        z = np.concatenate([mean + step for step, mean in blocks] + [mean - step for step, mean in blocks])
        return Draws(z, self.log_prob(z), np.tile(np.concatenate(gaussian), 2))

    def log_prob(self, z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        """log r(z) of each row, nats."""
        terms = [
            math.log(share * part)
            + _log_t(radius / inflation**2, degrees, self.dim)
            - log_det
            - self.dim * math.log(inflation)
            for radius, log_det, share in self._standardised(z)
            for part, degrees, inflation in self._parts
        ]
        return np.asarray(logsumexp(terms, axis=0))

    def log_gaussian(self, z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        """log q(z) of the fitted Gaussian mixture itself, nats."""
        terms = [
            math.log(share) + _log_t(radius, math.inf, self.dim) - log_det
            for radius, log_det, share in self._standardised(z)
        ]
        return np.asarray(logsumexp(terms, axis=0))

    @property
    def _parts(self) -> tuple[tuple[float, float, float], ...]:
        # share, degrees of freedom, inflation of the scale
        return ((0.5, math.inf, 1.0), (0.4, max(7.0, self.dim / 2), 1.0), (0.1, max(3.0, self.dim / 4), 1.5))

    def _standardised(self, z):
        for q, share in zip(self.parts, self.shares, strict=True):
            yield q.radius(z), q.log_det, share


def _log_t(radius: Float[np.ndarray, " draws"], degrees: float, dim: int) -> Float[np.ndarray, " draws"]:
    """Log density of a standard t (a normal, for infinite degrees) at squared distance `radius` from its centre."""
    if math.isinf(degrees):
        return -0.5 * radius - 0.5 * dim * math.log(2 * math.pi)
    constant = gammaln((degrees + dim) / 2) - gammaln(degrees / 2) - 0.5 * dim * math.log(degrees * math.pi)
    return constant - 0.5 * (degrees + dim) * np.log1p(radius / degrees)
