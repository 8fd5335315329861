"""The one loop: steps and checks are compiled, the host only looks in between.

`Run` is everything that changes: the loop's carry, the checkpoint, and what watchers see. `advance` runs some checks on
the device; `drive` calls it until there is an end, and draws, saves and listens for Ctrl-C between the calls.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.bounds.objective import Scores
from qphi.programs import make_room
from qphi.solvers.base import AbstractNoisySolver, Problem, blame_order
from qphi.status import Status
from qphi.stopping import Plateau

__all__ = ["Progress", "Result", "Run", "advance", "drive", "fault_words", "start"]

_VISIT_CHECKS = 64  # checks at most between two looks of the host
_LOOK_EVERY = 0.4  # seconds, about: how long Ctrl-C waits at most, and how often the bar moves
_CHECK_KEY = 2  # folded into the run's key: the randomness of checks, the same at each
_HELD_OUT_FAULT = -1


class Run(eqx.Module):
    """All that changes during a fit."""

    solver: PyTree  # every step
    step: Int[Array, ""]
    stopping: PyTree  # every check
    status: Int[Array, ""]
    fault: Int[Array, ""]
    records: Float[Array, "visit_checks fields"]  # the checks of the latest visit
    recorded: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a watcher is told. Values are nats; `per item` is per datum, or the whole for a single posterior."""

    step: int
    max_steps: int
    epoch: float
    max_epochs: float | None
    training: dict[str, float]  # the ELBO and its parts, mean over the steps since the last check
    held_out: dict[str, float]
    best: float
    best_step: int
    learning_rate: float
    seconds: float
    seconds_left: float | None  # if the ELBO rose no more from now on, or the budget ended first: a lower bound
    status: Status

    def shifted(self, nats: float) -> Progress:
        """The same in other units of the data: log densities moved by a log Jacobian, the KL as it is."""

        def moved(parts: dict[str, float]) -> dict[str, float]:
            return {name: value + nats * (name in ("elbo", "log_likelihood")) for name, value in parts.items()}

        return dataclasses.replace(
            self, training=moved(self.training), held_out=moved(self.held_out), best=self.best + nats
        )

    @property
    def elbo_per_datum(self) -> float:
        """Training ELBO, nats per datum."""
        return self.training["elbo"]

    @property
    def held_out_elbo_per_datum(self) -> float:
        """Held-out ELBO, nats per datum."""
        return self.held_out["elbo"]

    @property
    def log_likelihood_per_datum(self) -> float:
        """Held-out E_q[log p(x|z)], nats per datum."""
        return self.held_out["log_likelihood"]

    @property
    def kl_per_datum(self) -> float:
        """Held-out KL(q || prior), nats per datum."""
        return self.held_out["kl"]

    @property
    def best_elbo_per_datum(self) -> float:
        """The highest held-out objective so far, nats per datum."""
        return self.best


@dataclasses.dataclass(frozen=True)
class Result:
    """How a fit ended: the best answer by the held-out objective, the run (to go on from), and what happened."""

    answer: Float[Array, " parameters"]
    run: Run
    status: Status
    reason: str  # status in words, with the step and the place of a fault
    history: dict[str, list[float]]
    seconds: float


def start(
    problem: Problem,
    solver: AbstractNoisySolver,
    stopping: Plateau,
    trained: Float[Array, " parameters"],
    key: PRNGKeyArray,
) -> Run:
    """The run before its first step."""
    return _start(problem, solver, stopping, trained, key)


@eqx.filter_jit
def _start(problem, solver, stopping, trained, key) -> Run:
    items = jax.eval_shape(lambda: _check(problem, trained, key)).items
    return Run(
        solver=solver.init(problem, trained, key),
        step=jnp.zeros((), int),
        stopping=stopping.init(jnp.zeros(items.shape, items.dtype), trained),
        status=jnp.asarray(int(Status.RUNNING), dtype=jnp.zeros((), int).dtype),
        fault=jnp.zeros((), int),
        records=jnp.zeros((_VISIT_CHECKS, len(_fields(problem)))),
        recorded=jnp.zeros((), int),
    )


