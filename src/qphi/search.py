"""How much work a search may be, and what it carries from stage to stage."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from qphi.checks.preflight import Finding
from qphi.outskirts import Estimate, Outskirts
from qphi.solvers.exact import AbstractGaussianSolver, Fit, Gaussian
from qphi.solvers.newton import Newton
from qphi.solvers.pathfinder import Pathfinder
from qphi.solvers.spiked import SpikedFit
from qphi.targets.oracle import Oracle

__all__ = ["EFFORTS", "Effort", "Search"]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work a fit may be, whatever the target."""

    starts: int  # climbs
    probes: int  # climbs from outside
    pairs: int  # checking draws, with their reflections
    chains: int  # 0: never
    most_moves: int  # of each chain
    fewest_states: int  # of each chain that is to stand for the posterior
    always_chains: bool  # also when the weights are good
    seconds_of_chains: float
    doubting_moves: int  # of each chain that checks a map, or the weights of several Gaussians
    seconds_of_doubt: float


EFFORTS = {
    "quick": Effort(4, 0, 2048, 0, 0, 0, False, 0.0, 152, 4.0),
    "standard": Effort(8, 8, 4096, 256, 2200, 16, False, 30.0, 280, 15.0),
    "thorough": Effort(16, 16, 16384, 512, 6144, 128, True, 1800.0, 1048, 450.0),
}


@dataclasses.dataclass
class Search:
    """What a running inference carries from stage to stage."""

    oracle: Oracle
    random: np.random.Generator
    key: PRNGKeyArray
    effort: Effort
    deadline: float
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    climber: Pathfinder = dataclasses.field(default_factory=Pathfinder)
    solver: AbstractGaussianSolver[Any] = dataclasses.field(default_factory=Newton)
    fits: list[Fit | SpikedFit] = dataclasses.field(default_factory=list)  # one for each mode, the best first
    solver_steps: int = 0
    findings: tuple[Finding, ...] = ()
    draw_error: float = 0.0  # posterior sds by which other draws would have moved the best fit, a coordinate's rms
    modes_left: bool = False  # the last round of starts still found modes
    outskirts: Outskirts | None = None  # in few dimensions

    @property
    def gaussians(self) -> list[Gaussian]:
        """Those of the fits, at most 1,000 dimensions."""
        return [fit.q for fit in self.fits if isinstance(fit.q, Gaussian)]

    @property
    def seen(self) -> list[Estimate]:
        """Of the log evidence, by places outside of the fits."""
        return [] if self.outskirts is None else self.outskirts.evidences()

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside, under a name."""
        began = time.monotonic()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began
