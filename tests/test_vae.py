"""`VAE` as people use it: data of every shape, answers that do not change, scikit-learn's habits."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse

from qphi import VAE, InputError, Status
from small import pictures, quiet_fit, same_bits, vae, vectors


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=40), vectors())


@pytest.fixture(scope="module")
def of_pictures() -> VAE:
    return quiet_fit(vae(max_epochs=100), pictures())


# ---------------------------------------------------------------- data of every shape

COLOURS = np.random.default_rng(5).uniform(size=(3, 31, 47, 3))
SHAPES = {  # with several likelihoods, both kinds of networks, lists and a device among them
    "one binary picture": ({"latent_dim": 3}, pictures(n=1, side=9)[:, :7] > 99),
    "two numbers": ({"latent_dim": 1, "device": "cpu"}, [[1], [2]]),
    "colours, odd sides": (
        {"latent_dim": 5, "likelihood": "continuous-bernoulli", "network": "residual-conv"},
        COLOURS,
    ),
    "8-bit levels": ({"likelihood": "discretised-logistic-mixture"}, pictures(n=3)),
}


SLOW = {"colours, odd sides", "8-bit levels"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SHAPES])
def test_a_few_data_of_any_shape(name):
    parameters, x = SHAPES[name]
    model = quiet_fit(vae(max_epochs=0.1, **parameters), x)
    n, shape, latent = len(x), np.shape(x)[1:], model.latent_dim
    assert model.status_ in (Status.MAX_STEPS, Status.CONVERGED)
    assert model.shape_ == shape
    assert model.n_features_in_ == np.prod(shape)
    assert model.transform(x).shape == (n, latent)
    assert model.inverse_transform(np.zeros((4, latent))).shape == (4, *shape)
    assert model.sample(3).shape == (3, *shape)
    assert model.interpolate(np.asarray(x)[0], np.asarray(x)[-1], steps=3).shape == (3, *shape)
    assert model.score_samples(x, particles=3).shape == (n,)
    for result in (
        model.transform(x),
        model.reconstruct(x),
        model.sample(3),
        model.score_samples(x, particles=3),
    ):
        assert np.isfinite(result).all()
    assert model.get_feature_names_out().tolist() == [f"vae{i}" for i in range(latent)]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 7, 15, 16, 17, 19, 20, 21, 33, 39, 40])
@pytest.mark.parametrize("kind", ["pictures", "vectors"])
def test_every_small_number_of_rows(kind, n):
    x = pictures(n=n, side=5) if kind == "pictures" else vectors()[:n]
    model = quiet_fit(vae(max_epochs=0.1), x)
    assert np.isfinite(model.score_samples(x)).all()


def test_a_large_network_is_chosen_for_large_pictures_only(fitted):
    from qphi.autoencoders.build import choose_network

    chosen = {
        shape: choose_network(shape, "auto") for shape in [(3,), (28, 28, 1), (31, 47, 3), (64, 64, 1), (2, 900, 1)]
    }
    assert list(chosen.values()) == ["mlp", "mlp", "conv", "conv", "mlp"]
    with pytest.raises(InputError, match=r"'conv' needs images of at least 4x4"):
        vae(network="conv").fit(vectors())


# ---------------------------------------------------------------- the same question, the same answer


@pytest.mark.parametrize("data", ["vectors", "pictures"])
def test_two_calls_agree_to_the_bit(data, fitted, of_pictures):
    model, x = (fitted, vectors()) if data == "vectors" else (of_pictures, pictures())
    for use in (model.transform, model.encode, model.reconstruct, model.score_samples):
        assert same_bits(use(x), use(x))
    assert repr(model.evaluate(x)) == repr(model.evaluate(x))


@pytest.mark.parametrize("n", [1, 3, 130, 300])
@pytest.mark.parametrize("use", ["transform", "encode", "reconstruct", "score_samples"])
def test_a_row_does_not_depend_on_its_neighbours(fitted, use, n):
    x, answer = vectors(), getattr(fitted, use)
    rows = np.random.default_rng(n).permutation(len(x))[:n]
    assert same_bits(answer(x[rows]), jax.tree.map(lambda a: a[rows], answer(x)))


@pytest.mark.parametrize("n", [1, 3, 30])
def test_a_picture_does_not_depend_on_its_neighbours(of_pictures, n):
    x = pictures()
    rows = np.random.default_rng(n).permutation(len(x))[:n]
    for use in (of_pictures.encode, of_pictures.reconstruct, of_pictures.score_samples):
        assert same_bits(use(x[rows]), jax.tree.map(lambda a: a[rows], use(x)))


def test_a_score_does_not_depend_on_how_often_a_row_is_there(fitted):
    x = vectors()[:4]
    assert same_bits(fitted.score_samples(np.repeat(x, 50, axis=0)), np.repeat(fitted.score_samples(x), 50))


def test_samples_are_reproducible_and_the_ith_does_not_depend_on_their_number(fitted):
    many = fitted.sample(300)
    for n in (1, 7, 129):
        assert np.array_equal(fitted.sample(n), many[:n])
    assert np.array_equal(fitted.sample(5, random_state=3), fitted.sample(9, random_state=3)[:5])
    assert not np.array_equal(fitted.sample(5, random_state=3), many[:5])
    assert len(np.unique(many[:, 0])) == 300


def test_samples_have_the_noise_of_the_decoder(fitted):
    noise = fitted.sample(4000, noise=True) - fitted.sample(4000, noise=False)
    # sd of a sample sd: 1/sqrt(2 n) = 1.1 %; four of them
    np.testing.assert_allclose(noise.std(0), fitted.decoder_scale(), rtol=0.045)
    assert np.array_equal(fitted.sample(5), fitted.sample(5, noise=True))


def test_pictures_are_sampled_without_noise_unless_asked(of_pictures):
    assert np.array_equal(of_pictures.sample(3), of_pictures.sample(3, noise=False))
    noisy = of_pictures.sample(50, noise=True)
    assert noisy.min() >= 0
    assert noisy.max() <= 255
    assert not np.array_equal(noisy[:3], of_pictures.sample(3))


def test_the_ends_of_an_interpolation_are_the_reconstructions(fitted, of_pictures):
    for model, x in ((fitted, vectors()), (of_pictures, pictures())):
        path = model.interpolate(x[3], x[17], steps=5)
        assert np.array_equal(path[[0, -1]], model.reconstruct(x[[3, 17]]))


def test_reconstruct_is_inverse_transform_of_transform(fitted):
    x = vectors()
    assert np.array_equal(fitted.inverse_transform(fitted.transform(x)), fitted.reconstruct(x))
    assert fitted.reconstruct(x).dtype == np.float32


def test_reconstruction_is_as_good_as_pca_of_equal_size(fitted):
    from sklearn.decomposition import PCA

    x, scale = vectors(), vectors().std(0)
    pca = PCA(2).fit(x / scale)
    of_pca = np.mean((pca.inverse_transform(pca.transform(x / scale)) - x / scale) ** 2)
    model = vae(hidden=(16,)).fit(x)
    assert np.mean(((model.reconstruct(x) - x) / scale) ** 2) < 1.25 * of_pca + 0.01
    assert model.reconstruct(x).min() < 0


@pytest.mark.parametrize("form", ["csr_array", "csc_matrix"])
def test_sparse_counts_are_the_dense_ones(form, tmp_path):
    x = np.random.default_rng(0).poisson(0.4, (60, 5))
    given = getattr(scipy.sparse, form)(x)
    model, dense = (quiet_fit(vae(max_epochs=2), rows) for rows in (given, x))
    assert model.likelihood_ == "negative-binomial"
    assert same_bits(model.transform(given), dense.transform(x))
    held_out: Any = (model.held_out_rows(given), dense.held_out_rows(x))
    assert np.array_equal(*held_out)
    assert model.evaluate(given, particles=4).elbo == dense.evaluate(x, particles=4).elbo
    assert model.partial_fit(given).transform(given).shape == (60, 2)
