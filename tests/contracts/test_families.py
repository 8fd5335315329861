"""What every family must do. Draws, gradients and entropies are held against quadrature of the density itself.

Stochastic tests compare at 4 standard errors: 1 comparison in 16,000 fails by chance when all is well, so 2 % of
fresh sets of seeds would fail one of the 300 or so here. Seeds are fixed; every comparison is made for 3 of them.
"""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from contracts.registry import FAMILIES
from qphi.families import Batch, FromNumPyro, as_family

DRAWS = 4096
SEEDS = (0, 1, 2)
QUICK = {"xla_backend_optimization_level": 0}  # these programs take longer to compile than to run
every_family = pytest.mark.parametrize("name", FAMILIES)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def build(name, parameters=None):
    case = FAMILIES[name]
    parameters = case.parameters if parameters is None else parameters
    return case.build(**{k: jnp.asarray(v, float) for k, v in parameters.items()})


def test_function(z):
    """Smooth, of slow growth (so that heavy tails have standard errors), and no symmetry hides a parameter."""
    return jnp.sum(jnp.log1p((z + 0.3) ** 2)) + jnp.tanh(z[0] * z[1])


test_function.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def nodes(support):
    """Points of R^2 and their quadrature weights: the trapezoidal rule after a substitution that reaches far."""
    u = np.linspace(-9, 9, 161)
    z, jacobian = (np.sinh(u), np.cosh(u)) if support == "real" else (np.exp(2 * u - 9), 2 * np.exp(2 * u - 9))
    weights = jacobian * (u[1] - u[0])
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid, np.outer(weights, weights).ravel()


@functools.cache
def density_on_nodes(name):
    """A compiled function of the parameters: log q on every node, float64."""

    @jax.jit
    def function(parameters):
        grid = jnp.asarray(nodes(FAMILIES[name].support)[0])
        return FAMILIES[name].build(**parameters).log_prob_many(grid)

    return function


def quadrature(name, function, parameters=None):
    """E_q[function(z, log q(z))], in float64, to about 1e-6."""
    grid, weights = nodes(FAMILIES[name].support)
    log_q = log_density(name) if parameters is None else log_density.__wrapped__(name, parameters)
    mass = weights * np.exp(log_q)
    kept = mass > 0  # -inf * 0 is nothing
    return np.sum(mass[kept] * function(grid[kept], log_q[kept]))


@functools.cache
def log_density(name, parameters=None):
    """log q on every node, float64."""
    with jax.enable_x64(True):
        chosen = FAMILIES[name].parameters if parameters is None else parameters
        return np.asarray(density_on_nodes(name)({k: jnp.asarray(v, float) for k, v in chosen.items()}))


def numpy_test_function(z, log_q):
    return np.sum(np.log1p((z + 0.3) ** 2), axis=1) + np.tanh(z[:, 0] * z[:, 1])


@functools.cache
def draws(name, seed):
    return np.asarray(_sampler(name)(FAMILIES[name].parameters, jax.random.key(seed)), float)


@functools.cache
def _sampler(name, batch=False):
    def sample(parameters, key):
        parameters = {k: jnp.asarray(v, float) for k, v in parameters.items()}
        if not batch:
            return FAMILIES[name].build(**parameters).sample_many(key, DRAWS)
        stacked = jax.tree.map(lambda a: jnp.stack([a] * 3), parameters)
        return Batch(eqx.filter_vmap(lambda p: FAMILIES[name].build(**p))(stacked)).sample_many(key, DRAWS)

    return jax.jit(sample, compiler_options=QUICK)


def assert_mean(values, expected, *, rounding=1e-5):
    """The mean over the first axis is `expected`, to 4 standard errors."""
    values = np.asarray(values, float)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    np.testing.assert_array_less(np.abs(values.mean(axis=0) - expected), 4 * error + rounding)


@every_family
def test_density_integrates_to_one(name):
    assert quadrature(name, lambda z, log_q: 1.0) == pytest.approx(1.0, abs=1e-5)


