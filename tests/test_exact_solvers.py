"""Newton and Pathfinder on targets whose answer is known, and where they cannot succeed."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qphi
from qphi.modes import certify
from qphi.noise import fixed_draws, generator
from qphi.precision import double
from qphi.search import EFFORTS, Search
from qphi.solvers.descent import Dense, Limited
from qphi.solvers.exact import Gaussian, Spiked, solve
from qphi.solvers.laplace import Laplace
from qphi.solvers.match import BatchAndMatch, matched
from qphi.solvers.mean_field import MeanField
from qphi.solvers.newton import Newton, SteinNewton, inverse_factor
from qphi.solvers.pathfinder import Pathfinder
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle

KEY = jax.random.key(0)


def oracle_of(log_density, dim):
    with double():
        return Oracle(LogDensity(lambda v: log_density(v["z"]), {"z": jnp.zeros(dim)}))


def gaussian_problem(dim, seed=0, condition=1e4):
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    covariance = basis @ np.diag(np.geomspace(1, condition, dim)) @ basis.T
    mean, precision = random.standard_normal(dim) * 3, np.linalg.inv(covariance)
    return oracle_of(lambda z: -0.5 * (z - mean) @ precision @ (z - mean), dim), mean, covariance


@pytest.mark.parametrize("seed", range(3))
def test_newton_is_exact_after_one_step_on_a_gaussian(seed):
    oracle, mean, covariance = gaussian_problem(4, seed)
    random = np.random.default_rng(seed)
    start = Gaussian(random.standard_normal(4), np.tril(random.standard_normal((4, 4))) + 3 * np.eye(4))
    solver = Newton(fixed_draws(generator(KEY, seed), 32, 4))
    state, steps = solve(oracle, solver, start, max_steps=10)
    assert steps == 2  # a look around, and the step
    np.testing.assert_allclose(state.q.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(state.q.tril @ state.q.tril.T, covariance, rtol=1e-7, atol=1e-6)
    log_z = 0.5 * np.linalg.slogdet(2 * math.pi * covariance)[1]
    assert state.elbo == pytest.approx(log_z, abs=1e-6)


def logistic(data=200, dim=3):
    random = np.random.default_rng(1)
    x = random.standard_normal((data, dim))
    y = (random.uniform(size=data) < 1 / (1 + np.exp(-x @ np.array([1.0, -2.0, 0.5])))).astype(float)
    return lambda b: jnp.sum(y * (x @ b) - jnp.logaddexp(0, x @ b)) - 0.5 * jnp.sum(b**2) / 25


def test_newton_finds_the_same_gaussian_in_other_coordinates():
    log_p = logistic()
    eps = fixed_draws(generator(KEY), 64, 3)
    scale = np.array([[1e3, 0, 0], [5.0, 1e-3, 0], [1.0, 0.1, 1.0]])
    inverse = np.linalg.inv(scale)
    plain, _ = solve(oracle_of(log_p, 3), Newton(eps), Gaussian(np.zeros(3), 0.1 * np.eye(3)), max_steps=50)
    moved = oracle_of(lambda u: log_p(inverse @ u), 3)
    other, _ = solve(moved, Newton(eps), Gaussian(np.zeros(3), 0.1 * scale), max_steps=50)
    np.testing.assert_allclose(inverse @ other.q.mean, plain.q.mean, rtol=1e-6)
    np.testing.assert_allclose(inverse @ other.q.tril, plain.q.tril, rtol=1e-6, atol=1e-9)


def test_stein_s_identity_is_exact_for_a_gaussian_and_agrees_with_hessians_elsewhere():
    oracle, mean, covariance = gaussian_problem(4)
    solver = SteinNewton()
    state, steps = solve(oracle, solver, Gaussian(np.ones(4), np.eye(4)), max_steps=10)
    assert steps == 2  # a look around, and the step
    np.testing.assert_allclose(state.q.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(state.q.tril @ state.q.tril.T, covariance, rtol=1e-7, atol=1e-6)
    skewed, start = oracle_of(logistic(data=20), 3), Gaussian(np.zeros(3), 0.1 * np.eye(3))
    by_hessians, _ = solve(skewed, Newton(fixed_draws(generator(KEY), 1024, 3)), start, max_steps=50)
    asked = skewed.hessians_asked
    state, _ = solve(skewed, solver, start, max_steps=50)
    assert skewed.hessians_asked == asked
    assert solver.finished(state)
    # 256 draws: means within a hundredth of an sd or so, sds within a percent or so; draws are the same in every run
    np.testing.assert_allclose((state.q.mean - by_hessians.q.mean) / by_hessians.q.sd, 0, atol=0.05)
    np.testing.assert_allclose(state.q.sd, by_hessians.q.sd, rtol=0.05)


def test_newton_on_logistic_regression_is_a_stationary_point_by_fresh_draws():
    oracle = oracle_of(logistic(), 3)
    state, _ = solve(oracle, Newton(fixed_draws(generator(KEY), 64, 3)), Gaussian(np.zeros(3), np.eye(3)), max_steps=50)
    assert state.residual < 1e-3
    z = state.q.transport(fixed_draws(generator(KEY, 1), 4000, 3))
    _, gradient, hessian = oracle.mean_curvature(z)
    np.testing.assert_allclose(state.q.tril.T @ gradient, 0, atol=0.02)
    np.testing.assert_allclose(state.q.tril.T @ hessian @ state.q.tril, -np.eye(3), atol=0.03)


def test_newton_says_when_there_is_nothing_to_stand_on():
    oracle = oracle_of(lambda z: jnp.where(jnp.abs(z[0]) > 0.1, jnp.nan, -jnp.sum(z**2)), 2)
    solver = Newton(fixed_draws(generator(KEY), 16, 2))
    state, _ = solve(oracle, solver, Gaussian(np.zeros(2), np.eye(2)), max_steps=50)
    assert solver.finished(state)
    assert solver.answer(state) is None


def test_newton_does_not_finish_early():
    oracle = oracle_of(logistic(), 3)
    solver = Newton(fixed_draws(generator(KEY), 64, 3))
    state, steps = solve(oracle, solver, Gaussian(np.full(3, 5.0), np.eye(3)), max_steps=2)
    assert steps == 2
    assert not solver.finished(state)
    assert state.residual > solver.tolerance


def test_the_inverse_factor():
    root = np.tril(np.random.default_rng(0).standard_normal((5, 5))) + 3 * np.eye(5)
    tril = inverse_factor(root @ root.T)
    np.testing.assert_array_equal(tril, np.tril(tril))
    np.testing.assert_allclose(tril @ tril.T, np.linalg.inv(root @ root.T), rtol=1e-9)


def test_pathfinder_learns_the_covariance_of_a_gaussian():
    oracle, mean, covariance = gaussian_problem(5, condition=100)
    starts = np.random.default_rng(0).uniform(-2, 2, (4, 5))
    solver = Pathfinder(fixed_draws(generator(KEY), 6, 5))
    paths, _ = solve(oracle, solver, starts, max_steps=200)
    best = solver.answer(paths)
    assert best is not None
    for path in paths:
        np.testing.assert_allclose(path.place, mean, atol=0.01)
    # the best by the ELBO on six draws is one of the last places, in the metric of the posterior
    root = np.linalg.cholesky(covariance)
    np.testing.assert_allclose(np.linalg.solve(root, best.mean - mean), 0, atol=0.05)
    relative = np.linalg.solve(root, best.tril)
    np.testing.assert_allclose(relative @ relative.T, np.eye(5), atol=0.35)


def test_pathfinder_with_a_limited_memory_climbs_many_dimensions():
    dim = 150  # above the dense limit
    scale = np.geomspace(0.3, 3, dim)
    oracle = oracle_of(lambda z: -0.5 * jnp.sum(((z - 1) / scale) ** 2), dim)
    solver = Pathfinder(fixed_draws(generator(KEY), 6, dim))
    paths, _ = solve(oracle, solver, np.random.default_rng(0).uniform(-2, 2, (3, dim)), max_steps=300)
    assert solver.finished(paths)
    best = solver.answer(paths)
    assert best is not None
    assert all(path.scored == path.updates for path in paths)
    for path in paths:
        np.testing.assert_allclose((path.place - 1) / scale, 0, atol=0.01)
    np.testing.assert_allclose((best.mean - 1) / scale, 0, atol=0.2)
    # twenty updates know twenty directions: the widths are right within a factor, which is enough to start from
    assert np.all(np.abs(np.log(np.sqrt(np.sum(best.tril**2, axis=1)) / scale)) < math.log(5))


def test_pathfinder_stops_where_the_volume_is_and_not_in_the_neck():
    # the funnel's density grows without bound as v -> -inf; its mass is at v = 0 +- 3
    def funnel(z):
        return -0.5 * (z[0] / 3) ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 4 * z[0] / 2

    oracle = oracle_of(funnel, 5)
    solver = Pathfinder(fixed_draws(generator(KEY), 6, 5))
    paths, _ = solve(oracle, solver, np.random.default_rng(1).uniform(-2, 2, (8, 5)), max_steps=300)
    best = solver.answer(paths)
    assert best is not None
    assert abs(best.mean[0]) < 9
    assert max(path.best_elbo for path in paths) > -20


def test_pathfinder_finds_both_modes():
    oracle = oracle_of(lambda z: jnp.logaddexp(-0.5 * jnp.sum((z - 4) ** 2), -0.5 * jnp.sum((z + 4) ** 2)), 1)
    solver = Pathfinder(fixed_draws(generator(KEY), 6, 1))
    paths, _ = solve(oracle, solver, np.random.default_rng(0).uniform(-2, 2, (8, 1)), max_steps=100)
    ends = {round(float(path.place[0])) for path in paths}
    assert ends == {-4, 4}


def test_a_path_goes_to_a_mode_that_is_a_million_away_and_a_millionth_wide():
    oracle = oracle_of(lambda z: -0.5 * jnp.sum(((z - 1e6) / 1e-6) ** 2), 2)
    (path,), _ = solve(oracle, Pathfinder(), np.zeros((1, 2)), max_steps=200)
    assert path.best is not None
    np.testing.assert_allclose(path.best.mean, 1e6, rtol=0, atol=1e-7)
    np.testing.assert_allclose(path.best.sd, 1e-6, rtol=0.1)


def test_the_divergence_between_two_gaussians():
    rng = np.random.default_rng(0)
    first, second = (Gaussian(rng.normal(size=3), np.tril(rng.normal(size=(3, 3))) + 2 * np.eye(3)) for _ in range(2))
    moment = (second.mean - first.mean)[:, None]
    inverse = np.linalg.inv(second.tril @ second.tril.T)
    exact = 0.5 * (np.trace(inverse @ first.tril @ first.tril.T) + (moment.T @ inverse @ moment)[0, 0] - 3)
    exact += np.log(np.abs(np.diag(second.tril))).sum() - np.log(np.abs(np.diag(first.tril))).sum()
    assert first.divergence(second) == pytest.approx(exact, rel=1e-12)
    assert first.divergence(first) == pytest.approx(0, abs=1e-12)
    wide = Spiked.diagonal(np.zeros(3), np.full(3, 2.0))
    assert wide.divergence(Spiked.diagonal(np.zeros(3), np.ones(3))) == pytest.approx(3 * (1.5 - np.log(2)), rel=1e-12)


def test_a_path_from_a_start_without_a_density_ends_at_once():
    oracle = oracle_of(lambda z: jnp.where(z[0] < 0, -jnp.inf, -jnp.sum(z**2)), 1)
    solver = Pathfinder(fixed_draws(generator(KEY), 6, 1))
    paths, steps = solve(oracle, solver, np.array([[-1.0]]), max_steps=100)
    assert steps == 1
    assert solver.answer(paths) is None


def test_the_deadline_is_kept():
    oracle, _, _ = gaussian_problem(3)
    _, steps = solve(
        oracle, Pathfinder(fixed_draws(generator(KEY), 6, 3)), np.zeros((1, 3)), max_steps=50, deadline=-math.inf
    )
    assert steps == 0


def test_the_oracle_counts_and_splits_and_agrees_with_autodiff():
    oracle = oracle_of(logistic(), 3)
    z = np.random.default_rng(0).standard_normal((1500, 3))
    values, (again, gradients) = oracle.values(z), oracle.gradients(z)
    np.testing.assert_allclose(values, again, rtol=1e-12)
    value, gradient, hessian = oracle.mean_curvature(z[:100])
    assert (oracle.values_asked, oracle.gradients_asked, oracle.hessians_asked) == (1500, 1500, 100)
    assert value == pytest.approx(values[:100].mean())
    np.testing.assert_allclose(gradient, gradients[:100].mean(axis=0), rtol=1e-9)
    with double():
        exact = jax.vmap(jax.hessian(oracle.target.log_density))(jnp.asarray(z[:100])).mean(axis=0)
    np.testing.assert_allclose(hessian, exact, rtol=1e-9)
    assert values.dtype == np.float64
    assert jnp.zeros(()).dtype == jnp.float32  # the process is as it was


def test_both_memories_of_curvature_satisfy_the_secant_equation():
    random = np.random.default_rng(0)
    root = random.standard_normal((6, 6))
    hessian = root @ root.T + np.eye(6)
    dense, limited = Dense(6), Limited(6)
    moves = random.standard_normal((3, 6))
    for moved in moves:
        change = hessian @ moved
        for memory in (dense, limited):
            memory.update(moved, change, float(moved @ change))
        np.testing.assert_allclose(limited.matrix() @ change, moved, atol=1e-10)  # the secant equation
    v = random.standard_normal(6)
    np.testing.assert_allclose(limited.matrix() @ v, limited.times(v), atol=1e-10)
    assert np.all(np.linalg.eigvalsh(limited.matrix()) > 0)
    np.testing.assert_allclose(dense.matrix() @ change, moved, atol=1e-10)


def test_newton_survives_curvature_that_overflows():
    # the Hessian is 1e300 far from the middle: steps are refused, nothing is raised
    oracle = oracle_of(lambda z: -jnp.sum(jnp.cosh(60 * z)), 2)
    solver = Newton(fixed_draws(generator(KEY), 16, 2))
    state, _ = solve(oracle, solver, Gaussian(np.zeros(2), 4 * np.eye(2)), max_steps=50)
    answer = solver.answer(state)
    assert answer is None or np.isfinite(answer.mean).all()


@pytest.mark.parametrize("regulariser", [0.3, 5.0, 1e10])
def test_a_match_solves_its_equation(regulariser):
    """S U S + S = V with U and V of the draws and scores, whatever they are; with lam -> infinity S G S = X."""
    random = np.random.default_rng(0)
    eps, scores = random.standard_normal((20, 4)) + 0.5, random.standard_normal((20, 4)) @ np.diag([1, 2, 3, 4.0]) - 1
    shift, tril = matched(eps, scores, regulariser)
    s, x, g = tril @ tril.T, eps.mean(axis=0), scores.mean(axis=0)
    share = regulariser / (1 + regulariser)
    u = regulariser * np.cov(scores.T, bias=True) + share * np.outer(g, g)
    v = np.eye(4) + regulariser * np.cov(eps.T, bias=True) + share * np.outer(x, x)
    np.testing.assert_allclose((s @ u @ s + s) / regulariser, v / regulariser, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(shift, share * (s @ g + x), rtol=1e-10)
    np.testing.assert_array_equal(tril, np.tril(tril))
    assert np.all(np.diag(tril) > 0)


def test_mixing_the_latest_steps_takes_fewer_to_the_same_gaussian(monkeypatch):
    """Varying levels and their own scale: plain steps shrink by a constant factor."""
    y = np.array([-1.3, -0.9, -0.2, 0.1, 0.3, 0.8, 1.1, 1.9])

    def levels(z):
        mean, log_scale, level = z[0], z[1], z[2:]
        prior = -0.5 * jnp.sum(((level - mean) * jnp.exp(-log_scale)) ** 2) - 8 * log_scale
        return prior - 0.5 * jnp.sum(((y - level) / 0.5) ** 2) - 0.5 * (mean / 5) ** 2 - 0.5 * log_scale**2

    oracle, solver, start = oracle_of(levels, 10), Newton(), Gaussian(np.zeros(10), 0.5 * np.eye(10))
    mixed, few = solve(oracle, solver, start, max_steps=200)
    monkeypatch.setattr("qphi.solvers.newton._NEAR", 0.0)  # from no distance
    plain, many = solve(oracle, solver, start, max_steps=200)
    assert few < 0.6 * many < 120
    assert max(mixed.residual, plain.residual) <= solver.tolerance
    np.testing.assert_allclose(plain.q.whiten(mixed.q.mean[None])[0], 0, atol=0.02)
    np.testing.assert_allclose(mixed.q.sd / plain.q.sd, 1, atol=0.02)


def test_batch_and_match_is_exact_after_one_step_on_a_gaussian_and_asks_for_gradients_only():
    oracle, mean, covariance = gaussian_problem(4)
    start = Gaussian(np.ones(4), np.tril(np.ones((4, 4))) + 3 * np.eye(4))
    state, steps = solve(oracle, BatchAndMatch(), start, max_steps=10)
    assert steps == 2  # a look around, and the step
    assert (oracle.gradients_asked, oracle.hessians_asked, oracle.values_asked) == (2 * 64, 0, 0)
    np.testing.assert_allclose(state.q.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(state.q.tril @ state.q.tril.T, covariance, rtol=1e-6, atol=1e-6)


def test_batch_and_match_serves_what_has_no_second_derivatives():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, ct: (2 * x * ct,))  # autodiff cannot go forward through its reverse
    with double():
        target = LogDensity(lambda v: -0.5 * jnp.sum(square(v["z"] - 1)), {"z": jnp.zeros(2)})
    posterior = qphi.fit(target, key=KEY, solver=qphi.solvers.BatchAndMatch(), effort="quick")
    assert posterior.verdict.trust == "trusted"
    np.testing.assert_allclose(posterior.mean()["z"], 1, atol=0.01)
    assert posterior.evaluations["hessians"] == 0


def test_laplace_leaves_a_saddle_and_says_when_there_is_no_mode():
    # log p = -(x^2 - 1)^2 - y^2: a saddle at 0, modes at x = +-1 of curvature -8
    oracle = oracle_of(lambda z: -((z[0] ** 2 - 1) ** 2) - z[1] ** 2, 2)
    solver = Laplace()
    state, _ = solve(oracle, solver, Gaussian(np.array([0.1, 0.3]), np.eye(2)), max_steps=60)
    q = solver.answer(state)
    assert q is not None
    np.testing.assert_allclose(q.mean, [1, 0], atol=1e-3)
    np.testing.assert_allclose(q.tril, np.diag([1 / math.sqrt(8), 1 / math.sqrt(2)]), atol=1e-3)
    at_the_saddle, _ = solve(oracle, solver, Gaussian(np.zeros(2), np.eye(2)), max_steps=60)
    assert solver.finished(at_the_saddle)
    assert solver.answer(at_the_saddle) is None
    flat, steps = solve(oracle_of(lambda z: -(z[0] ** 2), 2), solver, Gaussian(np.ones(2), np.eye(2)), max_steps=60)
    assert steps < 60
    assert solver.answer(flat) is None


def test_mean_field_has_conditional_sds_and_linear_response_the_covariance():
    oracle, mean, covariance = gaussian_problem(5, condition=100)
    solver = MeanField()
    state, _ = solve(oracle, solver, Gaussian(mean + 1, np.tril(np.ones((5, 5)))), max_steps=60)
    q = solver.answer(state)
    assert q is not None
    factorised = state.at(state.path.place)
    np.testing.assert_allclose(factorised[0], mean, atol=1e-6)
    np.testing.assert_allclose(factorised[1], 1 / np.sqrt(np.diag(np.linalg.inv(covariance))), rtol=1e-4)
    np.testing.assert_allclose(q.tril @ q.tril.T, covariance, rtol=1e-6)
    assert (oracle.hessians_asked, oracle.values_asked) == (0, 64)


def test_an_automatic_fit_without_improvement_of_what_pathfinder_found():
    with double():
        target = LogDensity(lambda v: logistic()(v["z"]), {"z": jnp.zeros(3)})
    posterior = qphi.fit(target, key=KEY, solver=qphi.solvers.Pathfinder())
    reference = qphi.fit(target, key=KEY)
    assert posterior.verdict.trust.usable
    assert posterior.elbo < reference.elbo
    np.testing.assert_allclose((posterior.mean()["z"] - reference.mean()["z"]) / reference.sd()["z"], 0, atol=0.1)


def test_solvers_that_do_not_go_with_the_rest_are_refused(wrong_types):
    def log_density(v):
        return -jnp.sum(v["z"] ** 2)

    example = {"z": jnp.zeros(2)}
    with pytest.raises(TypeError, match="family has no effect on an exact solver"):
        qphi.fit(log_density, example=example, key=KEY, solver=Laplace(), family="full-rank")
    with pytest.raises(TypeError, match=r"solver is a str; one of qphi\.solvers is needed"):
        qphi.fit(log_density, example=example, key=KEY, solver="laplace")
    with pytest.raises(qphi.InputError, match="Newton fits full-rank Gaussians, of at most 1000 dimensions"):
        qphi.fit(log_density, example={"z": jnp.zeros(1001)}, key=KEY, solver=Newton())


def search_after(log_density, dim):
    """A search with one Newton fit on the usual number of draws."""
    search = Search(oracle_of(log_density, dim), np.random.default_rng(0), KEY, EFFORTS["standard"], math.inf)
    solver = search.solver.with_draws(search.random, dim)
    state, _ = solve(search.oracle, solver, Gaussian(np.zeros(dim), np.eye(dim)), max_steps=100)
    search.fits.append(state)
    return search, solver.draws(dim).shape[0]


def test_a_fit_that_other_draws_would_not_move_is_left_alone():
    search, draws = search_after(lambda z: -0.5 * jnp.sum((z - 3) ** 2), 4)
    before, asked = search.fits[0], search.oracle.hessians_asked
    certify(search)
    assert search.fits[0] is before
    assert search.draw_error < 1e-6
    assert search.oracle.hessians_asked == asked + draws


def test_draws_are_doubled_where_others_would_move_the_fit():
    dim = 20
    skewed = lambda z: jnp.sum(-0.5 * z**2 + jax.scipy.stats.norm.logcdf(10 * z))  # noqa: E731
    search, draws = search_after(skewed, dim)
    fresh = search.solver.with_draws(search.random, dim)
    first = fresh.step(search.oracle, fresh.init(search.oracle, search.fits[0].q)).residual / math.sqrt(dim)
    asked = search.oracle.hessians_asked
    certify(search)
    assert first > 0.08
    assert search.draw_error < 0.05
    assert search.oracle.hessians_asked > asked + 3 * draws