@eqx.filter_jit
def advance(
    problem: Problem,
    solver: AbstractNoisySolver,
    stopping: Plateau,
    run: Run,
    key: PRNGKeyArray,
    checks: Int[Array, ""],
    max_steps: Int[Array, ""],
    check_every: int,
) -> Run:
    """Up to `checks` times: `check_every` steps, then one check. Ends early when there is an end to report."""

    def take_steps(run: Run) -> tuple[Run, dict[str, Float[Array, ""]]]:
        first = run.step
        zeros = {name: jnp.zeros(()) for name in problem.objective.part_names}

        def one(carry):
            state, step, fault, sums = carry
            state, info = solver.step(problem, state, step, key)
            sums = {name: sums[name] + info.parts[name].astype(float) for name in sums}
            return state, step + 1, info.fault.astype(fault.dtype), sums

        def going(carry):
            return (carry[1] < first + check_every) & (carry[2] == 0)

        state, step, fault, sums = jax.lax.while_loop(going, one, (run.solver, run.step, run.fault, zeros))
        run = dataclasses.replace(run, solver=state, step=step, fault=fault)
        return run, {name: total / (step - first) for name, total in sums.items()}

    def check(run: Run) -> Run:
        run, training = take_steps(run)
        answer = solver.answer(run.solver)
        scores = _check(problem, answer, key)
        finite = jnp.isfinite(jnp.mean(scores.items))
        fault = jnp.where((run.fault == 0) & ~finite, _HELD_OUT_FAULT, run.fault)
        watched, plateau = stopping.update(run.stopping, scores.items, answer, run.step)
        # A fault in training leaves a finite answer: it counts if it is the best
        watched = jax.tree.map(lambda a, b: jnp.where(finite, a, b), watched, run.stopping)
        solver_state, used_up = jax.lax.cond(
            plateau & (fault == 0),
            lambda: solver.refine(run.solver, watched.best_answer),
            lambda: (run.solver, jnp.asarray(False)),
        )
        status = jnp.where(run.step >= max_steps, int(Status.MAX_STEPS), int(Status.RUNNING))
        status = jnp.where(plateau & used_up, int(Status.CONVERGED), status)
        status = jnp.where(fault != 0, int(Status.NOT_FINITE), status).astype(run.status.dtype)
        names = problem.objective.part_names  # by name: a dict comes out of compiled code in another order
        record = [run.step, *(training[n] for n in names), *(scores.parts[n] for n in names)]
        record += [watched.best, watched.best_step]
        record += [watched.waited, solver.pace(run.solver), status]
        row = jnp.stack([jnp.asarray(value, run.records.dtype) for value in record])
        return dataclasses.replace(
            run,
            solver=solver_state,
            stopping=watched,
            fault=fault,
            status=status,
            records=run.records.at[run.recorded].set(row),
            recorded=run.recorded + 1,
        )

    def going(run: Run):
        return (run.status == int(Status.RUNNING)) & (run.recorded < jnp.minimum(checks, _VISIT_CHECKS))

    status = jnp.where(
        run.status == int(Status.MAX_STEPS), int(Status.RUNNING), run.status
    )  # a run that met its budget goes on when it is given more
    run = dataclasses.replace(run, recorded=jnp.zeros_like(run.recorded), status=status.astype(run.status.dtype))
    return jax.lax.while_loop(going, check, run)


def _check(problem: Problem, answer: Float[Array, " parameters"], key: PRNGKeyArray) -> Scores:
    """Score an answer on the held-out data, in blocks; with the same randomness at every check."""
    key = jax.random.fold_in(key, _CHECK_KEY)
    whole, data = problem.whole(answer), problem.held_out
    if data is None or data.shape[0] <= problem.block:
        return problem.scoring.score(whole, data, key)
    blocks = data.reshape(-1, problem.block, *data.shape[1:])

    def score(numbered):
        index, block = numbered
        return problem.scoring.score(whole, block, jax.random.fold_in(key, index))

    scores = jax.lax.map(score, (jnp.arange(blocks.shape[0]), blocks))
    parts = {name: jnp.mean(value) for name, value in scores.parts.items()}
    return Scores(jnp.mean(scores.surrogate), scores.items.reshape(-1), parts)


def _fields(problem: Problem) -> list[str]:
    names = problem.objective.part_names
    training, held_out = list(names), [f"held_out_{name}" for name in names]
    return ["step", *training, *held_out, "best", "best_step", "waited", "learning_rate", "status"]


