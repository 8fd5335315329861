"""Solvers without noise: what they are, and the loop that drives them."""

from __future__ import annotations

import abc
import dataclasses
import time
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from qphi.targets.oracle import Oracle

__all__ = ["AbstractExactSolver", "Gaussian", "nearest", "solve"]


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


S = TypeVar("S")


class AbstractExactSolver(abc.ABC, Generic[S]):
    """A rule that improves a Gaussian on draws that are fixed, and knows when it is done.

    It runs on the host and asks an `Oracle` for what it needs, so nothing of it is compiled and any step may end it.
    """

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


def solve(
    oracle: Oracle, solver: AbstractExactSolver[S], start: Any, *, max_steps: int, deadline: float = np.inf
) -> tuple[S, int]:
    """Steps until the solver has finished, the budget is used up, or `time.monotonic()` has passed `deadline`."""
    state, steps = solver.init(oracle, start), 0
    while steps < max_steps and not solver.finished(state) and time.monotonic() < deadline:
        state, steps = solver.step(oracle, state), steps + 1
    return state, steps
