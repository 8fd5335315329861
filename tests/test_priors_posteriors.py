"""Priors, posteriors and refinement of latent-variable models, against formulas and against fits by hand."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latent_zoo import LinearDecoder, LinearEncoder, linear_vae, linear_vae_elbo
from qphi import ELBO, InputError, LatentVariableModel
from qphi.autoencoders import Gaussian, GaussianEncoder, VampPrior
from qphi.autoencoders.build import Architecture, build
from qphi.autoencoders.choices import make_prior, start_vamp
from qphi.autoencoders.gated import GatedMLP, mlp
from qphi.autoencoders.heads import FlowHead, FullRankHead, HeadEncoder, LadderHead
from qphi.autoencoders.networks import MLP
from qphi.families import AutoregressiveFlow, DiagonalGaussian, StandardNormal, TopDown

KEY = jax.random.key(0)
XS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def features():
    return MLP(3, 5, (), activate_last=True, key=KEY)


def test_a_vamp_prior_is_the_mean_of_its_posteriors():
    encoder = GaussianEncoder(features(), 5, 2, key=KEY)
    model = LatentVariableModel(VampPrior(jnp.asarray(XS), 2), encoder, lambda z: z, lambda o: o)
    z = jax.random.normal(jax.random.key(3), (6, 2))
    each = [encoder(jnp.asarray(x)).log_prob_many(z) for x in XS]
    np.testing.assert_allclose(
        model.prior.log_prob_many(z), jax.nn.logsumexp(jnp.stack(each), axis=0) - np.log(4), rtol=1e-5
    )
    assert model.latent_dim == model.prior.dim == 2


def test_pseudo_inputs_start_at_rows_and_are_trained():
    architecture = Architecture((3,), 2, "gaussian", "mlp", (5,), prior="vamp", components=3)
    model = start_vamp(eqx.filter_jit(build)(architecture, KEY), XS, KEY)
    inputs = np.asarray(model.given_prior.pseudo_inputs)
    nearest = np.abs(inputs[:, None] - XS).max(axis=2).min(axis=1)
    assert nearest.max() < 0.06  # noise of sd 0.01: 9 draws beyond 6 sd never happen

    @jax.jit
    @jax.grad
    def gradient(u):
        moved = eqx.tree_at(lambda m: m.given_prior.pseudo_inputs, model, u)
        xs = jnp.asarray(XS)
        return jnp.sum(ELBO()(model.posterior(xs), moved.observe(xs), KEY).surrogate)

    gradient = gradient(model.given_prior.pseudo_inputs)
    assert np.all(np.any(np.asarray(gradient) != 0, axis=1))


def test_a_flow_posterior_starts_as_its_gaussian_and_shares_its_layers():
    @eqx.filter_jit  # compiled as one
    def make():
        return HeadEncoder(features(), FlowHead(AutoregressiveFlow, 5, 3, layers=2, width=4, key=KEY))

    encoder = make()
    batch = encoder.batch(jnp.asarray(XS))
    assert batch.size == len(XS)
    assert batch.family.weights_in.shape == (2, 4, 3)  # once for all data
    assert batch.family.bias_in.shape == (4, 2, 4)
    z = jax.random.normal(KEY, (2, 4, 3))
    found = batch.log_prob_many(z)
    for i, x in enumerate(XS):
        one = encoder(jnp.asarray(x))
        np.testing.assert_allclose(found[:, i], one.log_prob_many(z[:, i]), rtol=1e-5)
        np.testing.assert_allclose(found[:, i], one.base.log_prob_many(z[:, i]), rtol=1e-5)
        assert batch.at(i).dim == batch.member.dim == 3
    draws, log_q = batch.sample_and_log_prob_many(KEY, 2)
    np.testing.assert_array_equal(draws, batch.sample_many(KEY, 2))
    np.testing.assert_allclose(log_q, batch.log_prob_many(draws), rtol=1e-4)


def test_a_full_rank_head_is_triangular_with_a_positive_diagonal():
    head = FullRankHead(5, 3, key=KEY)
    h = jnp.linspace(-1, 1, 5)
    np.testing.assert_allclose(head(h).scale_tril, np.eye(3), atol=1e-3)
    head = jax.tree.map(lambda a: a + 0.3, head)
    tril = np.asarray(head(h).tril)
    assert np.all(np.diag(tril) > 0)
    assert np.all(np.triu(tril, 1) == 0)
    assert np.all(tril[np.tril_indices(3, -1)] != 0)


def test_a_ladder_is_built_on_the_prior():
    """Without a message q is the prior; a message multiplies it by a Gaussian: precisions add, level by level."""
    prior = jax.tree.map(lambda a: a + 0.1, TopDown((1, 2), width=3, key=KEY))
    encoder = HeadEncoder(features(), LadderHead(5, 3, key=KEY))
    model = LatentVariableModel(prior, encoder, lambda z: z, lambda o: o)
    q = model.posterior(jnp.asarray(XS))
    assert q.family.prior.steps[0].weights_in.shape == (3, 1)  # the prior's own, once
    member = q.at(0)
    deaf = dataclasses.replace(member, log_scale=jnp.full(3, 30.0))
    z = jax.random.normal(KEY, (5, 3))
    np.testing.assert_allclose(deaf.log_prob_many(z), prior.log_prob_many(z), rtol=1e-5)
    # top level: N(0, 1) times N(m, s^2)
    variance = 1 / (1 + np.exp(-2 * float(member.log_scale[0])))
    top = np.asarray(member.sample_many(KEY, 4000))[:, 0]
    assert top.mean() == pytest.approx(variance * float(member.mean[0] * jnp.exp(-2 * member.log_scale[0])), abs=0.05)
    assert top.std() == pytest.approx(np.sqrt(variance), rel=0.05)  # 4 standard errors
    np.testing.assert_allclose(TopDown((1, 2), key=KEY).log_prob_many(z), StandardNormal(3).log_prob_many(z), rtol=1e-5)
    with pytest.raises(InputError, match="is built on its prior: ask the model"):
        encoder(jnp.asarray(XS[0]))
    with pytest.raises(InputError, match="needs a TopDown prior, got StandardNormal"):
        LatentVariableModel(StandardNormal(3), encoder, lambda z: z, lambda o: o).posterior(jnp.asarray(XS))
    with pytest.raises(InputError, match="A ladder needs two levels"):
        TopDown((3,), key=KEY)


def test_levels_share_the_latents_out():
    made = make_prior(Architecture((3,), 8, "gaussian", "mlp", (5,), prior="ladder", levels=3), KEY)
    assert made.sizes == (2, 3, 3)


def test_refinement_closes_the_gap_of_a_poor_encoder():
    """A linear VAE: the best q of this family is known, since the ELBO of a diagonal Gaussian is a formula."""
    right = linear_vae(3, 2, KEY, scale=0.6)
    encoder = right.encoder.function
    poor = LinearEncoder(0 * encoder.weights, encoder.bias, encoder.log_scale)
    elbos = {}
    for steps in (0, 5, 60):
        model = LatentVariableModel(right.prior, poor, right.decoder, right.likelihood, refine_steps=steps)
        q = model.posterior(jnp.asarray(XS)).family
        elbos[steps] = np.array([_elbo(right, q.mean[i], q.log_scale[i], XS[i]) for i in range(len(XS))])
    np.testing.assert_allclose(elbos[0], linear_vae_elbo(_encoded(right, poor), jnp.asarray(XS)), rtol=1e-5)
    assert np.all(elbos[5] > elbos[0])
    assert np.all(elbos[60] > elbos[5])
    weights = np.asarray(right.decoder.weights, float)
    precision = np.eye(2) + weights.T @ weights / 0.36
    for i, x in enumerate(XS):  # the mean-field optimum: the posterior mean, precisions of the conditionals
        mean = np.linalg.solve(precision, weights.T @ (x - np.asarray(right.decoder.bias)) / 0.36)
        best = _elbo(right, jnp.asarray(mean), jnp.asarray(-0.5 * np.log(np.diag(precision))), x)
        assert best - elbos[60][i] < 0.2 * (best - elbos[0][i])


def _encoded(model, encoder):
    return LatentVariableModel(model.prior, encoder, model.decoder, model.likelihood)


def _elbo(model, mean, log_scale, x):
    here = LinearEncoder(jnp.zeros((2, 3)), jnp.asarray(mean, float), jnp.asarray(log_scale, float))
    return float(linear_vae_elbo(_encoded(model, here), jnp.asarray(x)[None])[0])


def test_refinement_depends_on_no_neighbour_and_passes_the_gradient_on():
    model = linear_vae(3, 2, KEY, scale=0.6)
    model = LatentVariableModel(model.prior, model.encoder, model.decoder, model.likelihood, refine_steps=3)
    together = model.posterior(jnp.asarray(XS)).family.mean
    np.testing.assert_allclose(model.posterior(jnp.asarray(XS[2:3])).family.mean[0], together[2], rtol=1e-5)
    # what moved is a constant: the slope of q's mean to the encoder's bias is one
    slope = jax.jacrev(lambda bias: _biased(model, bias).posterior(jnp.asarray(XS)).family.mean)(jnp.zeros(2))
    np.testing.assert_allclose(slope, np.broadcast_to(np.eye(2), (4, 2, 2)), atol=1e-6)


def _biased(model, bias):
    encoder = model.encoder.function
    moved = LinearEncoder(encoder.weights, encoder.bias + bias, encoder.log_scale)
    return LatentVariableModel(model.prior, moved, model.decoder, model.likelihood, refine_steps=3)


def test_gated_layers_by_hand():
    network = GatedMLP(3, (2, 2), (4,), key=KEY)
    x = jnp.asarray(XS[0])
    hidden = network.layers[0](x) * jax.nn.sigmoid(network.gates[0](x))
    np.testing.assert_allclose(network(x), network.layers[1](hidden).reshape(2, 2), rtol=1e-6)
    assert len(mlp("gated", 3, 5, (4,), activate_last=True, key=KEY).gates) == 2  # pyright: ignore
    assert isinstance(mlp("tanh", 3, 5, (4,), key=KEY), MLP)


def test_the_fixed_parts_of_door_2_stay_as_they_are():
    """A prior that is a family with parameters is trained; the encoder's answer may be any family."""
    model = LatentVariableModel(
        DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)),
        LinearEncoder(jnp.ones((2, 3)), jnp.zeros(2), jnp.zeros(2)),
        LinearDecoder(jnp.ones((3, 2)), jnp.zeros(3)),
        Gaussian(1.0),
    )

    def elbo(mean):
        moved = LatentVariableModel(
            DiagonalGaussian(mean, jnp.zeros(2)), model.encoder, model.decoder, model.likelihood
        )
        return jnp.mean(ELBO()(moved.posterior(jnp.asarray(XS)), moved.observe(jnp.asarray(XS)), KEY).surrogate)

    exact = jnp.mean(model.posterior(jnp.asarray(XS)).family.mean, axis=0)  # d/dm of -KL at m = 0
    np.testing.assert_allclose(jax.grad(elbo)(jnp.zeros(2)), exact, rtol=1e-4)
