"""What a VAE says of data, against known answers: evidence, KL, units, bits, collapse."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from scipy import stats

from qphi import VAE, DiagonalGaussian, LatentVariableModel, StandardNormal
from qphi.autoencoders import Gaussian
from qphi.autoencoders.evaluation import evaluate, row_keys, score_rows
from small import pictures, quiet_fit, vae, vectors

LOADINGS = np.array([[1.0, 0.3], [0.0, 0.8], [-0.5, 0.2]], np.float32)
SHIFT, SCALE = np.array([0.5, -1.0, 2.0], np.float32), 0.6


class Encoder(eqx.Module):
    """A Gaussian that is the posterior when `scale` is 1 and its correlations are left aside."""

    weights: Float[Array, "dim size"]
    widening: float

    def __call__(self, x: Array) -> DiagonalGaussian:
        precision = np.eye(2) + LOADINGS.T @ LOADINGS / SCALE**2
        sd = jnp.asarray(1 / np.sqrt(np.diag(precision)), jnp.float32)
        return DiagonalGaussian(self.weights @ (x - SHIFT), jnp.log(self.widening * sd))


def decode(z: Array) -> Array:
    return jnp.asarray(LOADINGS) @ z + SHIFT


def linear_gaussian(widening: float = 1.3) -> LatentVariableModel:
    """x = W z + b + N(0, s^2), whose evidence is N(b, W W' + s^2 I)."""
    covariance = LOADINGS @ LOADINGS.T + SCALE**2 * np.eye(3)
    weights = jnp.asarray(LOADINGS.T @ np.linalg.inv(covariance), jnp.float32)
    return LatentVariableModel(
        prior=StandardNormal(2),
        encoder=Encoder(weights, widening),
        decoder=decode,
        likelihood=Gaussian(SCALE),
    )


def log_evidence(x: np.ndarray) -> np.ndarray:
    return stats.multivariate_normal(SHIFT, LOADINGS @ LOADINGS.T + SCALE**2 * np.eye(3)).logpdf(x)


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    rng = np.random.default_rng(0)
    z, noise = rng.normal(size=(100, 2)), rng.normal(size=(100, 3))
    return (z @ LOADINGS.T + SHIFT + SCALE * noise).astype(np.float32)


# ---------------------------------------------------------------- the importance-weighted score


def weights_by_hand(model: LatentVariableModel, xs: np.ndarray, particles: int) -> np.ndarray:
    """log w of each row and particle, with the keys that are promised: of the row, then of the chunk of 8."""
    q = model.posterior(jnp.asarray(xs)).family

    def draw(member, key, chunk):
        return member.sample_many(jax.random.fold_in(key, chunk), 8)

    chunks = []
    for chunk in range(math.ceil(particles / 8)):
        z = jax.vmap(draw, in_axes=(0, 0, None))(q, row_keys(jnp.asarray(xs)), chunk)
        z, mean = np.asarray(z, float), np.asarray(q.mean, float)[:, None]
        log_joint = stats.norm(z @ LOADINGS.T + SHIFT, SCALE).logpdf(xs[:, None]).sum(-1) + stats.norm.logpdf(z).sum(-1)
        chunks.append(log_joint - stats.norm(mean, np.exp(q.log_scale)[:, None]).logpdf(z).sum(-1))
    return np.concatenate(chunks, axis=1)[:, :particles]


@pytest.mark.parametrize("particles", [1, 2, 7, 8, 9, 20])
def test_the_number_of_weights_is_the_number_asked_for_and_normalises_their_sum(draws, particles):
    """scvi-tools draws ceil(n/k) k and subtracts log n; pythae uses 100 where 1 is asked for."""
    log_w = weights_by_hand(linear_gaussian(), draws, particles)
    expected = np.log(np.mean(np.exp(log_w), axis=1))
    rows = score_rows(linear_gaussian(), draws, particles)
    np.testing.assert_allclose(rows.log_evidence, expected, atol=2e-4)
    assert evaluate(linear_gaussian(), draws, particles=particles).particles == particles


def test_the_score_tends_to_the_exact_evidence(draws):
    exact = log_evidence(draws)
    errors = [np.abs(score_rows(linear_gaussian(), draws, k).log_evidence - exact).max() for k in (1, 100, 10_000)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_the_bound_is_below_the_evidence_and_tightens(draws):
    """ELBO <= E log mean of k weights <= log p(x), over data, within 4 standard errors of the difference."""
    exact, k1, k10 = log_evidence(draws), *(score_rows(linear_gaussian(), draws, k) for k in (1, 10))
    elbo = score_rows(linear_gaussian(), draws, 500).elbo
    for lower, higher in (
        (elbo, k10.log_evidence),
        (k1.log_evidence, k10.log_evidence),
        (k10.log_evidence, exact),
    ):
        difference = np.asarray(higher - lower, float)
        assert difference.mean() > -4 * difference.std() / np.sqrt(len(difference))
    assert np.mean(exact - elbo) > 0.05  # the encoder is too wide on purpose


def test_all_weights_zero_is_minus_infinity_not_nan(draws):
    model = linear_gaussian()

    class Nowhere(type(model.likelihood)):
        def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
            return jnp.where(x[0] > -99, -jnp.inf, 0.0)

    nowhere = LatentVariableModel(model.prior, model.encoder, model.decoder, Nowhere(SCALE))
    assert (score_rows(nowhere, draws[:3], 9).log_evidence == -np.inf).all()


def test_equal_rows_have_equal_keys_and_others_others(draws):
    keys = np.asarray(jax.random.key_data(row_keys(jnp.asarray(np.concatenate([draws, draws[::-1]])))))
    assert np.array_equal(keys[:100], keys[:99:-1])
    assert len(np.unique(keys, axis=0)) == 100
    swapped = draws[:, ::-1].copy()
    assert not (np.asarray(jax.random.key_data(row_keys(jnp.asarray(swapped)))) == keys[:100]).all(1).any()
    zero = jnp.asarray([[0.0, 0.0], [-0.0, 0.0]])
    assert np.array_equal(*np.asarray(jax.random.key_data(row_keys(zero))))


# ---------------------------------------------------------------- units


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=40), vectors())


