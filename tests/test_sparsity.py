"""Hessians from a few products: the patterns that allow it, and what happens where one is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qphi.precision import double
from qphi.targets import LogDensity
from qphi.targets.oracle import Oracle
from qphi.targets.sparsity import FEWEST, find_pattern

GROUPS, SHARED = 60, 4


def random_symmetric(dim):
    matrix = np.random.default_rng(0).normal(size=(dim, dim))
    return matrix + matrix.T


def arrow(dim=GROUPS, shared=3):
    """Columns at the end meet all, the others themselves only."""
    matrix = random_symmetric(dim)
    matrix[:-shared, :-shared] *= np.eye(dim - shared)
    return matrix


def banded(dim=GROUPS, width=2):
    apart = np.abs(np.subtract.outer(np.arange(dim), np.arange(dim)))
    return random_symmetric(dim) * (apart <= width)


def in_blocks(dim=GROUPS, size=4):
    block = np.arange(dim) // size
    return random_symmetric(dim) * np.equal.outer(block, block)


@pytest.mark.parametrize(("matrix", "products"), [(arrow(), 5), (banded(), 6), (in_blocks(), 5)])
def test_a_matrix_from_few_products(matrix, products):
    pattern = find_pattern(matrix)
    assert pattern is not None
    assert len(pattern.seeds) == products
    np.testing.assert_allclose(pattern.matrix(pattern.seeds @ matrix), matrix, atol=1e-12)
    other = np.where(matrix != 0, np.cos(random_symmetric(len(matrix))), 0.0)  # of the same pattern
    np.testing.assert_allclose(pattern.matrix(pattern.seeds @ other), other, atol=1e-12)


def test_where_columns_stand_tells_nothing():
    order = np.random.default_rng(1).permutation(GROUPS)
    matrix = arrow()[np.ix_(order, order)]
    pattern = find_pattern(matrix)
    assert pattern is not None
    assert len(pattern.seeds) == 5
    np.testing.assert_allclose(pattern.matrix(pattern.seeds @ matrix), matrix, atol=1e-12)


def test_entries_that_a_pattern_lacks_are_seen():
    matrix = arrow()
    pattern = find_pattern(matrix)
    matrix[3, 7] = matrix[7, 3] = 1e-3
    assert pattern is not None
    assert pattern.matrix(pattern.seeds @ matrix) is None


@pytest.mark.parametrize("matrix", [random_symmetric(GROUPS), arrow(FEWEST - 1), arrow(shared=GROUPS // 3)])
def test_no_pattern_where_it_saves_little(matrix):
    assert find_pattern(matrix) is None


def hierarchical(values):
    z = values["z"]
    level, log_scale, effects = z[0], z[1], z[SHARED:]
    within = -0.5 * jnp.sum((effects - level) ** 2) * jnp.exp(-2 * log_scale) - len(effects) * log_scale
    return within - 0.5 * jnp.sum(z[:SHARED] ** 2) - jnp.sum(jnp.cosh(effects + z[2] * jnp.sin(z[3])))


def kinked(values):
    """Coordinates that meet only beyond a place that few draws reach."""
    z = values["z"]
    return -0.5 * jnp.sum(z**2) - jnp.sum(jax.nn.relu(z[:-1] + z[1:] - 6.0) ** 3)


@pytest.mark.parametrize(("density", "sparse"), [(hierarchical, True), (kinked, False)])
def test_curvature_is_exact_whatever_the_pattern(density, sparse):
    dim = GROUPS + SHARED
    with double():
        oracle = Oracle(LogDensity(density, {"z": jnp.zeros(dim)}))
        curvature = jax.jit(jax.vmap(jax.hessian(oracle.target.log_density)))
    for scale in (0.3, 3.0):
        z = scale * np.random.default_rng(0).normal(size=(50, dim))
        with double():
            exact = np.mean(np.asarray(curvature(jnp.asarray(z))), axis=0)
        value, gradient, hessian = oracle.mean_curvature(z)
        np.testing.assert_allclose(hessian, exact, rtol=1e-9, atol=1e-9 * np.abs(exact).max())
        values, gradients = oracle.gradients(z)
        np.testing.assert_allclose(value, values.mean(), rtol=1e-10)
        np.testing.assert_allclose(gradient, gradients.mean(axis=0), rtol=1e-8, atol=1e-9 * np.abs(gradient).max())
    assert oracle.hessians_asked == 100
    assert (oracle._pattern is not None) == sparse


def test_what_is_not_finite_stays_so():
    with double():
        oracle = Oracle(LogDensity(hierarchical, {"z": jnp.zeros(GROUPS + SHARED)}))
    z = np.random.default_rng(0).normal(size=(50, GROUPS + SHARED))
    z[3, 1] = -800.0
    assert not np.isfinite(oracle.mean_curvature(z)[2]).all()
    assert np.isfinite(oracle.mean_curvature(z[4:])[2]).all()
    assert not np.isfinite(oracle.mean_curvature(z)[2]).all()