@every_seed
@every_family
def test_draws_follow_the_density(name, seed):
    z = draws(name, seed)
    functions = [
        lambda z, _: np.log1p((z[:, 0] + 0.3) ** 2),
        lambda z, _: np.log1p((z[:, 1] + 0.3) ** 2),
        lambda z, _: np.tanh(z[:, 0]),
        lambda z, _: np.tanh(z[:, 1]),
        lambda z, _: np.tanh(z[:, 0] * z[:, 1]),
    ]
    assert_mean(np.stack([f(z, None) for f in functions], axis=1), [quadrature(name, f) for f in functions])


@every_family
def test_entropy_is_minus_the_mean_log_density(name):
    q = build(name)
    exact = quadrature(name, lambda z, log_q: -log_q)
    for seed in SEEDS:
        log_q = q.log_prob_many(jnp.asarray(draws(name, seed), float))
        assert_mean(-log_q, exact)
    if q.has_entropy:
        assert float(q.entropy()) == pytest.approx(exact, abs=1e-4)
    else:
        with pytest.raises(TypeError, match="no closed-form entropy"):
            q.entropy()


@every_family
def test_reparameterised_gradient_to_each_parameter(name):
    """Mean over draws of d f(g_phi(eps)) / d phi against central differences of the integral of f q_phi."""
    case = FAMILIES[name]
    if not case.parameters:
        pytest.skip("no parameters")
    exact = {}
    for parameter, value in case.parameters.items():
        exact[parameter] = np.zeros(np.shape(value))
        if parameter in case.no_pathwise_gradient:
            continue
        for index in np.ndindex(exact[parameter].shape):
            step = np.zeros_like(exact[parameter])
            step[index] = h = 1e-3
            up, down = (
                quadrature(name, numpy_test_function, {**case.parameters, parameter: np.asarray(value) + s})
                for s in (step, -step)
            )
            exact[parameter][index] = (up - down) / (2 * h)

    def gradients(parameters, keys):
        def one(key):
            return jax.grad(lambda p: test_function(case.build(**p).sample(key)))(parameters)

        return jax.vmap(one)(keys)

    parameters = {k: jnp.asarray(v, float) for k, v in case.parameters.items()}
    compiled = jax.jit(gradients, compiler_options=QUICK)
    for seed in SEEDS:
        for parameter, values in compiled(parameters, jax.random.split(jax.random.key(seed), DRAWS)).items():
            assert_mean(values, exact[parameter])


@every_family
def test_draws_come_with_their_own_log_density(name):
    """Also with frozen parameters, where only the draw carries gradients: those of log q at it."""
    case, key = FAMILIES[name], jax.random.key(4)
    if not case.parameters:
        pytest.skip("no parameters")
    parameters = {k: jnp.asarray(v, float) for k, v in case.parameters.items()}

    def own(parameters, q):
        z, log_q = case.build(**parameters).sample_and_log_prob_many(key, 5, frozen=True)
        return jnp.sum(log_q), (z, log_q, *q.sample_and_log_prob_many(key, 5))

    def by_hand(parameters, q):
        z = case.build(**parameters).sample_many(key, 5)
        log_q = q.log_prob_many(z)
        return jnp.sum(log_q), (z, log_q, z, log_q)

    (_, values), gradient = _with_gradient(own)(parameters, build(name))
    (_, expected), exact = _with_gradient(by_hand)(parameters, build(name))
    for value, other in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-5)
    for parameter in parameters:
        np.testing.assert_allclose(gradient[parameter], exact[parameter], rtol=2e-3, atol=2e-4)


def _with_gradient(function):
    return jax.jit(jax.value_and_grad(function, has_aux=True), compiler_options=QUICK)


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
def test_implicit_gradient_of_the_gamma(concentration):
    """d E[z^2] / d a = 2a + 1, since E[z^2] = a (a + 1)."""

    for seed in SEEDS:
        keys = jax.random.split(jax.random.key(seed), DRAWS)
        assert_mean(_gradient_of_square(jnp.asarray(concentration), keys), 2 * concentration + 1)