def test_a_column_times_1024_moves_the_score_by_its_logarithm_and_nothing_else(fitted):
    """A power of two, so that not even rounding differs."""
    x = vectors() * [1, 1024, 1]
    scaled = quiet_fit(vae(max_epochs=40), x)
    np.testing.assert_allclose(scaled.score_samples(x), fitted.score_samples(vectors()) - math.log(1024), atol=1e-9)
    assert np.array_equal(scaled.transform(x), fitted.transform(vectors()))
    np.testing.assert_allclose(scaled.reconstruct(x), fitted.reconstruct(vectors()) * [1, 1024, 1], rtol=1e-6)
    for name in ("elbo", "log_likelihood", "log_evidence"):
        before, after = getattr(fitted.evaluate(vectors()), name), getattr(scaled.evaluate(x), name)
        assert after.value == pytest.approx(before.value - math.log(1024), abs=1e-6)
        assert after.standard_error == pytest.approx(before.standard_error)


def test_a_column_times_1000_does_so_up_to_rounding(fitted):
    x = vectors() * [1000, 1, 1]
    moved = quiet_fit(vae(max_epochs=40), x).score(x) - fitted.score(vectors())
    assert moved == pytest.approx(-math.log(1000), abs=0.02)


def test_a_shift_changes_nothing(fitted):
    x = vectors() + np.array([0, 64, 0])
    assert quiet_fit(vae(max_epochs=40), x).score(x) == pytest.approx(fitted.score(vectors()), abs=0.02)


def test_bits_per_dimension_of_bytes_are_those_of_the_hand_formula():
    """A density over bytes is a probability for bins of width 1; over fractions, log 255 a pixel higher."""
    bytes_, fractions = pictures(), pictures() / 255.0
    as_bytes, as_fractions = (quiet_fit(vae(max_epochs=100), x) for x in (bytes_, fractions))
    log_p = as_bytes.evaluate(bytes_).log_evidence.value
    model_units = as_fractions.evaluate(fractions).log_evidence.value
    assert log_p == pytest.approx(model_units - 64 * math.log(255), rel=1e-5)
    bits = as_bytes.evaluate(bytes_).bits_per_dimension
    assert bits == pytest.approx((-model_units / 64 + math.log(255)) / math.log(2), rel=1e-5)
    assert as_fractions.evaluate(fractions).bits_per_dimension is None


