"""What a fitted posterior is for: predictions, files, other libraries, pictures."""

from __future__ import annotations

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

import qphi
from qphi.posterior.files import RECORD
from qphi.posterior.plots import marginal_figure, pair_figure
from qphi.status import Status
from qphi.verdict import Trust
from zoo import GaussianTarget

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(60, 2))
Y = 1 + X @ [1.0, -2.0] + 0.5 * np.random.default_rng(1).normal(size=60)


def regression(x, y=None):
    level = numpyro.sample("level", dist.Normal(0, 5))
    slopes = numpyro.sample("slopes", dist.Normal(0, 5).expand([2]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    mean = numpyro.deterministic("mean", level + x @ slopes)
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return qphi.fit(regression, X, Y, key=KEY)


def test_predictions_on_the_data_have_the_posteriors_mean_and_the_noise(posterior):
    # Monte Carlo error of 4,000 draws: 5 standard errors over 60 means, false alarm 4e-5
    found = posterior.predict(KEY, n=4000)
    assert found["y"].shape == (4000, 60)
    mean, noise = posterior.mean()["mean"], posterior.mean()["noise"]
    assert np.all(np.abs(found["y"].mean(axis=0) - mean) < 5 * 0.6 / np.sqrt(4000))
    assert found["y"].std(axis=0).mean() == pytest.approx(noise, rel=0.1)
    np.testing.assert_allclose(found["mean"].mean(axis=0), mean, atol=0.02)


def test_predictions_have_the_shape_of_the_data_without_a_plate():
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0, 1)), 1), obs=y)

    found = qphi.fit(model, np.zeros(3), key=KEY, effort="quick").predict(KEY, n=500)["y"]
    assert found.shape == (500, 3)
    assert np.corrcoef(found.T)[0, 1] < 0.7  # drawn apart: 0.2, given the same latent


def test_predictions_for_new_covariates(posterior):
    new = np.array([[0.0, 0.0], [10.0, 0.0]])
    found = posterior.predict(KEY, new, n=2000)
    assert found["y"].shape == (2000, 2)
    level, slopes = posterior.mean()["level"], posterior.mean()["slopes"]
    np.testing.assert_allclose(found["y"].mean(axis=0), [level, level + 10 * slopes[0]], atol=0.1)
    assert found["y"][:, 1].std() > found["y"][:, 0].std()  # far from the data
    again = posterior.predict(KEY, new, n=2000)
    np.testing.assert_array_equal(found["y"], again["y"])


def test_predictions_that_cannot_be_made(posterior):
    with pytest.raises(qphi.InputError, match="when drawing from it with 1 argument"):
        posterior.predict(KEY, np.ones((3, 5)))
    other = qphi.fit(lambda v: -(v["x"] ** 2), example={"x": 0.0}, key=KEY)
    with pytest.raises(qphi.InputError, match=r"predict needs a NumPyro program.*LogDensity"):
        other.predict(KEY)


def test_files_keep_everything_but_the_model(posterior, tmp_path):
    posterior.save(tmp_path / "p")
    again = qphi.load(tmp_path / "p")
    assert repr(again) == repr(posterior)
    for name, draws in posterior.sample(KEY, 50).items():
        np.testing.assert_array_equal(again.sample(KEY, 50)[name], draws)
    z = posterior.pool.z[:5]
    np.testing.assert_array_equal(again.log_prob(z), posterior.log_prob(z))
    assert again.verdict.trust is posterior.verdict.trust
    assert again.verdict.numbers == posterior.verdict.numbers
    assert again.status is Status.CONVERGED
    with pytest.raises(qphi.InputError, match=r"predict needs the model, and this posterior was loaded from files"):
        again.predict(KEY)
    with pytest.raises(qphi.InputError, match="hold its draws and not its model"):
        again.target.log_density(jnp.zeros(4))
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"posterior.json", "posterior.safetensors"}


def test_mixtures_and_chosen_families_are_kept_too(tmp_path):
    def two(v):
        return jnp.logaddexp(-0.5 * (v["x"] - 5) ** 2, -0.5 * (v["x"] + 5) ** 2)

    mixture = qphi.fit(two, example={"x": 0.0}, key=KEY)
    mixture.save(tmp_path / "mixture")
    again = qphi.load(tmp_path / "mixture")
    assert type(again.q).__name__ == "GaussianMixture"
    np.testing.assert_allclose(again.log_prob(np.array([[5.0]])), mixture.log_prob(np.array([[5.0]])))
    chosen = qphi.fit(regression, X, Y, key=KEY, family="mean-field", max_steps=200)
    chosen.save(tmp_path / "chosen")
    again = qphi.load(tmp_path / "chosen")
    assert again.made_by == "q"
    assert not again.verdict.trust.usable
    np.testing.assert_allclose(again.mean()["level"], chosen.mean()["level"], atol=0.1)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(qphi.InputError, match=r"There is no folder .*nowhere\. Give one that `save`"):
        qphi.load(tmp_path / "nowhere")