@functools.partial(jax.jit, compiler_options=QUICK)
def _gradient_of_square(concentration, keys):
    def square(a, key):
        return FromNumPyro(dist.Gamma(a[None]).to_event(1)).sample(key)[0] ** 2

    return jax.vmap(jax.grad(square), (None, 0))(concentration, keys)


@every_family
def test_draws_are_independent(name):
    """Across keys, particles and a batch's members no correlation exceeds 4 / sqrt(n) on 3 seeds."""
    case = FAMILIES[name]
    for seed in SEEDS:
        z = draws(name, seed)
        columns = [z[:-1], z[1:], draws(name, seed + 1)[:-1]]
        if case.parameters:
            members = _sampler(name, batch=True)(case.parameters, jax.random.key(seed))
            assert members.shape == (DRAWS, 3, 2)
            columns += list(np.moveaxis(np.asarray(members), 1, 0)[:, :-1])
        # Ranks: correlations of heavy tails converge late.
        ranks = np.concatenate([c.argsort(axis=0).argsort(axis=0) for c in columns], axis=1)
        correlation = np.abs(np.corrcoef(ranks.T)) - np.eye(ranks.shape[1])
        for first in range(0, ranks.shape[1], 2):  # the coordinates of one draw may be correlated
            correlation[first : first + 2, first : first + 2] = 0
        assert correlation.max() < 4 / np.sqrt(DRAWS)


@every_family
def test_a_batch_is_its_members(name):
    case = FAMILIES[name]
    if not case.parameters:
        pytest.skip("no parameters that could differ between data")
    shifts = (0.0, 0.2, 0.5)
    stacked = {k: jnp.stack([jnp.asarray(v, float) + s for s in shifts]) for k, v in case.parameters.items()}
    batch = Batch(eqx.filter_vmap(lambda p: case.build(**p))(stacked))
    z = jnp.asarray(draws(name, 0)[:6], float).reshape(2, 3, 2)
    log_q = batch.log_prob_many(z)
    assert log_q.shape == (2, 3)
    assert batch.has_entropy == build(name).has_entropy
    for i in range(len(shifts)):
        member = case.build(**{k: v[i] for k, v in stacked.items()})
        np.testing.assert_allclose(log_q[:, i], member.log_prob_many(z[:, i]), rtol=1e-5, atol=1e-6)
        if batch.has_entropy:
            np.testing.assert_allclose(batch.entropy()[i], member.entropy(), rtol=1e-5)


@every_family
def test_compiled_and_vectorised_answers_are_the_plain_ones(name):
    q, keys = build(name), jax.random.split(jax.random.key(3), 3)
    plain = q.sample(keys[0])
    assert plain.shape == (q.dim,) == (2,)
    z = eqx.filter_jit(lambda q, keys: jax.vmap(q.sample)(keys))(q, keys)
    np.testing.assert_allclose(z[0], plain, rtol=1e-4, atol=1e-6)
    log_q = eqx.filter_jit(lambda q, z: q.log_prob_many(z))(q, z)
    np.testing.assert_allclose(log_q, [q.log_prob(one) for one in z], rtol=1e-4, atol=1e-5)


def test_distributions_that_cannot_be_families_are_refused():
    with pytest.raises(ValueError, match=r"Add `.to_event\(1\)`"):
        FromNumPyro(dist.Normal(jnp.zeros(2), 1.0))
    with pytest.raises(TypeError, match="no reparameterised sampler"):
        FromNumPyro(dist.Poisson(jnp.ones(2)).to_event(1))
    with pytest.raises(TypeError, match="Got list where a distribution over z is needed"):
        as_family([1.0, 2.0])


def test_a_frozen_distribution_is_a_constant():
    def log_prob(loc):
        return FromNumPyro(dist.Normal(loc, 1.0).to_event(1), frozen=True).log_prob(jnp.ones(2))

    assert not np.any(jax.grad(log_prob)(jnp.zeros(2)))
