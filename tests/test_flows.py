"""Flows: exactly the Gaussian they start from, exact densities, and closer than any Gaussian where p is bent.

Nothing here fails by chance: seeds are fixed, and margins are several times the spread over seeds.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qphi
from qphi.families import AbstractFamily, AutoregressiveFlow, CouplingFlow, FullRankGaussian
from qphi.families.base import frozen_copy
from qphi.inference import _misses
from qphi.precision import double
from qphi.solvers.exact import Gaussian
from qphi.targets import AbstractTarget, LogDensity

KEY = jax.random.key(0)
DIM = 5
every_kind = pytest.mark.parametrize("kind", [CouplingFlow, AutoregressiveFlow])


def bent(kind, dim=DIM, layers=4):
    """A flow whose networks answer something."""
    random = np.random.default_rng(1)
    tril = np.tril(random.uniform(-0.5, 0.5, (dim, dim))) + np.eye(dim)
    shapes = (layers, 7, dim), (layers, 7), (layers, 2, dim, 7), (layers, 2, dim)
    network = (random.standard_normal(shape) / 3 for shape in shapes)
    return kind(*(jnp.asarray(a, float) for a in (np.arange(dim), tril, *network)))


@every_kind
def test_begins_as_the_gaussian_it_is_around(kind):
    with double():
        mean, tril = bent(kind).mean, bent(kind).tril
        flow, gaussian = kind.around(mean, tril, key=KEY), FullRankGaussian(mean, tril)
        (z, log_q), (same, log_p) = (q.sample_and_log_prob_many(KEY, 9) for q in (flow, gaussian))
        np.testing.assert_allclose(z, same, rtol=1e-12)
        np.testing.assert_allclose(log_q, log_p, rtol=1e-12)


@every_kind
def test_density_by_autodiff_and_elsewhere(kind):
    with double():
        flow = bent(kind)
        eps = flow.noise(KEY, 20)
        z, log_q = flow.sample_and_log_prob_many(KEY, 20)
        jacobians = jax.jit(jax.vmap(jax.jacfwd(flow.transport)))(eps)
        exact = -0.5 * jnp.sum(eps**2, axis=1) - 0.5 * DIM * math.log(2 * math.pi) - jnp.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(log_q, exact, rtol=1e-10)
        # by the inverse, which is not told the noise
        np.testing.assert_allclose(eqx.filter_jit(lambda q, z: q.log_prob_many(z))(flow, z), exact, rtol=1e-8)


class _SameFlow(AbstractTarget):
    dim: int
    flow: AbstractFamily

    def log_density(self, z):
        return self.flow.log_prob(z)

    def constrain(self, z):
        return {"z": z}


@every_kind
def test_no_gradient_in_any_draw_when_p_is_the_same_flow(kind):
    with double():
        flow = bent(kind)
        target = _SameFlow(DIM, frozen_copy(flow))

        @eqx.filter_jit
        def gradients(flow, target):
            def surrogate(flow):
                estimate = qphi.StickingTheLanding(1)(flow, target, KEY)
                return estimate.surrogate, estimate

            return eqx.filter_value_and_grad(surrogate, has_aux=True)(flow)

        (_, estimate), gradient = gradients(flow, target)
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_allclose(leaf, 0, atol=1e-9)
        np.testing.assert_allclose(estimate.log_weights, 0, atol=1e-9)  # log evidence


@every_kind
def test_who_moves_whom(kind):
    orders = bent(kind, dim=6, layers=6).orders()
    assert orders.shape == (6, 6)
    moved = (orders[:, :, None] > orders[:, None, :]).any(axis=0)
    np.testing.assert_array_equal(moved, ~np.eye(6, dtype=bool))  # each by each other, in some layer
    for order in orders:
        assert set(order) == set(range(order.max() + 1))


def test_no_flow_in_one_dimension():
    with pytest.raises(ValueError, match=r"needs 2 dimensions.*got dim=1.*use qphi\.StudentT"):
        CouplingFlow.around(jnp.zeros(1), jnp.eye(1), key=KEY)
    with pytest.raises(ValueError, match="needs 2 dimensions"):
        fitted(lambda x: -jnp.sum(x**2), 1, "coupling-flow")
    with pytest.raises(ValueError, match="The flow is over 5 dimensions, the target over 2"):
        fitted(lambda x: -jnp.sum(x**2), 2, bent(CouplingFlow))


def fitted(log_density, dim, family, **options):
    return qphi.fit(lambda v: log_density(v["x"]), example={"x": jnp.zeros(dim)}, key=KEY, family=family, **options)


def banana(x):
    """x0 ~ N(0, 1), x1 ~ N(x0^2, 0.5)."""
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2 - math.log(math.pi)


def funnel(x):
    """v ~ N(0, 2), x1 and x2 ~ N(0, exp(v / 2)): an affine autoregressive layer is exact."""
    return (
        -0.5 * (x[0] / 2) ** 2
        - math.log(2)
        - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0])
        - x[0]
        - 1.5 * math.log(2 * math.pi)
    )


@pytest.mark.parametrize(
    ("log_density", "dim", "family"), [(banana, 2, "coupling-flow"), (funnel, 3, "autoregressive-flow")]
)
def test_closer_than_any_gaussian_where_p_is_bent(log_density, dim, family, tmp_path):
    """Both densities integrate to one, so KL(q || p) = -ELBO."""
    with double():
        target = LogDensity(lambda v: log_density(v["x"]), {"x": jnp.zeros(dim)})
    gaussian = qphi.fit(target, key=KEY, effort="quick")
    posterior = qphi.fit(target, key=KEY, family=family, max_steps=400)
    assert -gaussian.elbo > 0.2
    assert -posterior.elbo < -0.2 * gaussian.elbo
    assert not posterior.verdict.trust.usable  # stopped before its end
    mean = posterior.mean()["x"]
    assert abs(mean[0]) < 0.2
    again = qphi.load(posterior.save(tmp_path / "flow"))
    z = np.random.default_rng(0).standard_normal((3, dim))
    np.testing.assert_allclose(again.log_prob(z), posterior.log_prob(z), rtol=1e-12)


def test_modes_that_a_flow_has_no_mass_at():
    q = FullRankGaussian(jnp.zeros(2), jnp.eye(2))
    with double():
        target = LogDensity(
            lambda v: jnp.logaddexp(-0.5 * jnp.sum(v["x"] ** 2), -0.5 * jnp.sum((v["x"] - 9) ** 2)),
            {"x": jnp.zeros(2)},
        )
        log_evidence = math.log(2 * math.pi)  # as q's draws know it
        assert _misses(q, target, Gaussian(np.full(2, 9.0), np.eye(2)), log_evidence)
        assert not _misses(q, target, Gaussian(np.full(2, 0.5), np.eye(2)), log_evidence)