def test_keys_and_counts_are_checked(posterior, wrong_types):
    for use in (posterior.sample, posterior.predict, posterior.for_nuts):
        with pytest.raises(TypeError, match=r"key must be one typed JAX key, got int\. Use jax\.random\.key\(0\)"):
            use(0)
    with pytest.raises(TypeError, match=r"of shape \(2,\)"):
        posterior.sample(jax.random.split(KEY))
    with pytest.raises(ValueError, match="n is 0; a whole number of draws, 1 or more, is needed"):
        posterior.sample(KEY, 0)
    assert posterior.sample(KEY, 1)["level"].shape == (1,)


def test_damaged_files_are_refused(posterior, tmp_path):
    posterior.save(tmp_path)
    record = tmp_path / RECORD
    whole = record.read_text()
    record.write_text(whole.replace('"FullRankGaussian"', '"Unheard"'))
    with pytest.raises(qphi.InputError, match=r"posterior\.json is damaged"):
        qphi.load(tmp_path)
    record.write_text(whole[: len(whole) // 2])
    with pytest.raises(qphi.InputError, match=r"posterior\.json is damaged"):
        qphi.load(tmp_path)
    record.write_text(whole)
    arrays = tmp_path / "posterior.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-9] ^= 255
    arrays.write_bytes(bytes(content))
    with pytest.raises(qphi.InputError, match="checksum differs"):
        qphi.load(tmp_path)


def test_a_second_save_over_the_first_is_whole(posterior, tmp_path):
    posterior.save(tmp_path)
    posterior.save(tmp_path)
    assert repr(qphi.load(tmp_path)) == repr(posterior)


def test_nuts_can_begin_where_the_fit_ended(posterior):
    starts, options = posterior.for_nuts(KEY, chains=2)
    with jax.enable_x64(True):
        kernel = NUTS(regression, **options, adapt_mass_matrix=False)
        how = {"chain_method": "vectorized", "progress_bar": False}
        sampler = MCMC(kernel, num_warmup=50, num_samples=300, num_chains=2, **how)
        sampler.run(KEY, X, Y, init_params=starts)
        draws = {name: np.asarray(draw) for name, draw in sampler.get_samples().items()}
    sd = posterior.sd()
    assert abs(np.mean(draws["level"]) - posterior.mean()["level"]) < 0.3 * sd["level"]
    assert abs(np.std(draws["noise"]) / sd["noise"] - 1) < 0.25
    nameless = qphi.fit(GaussianTarget([0.0], [[1.0]]), key=KEY)
    with pytest.raises(qphi.InputError, match="no named sites"):
        nameless.for_nuts(KEY)


def test_pictures_mark_what_is_not_to_be_believed():
    def model():
        numpyro.sample("fine", dist.Normal(2, 3))
        u = numpyro.sample("u", dist.Logistic(0, 1))
        numpyro.deterministic("heavy", jnp.exp(u))

    posterior = qphi.fit(model, key=KEY)
    drawn = marginal_figure(posterior.pool, posterior.verdict)
    titles = [axes.get_title(loc="left") for axes in drawn.axes if axes.get_title(loc="left")]
    assert titles == ["fine", "u", "heavy  ?"]
    assert pair_figure(posterior.pool, posterior.verdict) is not None
    assert posterior.plot() is not None
    assert posterior.verdict.trust is Trust.UNRELIABLE


def test_one_value_has_no_pairs():
    posterior = qphi.fit(lambda v: -(v["x"] ** 2), example={"x": 0.0}, key=KEY)
    assert pair_figure(posterior.pool, posterior.verdict) is None


@pytest.mark.parametrize("version", ["0.22.0", "1.0.0"])
def test_arviz_gets_one_chain_with_the_verdict(posterior, monkeypatch, version):
    # a stand-in for the two interfaces of from_dict, so that the test needs neither
    given = {}
    stand_in = types.ModuleType("arviz")
    stand_in.__dict__.update(__version__=version, from_dict=lambda *a, **k: given.update(k, first=a) or "data")
    monkeypatch.setitem(sys.modules, "arviz", stand_in)
    assert posterior.to_arviz(KEY, n=10) == "data"
    draws = given["posterior"] if version.startswith("0") else given["first"][0]["posterior"]
    assert draws["slopes"].shape == (1, 10, 2)
    assert "trusted" in str(given)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="pip install arviz"):
        posterior.to_arviz()
