"""Figures and advice about autoencoders, against models whose evidence, posteriors and gaps are known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiles import counting_compiles
from latent_zoo import MODELS
from qphi import VAE, InputError
from qphi.autoencoders import Figure, LatentVariableModel
from qphi.autoencoders.aggregate import mixture_log_prob, prior_mismatch
from qphi.autoencoders.annealed import annealed_log_evidence
from qphi.autoencoders.evaluation import evaluate
from qphi.autoencoders.gaps import gaps, rate_distortion
from qphi.autoencoders.sample_quality import sample_quality
from qphi.estimators.diagnosis import collapse, misfit, mismatch, outliers, overfit, weak_encoder
from qphi.families import DiagonalGaussian
from small import quiet_fit, vae, vectors

PPCA = MODELS["probabilistic PCA"]


def with_encoder(shift: float, log_scale: float) -> tuple[LatentVariableModel, np.ndarray]:
    """Probabilistic PCA with a diagonal encoder that is off, and the covariance of its exact posteriors."""
    exact = PPCA.model.posterior(jnp.asarray(PPCA.xs)).family
    mean, tril = np.asarray(exact.mean), np.asarray(exact.tril)[0]
    gain = np.linalg.lstsq(np.c_[PPCA.xs, np.ones(4)], mean, rcond=None)[0]

    def encoder(x):
        return DiagonalGaussian(jnp.append(x, 1.0) @ jnp.asarray(gain, float) + shift, jnp.full(2, log_scale))

    model = PPCA.model
    return LatentVariableModel(model.prior, encoder, model.decoder, model.likelihood), tril @ tril.T


def kl_of_diagonal(shift: float, scale: np.ndarray, covariance: np.ndarray) -> float:
    """KL(N(m + shift, diag scale^2) || N(m, covariance))."""
    precision = np.linalg.inv(covariance)
    delta = np.full(len(scale), shift)
    quadratic = np.sum(np.diag(precision) * scale**2) + delta @ precision @ delta
    return 0.5 * (quadratic - len(scale) + np.linalg.slogdet(covariance)[1] - 2 * np.log(scale).sum())


@pytest.fixture(scope="module")
def shifted():
    return with_encoder(0.8, -1.5)


def test_gaps_are_those_of_gaussian_algebra(shifted):
    """The best diagonal q has the posterior's mean and 1 / diagonal of its precision."""
    model, covariance = shifted
    best = kl_of_diagonal(0.0, 1 / np.sqrt(np.diag(np.linalg.inv(covariance))), covariance)
    lost = kl_of_diagonal(0.8, np.exp(np.full(2, -1.5)), covariance)
    found = gaps(model, PPCA.xs)
    # 256 draws of a quantity whose sd is below 3 nats, for 4 data: 4 standard errors are 0.4; fixed seed
    assert found.amortisation.value == pytest.approx(lost - best, abs=0.4)
    assert found.approximation.value == pytest.approx(best, abs=0.1)


def test_rate_rises_and_distortion_falls_with_smaller_beta(shifted):
    found = rate_distortion(shifted[0], PPCA.xs, betas=(0.3, 1.0, 3.0))
    assert np.all(np.diff(found.rate) < 0)
    assert np.all(np.diff(found.distortion) > 0)


def test_annealing_finds_the_evidence_that_weights_miss():
    model, _ = with_encoder(1.5, -2.0)  # off by eleven of its own sds: hopeless weights
    plain = evaluate(model, PPCA.xs, particles=100)
    assert plain.unreliable > 0
    annealed = annealed_log_evidence(model, PPCA.xs)
    error = np.abs(annealed - PPCA.log_evidence)
    # errors of such chains have sd 0.4 (20 seeds in NumPy); the seed is fixed
    assert error.max() < 1.2
    assert error.mean() < 0.5 * abs(plain.log_evidence.value - PPCA.log_evidence.mean())
    assert evaluate(model, PPCA.xs, particles=100, annealed=True).log_evidence.value > plain.log_evidence.value


def test_annealing_of_discrete_latents_is_refused_before_any_work():
    model = vae(latent_dim=4, prior="categorical", posterior="categorical", max_epochs=1)
    quiet_fit(model, vectors()[:40])
    with counting_compiles() as count, pytest.raises(InputError, match="discrete latents"):
        model.evaluate(vectors()[:5], annealed=True)
    assert count.compiled == 0


def test_weights_of_the_exact_posterior_are_reliable():
    found = evaluate(PPCA.model, PPCA.xs, particles=100)
    assert found.unreliable == 0
    assert np.all(found.pareto_k < 0.7)
    assert found.mutual_information is None  # full-rank q: not offered rather than wrong
    assert found.reconstruction_error > 0
    few = evaluate(PPCA.model, PPCA.xs, particles=8)
    assert np.isnan(few.pareto_k).all()
    assert np.isnan(few.unreliable)


# ---------------------------------------------------------------- codes of all data together


