"""What every solver must do, driven by the one loop on Gaussians that are known.

Nothing here fails by chance: seeds are fixed. The answer kept is the best by a noisy measure (512 draws), which costs
up to about 0.04 sd; tolerances are above that.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from compiles import counting_compiles
from contracts.registry import SOLVERS
from qphi.bounds import MonteCarlo, StickingTheLanding
from qphi.bounds.objective import AbstractObjective, PosteriorObjective, Scores
from qphi.families import FullRankGaussian
from qphi.loop import advance, drive, start
from qphi.solvers import Problem
from qphi.status import Status
from qphi.stopping import Plateau
from zoo import GaussianTarget

MEAN, PRECISION = [1.5, -0.5], [[2.0, 0.7], [0.7, 1.2]]
CHECK_EVERY = 50
every_solver = pytest.mark.parametrize("name", SOLVERS)


@functools.cache
def solver(name):
    return SOLVERS[name].build()


def problem(target):
    q = FullRankGaussian(jnp.zeros(2), 0.3 * jnp.eye(2))
    climbed, scored = (PosteriorObjective(target, b) for b in (StickingTheLanding(8), MonteCarlo(512)))
    return Problem.of(q, climbed, scored, None, None)


def fit(name, target, *, max_steps, run=None, seed=0, history=None):
    where, trained = problem(target)
    key, plateau = jax.random.key(seed), Plateau(patience=5)
    if run is None:
        run = start(where, solver(name), plateau, trained, key)
    result = drive(
        where, solver(name), plateau, run, key, max_steps=max_steps, check_every=CHECK_EVERY, history=history
    )
    return result, where.whole(result.answer)


def same_bits(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


@every_solver
def test_reaches_a_known_gaussian(name):
    covariance = np.linalg.inv(PRECISION)
    for seed in range(3):
        target = GaussianTarget(MEAN, PRECISION, log_evidence=-3.0)
        result, q = fit(name, target, max_steps=SOLVERS[name].steps, seed=seed)
        assert result.status in (Status.CONVERGED, Status.MAX_STEPS)
        error = (np.asarray(q.mean) - MEAN) / np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(error, 0, atol=0.06)
        np.testing.assert_allclose(q.covariance, covariance, atol=0.06)
        assert result.history["held_out_elbo"][-1] == pytest.approx(-3.0, abs=0.01)


@every_solver
def test_half_and_half_is_the_whole(name):
    """Bit for bit: everything that a run needs to go on is in the run."""
    target = GaussianTarget(MEAN, PRECISION)
    whole, _ = fit(name, target, max_steps=400)
    half, _ = fit(name, target, max_steps=200)
    assert half.status is Status.MAX_STEPS
    both, _ = fit(name, target, max_steps=400, run=half.run, history=half.history)
    assert same_bits(whole.run.solver, both.run.solver)
    assert same_bits(whole.run.stopping, both.run.stopping)
    assert same_bits(whole.answer, both.answer)
    for name, values in whole.history.items():
        if name not in ("seconds", "status"):  # the half's last status says that it was stopped
            assert both.history[name] == values


@every_solver
def test_visits_of_the_host_change_nothing(name):
    """One check a visit, or all checks in one: the same bits."""
    (where, trained), key, plateau = (
        problem(GaussianTarget(MEAN, PRECISION)),
        jax.random.key(1),
        Plateau(patience=5),
    )
    one = many = start(where, solver(name), plateau, trained, key)
    for _ in range(4):
        one = advance(where, solver(name), plateau, one, key, jnp.asarray(1), jnp.asarray(10_000), CHECK_EVERY)
    many = advance(where, solver(name), plateau, many, key, jnp.asarray(4), jnp.asarray(10_000), CHECK_EVERY)
    assert int(one.step) == int(many.step) == 4 * CHECK_EVERY
    assert same_bits(one.solver, many.solver)
    assert same_bits(one.stopping, many.stopping)


@every_solver
def test_another_key_gives_another_path(name):
    target = GaussianTarget(MEAN, PRECISION)
    (a, _), (b, _), (again, _) = (fit(name, target, max_steps=100, seed=seed) for seed in (0, 1, 0))
    assert same_bits(a.answer, again.answer)
    assert not same_bits(a.answer, b.answer)


@every_solver
def test_a_second_fit_of_the_same_shapes_compiles_nothing(name):
    """Another target, another key, another number of steps: all are arguments of the compiled program."""
    jax.clear_caches()
    with counting_compiles() as first:
        fit(name, GaussianTarget(MEAN, PRECISION), max_steps=100)
    with counting_compiles() as second:
        fit(name, GaussianTarget([0.3, 0.9], np.eye(2)), max_steps=250, seed=7)
    assert first.compiled > 0
    assert second.compiled == 0


@every_solver
def test_nan_in_the_density_ends_the_fit_and_keeps_the_last_finite_answer(name):
    """The mean is beyond the edge, where the density is NaN: q walks into it."""
    result, q = fit(name, GaussianTarget([8.0, 0.0], np.eye(2), edge=5.0), max_steps=2000)
    assert result.status is Status.NOT_FINITE
    step = int(result.run.step)
    assert 0 < step < 2000
    assert result.reason == f"the training log joint was not finite at step {step}; the last finite answer is kept"
    assert np.isfinite(result.answer).all()
    assert 0.5 < float(q.mean[0]) < 5.0  # it had moved, and is not thrown back to the start
    assert math.isfinite(result.history["best"][-1])
    assert "check the data" in result.status.advice
    # a run that has ended so is not to be advanced
    again, _ = fit(name, GaussianTarget([8.0, 0.0], np.eye(2), edge=5.0), max_steps=4000, run=result.run)
    assert again.status is Status.NOT_FINITE
    assert int(again.run.step) == step


class _RootAtZero(GaussianTarget):
    """Finite everywhere; its gradient is 0 * inf = NaN in z[1]."""

    def log_density(self, z):
        return -0.5 * jnp.sum(z**2) + jnp.sqrt(0.0 * z[1])


@every_solver
def test_nan_in_the_gradient_is_named_by_its_parameter(name):
    result, q = fit(name, _RootAtZero([0.0, 0.0], np.eye(2)), max_steps=100)
    assert result.status is Status.NOT_FINITE
    assert result.reason.startswith("the gradient of `mean` was not finite at step 1;")
    np.testing.assert_array_equal(q.mean, [0.0, 0.0])


@every_solver
def test_restarts_run_together(name):
    """vmap over starts and keys equals one after another."""
    where, trained = problem(GaussianTarget(MEAN, PRECISION))
    starts = trained + jnp.arange(3.0)[:, None]
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def run(trained, key):
        def one(i, state):
            return solver(name).step(where, state, i, key)[0]

        return solver(name).answer(jax.lax.fori_loop(0, 20, one, solver(name).init(where, trained, key)))

    together = jax.jit(jax.vmap(run))(starts, keys)
    for i in range(3):
        np.testing.assert_allclose(together[i], run(starts[i], keys[i]), rtol=1e-4, atol=1e-5)


@every_solver
def test_runs_in_double_precision(name):
    with jax.enable_x64(True):
        _, q = fit(name, GaussianTarget(MEAN, PRECISION), max_steps=100)
        assert q.mean.dtype == np.float64
        assert np.isfinite(q.mean).all()


class _Linear(AbstractObjective):
    """mean over rows of x * parameter: its gradient tells which rows were in the batch."""

    part_names: ClassVar[tuple[str, ...]] = ("elbo",)

    def score(self, trainable, batch, key, step=None):
        items = batch * trainable.mean[0]
        return Scores(jnp.mean(items), items, {"elbo": jnp.mean(batch)})


class _Parameter(eqx.Module):
    mean: Float[Array, " one"]


ROWS, BATCH = 12, 3


@every_solver
def test_minibatches_partition_the_data_anew_each_epoch(name):
    """Rows are powers of two, so that a batch's sum tells its rows. Hence the gradient is unbiased for the full one."""
    if getattr(solver(name), "batch_size", None) != BATCH:
        pytest.skip("takes all data at once")
    rows = 2.0 ** jnp.arange(ROWS)
    where, trained = Problem.of(_Parameter(jnp.ones(1)), _Linear(), _Linear(), rows, rows)
    key = jax.random.key(5)
    state, step = (
        solver(name).init(where, trained, key),
        jax.jit(lambda s, i: solver(name).step(where, s, i, key)),
    )
    batches = []
    for i in range(3 * ROWS // BATCH):
        state, info = step(state, jnp.asarray(i))
        total = round(float(info.parts["elbo"]) * BATCH)
        batches.append({row for row in range(ROWS) if total >> row & 1})
    assert all(len(batch) == BATCH for batch in batches)
    per_epoch = ROWS // BATCH
    epochs = [batches[i : i + per_epoch] for i in range(0, len(batches), per_epoch)]
    for epoch in epochs:
        assert set().union(*epoch) == set(range(ROWS))
    assert epochs[0] != epochs[1] != epochs[2]
