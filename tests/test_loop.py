"""The one loop: the same bits however it is looked at, stopped or resumed, and a fault that is named."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import qphi
from qphi import Status
from qphi.bounds.objective import AbstractObjective, Scores
from qphi.loop import Run, advance, drive, start
from qphi.solvers import Problem, StochasticGradient
from qphi.stopping import Plateau
from small import same_bits

KEY = jax.random.key(0)
EVERY = 5  # steps between checks


class Parabola(AbstractObjective):
    """items = -(x - top)^2 + noise, until x passes `edge`: there the chosen quantity is NaN."""

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_likelihood", "kl")
    top: Float[Array, ""]
    edge: Float[Array, ""]
    broken: Array  # 0 none, 1 log_likelihood, 2 kl, 3 the gradient alone

    def score(self, trainable: Any, batch: Any, key: Any, step: Any = None) -> Scores:
        x, past = trainable["x"], trainable["x"] > self.edge

        def breaks(number):
            return jnp.where(past & (self.broken == number), jnp.nan, 0.0)

        kink = 0.0 * jnp.sqrt(jnp.where(self.broken == 3, jnp.maximum(jnp.minimum(self.edge, 99.0) - x, 0.0), 1.0))
        items = -((x - self.top) ** 2) + 0.1 * jax.random.normal(key, (16,)) + kink
        log_likelihood, kl = jnp.mean(items) + 1 + breaks(1), 1 + breaks(2)
        items = items + breaks(1) - breaks(2)
        parts = {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
        return Scores(jnp.mean(items), items, parts)


def parabola(edge: float = np.inf, broken: int = 0, held_out_edge: float = np.inf):
    objective = Parabola(jnp.asarray(3.0), jnp.asarray(edge, float), jnp.asarray(broken))
    scoring = dataclasses.replace(objective, edge=jnp.asarray(held_out_edge, float))
    model = {"x": jnp.asarray(0.0), "unused": jnp.zeros(2)}
    return Problem.of(model, objective, scoring, None, None)


SOLVER, STOPPING = StochasticGradient(learning_rate=0.05, average_over=3, ramp=1), Plateau(patience=3)


def run_parabola(max_steps: int = 400, **kwargs):
    problem, trained = parabola(**kwargs)
    first = start(problem, SOLVER, STOPPING, trained, KEY)
    return problem, drive(problem, SOLVER, STOPPING, first, KEY, max_steps=max_steps, check_every=EVERY)


# ---------------------------------------------------------------- the same bits however one looks


@pytest.mark.parametrize("visits", [[1] * 12, [12], [5, 7], [2, 9, 1]])
def test_where_visits_fall_does_not_change_what_is_computed(visits):
    problem, trained = parabola()
    run = start(problem, SOLVER, STOPPING, trained, KEY)
    rows = []
    for checks in visits:
        run = advance(problem, SOLVER, STOPPING, run, KEY, jnp.asarray(checks), jnp.asarray(1000), EVERY)
        rows += list(np.asarray(run.records)[: int(run.recorded)])
    assert int(run.step) == 12 * EVERY
    _, result = run_parabola(12 * EVERY)
    assert same_bits((run.solver, run.stopping, run.step), (result.run.solver, result.run.stopping, result.run.step))
    steps_and_elbos = np.array(rows)[:-1, :2]  # the last differs in its status
    assert same_bits(steps_and_elbos[:, 1].astype(float), np.array(result.history["elbo"])[:-1])


def test_the_loop_ends_by_itself_near_the_top_with_small_steps():
    _, result = run_parabola(100_000)
    assert result.status is Status.CONVERGED
    assert "converged" in result.reason
    assert abs(float(result.answer[-1]) - 3.0) < 0.05
    rates = np.unique(result.history["learning_rate"])
    np.testing.assert_allclose(rates, [0.05 * 0.09, 0.05 * 0.3, 0.05], rtol=1e-5)


@pytest.mark.parametrize("budget", [{}, {"max_steps": 150}, {"max_time": 30.0}])
def test_the_time_left_is_within_the_budget(budget):
    problem, trained = parabola()
    patient, told = Plateau(patience=10**8), []
    first = start(problem, SOLVER, patient, trained, KEY)
    given = {"max_steps": 3000, **budget}
    drive(problem, SOLVER, patient, first, KEY, **given, check_every=EVERY, watch=told.append)
    left = [(p.seconds_left, p.step, p.seconds) for p in told if p.seconds_left is not None]
    assert left
    for seconds_left, step, seconds in left:
        # of 10^8 checks of waiting no more than the budget has; no check takes as long as half a second
        assert 0 <= seconds_left <= 0.5 * (given["max_steps"] - step) / EVERY
        assert seconds_left <= given.get("max_time", np.inf) - seconds or seconds_left == 0


def test_returned_numbers_are_those_of_the_best_check_when_the_value_falls_afterwards():
    """Held-out and training objective pull apart: training runs on past the held-out top at x = 1."""
    problem, trained = parabola()
    apart = eqx.tree_at(lambda p: p.scoring.top, problem, jnp.asarray(1.0))
    first = start(apart, SOLVER, Plateau(patience=1000), trained, KEY)
    answers = []
    run = first
    for _ in range(30):
        run = advance(apart, SOLVER, Plateau(patience=1000), run, KEY, jnp.asarray(1), jnp.asarray(1000), EVERY)
        answers.append(np.asarray(SOLVER.answer(run.solver)))
    result = drive(apart, SOLVER, Plateau(patience=1000), first, KEY, max_steps=150, check_every=EVERY)
    best = int(np.argmax(result.history["held_out_elbo"]))
    assert 0 < best < 29
    assert np.array_equal(np.asarray(result.answer), answers[best])
    assert result.history["best_step"][-1] == EVERY * (best + 1)
    assert result.history["best"][-1] == pytest.approx(max(result.history["held_out_elbo"]), abs=1e-5)
    assert float(SOLVER.answer(result.run.solver)[-1]) > 2.5  # the last iterate is far from the best


def test_history_has_its_columns_and_its_parts_are_not_mixed_up():
    _, result = run_parabola(20)
    history = result.history
    parts = ["elbo", "log_likelihood", "kl"]
    names = [
        "step",
        *parts,
        *(f"held_out_{p}" for p in parts),
        "best",
        "best_step",
        "waited",
        "learning_rate",
    ]
    assert list(history) == [*names, "status", "seconds"]
    assert history["step"] == [5, 10, 15, 20]
    assert history["kl"] == history["held_out_kl"] == [1.0] * 4
    for side in ("", "held_out_"):
        elbo, log_likelihood, kl = (np.array(history[side + name]) for name in parts)
        np.testing.assert_allclose(elbo, log_likelihood - kl, atol=1e-5)
    assert np.all(np.diff(history["seconds"]) >= 0)
    assert history["status"] == [Status.RUNNING] * 3 + [Status.MAX_STEPS]


def test_a_budget_met_is_no_end_when_more_is_given():
    problem, trained = parabola()
    run = start(problem, SOLVER, STOPPING, trained, KEY)
    first = drive(problem, SOLVER, STOPPING, run, KEY, max_steps=20, check_every=EVERY)
    second = drive(problem, SOLVER, STOPPING, first.run, KEY, max_steps=60, check_every=EVERY, history=first.history)
    _, whole = run_parabola(60)
    assert first.status is second.status is Status.MAX_STEPS
    assert same_bits(second.answer, whole.answer)
    assert second.history["held_out_elbo"] == whole.history["held_out_elbo"]


# ---------------------------------------------------------------- a value that is not finite


@pytest.mark.parametrize(
    ("broken", "words"),
    [(1, "the training log likelihood"), (2, "the training kl"), (3, "the gradient of `['x']`")],
)
def test_a_nan_in_training_ends_the_fit_and_is_named_with_its_step(broken, words):
    problem, result = run_parabola(edge=1.02, broken=broken)
    step = int(result.run.step)
    assert result.status is Status.NOT_FINITE
    assert f"{words} was not finite at step {step};" in result.reason
    assert "kept" in result.reason
    assert 20 < step < 30  # steps of 0.05 reach 1.02 at the 21st; the step after sees it
    assert result.history["step"][-1] == step
    assert result.status.advice
    assert np.isfinite(result.answer).all()
    x = problem.whole(result.answer)["x"]
    assert 0.85 < float(x) < 1.1  # the average of the last finite steps, not the start


def test_a_nan_at_the_first_step_leaves_the_start():
    _, result = run_parabola(edge=-1.0, broken=1)
    assert result.status is Status.NOT_FINITE
    assert "at step 1;" in result.reason
    assert result.answer.tolist() == [0, 0, 0]


def test_a_nan_in_the_held_out_objective_alone_is_named_and_the_best_answer_kept():
    _, result = run_parabola(edge=np.inf, broken=1, held_out_edge=1.02)
    assert result.status is Status.NOT_FINITE
    assert "the held-out ELBO was not finite at step 25;" in result.reason
    assert result.history["best_step"][-1] == 20
    assert 0 < float(result.answer[-1]) < 1.02


def test_a_run_that_met_a_nan_is_not_resumed_into_it():
    problem, result = run_parabola(edge=1.02, broken=1)
    again = drive(problem, SOLVER, STOPPING, result.run, KEY, max_steps=400, check_every=EVERY, history=result.history)
    assert again.status is Status.NOT_FINITE
    assert again.reason == result.reason
    assert same_bits(again.answer, result.answer)


def test_a_log_density_that_turns_nan_is_told_to_the_user():
    def log_density(values):
        x = values["x"]
        return jnp.where(x > 2.0, jnp.nan, -0.5 * (x - 5.0) ** 2)

    posterior = qphi.fit(log_density, example={"x": jnp.zeros(())}, key=KEY, max_steps=2000)
    assert posterior.status is Status.NOT_FINITE
    assert "not finite at step" in repr(posterior)
    assert posterior.status.advice in repr(posterior)
    assert np.isfinite(posterior.mean()["x"])


def test_the_run_is_one_tree_of_arrays():
    problem, trained = parabola()
    run = start(problem, SOLVER, STOPPING, trained, KEY)
    assert isinstance(run, Run)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(run))
