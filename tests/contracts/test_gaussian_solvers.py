"""What every exact solver that starts from a Gaussian must do. Nothing here fails by chance: seeds are fixed."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qphi
from contracts.registry import GAUSSIAN_SOLVERS
from qphi.noise import fixed_draws
from qphi.precision import double
from qphi.solvers.exact import Gaussian, solve
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle

every_solver = pytest.mark.parametrize("name", GAUSSIAN_SOLVERS)
DIM = 4


def oracle_of(log_density, dim=DIM):
    with double():
        return Oracle(LogDensity(lambda v: log_density(v["z"]), {"z": jnp.zeros(dim)}))


def ended(name, oracle, start, **options):
    solver = GAUSSIAN_SOLVERS[name].build(**options)
    state, steps = solve(oracle, solver, start, max_steps=100)
    assert steps < 100
    assert solver.finished(state)
    return solver, state


@functools.cache
def gaussian_problem(seed):
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.standard_normal((DIM, DIM)))[0]
    covariance = basis @ np.diag(np.geomspace(1, 1e4, DIM)) @ basis.T
    mean, precision = random.standard_normal(DIM) * 3, np.linalg.inv(covariance)
    start = Gaussian(random.standard_normal(DIM), np.tril(random.standard_normal((DIM, DIM))) + 3 * np.eye(DIM))
    return oracle_of(lambda z: -0.5 * (z - mean) @ precision @ (z - mean)), mean, covariance, start


@every_solver
def test_exact_on_a_gaussian_from_anywhere(name):
    for seed in range(3):
        oracle, mean, covariance, start = gaussian_problem(seed)
        solver, state = ended(name, oracle, start)
        q = solver.answer(state)
        assert q is not None
        root = np.linalg.cholesky(covariance)
        np.testing.assert_allclose(np.linalg.solve(root, q.mean - mean), 0, atol=1e-6)
        relative = np.linalg.solve(root, q.tril)
        np.testing.assert_allclose(relative @ relative.T, np.eye(DIM), atol=1e-6)
        assert state.residual <= solver.tolerance
        assert state.elbo == pytest.approx(0.5 * np.linalg.slogdet(2 * math.pi * covariance)[1], abs=1e-6)
        np.testing.assert_array_equal(q.tril, np.tril(q.tril))


def logistic(dim=DIM, data=100):
    random = np.random.default_rng(1)
    x = random.standard_normal((data, dim))
    y = (random.uniform(size=data) < 1 / (1 + np.exp(-x @ np.linspace(1, -2, dim)))).astype(float)
    return lambda b: jnp.sum(y * (x @ b) - jnp.logaddexp(0, x @ b)) - 0.5 * jnp.sum(b**2) / 25


@every_solver
def test_the_same_gaussian_in_other_coordinates(name):
    scale = np.diag([1e3, 1e-3, 1.0, 30.0])
    if GAUSSIAN_SOLVERS[name].follows == "triangular":
        scale = scale + np.tril(np.random.default_rng(2).standard_normal((DIM, DIM)))
    inverse, log_p = np.linalg.inv(scale), logistic()
    _, plain = ended(name, oracle_of(log_p), Gaussian(np.full(DIM, 0.2), 0.3 * np.eye(DIM)))
    moved = oracle_of(lambda u: log_p(inverse @ u))
    _, other = ended(name, moved, Gaussian(scale @ np.full(DIM, 0.2), 0.3 * scale))
    np.testing.assert_allclose(inverse @ other.q.mean, plain.q.mean, rtol=1e-5)
    np.testing.assert_allclose(inverse @ other.q.tril, plain.q.tril, rtol=1e-5, atol=1e-7)


@every_solver
def test_close_to_a_posterior_that_is_nearly_gaussian(name):
    oracle = oracle_of(logistic())
    _, state = ended(name, oracle, Gaussian(np.full(DIM, 0.2), 0.3 * np.eye(DIM)))
    _, best = ended("Newton", oracle, Gaussian(np.full(DIM, 0.2), 0.3 * np.eye(DIM)))
    shift = np.linalg.solve(best.q.tril, state.q.mean - best.q.mean)
    assert np.abs(shift).max() < 0.4  # a mode is not a mean
    assert np.abs(np.log(np.diag(state.q.tril) / np.diag(best.q.tril))).max() < 0.2
    assert state.elbo < best.elbo + 0.05


@every_solver
def test_no_answer_where_log_p_is_not_finite(name):
    oracle = oracle_of(lambda z: jnp.where(jnp.abs(z[0]) > 0.01, jnp.nan, -jnp.sum(z**2)))
    solver, state = ended(name, oracle, Gaussian(np.ones(DIM), np.eye(DIM)))
    assert solver.answer(state) is None
    assert not state.residual <= solver.tolerance


@every_solver
def test_curvature_that_overflows_is_survived(name):
    oracle = oracle_of(lambda z: -jnp.sum(jnp.cosh(60 * z)), 2)
    solver = GAUSSIAN_SOLVERS[name].build()
    state, _ = solve(oracle, solver, Gaussian(np.zeros(2), 4 * np.eye(2)), max_steps=60)
    q = solver.answer(state)
    assert q is None or (np.isfinite(q.mean).all() and np.isfinite(q.tril).all())


@every_solver
def test_the_same_bits_again_and_other_draws_when_given(name):
    oracle, start = oracle_of(logistic()), Gaussian(np.zeros(DIM), np.eye(DIM))
    (solver, state), (_, again) = (ended(name, oracle, start) for _ in range(2))
    np.testing.assert_array_equal(state.q.mean, again.q.mean)
    np.testing.assert_array_equal(state.q.tril, again.q.tril)
    own = fixed_draws(np.random.default_rng(9), 64, DIM)
    assert solver.with_draws(np.random.default_rng(9), DIM).draws(DIM).shape[1] == DIM
    assert GAUSSIAN_SOLVERS[name].build(eps=own).with_draws(np.random.default_rng(3), DIM).draws(DIM) is own
    _, other = ended(name, oracle, start, eps=own)
    assert state.elbo != other.elbo
    with pytest.raises(qphi.InputError, match=r"eps of .* has shape \(64, 4\); rows of 2 numbers"):
        solve(oracle_of(lambda z: -jnp.sum(z**2), 2), GAUSSIAN_SOLVERS[name].build(eps=own), start_of(2), max_steps=9)


def start_of(dim):
    return Gaussian(np.full(dim, 0.3), np.eye(dim))


@every_solver
def test_hessians_are_asked_for_only_where_that_is_said(name):
    oracle = oracle_of(logistic())
    solver, _ = ended(name, oracle, Gaussian(np.zeros(DIM), np.eye(DIM)))
    assert (oracle.hessians_asked > 0) == solver.uses_hessians


@every_solver
def test_an_automatic_fit_with_it(name):
    """Checked and judged as with Newton: a logistic regression's posterior is nearly Gaussian."""
    with double():
        target = LogDensity(lambda v: logistic(2)(v["z"]), {"z": jnp.zeros(2)})
    posterior = qphi.fit(target, key=jax.random.key(0), solver=GAUSSIAN_SOLVERS[name].build())
    reference = qphi.fit(target, key=jax.random.key(1))
    assert posterior.verdict.trust.usable
    sd = reference.sd()["z"]
    np.testing.assert_allclose((posterior.mean()["z"] - reference.mean()["z"]) / sd, 0, atol=0.1)
    np.testing.assert_allclose(posterior.sd()["z"], sd, rtol=0.1)


def test_the_fields_of_every_solver_are_numbers():
    for name, case in GAUSSIAN_SOLVERS.items():
        values = dataclasses.asdict(case.build())
        assert all(value is None or isinstance(value, int | float) for value in values.values()), name
