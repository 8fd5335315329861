"""Where encoders start and where latent units end: the data and the prior brought to one scale."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qphi.autoencoders import Gaussian
from qphi.autoencoders.build import Architecture, attentive, build, choose_channels
from qphi.autoencoders.evaluation import score_rows
from qphi.autoencoders.latent import posterior_moments
from qphi.autoencoders.networks import apply_many
from qphi.autoencoders.standard import rescaled, standardised
from small import pictures, quiet_fit, vae


def off_the_prior(network: str, activation: str = "relu", covariates: int = 0):
    """A model whose codes are shifted, narrow and, in their last unit, silent; and rows for it."""
    shape = (8, 8, 1)
    architecture = Architecture(
        shape, 3, "gaussian", network, (16,), choose_channels(shape, network), covariates=covariates,
        activation=activation,
    )  # fmt: skip
    model: Any = build(architecture, jax.random.key(0))
    weight, bias = model.encoder.mean.weight, model.encoder.mean.bias
    model = eqx.tree_at(
        lambda m: (m.encoder.mean.weight, m.encoder.mean.bias, m.encoder.log_scale.bias),
        model,
        (weight * jnp.array([[0.3], [2.0], [0.0]]), bias + 1.5, jnp.array([-3.0, -2.0, 0.0])),
    )
    x = pictures(n=40)[..., None] / np.float32(100) - 1
    given = np.random.default_rng(0).normal(size=(40, covariates)).astype(np.float32)
    return model, np.concatenate([x.reshape(40, -1), given], axis=1) if covariates else x


@pytest.mark.parametrize(
    ("network", "activation", "covariates"),
    [("mlp", "relu", 0), ("mlp", "gated", 2), ("residual-mlp", "relu", 0), ("conv", "relu", 1)],
)
def test_less_kl_for_the_same_reconstruction(network, activation, covariates):
    model, x = off_the_prior(network, activation, covariates)
    same = standardised(model, x)
    mean, scale = posterior_moments(same, x)
    np.testing.assert_allclose(mean.mean(0)[:2], 0, atol=1e-4)
    np.testing.assert_allclose((mean.var(0) + (scale**2).mean(0))[:2], 1, rtol=1e-3)
    assert np.array_equal(mean[:, 2], posterior_moments(model, x)[0][:, 2])  # a silent unit stays
    before, after = score_rows(model, x, 8), score_rows(same, x, 8)
    np.testing.assert_allclose(after.log_likelihood, before.log_likelihood, rtol=2e-4)
    old, old_scale = posterior_moments(model, x)
    variance = (old.var(0) + (old_scale**2).mean(0))[:2]
    saved = np.sum((variance + old.mean(0)[:2] ** 2 - 1 - np.log(variance)) / 2)
    assert np.mean(before.kl - after.kl) == pytest.approx(saved, rel=1e-3)


@pytest.mark.parametrize(("likelihood", "covariates"), [("gaussian", 0), ("gaussian-per-feature", 2)])
def test_noise_is_what_rows_held_out_say(likelihood, covariates):
    architecture = Architecture((3,), 2, likelihood, "mlp", (16,), covariates=covariates)
    model: Any = build(architecture, jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(200, 3 + covariates)).astype(np.float32) * 5
    wide = rescaled(model, x)
    best = np.mean(score_rows(wide, x, 200).log_likelihood)
    for factor in (0.9, 1.1):  # the maximum over one factor
        other = eqx.tree_at(lambda m: m.likelihood, wide, wide.likelihood.times(factor))
        assert np.mean(score_rows(other, x, 200).log_likelihood) < best - 0.01
    ratio = np.asarray(wide.likelihood.scale / model.likelihood.scale)
    np.testing.assert_allclose(ratio, np.max(ratio), rtol=1e-4)  # one factor for all columns
    assert np.min(ratio) > 2
    np.testing.assert_allclose(rescaled(wide, x).likelihood.scale, wide.likelihood.scale, rtol=1e-3)


def test_noise_that_was_given_or_has_no_scale_stays():
    for likelihood in ("bernoulli", Gaussian(0.5)):
        name = likelihood if isinstance(likelihood, str) else "gaussian"
        model: Any = build(Architecture((3,), 2, name, "mlp", (16,)), jax.random.key(0))
        if not isinstance(likelihood, str):
            model = eqx.tree_at(lambda m: m.likelihood, model, likelihood)
        assert rescaled(model, np.ones((30, 3), np.float32)) is model


def test_other_models_are_left_alone():
    model, x = off_the_prior("mlp")
    own = eqx.tree_at(lambda m: m.decoder, model, eqx.nn.Linear(3, 64, key=jax.random.key(0)))
    assert standardised(own, x) is own


@pytest.mark.parametrize("covariates", [0, 2])
@pytest.mark.parametrize("network", ["mlp", "residual-mlp"])
def test_an_encoder_of_counts_starts_on_what_differs_between_rows(network, covariates):
    architecture = Architecture((30,), 2, "negative-binomial", network, (64,), covariates=covariates)
    rng = np.random.default_rng(0)
    x = rng.poisson(np.exp(rng.normal(8, 2, 30)) * rng.gamma(50, 0.02, (400, 30))).astype(np.float32)
    model = attentive(build(architecture, jax.random.key(0)), x)
    rows = np.concatenate([x, np.zeros((400, covariates), np.float32)], axis=1)
    features: Any = model.encoder
    features = features.features
    shown = apply_many(features.parts[0], jnp.asarray(rows))
    seen = np.asarray(jax.vmap(features.parts[-1].layers[0])(shown))
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-3)
    assert 0.5 < seen.std() < 2


@pytest.mark.parametrize(("options", "moved"), [({}, True), ({"beta": 0.0}, False), ({"capacity": 5.0}, False)])
def test_a_fit_ends_with_codes_as_wide_as_the_prior(options, moved):
    x = pictures(n=200)
    mean, scale = quiet_fit(vae(max_epochs=20, **options), x).encode(x)
    variance = mean.var(0) + (scale**2).mean(0)
    assert bool(np.allclose(variance, 1, atol=0.25)) == moved