def test_codes_that_fill_the_prior_have_no_mismatch_and_all_the_information():
    """mean ~ N(0, 1 - s^2) with scale s make N(0, 1) again; then I_q(x; z) = KL, here -2 log s."""
    rng, s = np.random.default_rng(0), 0.5
    mean, scale = rng.normal(size=(1000, 2)) * np.sqrt(1 - s**2), np.full((1000, 2), s)
    assert prior_mismatch(mean, scale) < 0.02
    z = mean + s * rng.normal(size=mean.shape)
    log_prior = -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi)
    assert np.mean(mixture_log_prob(z, mean, scale) - log_prior) == pytest.approx(0, abs=0.02)


def test_mismatch_of_a_shift_a_scale_and_a_shape():
    rng = np.random.default_rng(1)
    code = rng.normal(size=(1000, 1)) * np.sqrt(0.75)
    s = np.full((1000, 1), 0.5)
    assert prior_mismatch(code + 1, s) == pytest.approx(0.5, abs=0.1)  # KL(N(1, 1) || N(0, 1))
    two = np.where(code > 0, 0.98, -0.98)
    assert prior_mismatch(two, np.full((1000, 1), 0.2)) == pytest.approx(_two_normals(), abs=0.05)


def _two_normals() -> float:
    z = np.linspace(-6, 6, 20_001)
    p = sum(np.exp(-0.5 * ((z - m) / 0.2) ** 2) / (0.2 * np.sqrt(2 * np.pi)) for m in (-0.98, 0.98)) / 2
    inside = p > 1e-300
    return float(
        np.sum(p[inside] * (np.log(p[inside]) + 0.5 * z[inside] ** 2 + 0.5 * np.log(2 * np.pi))) * (z[1] - z[0])
    )


# ---------------------------------------------------------------- samples


def test_samples_from_the_law_of_the_data_are_as_close_as_data_are():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 9))
    data, samples = (rng.normal(size=(800, 4)) @ mix for _ in range(2))
    good = sample_quality(data, samples)
    assert good.components == 4
    assert good.frechet < 2 * good.frechet_of_data
    assert min(good.precision, good.recall) > 0.8
    few = sample_quality(data, 0.05 * samples)  # all alike: like data, but few of them
    assert few.precision > 0.9 > 0.3 > few.recall
    far = sample_quality(data, samples + 20 * mix.sum(axis=0))
    assert far.precision == far.recall == 0
    assert far.frechet > 100 * good.frechet
    with pytest.raises(InputError, match="at least 20 data"):
        sample_quality(data[:19], samples)


# ---------------------------------------------------------------- advice


def test_collapse_fires_and_says_why():
    spectrum = np.array([4.0, 1.0, 0.1])
    assert "above the largest eigenvalue" in collapse(0, 3, 5.0, spectrum).seen
    assert "2 directions" in collapse(0, 3, 0.5, spectrum).seen
    assert collapse(0, 3, 0.5, spectrum, beta=10.0).change == "Use beta=1."
    assert collapse(0, 8).name == "collapse"
    assert collapse(2, 16, 0.5, spectrum) is None  # as many as the spectrum has use for
    assert collapse(1, 16) is None


def test_weak_encoder_needs_a_gap_beyond_its_noise():
    assert "2.0 nats" in weak_encoder(Figure(2.0, 0.1), 10.0).seen
    assert weak_encoder(Figure(2.0, 0.8), 10.0) is None
    assert weak_encoder(Figure(0.4, 0.01), 0.1) is None


def test_overfit_needs_more_than_chance():
    rng = np.random.default_rng(0)
    here, there = rng.normal(0, 2, 256), rng.normal(-4, 2, 256)
    assert "4." in overfit(here, there, 10.0).seen
    assert overfit(there, here, 10.0) is None
    assert overfit(here, rng.normal(-1, 2, 256), 10.0) is None


def test_mismatch_is_measured_by_the_code():
    assert mismatch(3.0, 10.0).name == "prior mismatch"
    assert mismatch(0.9, 10.0) is None


def test_misfit_reads_ranks():
    rng = np.random.default_rng(0)
    assert misfit(rng.uniform(size=(200, 5)), "gaussian") is None
    narrow = np.clip(rng.normal(0.5, 0.6, size=(200, 5)), 0, 1)
    assert "noise is too small" in misfit(narrow, "gaussian").seen
    assert "negative-binomial" in misfit(narrow, "poisson").change
    peaked = np.where(rng.uniform(size=(200, 5)) < 0.2, 0.01, rng.uniform(0.3, 0.7, size=(200, 5)))
    assert "student-t" in misfit(peaked, "gaussian").change
    uneven = rng.uniform(size=(200, 4))
    uneven[:, :2] = 0.5 + 0.1 * (uneven[:, :2] - 0.5)
    assert "per-feature" in misfit(uneven, "gaussian").change
    assert misfit(uneven, "gaussian-per-feature") is None


def test_outliers_are_few_and_far():
    rows = np.random.default_rng(0).normal(-5, 2, size=200)
    assert outliers(rows, "gaussian") is None
    rows[3] = -900
    found = outliers(rows, "gaussian-per-feature")
    assert "1 of 200 rows" in found.seen
    assert "pull the mean ELBO down by 4.5 nats" in found.seen
    assert "student-t" in found.change
    assert "student-t" not in outliers(rows, "poisson").change
    rows[:10] = -900  # a kind of rows, no longer errors
    assert outliers(rows, "gaussian") is None


