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
from qphi.auto import EFFORTS, explore
from qphi.by_gradients import _misses
from qphi.families import AbstractFamily, AutoregressiveFlow, CouplingFlow, FullRankGaussian
from qphi.families.base import frozen_copy
from qphi.precision import double
from qphi.solvers.exact import Gaussian
from qphi.targets import AbstractTarget, LogDensity
from qphi.targets.oracle import Oracle

KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0}  # these programs take longer to compile than to run
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
        draw = jax.jit(lambda q: q.sample_and_log_prob_many(KEY, 9), compiler_options=QUICK)
        (z, log_q), (same, log_p) = draw(flow), draw(gaussian)
        np.testing.assert_allclose(z, same, rtol=1e-12)
        np.testing.assert_allclose(log_q, log_p, rtol=1e-12)


@every_kind
def test_density_by_autodiff_and_elsewhere(kind):
    with double():
        flow = bent(kind)
        eps = flow.noise(KEY, 20)

        def by_both_ways(flow, eps):
            z, log_q = flow.sample_and_log_prob_many(KEY, 20)
            return log_q, flow.log_prob_many(z), jax.vmap(jax.jacfwd(flow.transport))(eps)

        log_q, elsewhere, jacobians = jax.jit(by_both_ways, compiler_options=QUICK)(flow, eps)
        exact = -0.5 * jnp.sum(eps**2, axis=1) - 0.5 * DIM * math.log(2 * math.pi) - jnp.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(log_q, exact, rtol=1e-10)
        # by the inverse, which is not told the noise
        np.testing.assert_allclose(elsewhere, exact, rtol=1e-8)


class _SameFlow(AbstractTarget):
    dim: int = eqx.field(static=True)
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

        def surrogate(flow, target):
            estimate = qphi.StickingTheLanding(1)(flow, target, KEY)
            return estimate.surrogate, estimate

        gradients = jax.jit(jax.value_and_grad(surrogate, has_aux=True), compiler_options=QUICK)
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


def test_flows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"needs 2 dimensions.*got dim=1.*use qphi\.StudentT"):
        CouplingFlow.around(jnp.zeros(1), jnp.eye(1), key=KEY)
    with pytest.raises(ValueError, match="needs 2 dimensions"):
        fitted(lambda x: -jnp.sum(x**2), 1, "coupling-flow")
    with pytest.raises(ValueError, match="The flow is over 5 dimensions, the target over 2"):
        fitted(lambda x: -jnp.sum(x**2), 2, bent(CouplingFlow))
    with pytest.raises(ValueError, match="at most 1000 dimensions; the target has 1001"):
        fitted(lambda x: -jnp.sum(x**2), 1001, "autoregressive-flow")


def fitted(log_density, dim, family, **options):
    return qphi.fit(lambda v: log_density(v["x"]), example={"x": jnp.zeros(dim)}, key=KEY, family=family, **options)


def banana(x):
    """x0 ~ N(0, 1), x1 ~ N(x0^2, 0.5)."""
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2 - math.log(math.pi)


def funnel(x):
    """v ~ N(0, 2), x ~ N(0, exp(v / 2)): Neal's, in two dimensions."""
    return -0.5 * (x[0] / 2) ** 2 - 0.5 * x[1] ** 2 * jnp.exp(-x[0]) - 0.5 * x[0] - math.log(4 * math.pi)


def either(values, which):
    """Both in one function, so that both are one program."""
    return jnp.where(which == 0, banana(values["x"]), funnel(values["x"]))


@pytest.mark.parametrize("which", [0, 1], ids=["banana", "funnel"])
def test_closer_than_any_gaussian_where_p_is_bent(which, tmp_path):
    """Both densities integrate to one, so KL(q || p) = -ELBO. In two dimensions both kinds of flow are the same."""
    with double():
        target = LogDensity(either, {"x": jnp.zeros(2)}, args=(jnp.asarray(which),))
    gaussian = explore(Oracle(target), KEY, effort=EFFORTS["quick"]).fits[0]
    posterior = qphi.fit(target, key=KEY, family="autoregressive-flow", max_steps=400)
    assert -gaussian.elbo > 0.15
    assert -posterior.elbo < -0.2 * gaussian.elbo
    assert not posterior.verdict.trust.usable  # stopped before its end
    mean = posterior.mean()["x"]
    assert abs(mean[0]) < 0.2
    again = qphi.load(posterior.save(tmp_path / "flow"))
    z = np.random.default_rng(0).standard_normal((3, 2))
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
