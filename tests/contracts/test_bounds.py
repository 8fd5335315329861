"""What every bound must do, on densities whose evidence, posterior and KL to any q are known (`zoo.py`).

Stochastic tests compare at 4 standard errors: 1 comparison in 16,000 fails by chance when all is well, so 3 % of
fresh sets of seeds would fail one of the 500 or so here. Seeds are fixed; every comparison is made for 3 of them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contracts.registry import BOUNDS
from latent_zoo import MODELS
from qphi.bounds import ELBO, ClosedFormEntropy, ClosedFormKL, FactoredDensity, MonteCarlo
from qphi.bounds.factored import knows_kl
from qphi.families import FullRankGaussian
from qphi.targets import AbstractTarget
from zoo import KNOWN, LinearGaussianDensity

SEEDS = (0, 1, 2)
QUICK = {"xla_backend_optimization_level": 0}  # these programs take longer to compile than to run
PARTICLES, KEYS = 2, 2000


def serves(bound, q, p):
    """Whether this bound can be taken of this pair."""
    case = BOUNDS[bound]
    known = isinstance(p, FactoredDensity) and knows_kl(q, p.prior)
    return (q.has_entropy or not case.needs_entropy) and (known or not case.needs_kl)


# A Gamma's or Beta's reparameterised sampler takes seconds to compile, so the forms that repeat another are left out.
LEFT_OUT = {("ELBO", "Gamma-Poisson"), ("ELBO", "Beta-Bernoulli"), ("MonteCarlo", "Beta-Bernoulli")}
PAIRS = [(b, k) for k in KNOWN for b in BOUNDS if serves(b, KNOWN[k].family(KNOWN[k].elsewhere), KNOWN[k].density)]
PAIRS = [pair for pair in PAIRS if pair not in LEFT_OUT]
AT_POSTERIOR = [(b, k) for b, k in PAIRS if KNOWN[k].posterior is not None]
every_pair = pytest.mark.parametrize(("bound", "known"), PAIRS)
every_pair_at_posterior = pytest.mark.parametrize(("bound", "known"), AT_POSTERIOR)


@functools.cache
def _compiled(bound, known):
    case = KNOWN[known]

    def function(parameters, keys):
        def value(parameters, key):
            estimate = BOUNDS[bound].build(PARTICLES)(case.family(parameters), case.density, key)
            return estimate.surrogate, estimate

        def one(key):
            (_, estimate), gradient = jax.value_and_grad(value, has_aux=True)(parameters, key)
            return estimate, gradient

        return jax.vmap(one)(keys)

    return jax.jit(function, compiler_options=QUICK)


@functools.cache
def estimates(bound, known, at, seed):
    """The bound's estimates and their gradients for `KEYS` keys, with q at the 'posterior' or 'elsewhere'."""
    return _compiled(bound, known)(getattr(KNOWN[known], at), jax.random.split(jax.random.key(seed), KEYS))


def assert_mean(values, expected, *, rounding=2e-5):
    """The mean over the first axis is `expected`, to 4 standard errors."""
    values = np.asarray(values, float)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    np.testing.assert_array_less(np.abs(values.mean(axis=0) - expected), 4 * error + rounding)


def test_every_bound_is_tested_somewhere():
    assert {bound for bound, _ in PAIRS} == set(BOUNDS)
    assert {known for _, known in PAIRS} == set(KNOWN)


@every_pair
def test_below_the_evidence_by_the_kl_to_the_posterior(bound, known):
    case = KNOWN[known]
    gap = float(case.kl(case.elsewhere))
    assert gap > 0.1
    for seed in SEEDS:
        elbo = estimates(bound, known, "elsewhere", seed)[0].elbo
        assert_mean(elbo, case.log_evidence - gap)
        assert np.mean(elbo) < case.log_evidence


@every_pair_at_posterior
def test_equal_to_the_evidence_at_the_posterior(bound, known):
    """log p(x, z) - log q(z) is log p(x) for every draw, so the mean is, whatever the form."""
    for seed in SEEDS:
        estimate = estimates(bound, known, "posterior", seed)[0]
        assert estimate.log_weights.shape == (KEYS, BOUNDS[bound].build(PARTICLES).particles)
        np.testing.assert_allclose(estimate.log_weights, KNOWN[known].log_evidence, atol=1e-4)
        assert_mean(estimate.elbo, KNOWN[known].log_evidence)


@every_pair
def test_gradient_is_unbiased(bound, known):
    """Mean over keys against the derivative of log evidence - KL, in closed form."""
    case = KNOWN[known]
    exact = jax.grad(lambda p: -case.kl(p))(case.elsewhere)
    for seed in SEEDS:
        for name, values in estimates(bound, known, "elsewhere", seed)[1].items():
            assert_mean(values, np.asarray(exact[name]))


@every_pair_at_posterior
def test_gradient_at_the_posterior(bound, known):
    """Zero on average; zero in each draw for sticking the landing, and clearly not for the others."""
    gradient = estimates(bound, known, "posterior", 0)[1]
    noise = max(float(jnp.std(values, axis=0).max()) for values in gradient.values())
    if BOUNDS[bound].zero_gradient_at_posterior:
        assert max(float(jnp.abs(values).max()) for values in gradient.values()) < 1e-3  # float32 rounding
    else:
        assert noise > 0.05
    for values in gradient.values():
        assert_mean(values, np.zeros(values.shape[1:]), rounding=1e-4)


