"""A linear VAE, trained by `qphi.fit`, is probabilistic PCA: its exact maximum likelihood is known.

Tipping & Bishop (1999); Lucas et al. (2019), arXiv 1911.02469, for the ELBO's maxima being the likelihood's. The data
are made so that the rows which `fit` trains on and those which it holds out have the same mean and covariance, to the
bit of float32: then both have the same likelihood, and nothing here depends on luck with a split.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import qphi
from compiles import counting_compiles
from latent_zoo import linear_gaussian_evidence, linear_vae, ppca_maximum_likelihood
from qphi.autoencoders.training import hold_out
from qphi.status import Status

ROWS, LATENT_DIM = 4000, 3
EIGENVALUES = np.array([5.0, 3.0, 2.0, 0.5, 0.3, 0.2, 0.2])
KEY = jax.random.key(3)


@functools.cache
def data():
    """Rows with exactly these eigenvalues, in the part that is trained on and in the part that is held out."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(EIGENVALUES.size, EIGENVALUES.size)))[0]
    xs = np.empty((ROWS, EIGENVALUES.size))
    split_key, _ = jax.random.split(KEY)  # as `fit` does
    for rows in hold_out(ROWS, split_key):
        z = rng.normal(size=(len(rows), EIGENVALUES.size))
        z -= z.mean(axis=0)
        z = np.linalg.solve(np.linalg.cholesky(np.cov(z.T, bias=True)), z.T).T
        xs[rows] = z * np.sqrt(EIGENVALUES) @ rotation.T + 1.0
    return xs.astype(np.float32)


@functools.cache
def fitted():
    return qphi.fit(linear_vae(EIGENVALUES.size, LATENT_DIM, jax.random.key(0)), data(), key=KEY)


@functools.cache
def evaluation():
    return fitted().evaluate(data(), particles=16)


def test_reaches_the_exact_maximum_likelihood():
    exact, _ = ppca_maximum_likelihood(data().astype(float), LATENT_DIM)
    decoder, scale = fitted().model.decoder, fitted().model.likelihood.scale
    reached = linear_gaussian_evidence(decoder.weights, decoder.bias, scale**2, data()).mean()
    assert fitted().status is Status.CONVERGED
    assert exact - 0.02 < reached < exact + 1e-4
    assert evaluation().log_evidence.value == pytest.approx(reached, abs=0.01)
    # the encoder is linear too, so the bound is tight
    assert exact - 0.03 < evaluation().elbo.value <= evaluation().log_evidence.value < exact + 0.01
    # 400 rows of one draw each: 4 standard errors of 0.1
    assert fitted().held_out_elbo_per_datum == pytest.approx(exact, abs=0.4)


def test_learned_variance_is_the_mean_of_the_discarded_eigenvalues():
    _, variance = ppca_maximum_likelihood(data().astype(float), LATENT_DIM)
    assert variance == pytest.approx(EIGENVALUES[LATENT_DIM:].mean(), rel=1e-4)
    assert float(fitted().model.likelihood.scale) ** 2 == pytest.approx(variance, rel=0.02)


@pytest.mark.slow
def test_exactly_the_units_whose_eigenvalue_exceeds_the_noise_are_active():
    """Of the eigenvalues three exceed a variance of 1: with five latents three stay, with a variance of 9 none does."""
    for scale, active in ((1.0, 3), (3.0, 0)):
        model = linear_vae(EIGENVALUES.size, 5, jax.random.key(0), scale)
        e = qphi.fit(model, data(), key=KEY).evaluate(data(), particles=8)
        assert e.active_units == active
        assert np.sum(e.kl_per_unit > 0.1) == active


def test_evaluation_adds_up():
    e = evaluation()
    assert e.elbo.value == pytest.approx(e.log_likelihood.value - e.kl.value, abs=1e-4)
    assert e.kl_per_unit.sum() == pytest.approx(e.kl.value, rel=1e-4)
    assert e.particles == 16
    assert e.n == ROWS


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    fitted()
    with counting_compiles() as count:
        again = qphi.fit(
            linear_vae(EIGENVALUES.size, LATENT_DIM, jax.random.key(9)),
            data()[::-1] * 0.5,
            key=jax.random.key(8),
            max_epochs=20,
        )
    assert again.status is Status.MAX_STEPS
    assert count.compiled == 0