# ---------------------------------------------------------------- KL, active units


def test_the_reported_kl_is_that_of_the_encoders_q(fitted):
    x = vectors()
    mean, scale = (a.astype(float) for a in fitted.encode(x))
    by_hand = 0.5 * (mean**2 + scale**2 - 2 * np.log(scale) - 1)
    report = fitted.evaluate(x)
    assert report.kl.value == pytest.approx(by_hand.sum(1).mean(), rel=1e-5)
    assert report.kl.standard_error == pytest.approx(by_hand.sum(1).std(ddof=1) / math.sqrt(len(x)), rel=1e-4)
    np.testing.assert_allclose(report.kl_per_unit, by_hand.mean(0), rtol=1e-4)
    assert report.elbo.value == pytest.approx(report.log_likelihood.value - report.kl.value, rel=1e-6)
    assert fitted.history_["kl_per_datum"][-1] == pytest.approx(report.kl.value, rel=0.1)


def test_the_two_parts_are_the_integrals_they_are_said_to_be(draws):
    report = evaluate(linear_gaussian(), draws, particles=2000)
    q = linear_gaussian().posterior(jnp.asarray(draws)).family
    residual = np.asarray(draws - (np.asarray(q.mean) @ LOADINGS.T + SHIFT), float)
    spread = np.exp(q.log_scale).astype(float) ** 2 @ (LOADINGS.T**2)
    exact = -0.5 * (residual**2 + spread) / SCALE**2 - 0.5 * math.log(2 * math.pi * SCALE**2)
    # 100 rows x 2,000 draws: 0.005 nats; and the figure's own error is over rows
    assert report.log_likelihood.value == pytest.approx(exact.sum(1).mean(), abs=0.02)


def noise() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(600, 3))


def test_on_pure_noise_the_kl_falls_towards_zero():
    """PyOD's VAE has 11.7 nats here, its KL being without effect. The rest is flat in the evidence: slow."""
    model = vae().fit(noise())
    report = model.evaluate(noise())
    assert report.kl.value < 0.15
    assert report.kl.value < 0.25 * model.history_["kl_per_datum"][0]
    exact = stats.norm(noise().mean(0), noise().std(0)).logpdf(noise()).sum(1).mean()
    assert report.log_evidence.value == pytest.approx(exact, abs=0.05)
    assert report.elbo.value == pytest.approx(exact, abs=0.1)


def test_a_collapsed_model_has_no_active_unit():
    report = vae(beta=10.0).fit(noise()).evaluate(noise())
    assert report.active_units == 0
    assert report.kl.value < 0.01
    assert (report.kl_per_unit < 0.01).all()


def test_a_plane_in_noise_has_its_two_active_units():
    report = vae().fit(vectors()).evaluate(vectors())
    assert report.active_units == 2
    assert (report.kl_per_unit > 0.5).all()


def test_a_unit_that_the_data_do_not_need_switches_itself_off():
    rng = np.random.default_rng(0)
    # the same share of noise in each column: where shares differ, one noise scale leaves more to be said by z
    x = rng.normal(size=(600, 1)) @ [[1.0, -1.0, 1.0]] + 0.1 * rng.normal(size=(600, 3))
    report = vae().fit(x).evaluate(x)
    assert report.active_units == 1
    assert sorted(report.kl_per_unit > 0.05) == [False, True]


def test_active_units_are_counted_by_the_variance_of_the_means(draws):
    report = evaluate(linear_gaussian(), draws, particles=8)
    assert report.active_units == 2
    model = linear_gaussian()
    blind = LatentVariableModel(
        model.prior, lambda x: DiagonalGaussian(0 * x[:2], 0 * x[:2]), model.decoder, model.likelihood
    )
    report = evaluate(blind, draws, particles=8)
    assert report.active_units == 0
    assert report.kl.value == 0
    half = LatentVariableModel(
        model.prior,
        lambda x: DiagonalGaussian(x[:2] * jnp.array([1.0, 0.0]), 0 * x[:2]),
        model.decoder,
        model.likelihood,
    )
    assert evaluate(half, draws, particles=8).active_units == 1
