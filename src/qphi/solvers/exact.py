"""Solvers without noise: what they are, and the loop that drives them."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import time
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from qphi.errors import InputError
from qphi.noise import fixed_draws
from qphi.targets.oracle import Oracle

__all__ = ["AbstractExactSolver", "AbstractGaussianSolver", "Fit", "Gaussian", "nearest", "solve"]


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(mean, tril tril') on the host."""

    mean: Float[np.ndarray, " dim"]
    tril: Float[np.ndarray, "dim dim"]

    @property
    def entropy(self) -> float:
        """H = log |det C| + d/2 (1 + log 2 pi), nats."""
        d = len(self.mean)
        return float(np.sum(np.log(np.abs(np.diag(self.tril)))) + 0.5 * d * (1 + np.log(2 * np.pi)))

    def transport(self, eps: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws dim"]:
        """z = mean + C eps of each row."""
        return self.mean + eps @ self.tril.T

    def radius(self, z: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """|C^-1 (z - mean)|^2 of each row: chi-squared of q's own draws."""
        return np.sum(solve_triangular(self.tril, (z - self.mean).T, lower=True, check_finite=False) ** 2, axis=0)


def nearest(parts: tuple[Gaussian, ...], z: Float[np.ndarray, "points dim"]) -> Int[np.ndarray, " points"]:
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

    def with_draws(self, random: np.random.Generator, dim: int) -> AbstractExactSolver[S]:
        """The same with draws made with `random`, where it has none."""
        if self.eps is not None:
            return self
        return dataclasses.replace(self, eps=fixed_draws(random, self.count(dim), dim))

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
    def answer(self, state: S) -> Gaussian | None:
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
    oracle: Oracle, solver: AbstractExactSolver[S], start: Any, *, max_steps: int, deadline: float = np.inf
) -> tuple[S, int]:
    """Steps until the solver has finished, the budget is used up, or `time.monotonic()` has passed `deadline`."""
    state, steps = solver.init(oracle, start), 0
    while steps < max_steps and not solver.finished(state) and time.monotonic() < deadline:
        state, steps = solver.step(oracle, state), steps + 1
    return state, steps
