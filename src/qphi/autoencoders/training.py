"""Theta and phi together: sizes, splits and budgets chosen from the data, then the one loop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from qphi.autoencoders.choices import more_draws
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.objective import AutoencodingObjective
from qphi.bounds import ELBO, AbstractBound
from qphi.loop import Progress, Result, Run, drive, start
from qphi.solvers import AbstractNoisySolver, Cosine, Problem, StochasticGradient
from qphi.stopping import Plateau

__all__ = ["Training", "continued", "hold_out", "images_at_once", "plan"]

MAX_STEPS = 200_000  # where a fit without a budget of its own gives up
HELD_OUT_FRACTION = 0.1
MOST_HELD_OUT = 10_240
BLOCK = 256  # rows scored at once, of small data
FEWEST_TO_SPLIT = 20  # below this, setting rows apart costs more than it tells


@dataclasses.dataclass(frozen=True)
class Training:
    """A fit that is set up: what `drive` needs, chosen from the data by `plan`."""

    problem: Problem
    solver: AbstractNoisySolver
    stopping: Plateau
    trained: Any
    key: PRNGKeyArray
    check_every: int
    steps_per_epoch: int

    def start(self) -> Run:
        """The run before its first step."""
        return start(self.problem, self.solver, self.stopping, self.trained, self.key)

    def drive(
        self,
        run: Run,
        *,
        max_epochs: float | None = None,
        max_time: float | None = None,
        watch: Callable[[Progress], None] | None = None,
        save: Callable[[Run, dict[str, list[float]], float], None] | None = None,
        history: dict[str, list[float]] | None = None,
        seconds_before: float = 0.0,
    ) -> Result:
        """Advance the run until it converges or a budget (rounded up to a whole number of checks) is met."""
        max_steps = horizon(max_epochs, self.steps_per_epoch)
        return drive(
            self.problem,
            self.solver,
            self.stopping,
            run,
            self.key,
            max_steps=max_steps,
            check_every=self.check_every,
            steps_per_epoch=self.steps_per_epoch,
            max_time=max_time,
            watch=watch,
            save=save,
            history=history,
            seconds_before=seconds_before,
        )

    def whole(self, answer: Any) -> LatentVariableModel:
        """The trained model with these arrays in it."""
        return self.problem.whole(answer)


def hold_out(size: int, key: PRNGKeyArray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for held-out checks: a random tenth, at least 1 and at most 10,240.

    Fewer than 20 rows are used for both. Above 256 the held-out number is a multiple of 256, to be scored in blocks.
    """
    if size < FEWEST_TO_SPLIT:
        return np.arange(size), np.arange(size)
    count = min(round(size * HELD_OUT_FRACTION), MOST_HELD_OUT)
    if count > BLOCK:
        count -= count % BLOCK
    order = np.asarray(jax.random.permutation(key, size))
    return np.sort(order[count:]), np.sort(order[:count])


def plan(
    model: LatentVariableModel,
    train: np.ndarray | Array,
    held_out: np.ndarray | Array,
    key: PRNGKeyArray,
    *,
    bound: AbstractBound | None = None,
    beta: float = 1.0,
    learning_rate: float = 2e-3,
    batch_size: int | None = None,
    warm_up_epochs: float = 0.0,
    cycles: int = 1,
    capacity: float | None = None,
    free_bits: float = 0.0,
    schedule: str = "plateau",
    clip_norm: float = 100.0,
    max_epochs: float | None = None,
    patience: int = 8,
    refinements: int = 2,
    slice_size: int | None = None,
    solver: AbstractNoisySolver | None = None,
) -> Training:
    """Choose batch size, check interval and averaging from the number of rows.

    Batches: about 16 an epoch, between 16 and 128 rows. Checks: every epoch, but at least 50 steps apart, so that small
    data are not checked more than they are trained on, and at most 1,000. Large data (images above about 40 x 40) are
    scored in smaller blocks and their batches sliced, so that memory stays bounded. `schedule`: 'plateau' shrinks the
    step at plateaus, `refinements` times, 'constant' never, 'cosine' down to nothing over `max_epochs`.
    """
    size = train.shape[0]
    numbers = math.prod(train.shape[1:])
    if batch_size is None:
        batch_size = getattr(solver, "batch_size", None)
    if batch_size is None:
        batch_size = int(np.clip(2 ** int(np.log2(max(size / 16, 1))), 16, 128))
    steps_per_epoch = max(1, size // min(batch_size, size))
    check_every = int(np.clip(steps_per_epoch, 50, 1000))
    solver = solver or StochasticGradient(
        learning_rate=learning_rate,
        batch_size=batch_size,
        average_over=check_every,
        clip_norm=clip_norm,
        refinements=refinements if schedule == "plateau" else 0,
        slice_size=slice_size,
        schedule=_schedule(schedule, max_epochs, steps_per_epoch),
    )
    warm_up = round(warm_up_epochs * steps_per_epoch)
    bound, weight = ELBO() if bound is None else bound, jnp.asarray(float(beta))
    problem, trained = Problem.of(
        model,
        objective=AutoencodingObjective(bound, weight, jnp.asarray(warm_up), cycles, capacity, free_bits),
        scoring=AutoencodingObjective(more_draws(bound, len(held_out)), weight, jnp.asarray(0), capacity=capacity),
        train=jnp.asarray(train),
        held_out=jnp.asarray(held_out),
        block=_divisor(held_out.shape[0], rows_at_once(numbers)),
    )
    stopping = Plateau(patience=patience, warm_up=warm_up)
    return Training(problem, solver, stopping, trained, key, check_every, steps_per_epoch)


def rows_at_once(numbers: int) -> int:
    """How many rows of so many numbers to score at once: 256 up to 1,600 numbers, fewer beyond, at least 8."""
    return BLOCK if numbers <= 1600 else int(np.clip(2 ** int(np.log2(400_000 / numbers)), 8, BLOCK))


def images_at_once(height: int, width: int) -> int:
    """Images whose gradient convolutions take at once: the power of two nearest to 100,000 pixels, within 8 to 64.

    Slices of fewer make thin matrix products, of more leave the cache: a step on 32 x 32 pixels takes 0.17, 0.12 and
    0.09 s for 16, 32 and 64 at once, on 64 x 64 pixels 0.70, 0.56, 0.45 and 0.53 s for 8, 16, 32 and 64. Colours are
    mixed in the first layer, so they do not count.
    """
    return int(np.clip(2 ** round(math.log2(100_000 / (height * width))), 8, 64))


def _divisor(size: int, most: int) -> int:
    return next(d for d in range(min(size, most), 0, -1) if size % d == 0)


def continued(run: Run, last: Run) -> Run:
    """A run on other data that goes on from the weights, the optimiser and the step of the last one."""

    def moving(run: Run) -> list[Any]:
        state = run.solver
        return [state.trained, state.average, state.adam, state.since, state.learning_rate, run.step]

    return eqx.tree_at(moving, run, moving(last))


def _schedule(name: str, max_epochs: float | None, steps_per_epoch: int) -> Cosine | None:
    return Cosine(horizon(max_epochs, steps_per_epoch)) if name == "cosine" else None


def horizon(max_epochs: float | None, steps_per_epoch: int) -> int:
    """The number of steps at most."""
    return MAX_STEPS if max_epochs is None else max(1, round(max_epochs * steps_per_epoch))
