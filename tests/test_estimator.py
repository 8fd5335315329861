"""`VAE` with scikit-learn's habits: seeds, cloning, refusals, and nothing done that was not asked for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import qphi
from qphi import VAE, InputError, Status
from qphi.estimators.options import seed_of
from small import pictures, quiet_fit, same_bits, vae, vectors


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=40), vectors())


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


def test_global_random_state_is_neither_read_nor_moved():
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()  # noqa: NPY002
    a = quiet_fit(vae(max_epochs=1), vectors())
    a.score_samples(vectors())
    a.sample(3)
    seed_of(None)
    assert all(np.array_equal(u, v) for u, v in zip(np.random.get_state(), state, strict=True))  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert same_bits(quiet_fit(vae(max_epochs=1), vectors()).model_, a.model_)
    np.random.set_state(before)  # noqa: NPY002


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
        (lambda m: m.transform(vectors()[:, :2]), "2 features, but VAE is expecting 3"),
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_of_scikit_learns_own_checks_pass(wrong_types):
    results = check_estimator(vae(hidden=(8,), max_epochs=1), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"])[:200] for r in results if r["status"] == "failed"}
    assert not failed
    assert len(results) > 40
