"""The code whose decode is nearest: the projection where the decoder is linear, never farther than the posterior's."""

import equinox as eqx
import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

import small
from latent_zoo import linear_vae
from qphi import InputError
from qphi.autoencoders.nearest import nearest_latents


def nothing(rows: int) -> np.ndarray:
    return np.zeros((rows, 0), np.float32)


def test_of_a_linear_decoder_it_is_the_least_squares_projection():
    model = linear_vae(7, 3, jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(20, 7))
    z = nearest_latents(model, x, np.zeros((20, 3)), nothing(20))
    w, b = np.asarray(model.decoder.weights), np.asarray(model.decoder.bias)
    exact = np.linalg.lstsq(w, (x - b).T, rcond=None)[0].T
    np.testing.assert_allclose(z, exact, atol=2e-4)


def test_a_latent_without_effect_stays_where_it_was_and_nan_comes_out_as_it_went_in():
    model = linear_vae(5, 2, jax.random.key(1))
    model = eqx.tree_at(lambda m: m.decoder.weights, model, model.decoder.weights.at[:, 1].set(0.0))
    x = np.random.default_rng(0).normal(size=(4, 5))
    start = np.full((4, 2), 0.7)
    found = nearest_latents(model, x, start, nothing(4))
    np.testing.assert_allclose(found[:, 1], 0.7, atol=1e-6)
    w, b = np.asarray(model.decoder.weights)[:, 0], np.asarray(model.decoder.bias)
    np.testing.assert_allclose(found[:, 0], (x - b) @ w / (w @ w), atol=2e-4)
    start[2] = np.nan
    assert np.isnan(nearest_latents(model, x, start, nothing(4))[2]).all()


def test_a_vae_comes_nearer_to_its_rows_than_by_posterior_means_and_than_pca_with_as_many_components():
    x = small.vectors()
    model = small.quiet_fit(small.vae(latent_dim=1, max_epochs=100), x)
    z = (x - x.mean(axis=0)) / x.std(axis=0)

    def errors(again: np.ndarray) -> np.ndarray:
        return np.sum(((again - x) / x.std(axis=0)) ** 2, axis=1)

    nearest, mean = errors(model.reconstruct(x, nearest=True)), errors(model.reconstruct(x))
    assert (nearest <= mean + 1e-4).all()
    pca = PCA(1).fit(z)
    assert nearest.sum() < np.sum((pca.inverse_transform(pca.transform(z)) - z) ** 2)
    np.testing.assert_array_equal(model.reconstruct(x[5:6], nearest=True)[0], model.reconstruct(x, nearest=True)[5])


def test_latents_that_are_levels_have_no_nearest():
    x = small.vectors()[:60]
    model = small.quiet_fit(small.vae(latent_dim=4, prior="categorical", posterior="categorical", max_epochs=1), x)
    with pytest.raises(InputError, match="nearest=True needs continuous latents"):
        model.reconstruct(x, nearest=True)


def test_categories_have_no_nearest():
    x = np.random.default_rng(0).integers(0, 3, (60, 4)).astype(float)
    model = small.quiet_fit(small.vae(likelihood="categorical", max_epochs=1), x)
    with pytest.raises(InputError, match="categories have none"):
        model.reconstruct(x, nearest=True)


@pytest.mark.parametrize("likelihood", ["poisson", "ordinal", "zero-inflated-negative-binomial"])
def test_counts_and_ordered_levels_come_nearer_by_their_expected_values(likelihood):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (60, 4)).astype(float)
    given = {"size_factors": rng.uniform(0.5, 2, 60)} if likelihood == "poisson" else {}
    model = small.quiet_fit(small.vae(likelihood=likelihood, max_epochs=1), x, **given)

    def error(nearest: bool) -> float:
        return float(np.sum((model.reconstruct(x, nearest=nearest, **given) - x) ** 2))

    assert error(True) < 0.9 * error(False)


def test_covariates_reach_the_decoder_of_the_nearest():
    x, given = small.vectors()[:60], {"covariates": np.random.default_rng(1).normal(size=(60, 2))}
    model = small.quiet_fit(small.vae(max_epochs=1), x, **given)
    near = model.reconstruct(x, nearest=True, **given)
    assert np.sum((near - x) ** 2) < np.sum((model.reconstruct(x, **given) - x) ** 2)
    other = model.reconstruct(x, nearest=True, covariates=given["covariates"][::-1])
    assert not np.allclose(near, other)
