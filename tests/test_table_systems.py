"""Small systems without factorisations: against NumPy, and no program of tables has a batched one."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from qphi.bounds import IWAE
from qphi.families.mixture import GaussianMixture
from qphi.precision import double
from qphi.systems import triangular_factors
from qphi.tables.build import TableArchitecture, build
from qphi.tables.linear import FactorAnalysis
from qphi.tables.objective import TableObjective
from qphi.tables.posterior import FactorGaussian
from qphi.tables.prior import WhitenedMixture
from qphi.tables.training import _posterior_parts, with_weights
from qphi.tables.uses import _draw_block, _encode_block, _mode_block, _sample_block, _score_block
from qphi.targets.oracle import _FACTORISES


def precisions(rows: int, dim: int, strength: float) -> np.ndarray:
    w = strength * np.random.default_rng(0).normal(size=(rows, dim + 3, dim))
    return np.eye(dim) + np.swapaxes(w, 1, 2) @ w


@pytest.mark.parametrize("dim", [1, 7, 32])
@pytest.mark.parametrize("strength", [0.0, 10.0])
def test_factors_are_those_of_numpy(dim, strength):
    p = precisions(9, dim, strength)
    lower, inverse = (np.asarray(part) for part in triangular_factors(jnp.asarray(p, jnp.float32)))
    exact = np.linalg.cholesky(p)
    size = np.abs(exact).max()
    # float32 in both the matrix and the sums: the condition number is up to 1e4 here
    np.testing.assert_allclose(lower, exact, atol=2e-5 * size * (1 + strength))
    np.testing.assert_allclose(inverse @ exact, np.broadcast_to(np.eye(dim), p.shape), atol=5e-3)
    assert (np.triu(lower, 1) == 0).all()
    assert (np.triu(inverse, 1) == 0).all()


def test_a_row_of_nan_stays_nan_and_leaves_the_others_alone():
    p = precisions(3, 4, 1.0).astype(np.float32)
    whole = triangular_factors(jnp.asarray(p))
    p[1] = np.nan
    for part, before in zip(triangular_factors(jnp.asarray(p)), whole, strict=True):
        assert np.isnan(np.asarray(part)[1][np.tril_indices(4)]).all()
        np.testing.assert_array_equal(np.asarray(part)[[0, 2]], np.asarray(before)[[0, 2]])


def test_derivatives_are_those_of_the_cholesky_factor():
    weights = np.random.default_rng(1).normal(size=(2, 4, 4))

    def symmetric(a):
        return (jnp.asarray(a) + jnp.swapaxes(jnp.asarray(a), 1, 2)) / 2

    def through(factorise, p):
        return jax.grad(lambda a: jnp.sum(weights * factorise(symmetric(a))))(p)

    with double():
        p = jnp.asarray(precisions(2, 4, 1.0))
        check_grads(lambda a: triangular_factors(symmetric(a)), (p,), order=1, modes=["fwd", "rev"], rtol=1e-5)
        found, exact = through(lambda a: triangular_factors(a)[0], p), through(jnp.linalg.cholesky, p)
        np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-12)


def test_densities_by_products_are_those_by_solutions():
    rng = np.random.default_rng(0)
    covariances = precisions(3, 4, 0.5) / 3
    weights, means, z = np.array([0.2, 0.5, 0.3]), rng.normal(size=(3, 4)), rng.normal(size=(50, 4))
    mixture = WhitenedMixture.of(weights, means, covariances)
    plain = GaussianMixture(mixture.logits, mixture.means, mixture.trils)
    np.testing.assert_allclose(mixture.log_prob_many(jnp.asarray(z)), plain.log_prob_many(jnp.asarray(z)), rtol=1e-4)
    # means of 20,000 draws err by at most 1.5 / 141 = 0.011
    drawn = np.asarray(mixture.sample_many(jax.random.key(0), 20_000))
    np.testing.assert_allclose(drawn.mean(axis=0), weights @ means, atol=0.05)
    lower, inverse = triangular_factors(jnp.asarray(precisions(1, 4, 0.5), jnp.float32))
    q = FactorGaussian(jnp.zeros(4), inverse[0].T, lower[0].T)
    precision = np.asarray(lower[0] @ lower[0].T)
    expected = -0.5 * np.einsum("ni,ij,nj->n", z, precision, z) + 0.5 * np.linalg.slogdet(precision / (2 * np.pi))[1]
    np.testing.assert_allclose(q.log_prob_many(jnp.asarray(z, jnp.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize(("components", "not_at_random"), [(0, False), (3, False), (3, True)])
def test_no_program_of_tables_factorises(components, not_at_random):
    architecture = TableArchitecture(3, (3, 2), 4, (8,), (1,), components, not_at_random)
    rng = np.random.default_rng(0)
    linear = FactorAnalysis(rng.normal(size=(8, 4)), np.full(8, 0.3), np.full(8, 0.5))
    model = build(architecture, linear, jax.random.key(0))
    xs = jnp.asarray(np.repeat(rng.integers(0, 2, (6, 5, 1)), 3, axis=2), jnp.float32)
    objective = TableObjective(IWAE(2), jnp.asarray(0.5))
    batch = jnp.asarray(with_weights(np.asarray(xs), np.ones(6)))

    @eqx.filter_grad
    def climbed(trained):
        return objective.score(trained, batch, jax.random.key(0), jnp.asarray(0)).surrogate

    key, seed = jax.random.key(0, impl="threefry2x32"), jnp.asarray(0)
    programs = {
        "train": lambda: climbed(model),
        "draw": lambda: _draw_block(model, xs, seed, 4, 8),
        "score": lambda: _score_block(model, xs, 8),
        "encode": lambda: _encode_block(model, xs),
        "decode": lambda: _mode_block(model, jnp.zeros((6, 4))),
        "sample": lambda: _sample_block(model, key, jnp.arange(6)),
        "posterior": lambda: _posterior_parts(model, xs),
    }
    for name, program in programs.items():
        text = str(jax.make_jaxpr(lambda program=program: jax.tree.leaves(program()))())
        used = set(re.findall(r"= ([a-z_0-9]+)", text))  # primitives: a variable may well be called lu
        assert "dot_general" in used, name
        assert not [primitive for primitive in used if re.fullmatch(_FACTORISES, primitive)], name