def drive(
    problem: Problem,
    solver: AbstractNoisySolver,
    stopping: Plateau,
    run: Run,
    key: PRNGKeyArray,
    *,
    max_steps: int,
    check_every: int,
    steps_per_epoch: int | None = None,
    max_time: float | None = None,
    watch: Callable[[Progress], None] | None = None,
    save: Callable[[Run, dict[str, list[float]], float], None] | None = None,
    save_every: float = 10.0,
    history: dict[str, list[float]] | None = None,
    seconds_before: float = 0.0,
) -> Result:
    """Advance until an end: a plateau used up, a budget met, Ctrl-C, or a value that is not finite.

    `watch` is told after each visit to the device; `save` gets (run, history, seconds) every `save_every` seconds and
    at the end. Neither touches the compiled steps, and where visits fall does not change what is computed.
    """
    make_room()
    fields = _fields(problem)
    history = {name: [] for name in [*fields, "seconds"]} if history is None else history
    began = time.monotonic() - seconds_before
    saved = time.monotonic()
    checks, first = 1, True
    status = Status.RUNNING
    with _interruptible() as interrupted:
        while status is Status.RUNNING:
            looked = time.monotonic()
            if interrupted() and history["step"]:
                checks = 0  # pressed since the last visit: nothing more is computed
            run = advance(problem, solver, stopping, run, key, jnp.asarray(checks), jnp.asarray(max_steps), check_every)
            records = np.asarray(run.records)[: int(run.recorded)]  # waits for the device
            now = time.monotonic()
            seconds = now - began
            for record in records:
                for name, value in zip(fields, record, strict=True):
                    history[name].append(float(value))
                history["seconds"].append(seconds)
            pace = (now - looked) / max(1, len(records))
            checks = int(np.clip(_LOOK_EVERY / max(pace, 1e-6), 1, _VISIT_CHECKS))
            status = Status(int(run.status))
            if status is Status.RUNNING and interrupted():
                status = Status.INTERRUPTED
            if status is Status.RUNNING and max_time is not None and seconds >= max_time:
                status = Status.MAX_TIME
            if watch is not None and history["step"]:
                # The first visit compiles; its pace says nothing about the others.
                left = None if first else _checks_left(solver, stopping, run, history) * pace
                if left is not None:  # a budget may end it sooner
                    left = min(left, (max_steps - history["step"][-1]) / check_every * pace)
                    left = max(0.0, left if max_time is None else min(left, max_time - seconds))
                watch(_progress(history, status, max_steps, steps_per_epoch, seconds, left))
            first = False
            if save is not None and (now - saved > save_every or status is not Status.RUNNING):
                save(run, history, seconds)
                saved = time.monotonic()
    seconds = time.monotonic() - began
    return Result(run.stopping.best_answer, run, status, _reason(problem, run, status), history, seconds)


def _checks_left(solver: Any, stopping: Plateau, run: Run, history: dict[str, list[float]]) -> float:
    # The shortest way to the end from here: wait out this plateau and those of the refinements to come.
    rounds = getattr(solver, "refinements", 0) - int(getattr(run.solver, "refinements", 0))
    return stopping.patience - history["waited"][-1] + stopping.patience * max(0, rounds)


def _progress(history, status, max_steps, steps_per_epoch, seconds, left) -> Progress:
    latest = {name: values[-1] for name, values in history.items()}
    held_out = {k.removeprefix("held_out_"): v for k, v in latest.items() if k.startswith("held_out_")}
    step = int(latest["step"])
    return Progress(
        step=step,
        max_steps=max_steps,
        epoch=step / steps_per_epoch if steps_per_epoch else float(step),
        max_epochs=max_steps / steps_per_epoch if steps_per_epoch else None,
        training={name: latest[name] for name in held_out},
        held_out=held_out,
        best=latest["best"],
        best_step=int(latest["best_step"]),
        learning_rate=latest["learning_rate"],
        seconds=seconds,
        seconds_left=left if status is Status.RUNNING else 0.0,
        status=status,
    )


def _reason(problem: Problem, run: Run, status: Status) -> str:
    if status is not Status.NOT_FINITE:
        return status.message
    where = fault_words(problem, run)
    return f"{where} was not finite at step {int(run.step)}; the last finite answer is kept"


def fault_words(problem: Problem, run: Run) -> str:
    """Which quantity was not finite, in words."""
    fault = int(run.fault)
    if fault == _HELD_OUT_FAULT:
        return "the held-out ELBO"
    parts = blame_order(problem.objective.part_names)
    if fault <= len(parts):
        return f"the training {parts[fault - 1].replace('_', ' ')}"
    return f"the gradient of `{problem.layout.path_at(fault - 1 - len(parts))}`"


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks politely: the first sets a flag that the loop reads, the second raises as usual."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    before = signal.getsignal(signal.SIGINT)

    def handler(number, frame):
        if pressed.is_set() and callable(before):
            before(number, frame)
        pressed.set()

    signal.signal(signal.SIGINT, handler)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
