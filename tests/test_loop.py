"""The one loop: the same bits however it is looked at, stopped or resumed, and a fault that is named."""

from __future__ import annotations

import dataclasses
import signal
import threading
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from small import quiet_fit, same_bits, vae, vectors
from sklearn.exceptions import ConvergenceWarning

import qphi
from qphi import Status
from qphi.bounds.objective import AbstractObjective, Scores
from qphi.loop import Run, advance, drive, start
from qphi.solvers import Problem, StochasticGradient
from qphi.stopping import Plateau

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
    names = ["step", *parts, *(f"held_out_{p}" for p in parts), "best", "best_step", "waited", "learning_rate"]
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
    second = drive(
        problem, SOLVER, STOPPING, first.run, KEY, max_steps=60, check_every=EVERY, history=first.history
    )
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


# ---------------------------------------------------------------- through the files on disk


def outcome(model) -> tuple:
    """Everything that a fit computed; not the seconds it took."""
    history = {name: np.array(values) for name, values in model.history_.items() if name != "seconds"}
    return model.model_, history, model.n_iter_, model.best_epoch_, model.status_, model.transform(vectors()[:5])


@pytest.fixture(scope="module")
def uninterrupted():
    return outcome(vae().fit(vectors()))  # no warning: it converges


def ask_to_stop(after: int):
    """A watcher that presses Ctrl-C at its visit number `after`."""
    seen = []

    def watch(progress):
        seen.append(progress)
        if len(seen) == after:
            signal.raise_signal(signal.SIGINT)

    return watch


def test_a_full_fit_goes_through_its_refinements(uninterrupted):
    _, history, steps, best_epoch, status, _ = uninterrupted
    assert status is Status.CONVERGED
    assert len(np.unique(history["learning_rate"])) == 3
    assert steps == history["step"][-1]
    assert best_epoch <= history["epoch"][-1]
    elbo, log_likelihood, kl = (history[f"{n}_per_datum"] for n in ("held_out_elbo", "log_likelihood", "kl"))
    np.testing.assert_allclose(elbo, log_likelihood - kl, rtol=1e-5, atol=1e-5)
    assert (kl > 0).all()


@pytest.mark.parametrize(
    ("parameters", "watch", "status"),
    [
        ({"max_epochs": 20}, None, Status.MAX_STEPS),
        ({"max_epochs": 0.01}, None, Status.MAX_STEPS),
        ({"max_time": 1e-9}, None, Status.MAX_TIME),
        ({}, ask_to_stop(after=1), Status.INTERRUPTED),
    ],
    ids=["epochs", "less than a check", "time", "Ctrl-C"],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, parameters, watch, status):
    handler = signal.getsignal(signal.SIGINT)
    first = vae(**parameters)
    with pytest.warns(ConvergenceWarning, match="resume the run"):
        first.fit(vectors(), run_dir=tmp_path, watch=watch)
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.status_ is status
    assert first.n_iter_ < uninterrupted[2]
    resumed = vae(random_state=None).fit(vectors(), run_dir=tmp_path, resume=True)
    assert same_bits(outcome(resumed), uninterrupted)
    assert same_bits(outcome(qphi.load(tmp_path)), uninterrupted)
    assert np.all(np.diff(resumed.history_["seconds"]) >= 0)


def test_stopped_many_times_equals_uninterrupted(tmp_path, uninterrupted):
    for epochs in (3, 10, 30):
        quiet_fit(vae(max_epochs=epochs), vectors(), run_dir=tmp_path, resume=epochs > 3)
    assert same_bits(outcome(vae().fit(vectors(), run_dir=tmp_path, resume=True)), uninterrupted)


def test_resuming_a_fit_that_has_converged_changes_nothing(tmp_path, uninterrupted):
    vae().fit(vectors(), run_dir=tmp_path)
    assert same_bits(outcome(vae().fit(vectors(), run_dir=tmp_path, resume=True)), uninterrupted)


def test_a_second_ctrl_c_is_obeyed_at_once():
    def watch(progress):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        vae().fit(vectors(), watch=watch)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_watcher_and_another_thread_change_no_bit(uninterrupted):
    seen, results = [], []
    thread = threading.Thread(target=lambda: results.append(outcome(vae().fit(vectors(), watch=seen.append))))
    thread.start()
    thread.join()
    assert same_bits(results[0], uninterrupted)
    assert [p.step for p in seen] == sorted({p.step for p in seen})
    last = seen[-1]
    assert (last.step, last.status, last.seconds_left) == (uninterrupted[2], Status.CONVERGED, 0.0)
    history = uninterrupted[1]
    for name in ("elbo_per_datum", "held_out_elbo_per_datum", "log_likelihood_per_datum", "kl_per_datum"):
        assert getattr(last, name) == pytest.approx(history[name][-1], rel=1e-6), name


# ---------------------------------------------------------------- compiled once

COMPILED: list[str] = []


def _listen(name: str, seconds: float, **about: Any) -> None:
    if name == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(str(about.get("fun_name")))


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    def use(seed: int, epochs: int, rows: int) -> None:
        model = quiet_fit(vae(max_epochs=epochs, random_state=seed), vectors(seed))
        model.reconstruct(vectors()[:rows])
        model.score_samples(vectors()[:rows], particles=epochs)
        model.sample(rows)

    use(0, 5, 200)
    jax.monitoring.register_event_duration_secs_listener(_listen)
    jnp.sin(jnp.arange(137.0))  # seen to count
    assert COMPILED
    COMPILED.clear()
    use(1, 40, 7)
    assert not COMPILED


def test_a_second_posterior_of_the_same_shapes_compiles_nothing():
    def log_density(values, y):
        return -0.5 * values["x"] ** 2 - 0.5 * jnp.sum((y - values["x"]) ** 2)

    def use(seed: int) -> None:
        y = np.random.default_rng(seed).normal(size=5).astype(np.float32)
        repr(qphi.fit(log_density, y, example={"x": np.zeros(())}, key=jax.random.key(seed)))

    use(0)
    COMPILED.clear()
    use(1)
    assert not COMPILED


def test_the_run_is_one_tree_of_arrays():
    problem, trained = parabola()
    run = start(problem, SOLVER, STOPPING, trained, KEY)
    assert isinstance(run, Run)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(run))