@every_pair
def test_parts_make_up_the_elbo(bound, known):
    estimate = estimates(bound, known, "elsewhere", 0)[0]
    parts = estimate.parts
    if "kl" in parts:
        assert set(parts) == {"log_likelihood", "kl"}
        total = parts["log_likelihood"] - parts["kl"]
    else:
        assert set(parts) == {"log_joint", "entropy"}
        total = parts["log_joint"] + parts["entropy"]
    np.testing.assert_allclose(estimate.elbo, total, atol=1e-5)
    np.testing.assert_allclose(estimate.surrogate, estimate.elbo, atol=1e-6)


class _AsOne(AbstractTarget):
    """A factored density that does not tell its factors."""

    inner: LinearGaussianDensity
    dim: int

    def log_density(self, z):
        return self.inner.log_density_many(z[None])[0]

    def constrain(self, z):
        return {"z": z}


def test_both_forms_agree_draw_by_draw():
    """log p(x, z) - log q(z) = log p(x|z) - [log q(z) - log p(z)], whether or not p tells its factors."""
    case = KNOWN["linear Gaussian, full rank"]
    q = case.family(case.elsewhere)
    for seed in SEEDS:
        key = jax.random.key(seed)
        split = MonteCarlo(5)(q, case.density, key)
        whole = MonteCarlo(5)(q, _AsOne(inner=case.density, dim=2), key)
        assert set(split.parts) != set(whole.parts)
        np.testing.assert_allclose(split.elbo, whole.elbo, rtol=1e-5)
        np.testing.assert_allclose(split.log_weights, whole.log_weights, rtol=1e-5)


@pytest.mark.parametrize(
    ("bound", "name"),
    [
        *(("ELBO", name) for name in MODELS),
        ("MonteCarlo", "probabilistic PCA"),
        ("StickingTheLanding", "Gamma-Poisson"),
    ],
)
def test_a_batch_has_each_datums_own_evidence(bound, name):
    """With the exact encoder every datum's log weights are its own log evidence."""
    known = MODELS[name]
    xs = jnp.asarray(known.xs)
    estimate = jax.jit(
        lambda key: BOUNDS[bound].build(3)(known.model.posterior(xs), known.model.observe(xs), key),
        compiler_options=QUICK,
    )(jax.random.key(0))
    assert estimate.log_weights.shape == (3, len(xs))
    assert estimate.elbo.shape == estimate.surrogate.shape == (len(xs),)
    np.testing.assert_allclose(estimate.log_weights, np.stack([known.log_evidence] * 3), atol=1e-4)
    assert knows_kl(known.model.posterior(xs), known.model.prior) == ("kl" in estimate.parts)


def test_more_particles_are_an_average_over_more_draws():
    case = KNOWN["linear Gaussian, full rank"]
    q = case.family(case.elsewhere)

    def elbo(particles, keys):
        return jax.jit(jax.vmap(lambda key: MonteCarlo(particles)(q, case.density, key).elbo))(keys)

    keys = jax.random.split(jax.random.key(0), 4000)
    ratio = np.var(elbo(1, keys)) / np.var(elbo(16, keys))
    assert 12 < ratio < 21  # 16; the ratio's own relative error is about 4 %


def test_the_form_is_the_quietest_at_hand():
    gaussian, poisson = KNOWN["linear Gaussian, mean field"], KNOWN["Gamma-Poisson"]
    normal = KNOWN["conjugate normal"]
    q = gaussian.family(gaussian.elsewhere)
    assert ELBO(3).form(q, gaussian.density) == ClosedFormKL(3)
    assert ELBO(3).form(normal.family(normal.elsewhere), normal.density) == ClosedFormEntropy(3)
    assert ELBO(3).form(poisson.family(poisson.elsewhere), poisson.density) == MonteCarlo(3)


def test_forms_that_do_not_exist_are_refused():
    poisson, normal = KNOWN["Gamma-Poisson"], KNOWN["conjugate normal"]
    with pytest.raises(TypeError, match="has no closed-form entropy"):
        ClosedFormEntropy()(poisson.family(poisson.elsewhere), poisson.density, jax.random.key(0))
    with pytest.raises(TypeError, match="needs a density that is a likelihood times a prior"):
        ClosedFormKL()(normal.family(normal.elsewhere), normal.density, jax.random.key(0))


def test_elbo_rises_as_q_approaches_the_posterior():
    case = KNOWN["linear Gaussian, full rank"]
    values = []
    for weight in (0.0, 0.5, 0.9, 1.0):
        p = jax.tree.map(lambda a, b, w=weight: (1 - w) * a + w * b, case.elsewhere, case.posterior)
        q = FullRankGaussian(p["mean"], p["tril"])
        values.append(float(MonteCarlo(512)(q, case.density, jax.random.key(0)).elbo))
    assert values == sorted(values)
    assert values[-1] == pytest.approx(case.log_evidence, abs=1e-4)
