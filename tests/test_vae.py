"""`VAE` as people use it: data of every shape, answers that do not change, scikit-learn's habits."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest
from small import pictures, quiet_fit, same_bits, vae, vectors
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import qphi
from qphi import VAE, InputError, Status


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=40), vectors())


@pytest.fixture(scope="module")
def of_pictures() -> VAE:
    return quiet_fit(vae(max_epochs=100), pictures())


# ---------------------------------------------------------------- data of every shape

NEW = np.random.default_rng(5)
SHAPES = {
    "one picture": ({"likelihood": "continuous-bernoulli"}, pictures(n=1, side=9)[:, :7] / 255),
    "two numbers": ({"latent_dim": 1, "device": "cpu"}, [[1], [2]]),
    "40 binary rows": ({"latent_dim": 3}, (NEW.uniform(size=(40, 5)) < 0.3).tolist()),
    "colours, odd sides": ({"latent_dim": 5}, NEW.integers(0, 256, size=(3, 31, 47, 3), dtype=np.uint8)),
}


@pytest.mark.parametrize("name", SHAPES)
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
    for result in (model.transform(x), model.reconstruct(x), model.sample(3), model.score_samples(x, particles=3)):
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

    chosen = {shape: choose_network(shape, "auto") for shape in [(3,), (28, 28, 1), (31, 47, 3), (64, 64, 1), (2, 900, 1)]}
    assert list(chosen.values()) == ["mlp", "mlp", "conv", "conv", "mlp"]
    with pytest.raises(InputError, match=r"'conv' needs images of at least 4x4"):
        vae(network="conv").fit(vectors())


# ---------------------------------------------------------------- the same question, the same answer


@pytest.mark.parametrize("data", ["vectors", "pictures"])
def test_two_calls_agree_to_the_bit(data, fitted, of_pictures):
    model, x = (fitted, vectors()) if data == "vectors" else (of_pictures, pictures())
    for use in (model.transform, model.encode, model.reconstruct, model.score_samples, model.evaluate):
        a, b = use(x), use(x)
        assert same_bits(vars(a) if hasattr(a, "elbo") else a, vars(b) if hasattr(b, "elbo") else b) or repr(a) == repr(b)


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


# ---------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_model_and_another_another(fitted):
    again = quiet_fit(vae(max_epochs=40), vectors())
    assert same_bits(again.model_, fitted.model_)
    assert not same_bits(quiet_fit(vae(max_epochs=40, random_state=1), vectors()).model_, fitted.model_)


def test_random_state_may_be_a_generator_or_nothing():
    a, b = (quiet_fit(vae(max_epochs=1, random_state=np.random.RandomState(4)), vectors()) for _ in range(2))
    assert a.seed_ == b.seed_
    free = [quiet_fit(vae(max_epochs=1, random_state=None), vectors()).seed_ for _ in range(2)]
    assert free[0] != free[1]


def test_global_random_state_is_neither_read_nor_moved(fitted):
    before = np.random.get_state()
    np.random.seed(1)  # noqa: NPY002
    a = quiet_fit(vae(max_epochs=1), vectors())
    state = np.random.get_state()
    a.score_samples(vectors())
    a.sample(3)
    VAE(random_state=None)._seed()
    assert all(np.array_equal(u, v) for u, v in zip(np.random.get_state(), state, strict=True))
    np.random.seed(2)  # noqa: NPY002
    assert same_bits(quiet_fit(vae(max_epochs=1), vectors()).model_, a.model_)
    np.random.set_state(before)


# ---------------------------------------------------------------- scikit-learn's habits


def test_the_constructor_only_stores():
    model = VAE(latent_dim=-1, likelihood="?", hidden=(), device="abacus")
    assert model.get_params()["likelihood"] == "?"
    assert set(vars(model)) == set(model.get_params())
    assert model.set_params(latent_dim=7).latent_dim == 7
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(latent_dimension=3)


def test_clone_keeps_parameters_and_forgets_the_fit(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(vectors())


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.transform(x),
        lambda m, x: m.inverse_transform(x[:, :2]),
        lambda m, x: m.sample(2),
        lambda m, x: m.reconstruct(x),
        lambda m, x: m.interpolate(x[0], x[1]),
        lambda m, x: m.score(x),
        lambda m, x: m.evaluate(x),
        lambda m, x: m.save("nowhere"),
        lambda m, x: m.decoder_scale(),
    ],
)
def test_nothing_works_before_the_fit(use):
    with pytest.raises(NotFittedError):
        use(vae(), vectors())


def test_pickle_gives_the_same_bits(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copy.score_samples(vectors()), fitted.score_samples(vectors()))
    assert copy.get_params() == fitted.get_params()


def test_data_are_left_alone_and_every_layout_gives_the_same_bits(fitted):
    x = vectors()
    before = x.copy()
    frozen = x.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.asfortranarray(x), x.tolist(), np.repeat(x, 2, axis=0)[::2]):
        model = quiet_fit(vae(max_epochs=40), same)
        assert same_bits(model.model_, fitted.model_)
        assert np.array_equal(model.score_samples(same), fitted.score_samples(x))
    assert np.array_equal(x, before)


def test_float32_is_accepted_and_gives_nearly_the_same(fitted):
    x = vectors().astype(np.float32)
    np.testing.assert_allclose(fitted.transform(x), fitted.transform(vectors()), atol=1e-4)


def test_fit_writes_no_file_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet_fit(vae(max_epochs=1), vectors())
    assert not list(tmp_path.iterdir())


def test_a_second_fit_forgets_the_first():
    model = quiet_fit(vae(max_epochs=40), pictures())
    quiet_fit(model, vectors())
    fresh = quiet_fit(vae(max_epochs=40), vectors())
    assert same_bits(model.model_, fresh.model_)
    assert set(vars(model)) == set(vars(fresh))
    for name in ("history_", "scaling_", "architecture_", "shape_", "image_", "levels_", "n_features_in_"):
        a, b = getattr(model, name), getattr(fresh, name)
        assert a == b or {**a, "seconds": 0} == {**b, "seconds": 0}, name


def test_bad_data_do_not_lose_the_last_fit(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(InputError):
        model.fit(np.zeros((3, 3)))
    assert np.array_equal(model.transform(vectors()), fitted.transform(vectors()))


def test_a_budget_that_ends_the_fit_is_a_warning_with_advice():
    with pytest.warns(ConvergenceWarning, match="step budget.*allow more epochs"):
        model = vae(max_epochs=1).fit(vectors())
    assert model.status_ is Status.MAX_STEPS
    assert not model.status_.succeeded
    assert "step budget" in model.status_text_


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"latent_dim": 2.5}, "latent_dim=2.5"),
        ({"beta": -1}, "beta=-1"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"beta": "1"}, "beta='1'"),
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"max_time": -5}, "max_time=-5"),
        ({"max_epochs": float("nan")}, "max_epochs=nan"),
        ({"max_epochs": "3"}, "max_epochs='3'"),
        ({"hidden": ()}, r"hidden=\(\)"),
        ({"hidden": 16}, "hidden=16"),
        ({"hidden": (16, 0)}, r"hidden=\(16, 0\)"),
        ({"network": "resnet"}, "network='resnet'"),
        ({"likelihood": "normal"}, "likelihood='normal'"),
        ({"device": "abacus"}, "device='abacus' is not there; JAX sees cpu"),
    ],
)
def test_parameters_that_cannot_be(parameters, words):
    with pytest.raises(InputError, match=words):
        vae().set_params(**parameters).fit(vectors())


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m: m.transform(vectors()[:, :2]), r"fitted to \(3,\)"),
        (lambda m: m.inverse_transform(np.zeros((2, 3))), r"\(n, 2\)"),
        (lambda m: m.inverse_transform(np.zeros(2)), r"\(n, 2\)"),
        (lambda m: m.inverse_transform([[np.nan, 0]]), "NaN"),
        (lambda m: m.sample(0), "n_samples=0"),
        (lambda m: m.score_samples(vectors(), particles=0), "particles=0"),
        (lambda m: m.interpolate(vectors()[0], vectors()[1], steps=1), "steps=1"),
        (lambda m: m.interpolate(vectors()[:1], vectors()[1]), r"one datum of shape \(3,\)"),
    ],
)
def test_questions_that_cannot_be_answered(fitted, use, words):
    with pytest.raises(InputError, match=words):
        use(fitted)


def test_what_a_fit_says_of_itself(fitted):
    assert fitted.likelihood_ == "gaussian"
    assert fitted.shape_ == (3,)
    assert len({len(values) for values in fitted.history_.values()}) == 1
    assert fitted.n_iter_ == fitted.history_["step"][-1]
    assert 0 <= fitted.best_epoch_ <= fitted.history_["epoch"][-1]
    assert qphi.VAE is VAE
