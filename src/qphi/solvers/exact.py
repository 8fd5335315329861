"""Solvers without noise: what they are, the Gaussians that they answer with, and the loop that drives them."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from qphi.errors import InputError
from qphi.noise import fixed_draws
from qphi.targets.oracle import Oracle

__all__ = [
    "MOST_DENSE",
    "AbstractExactSolver",
    "AbstractGaussian",
    "AbstractGaussianSolver",
    "Fit",
    "Gaussian",
    "Spiked",
    "nearest",
    "solve",
]


MOST_DENSE = 1000  # dimensions: above, no matrix has a row and a column for each
_POWERS = 100  # of the covariance


@dataclasses.dataclass(frozen=True)
class AbstractGaussian(abc.ABC):
    """N(mean, C C') on the host, z = mean + C eps; a subclass says what C is and how it is applied to rows."""

    mean: Float[np.ndarray, " dim"]

    @property
    @abc.abstractmethod
    def log_det(self) -> float:
        """log |det C|."""

    @property
    @abc.abstractmethod
    def sd(self) -> Float[np.ndarray, " dim"]:
        """Marginal standard deviations, the root of the diagonal of C C'."""

    @property
    @abc.abstractmethod
    def widest(self) -> Float[np.ndarray, " dim"]:
        """The direction of largest variance, of length 1."""

    @abc.abstractmethod
    def stretch(self, eps: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        """C eps of each row."""

    @abc.abstractmethod
    def pull(self, gradient: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        """C' g of each row: the gradient with respect to eps of what has the gradient g with respect to z."""

    @abc.abstractmethod
    def whiten(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        """C^-1 (z - mean) of each row: the inverse of `transport`."""

    @property
    def entropy(self) -> float:
        """H = log |det C| + d/2 (1 + log 2 pi), nats."""
        return self.log_det + 0.5 * len(self.mean) * (1 + math.log(2 * math.pi))

    def transport(self, eps: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        """z = mean + C eps of each row."""
        return self.mean + self.stretch(eps)

    def radius(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """|C^-1 (z - mean)|^2 of each row: chi-squared of q's own draws."""
        return np.sum(self.whiten(z) ** 2, axis=1)

    def divergence(self, other: AbstractGaussian) -> float:
        """KL(self || other), nats, closed form: O(dim^3) for full rank."""
        # the mean of a quadratic form under q is its mean over the ends of q's axes, sqrt(dim) sds out
        ends = math.sqrt(len(self.mean)) * np.eye(len(self.mean))
        radius = np.mean(other.radius(self.transport(np.concatenate([ends, -ends]))))
        return float(0.5 * (radius - len(self.mean)) + other.entropy - self.entropy)


@dataclasses.dataclass(frozen=True)
class Gaussian(AbstractGaussian):
    """Full rank: C = tril, lower triangular."""

    tril: Float[np.ndarray, "dim dim"]

    @property
    def log_det(self) -> float:
        return float(np.sum(np.log(np.abs(np.diag(self.tril)))))

    @property
    def sd(self) -> Float[np.ndarray, " dim"]:
        return np.sqrt(np.sum(self.tril**2, axis=1))

    @property
    def widest(self) -> Float[np.ndarray, " dim"]:
        return np.linalg.svd(self.tril)[0][:, 0]

    def stretch(self, eps: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        return eps @ self.tril.T

    def pull(self, gradient: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        return gradient @ self.tril

    def whiten(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        return solve_triangular(self.tril, (z - self.mean).T, lower=True, check_finite=False).T


@dataclasses.dataclass(frozen=True)
class Spiked(AbstractGaussian):
    """Diagonal but for a few directions: C = D (I + V (A - I) V'), D = diag(scale), V'V = I, A = diag(spikes) > 0.

    In units of `scale` the covariance is the identity, but for variances spikes^2 along the columns of V (the spiked
    covariance model of Johnstone 2001). Every operation on a row costs O(dim rank); nothing has dim^2 numbers.
    """

    scale: Float[np.ndarray, " dim"]
    directions: Float[np.ndarray, "dim rank"]
    spikes: Float[np.ndarray, " rank"]

    @staticmethod
    def diagonal(mean: Float[np.ndarray, " dim"], scale: Float[np.ndarray, " dim"]) -> Spiked:
        """N(mean, diag(scale)^2): no spikes."""
        return Spiked(mean, scale, np.zeros((len(mean), 0)), np.zeros(0))

    @property
    def log_det(self) -> float:
        return float(np.sum(np.log(self.scale)) + np.sum(np.log(self.spikes)))

    @property
    def sd(self) -> Float[np.ndarray, " dim"]:
        return self.scale * np.sqrt(1 + self.directions**2 @ (self.spikes**2 - 1))

    @property
    def widest(self) -> Float[np.ndarray, " dim"]:
        # by the power method, from the widest coordinate; near enough when two directions are as wide as each other
        v = self.scale * (self.scale == self.scale.max())
        for _ in range(_POWERS):
            v = self.stretch(self.pull(v[None]))[0]
            v /= np.linalg.norm(v)
        return v

    def rotate(self, eps: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        """(I + V (A - I) V') eps of each row: draws in units of `scale`."""
        return eps + ((eps @ self.directions) * (self.spikes - 1)) @ self.directions.T

    def stretch(self, eps: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        return self.scale * self.rotate(eps)

    def pull(self, gradient: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        return self.rotate(gradient * self.scale)

    def whiten(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
        u = (z - self.mean) / self.scale
        return u + ((u @ self.directions) * (1 / self.spikes - 1)) @ self.directions.T


def nearest(parts: tuple[AbstractGaussian, ...], z: Float[np.ndarray, "points dim"]) -> Int[np.ndarray, " points"]:
    """Which Gaussian each row is likeliest under."""
    return np.argmax([-0.5 * q.radius(z) - q.entropy for q in parts], axis=0)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A Gaussian, its ELBO on the solver's draws (nats; -inf before there is one), and how far the solver still is.

    `residual` is that of the equations which the solver solves, scaled to the length of its next full step in
    posterior sds.
    """

    q: Gaussian
    elbo: float = -math.inf
    residual: float = math.inf


S = TypeVar("S")
F = TypeVar("F", bound=Fit)


@dataclasses.dataclass(frozen=True)
class AbstractExactSolver(abc.ABC, Generic[S]):
    """A rule that improves a Gaussian on draws that are fixed, and knows when it is done.

    It runs on the host and asks an `Oracle` for what it needs, so nothing of it is compiled and any step may end it.
    `eps`: the fixed noise, as of `qphi.noise.fixed_draws`; made as needed where it is None.
    """

    eps: Float[np.ndarray, "draws dim"] | None = None

    @abc.abstractmethod
    def count(self, dim: int) -> int:
        """How many draws are made where none were given; even."""

    def draws(self, dim: int) -> Float[np.ndarray, "draws dim"]:
        """`eps`, or draws that are the same in every fit. Raises InputError where `eps` is of other dimensions."""
        if self.eps is None:
            return _same_draws(self.count(dim), dim)
        if self.eps.ndim != 2 or self.eps.shape[1] != dim:
            raise InputError(
                f"eps of {type(self).__name__} has shape {self.eps.shape}; rows of {dim} numbers, the target's "
                "dimensions, are needed. Leave it out, so that draws are made."
            )
        return self.eps

    def with_draws(self, random: np.random.Generator, dim: int, times: int = 1) -> AbstractExactSolver[S]:
        """The same with `times` as many draws as usual, made with `random`, where it has none."""
        if self.eps is not None:
            return self
        return dataclasses.replace(self, eps=fixed_draws(random, times * self.count(dim), dim))

    @abc.abstractmethod
    def init(self, oracle: Oracle, start: Any) -> S:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, oracle: Oracle, state: S) -> S:
        """The next state: one call of the oracle."""

    @abc.abstractmethod
    def finished(self, state: S) -> bool:
        """True when another step would change nothing that matters, or cannot be taken."""

    @abc.abstractmethod
    def answer(self, state: S) -> AbstractGaussian | None:
        """The best Gaussian so far; None when there is none."""


@dataclasses.dataclass(frozen=True)
class AbstractGaussianSolver(AbstractExactSolver[F]):
    """An exact solver that starts from a Gaussian and whose state is a `Fit`: what an automatic fit can be made with.

    It has converged when the residual is at most `tolerance`. `uses_hessians`: whether the target has to have them.
    """

    tolerance: float = 1e-3
    uses_hessians: ClassVar[bool] = False

    def answer(self, state: F) -> Gaussian | None:
        return state.q if state.elbo > -math.inf else None


@functools.lru_cache(maxsize=8)
def _same_draws(count: int, dim: int) -> Float[np.ndarray, "draws dim"]:
    eps = fixed_draws(np.random.default_rng(0), count, dim)
    eps.setflags(write=False)
    return eps


def solve(
    oracle: Oracle,
    solver: AbstractExactSolver[S],
    start: Any,
    *,
    max_steps: int,
    deadline: float = np.inf,
    enough: Callable[[S], bool] | None = None,
) -> tuple[S, int]:
    """Steps until the solver has finished, `enough` of the state is true, the budget is used up, or
    `time.monotonic()` has passed `deadline`."""
    state, steps = solver.init(oracle, start), 0
    while steps < max_steps and not solver.finished(state) and time.monotonic() < deadline:
        state, steps = solver.step(oracle, state), steps + 1
        if enough is not None and enough(state):
            break
    return state, steps
