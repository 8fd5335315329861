"""Models that are told something: covariates, size factors, labels that are partly missing; parts of one's own."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import qphi
from qphi import VAE, InputError, SemiSupervisedVAE
from qphi.autoencoders import MLP, Gaussian
from qphi.autoencoders.conv_networks import ConvFeatures, ConvImage
from qphi.autoencoders.labelled import LabelledModel, LabelledObjective
from qphi.autoencoders.residual import ResidualConv, ResidualMLP, same_conv
from qphi.bounds import ELBO
from qphi.data.given import fit_given
from small import quiet_fit, same_bits, vae, vectors

RNG = np.random.default_rng(0)
SIZES = np.exp(RNG.normal(size=300))
C = RNG.normal(size=(300, 2)) * [1.0, 1000.0]
COUNTS = RNG.poisson(SIZES[:, None] * np.exp([0.0, 1.0, 3.0] + 0.5 * C[:, :1]))


@pytest.fixture(scope="module")
def told() -> VAE:
    return quiet_fit(vae(max_epochs=30), COUNTS, covariates=C, size_factors=SIZES)


def test_covariates_and_sizes_explain_what_they_caused(told):
    """x ~ Poisson(s e^(b + c/2)): decoded means follow s exactly and c nearly, whatever z is."""
    assert told.likelihood_ == "negative-binomial"
    one = told.inverse_transform(np.zeros((1, 2)), covariates=C[:1])
    assert told.inverse_transform(np.zeros((1, 2)), covariates=C[:1], size_factors=3.0) == pytest.approx(
        3 * one, rel=1e-4
    )
    low, high = (told.inverse_transform(np.zeros((1, 2)), covariates=[[v, 0.0]]) for v in (-1.0, 1.0))
    assert 2.0 < (high / low)[0, 2] < 3.6  # e in truth
    given = {"covariates": C, "size_factors": SIZES}
    assert told.score(COUNTS, **given) > told.score(COUNTS, covariates=C[::-1], size_factors=SIZES)
    assert told.transform(COUNTS, **given).shape == (300, 2)
    drawn = told.sample(40, covariates=C[0])
    assert np.array_equal(drawn, np.rint(drawn))
    assert drawn.shape == (40, 3)
    assert not np.array_equal(drawn, told.sample(40, covariates=[3.0, 0.0]))


def test_a_conditional_model_survives_its_file(told, tmp_path):
    told.save(tmp_path / "m")
    again = VAE.load(tmp_path / "m")
    given = {"covariates": C, "size_factors": SIZES}
    assert same_bits(again.transform(COUNTS, **given), told.transform(COUNTS, **given))
    assert len(again.diagnose(COUNTS, **given)) >= 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"fitted with 2 covariates: give covariates= of shape \(300, 2\)"),
        ({"covariates": C[:, :1]}, "have 1 columns, but the model was fitted with 2"),
        ({"covariates": C[:7]}, r"\(n, columns\) with n = 300"),
        ({"covariates": C, "size_factors": -SIZES}, "positive and finite"),
        ({"covariates": C, "size_factors": SIZES[:5]}, "one number for each of the 300 rows"),
        ({"covariates": np.full((300, 2), np.nan)}, "NaN or infinity"),
        ({"covariates": np.full((300, 2), "a")}, "columns of 0 and 1"),
    ],
)
def test_what_is_given_is_checked(told, arguments, words):
    with pytest.raises(InputError, match=words):
        told.transform(COUNTS, **arguments)


def test_a_flat_row_serves_all_also_where_there_are_as_many_rows_as_columns():
    given = fit_given(300, C)
    assert same_bits(given.pack(2, C[0]), given.pack(2, C[:1]))
    assert fit_given(3, np.arange(3.0)).pack(3, np.arange(3.0)).shape == (3, 1)


def test_what_the_model_does_not_take_is_refused():
    with pytest.raises(InputError, match="fitted without any"):
        fit_given(3).pack(np.zeros((3, 2)), covariates=np.zeros((3, 1)))
    with pytest.raises(InputError, match="fitted without"):
        fit_given(3).pack(np.zeros((3, 2)), size_factors=np.ones(3))
    with pytest.raises(InputError, match="likelihood is 'gaussian'"):
        vae().fit(C, size_factors=SIZES)


# ---------------------------------------------------------------- parts of one's own


def test_encoder_decoder_and_likelihood_of_ones_own(tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)

    class Encoder(eqx.Module):
        network: MLP

        def __call__(self, x):
            mean, scale = jnp.split(self.network(x), 2)
            return dist.Normal(mean, jax.nn.softplus(scale)).to_event(1)

    own = {
        "encoder": Encoder(MLP(3, 4, (8,), key=keys[0])),
        "decoder": MLP(2, 3, (8,), key=keys[1]),
        "likelihood": Gaussian(shape=(3,)),
    }
    x = vectors()[:60]
    model = quiet_fit(vae(max_epochs=0.5, **own), x)
    assert model.likelihood_ == "gaussian-per-feature"
    assert not same_bits(model.model_.decoder.layers[0].weight, own["decoder"].layers[0].weight)  # trained
    model.save(tmp_path / "own")
    with pytest.raises(InputError, match=r"differ in decoder, encoder, likelihood.*Files hold no code"):
        VAE.load(tmp_path / "own")
    assert same_bits(VAE.load(tmp_path / "own", **own).transform(x), model.transform(x))


# ---------------------------------------------------------------- residual networks


def test_residual_networks_start_without_their_blocks():
    @jax.jit  # compiled as one: networks made array by array compile each
    def values(key, x):
        network = ResidualMLP(5, (2, 3), (8, 4, 4), key=key)
        assert len(network.blocks) == 3
        h = network.layers[0](x)
        h = (h - h.mean()) / jnp.sqrt(h.var() + 1e-5)
        images = jax.random.normal(key, (3, 9, 7, 2))
        block = ResidualConv(3, key=key)
        plain, residual = (ConvFeatures((9, 7, 3), (4, 8), residual=r, key=key) for r in (False, True))
        batch = images.transpose(3, 1, 2, 0)
        decoded = ConvImage(6, (9, 7, 3), (8, 4), residual=True, key=key).batch(jnp.ones((2, 6)))
        assert decoded.shape == (2, 9, 7, 3)
        return (
            (network(x), network.layers[1](h).reshape(2, 3)),
            (block(images), images),
            (plain.batch(batch), residual.batch(batch)),
        )

    for found, expected in values(jax.random.key(0), jnp.arange(5.0)):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_same_convolution_is_laxs():
    x, kernel = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32), RNG.normal(size=(3, 3, 2, 6)).astype(np.float32)
    dimensions = jax.lax.conv_dimension_numbers((3, 2, 5, 4), kernel.shape, ("NCHW", "HWIO", "NCHW"))
    exact = jax.lax.conv_general_dilated(x.transpose(3, 0, 1, 2), kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    found = same_conv(jnp.asarray(x), jnp.asarray(kernel)).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- labels that are partly missing


@pytest.fixture(scope="module")
def half_labelled() -> tuple[SemiSupervisedVAE, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = rng.integers(2, size=400)
    x = np.where(truth[:, None] == 1, 2.0, -2.0) * [1, 1, 0] + rng.normal(size=(400, 3)) * [1, 1, 3]
    words = np.where(truth == 1, "up", "down").astype(object)
    words[20:] = None
    model = SemiSupervisedVAE(1, hidden=(16,), max_epochs=40, random_state=0)
    return quiet_fit_with(model, x, words), x, truth


def quiet_fit_with(model, x, y):
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def test_twenty_labels_of_four_hundred_are_enough_for_two_clusters(half_labelled):
    model, x, truth = half_labelled
    assert model.classes_.tolist() == ["down", "up"]
    assert np.mean((model.predict(x) == "up") == truth) > 0.95
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, rtol=1e-5)
    drawn = model.sample(["up"] * 50 + ["down"] * 50)
    assert drawn[:50, 0].mean() > 1 > -1 > drawn[50:, 0].mean()
    assert model.transform(x).shape == (400, 1)
    assert np.isfinite(model.history_["held_out_elbo_per_datum"]).all()


def test_the_bound_of_a_missing_label_is_the_mixture_of_the_known_ones(half_labelled):
    """sum_y q(y)[L(y) - log q(y)] from the two bounds with known labels and the same draws."""
    fitted, x, _ = half_labelled
    model: LabelledModel = fitted.model_
    rows = jnp.asarray(fitted.scaling_.prepare(x[:6]))
    objective, key = LabelledObjective(ELBO(4), jnp.zeros(())), jax.random.key(0)

    @jax.jit
    def items(label):
        return objective.score(model, jnp.concatenate([rows, jnp.tile(label, (6, 1))], axis=1), key).items

    log_q = np.asarray(model.log_labels(rows))
    known = np.stack([np.asarray(items(jnp.eye(2)[k])) for k in range(2)], axis=1)
    expected = np.sum(np.exp(log_q) * (known - log_q), axis=1)
    np.testing.assert_allclose(items(jnp.zeros(2)), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_labels_survives_its_file(half_labelled, tmp_path):
    model, x, _ = half_labelled
    model.save(tmp_path)
    again = qphi.load(tmp_path)
    assert isinstance(again, SemiSupervisedVAE)
    assert again.classes_.tolist() == model.classes_.tolist()
    assert again.get_params() == model.get_params()
    for use in (lambda m: m.predict_proba(x), lambda m: m.transform(x), lambda m: m.sample(["up"])):
        assert same_bits(use(again), use(model))
    with pytest.raises(InputError, match=r"qphi\.load"):
        VAE.load(tmp_path)


@pytest.mark.parametrize(("option", "value"), [("latent_dim", 0), ("hidden", ()), ("max_epochs", -1)])
def test_sizes_of_a_labelled_model_are_checked(option, value):
    with pytest.raises(InputError, match=f"{option}="):
        SemiSupervisedVAE(**{option: value}).fit(RNG.normal(size=(6, 2)), [0, 1, 0, 1, -1, -1])


def test_labels_are_checked():
    x = RNG.normal(size=(6, 2))
    with pytest.raises(InputError, match="0 different labels"):
        SemiSupervisedVAE().fit(x, np.full(6, -1))
    with pytest.raises(InputError, match="one label for each of the 6 rows"):
        SemiSupervisedVAE().fit(x, [0, 1])
