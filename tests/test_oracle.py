"""A target as host code sees it: what is compiled when, and rows evaluated at once or one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiles import counting_compiles
from qphi.precision import double
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle

DIM = 3
SHAPE = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 0.5]])


def quartic(values):
    z = values["z"]
    return -0.5 * z @ jnp.asarray(SHAPE) @ z - 0.1 * jnp.sum(z**4)


def factorising(values):
    """The same density, with a factorisation in it: rows are evaluated one by one."""
    triangular = jnp.linalg.cholesky(jnp.asarray(SHAPE))
    return -0.5 * jnp.sum((triangular.T @ values["z"]) ** 2) - 0.1 * jnp.sum(values["z"] ** 4)


def oracle_of(log_density):
    with double():
        return Oracle(LogDensity(log_density, {"z": jnp.zeros(DIM)}))


@pytest.mark.parametrize("density", [quartic, factorising])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_rows_are_evaluated_exactly_however_many_there_are(density, rows):
    oracle, z = oracle_of(density), np.random.default_rng(0).normal(size=(rows, DIM))
    value = -0.5 * np.sum(z * (z @ SHAPE), axis=1) - 0.1 * np.sum(z**4, axis=1)
    gradient = -z @ SHAPE - 0.4 * z**3
    hessian = -SHAPE - 1.2 * np.diag(np.mean(z**2, axis=0))
    np.testing.assert_allclose(oracle.values(z), value, rtol=1e-12)
    for found, exact in zip(oracle.gradients(z), (value, gradient), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-12)
    for found, exact in zip(oracle.mean_curvature(z), (value.mean(), gradient.mean(axis=0), hessian), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(oracle.constrained(z)["z"], z)
    assert (oracle.values_asked, oracle.gradients_asked, oracle.hessians_asked) == (rows, rows, rows)


def test_what_is_prepared_is_not_compiled_again():
    oracle, z = oracle_of(lambda values: quartic(values) + 1.0), np.ones((64, DIM))
    with counting_compiles() as count:
        oracle.prepare(hessians=64)
        oracle.mean_curvature(z), oracle.values(z[:1]), oracle.values(np.ones((400, DIM))), oracle.constrained(z)
    assert count.compiled == 3
    with counting_compiles() as count:
        oracle.prepare(hessians=64)
        oracle.mean_curvature(z)
    assert count.compiled == 0


def test_calls_of_a_cheap_density_have_one_size():
    oracle = oracle_of(lambda values: quartic(values) + 2.0)
    with counting_compiles() as count:
        for rows in (1, 8, 64, 256, 1000):
            oracle.values(np.ones((rows, DIM)))
    assert count.compiled == 1
    with counting_compiles() as count:
        for rows in (1, 8, 64):  # of climbs; chains ask for more
            oracle.gradients(np.ones((rows, DIM)))
        assert count.compiled == 1
        for rows in (65, 256, 1000):
            oracle.gradients(np.ones((rows, DIM)))
    assert count.compiled == 2


@pytest.mark.parametrize("numbers", [10, 50_000])
def test_calls_of_a_large_density_are_small_enough_for_the_cache_and_one_size_serves_all(numbers):
    data = np.linspace(-1, 1, numbers)
    with double():
        density = LogDensity(lambda v, x: -jnp.sum((v["z"][0] - x) ** 2), {"z": jnp.zeros(1)}, args=(data,))
        oracle = Oracle(density)
    z = np.linspace(-2, 2, 300)[:, None]
    with counting_compiles() as count:
        few, many = oracle.gradients(z[:64]), oracle.gradients(z)
    assert count.compiled == (2 if numbers == 10 else 1)  # 5 rows of 50,000 numbers, for climbs and for chains
    np.testing.assert_allclose(many[1][:64], few[1], rtol=1e-12)
    np.testing.assert_allclose(many[1][:, 0], 2 * (data.sum() - numbers * z[:, 0]), rtol=1e-9, atol=1e-6 * numbers)


@jax.custom_vjp
def reverse_only(z):
    """A density whose gradient cannot be differentiated forward, as that of a solver of differential equations."""
    return quartic({"z": z})


reverse_only.defvjp(lambda z: (reverse_only(z), z), lambda z, ct: (ct * jax.grad(lambda z: quartic({"z": z}))(z),))


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
def test_hessians_are_differences_of_gradients_where_these_cannot_be_differentiated(rows, scale):
    oracle = oracle_of(lambda values: reverse_only(values["z"] / scale))
    oracle.prepare(hessians=64)
    z = np.random.default_rng(0).normal(size=(rows, DIM))
    value, gradient, hessian = oracle.mean_curvature(z * scale)
    np.testing.assert_allclose(value, np.mean(-0.5 * np.sum(z * (z @ SHAPE), axis=1) - 0.1 * np.sum(z**4, axis=1)))
    np.testing.assert_allclose(gradient * scale, np.mean(-z @ SHAPE - 0.4 * z**3, axis=0), rtol=1e-9)
    exact = -SHAPE - 1.2 * np.diag(np.mean(z**2, axis=0))
    np.testing.assert_allclose(hessian * scale**2, exact, rtol=1e-3, atol=1e-3)
    assert oracle.hessians_asked == 0
    assert oracle.gradients_asked == rows * (1 + 2 * DIM)


def test_rows_that_may_be_asked_for_follow_the_numbers_a_density_reads():
    def looping(values):
        return -0.5 * jax.lax.fori_loop(0, 9, lambda i, total: total + jnp.sum(values["z"] ** 2), 0.0)

    plain, loops, factorises = (oracle_of(density) for density in (quartic, looping, factorising))
    assert plain.rows_within(plain.dim * 5000) <= 5000
    assert plain.rows_within(10**6) > 256
    assert loops.rows_within(10**9) == factorises.rows_within(10**9) == 256