# ---------------------------------------------------------------- through the estimator


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=40), vectors())


def test_a_good_fit_has_no_grave_faults_and_a_bad_one_has(fitted):
    names = {finding.name for finding in fitted.diagnosis_}
    assert not names & {"collapse", "overfit"}
    broken = fitted.__class__(**fitted.get_params())
    vars(broken).update(vars(fitted))
    encoder = fitted.model_.encoder
    silent = jax.tree.map(jnp.zeros_like, encoder.mean)
    broken.model_ = LatentVariableModel(
        fitted.model_.prior,
        eqx.tree_at(lambda e: e.mean, encoder, silent),
        fitted.model_.decoder,
        fitted.model_.likelihood,
    )
    found = {finding.name: finding for finding in broken.diagnose(vectors())}
    assert "collapse" in found
    assert "weak encoder" in found
    assert str(found["collapse"]) in str(broken.diagnose(vectors()))


def test_evaluation_has_every_figure(fitted, tmp_path):
    found = fitted.evaluate(vectors(), particles=100)
    assert 0 <= found.mutual_information <= np.log(600) + 0.1
    assert found.aggregate_kl == pytest.approx(found.kl.value - found.mutual_information)
    assert found.pareto_k.shape == (600,)
    assert 0 < found.reconstruction_error < 1
    quality = fitted.sample_quality(vectors())
    assert quality.recall > 0.8
    # after 40 epochs the noise is still wider than the data's, so many samples fall outside
    assert quality.precision > 0.2
    fitted.save(tmp_path / "m")
    with pytest.raises(InputError, match=r"Use diagnose\(X\)"):
        _ = VAE.load(tmp_path / "m").diagnosis_


# ---------------------------------------------------------------- moving about in latent space


def test_paths_between_two_data(fitted):
    x = vectors()
    ends = fitted.reconstruct(x[[3, 17]])
    energy = {}
    for path in ("linear", "spherical", "geodesic"):
        walk = fitted.interpolate(x[3], x[17], steps=7, path=path)
        np.testing.assert_allclose(walk[[0, -1]], ends, rtol=1e-5, atol=1e-5)
        energy[path] = np.sum(np.diff(walk / fitted.scaling_.scale, axis=0) ** 2)
    assert energy["geodesic"] <= energy["linear"] * (1 + 1e-6)


@pytest.mark.usefixtures("wrong_types")
def test_a_path_that_is_none(fitted):
    with pytest.raises(InputError, match="'linear', 'spherical' or 'geodesic'"):
        fitted.interpolate(vectors()[3], vectors()[17], path="scenic")


def test_spherical_paths_turn_and_grow_evenly():
    from qphi.autoencoders.latent import slerp_between

    z = slerp_between(np.array([2.0, 0.0]), np.array([0.0, 4.0]), 3)
    np.testing.assert_allclose(z, [[2, 0], [3 / np.sqrt(2), 3 / np.sqrt(2)], [0, 4]], atol=1e-6)
    straight = slerp_between(np.array([1.0, 0.0]), np.array([3.0, 0.0]), 3)
    np.testing.assert_allclose(straight, [[1, 0], [2, 0], [3, 0]])


def test_codes_add_up(fitted):
    x = vectors()
    np.testing.assert_allclose(
        fitted.arithmetic([x[0], x[1]], [x[1]]), fitted.reconstruct(x[:1])[0], rtol=1e-3, atol=1e-3
    )
    has = fitted.transform(x)[:, 0] > 0
    vector = fitted.attribute_vector(x, has)
    assert vector[0] > 0.5
    moved = fitted.shift(x[0], vector, strengths=[0.0, 1.0])
    np.testing.assert_allclose(moved[0], fitted.reconstruct(x[:1])[0], rtol=1e-5)
    np.testing.assert_allclose(moved[1], fitted.inverse_transform(fitted.transform(x[:1]) + vector)[0], rtol=1e-5)
    with pytest.raises(InputError, match="some true, some not"):
        fitted.attribute_vector(x, np.ones(len(x)))


def test_traversals_and_neighbours(fitted):
    x = vectors()
    line = fitted.traverse(1, steps=3, span=2.0)
    np.testing.assert_allclose(line, fitted.inverse_transform([[0, -2], [0, 0], [0, 2]]), rtol=1e-5)
    assert np.array_equal(fitted.traverse(0, x[4], steps=5).shape, (5, 3))
    places, distances = fitted.neighbours(x[:4], x, k=3)
    assert places[:, 0].tolist() == [0, 1, 2, 3]
    assert np.all(np.diff(distances) >= 0)
    z = fitted.transform(x).astype(float)
    assert np.sum(np.linalg.norm(z - z[0], axis=1) < distances[0, -1] - 1e-9) == 2
    with pytest.raises(InputError, match="units 0 to 1"):
        fitted.traverse(2)
