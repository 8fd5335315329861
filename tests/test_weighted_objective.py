"""Objectives that weigh the KL, on a linear VAE whose ELBO is a formula; the ways to train of `VAE`."""

from __future__ import annotations

import copy
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latent_zoo import linear_vae
from qphi import VAE, InputError
from qphi.autoencoders.objective import AutoencodingObjective
from qphi.bounds import ELBO, DReG
from qphi.bounds.factored import kl_per_unit
from qphi.families import DiagonalGaussian, FullRankGaussian, StandardNormal, kl_divergence
from qphi.solvers import Cosine
from small import quiet_fit, same_bits, vae, vectors

KEY = jax.random.key(0)
XS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), float)
MODEL = linear_vae(3, 2, KEY, scale=0.8)


def score(step=None, beta=1.0, warm_up=0, **options):
    objective = AutoencodingObjective(ELBO(), jnp.asarray(beta), jnp.asarray(warm_up), **options)
    return objective.score(MODEL, XS, KEY, None if step is None else jnp.asarray(step))


def test_capacity_pulls_the_kl_to_its_target():
    """L + KL - beta |mean KL - C|, by its parts."""
    for capacity in (0.5, 9.0):
        found = score(beta=3.0, capacity=capacity)
        kl = float(found.parts["kl"])
        expected = float(found.parts["log_likelihood"]) - 3 * abs(kl - capacity)
        assert float(found.surrogate) == pytest.approx(expected, rel=1e-5)
        assert float(found.parts["elbo"]) == pytest.approx(float(score().surrogate), rel=1e-5)


def test_free_bits_cost_a_unit_nothing_below_the_threshold():
    q = MODEL.posterior(XS)
    units = np.asarray(kl_per_unit(q, MODEL.prior)).mean(axis=0)
    threshold = float(units.mean())  # one unit above, one below
    plain, free = score(step=0), score(step=0, free_bits=threshold)
    missing = np.maximum(threshold - units, 0).sum()
    assert missing > 0
    assert float(free.surrogate) == pytest.approx(float(plain.surrogate) - missing, rel=1e-5)
    assert float(score(free_bits=threshold).surrogate) == pytest.approx(float(score().surrogate), rel=1e-6)

    def kl_part(log_scale, threshold):
        """Free bits' share of the gradient to one unit's scale: minus what the KL pulls."""
        encoder = MODEL.encoder.function
        moved = type(encoder)(encoder.weights, encoder.bias, log_scale)
        model = type(MODEL)(MODEL.prior, moved, MODEL.decoder, MODEL.likelihood)
        objective = AutoencodingObjective(ELBO(), jnp.array(1.0), jnp.array(0), free_bits=threshold)
        return objective._missing(model.posterior(XS), model.prior, jnp.zeros(6))

    slope = np.asarray(jax.grad(kl_part)(MODEL.encoder.function.log_scale, threshold))
    exact = 1 - np.exp(2 * np.asarray(MODEL.encoder.function.log_scale))  # -d KL / d log scale
    np.testing.assert_allclose(slope, np.where(units < threshold, exact, 0.0), rtol=1e-4)


def test_units_of_the_kl_add_up():
    q, p = DiagonalGaussian(jnp.array([0.3, -1.0]), jnp.array([-0.5, 0.2])), DiagonalGaussian(jnp.ones(2), jnp.ones(2))
    for prior in (p, StandardNormal(2)):
        units = kl_per_unit(q, prior)
        assert units is not None
        assert float(units.sum()) == pytest.approx(float(kl_divergence(q, prior)), rel=1e-5)
    assert kl_per_unit(FullRankGaussian(jnp.zeros(2), jnp.eye(2)), StandardNormal(2)) is None


def test_the_weight_of_the_kl_rises_in_cycles():
    ramp = AutoencodingObjective(ELBO(), jnp.array(1.0), jnp.array(40), cycles=2)._ramp
    found = [float(ramp(jnp.asarray(step))) for step in range(60)]
    np.testing.assert_allclose(found[:20], [min(1.0, 2 * (i + 1) / 20) for i in range(20)], rtol=1e-6)
    assert found[20:40] == found[:20]
    assert found[40:] == [1.0] * 20


def test_only_plain_objectives_are_bounds():
    assert AutoencodingObjective(DReG(4), jnp.array(1.0), jnp.array(9)).is_bound
    assert not AutoencodingObjective(ELBO(), jnp.array(2.0), jnp.array(0)).is_bound
    assert not AutoencodingObjective(ELBO(), jnp.array(1.0), jnp.array(0), capacity=3.0).is_bound


def test_the_cosine_falls_to_zero_and_stays():
    rate = Cosine(100)
    assert [round(float(rate(jnp.asarray(s))), 6) for s in (0, 50, 100, 300)] == [1.0, 0.5, 0.0, 0.0]


# ---------------------------------------------------------------- VAE: every part by name

PARTS = {
    "vamp, dreg": {"prior": "vamp", "components": 7, "bound": "dreg", "particles": 3},
    "categorical": {"prior": "categorical", "posterior": "categorical", "latent_dim": 6, "categories": 3},
}
SLOW = {
    "ladder": {"prior": "ladder", "posterior": "ladder", "latent_dim": 3, "warm_up_epochs": 2, "cycles": 2},
    "iaf": {"prior": "mixture", "posterior": "iaf", "free_bits": 0.1, "activation": "gated"},
    "flows": {"prior": "flow", "posterior": "coupling", "bound": "sticking-the-landing"},
    "vamp of flows": {"prior": "vamp", "components": 7, "posterior": "coupling", "bound": "dreg", "alpha": 0.5},
    "student": {"posterior": "student-t", "bound": "iwae", "schedule": "cosine"},
    "refined": {"prior": "mixture", "posterior": "full-rank", "refine_steps": 2, "schedule": "constant"},
}


@pytest.mark.parametrize("name", [*PARTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_use_of_a_vae_of_these_parts(name, tmp_path):
    x = vectors()[:60]
    model = quiet_fit(vae(**{"max_epochs": 20, "hidden": (8,), **(PARTS | SLOW)[name]}), x)
    for result in (
        model.transform(x),
        model.reconstruct(x),
        model.sample(3),
        model.history_["held_out_elbo_per_datum"],
    ):
        assert np.isfinite(result).all()
    found = model.evaluate(x, particles=40)
    error = 4 * (found.elbo.standard_error + found.log_evidence.standard_error)
    assert found.elbo.value == pytest.approx(found.log_likelihood.value - found.kl.value, abs=1e-4)
    assert found.elbo.value < found.log_evidence.value + error
    assert model.objective_.endswith(": a bound on log p(x)")
    model.save(tmp_path)
    again = VAE.load(tmp_path)
    assert again.get_params() == {**model.get_params(), "random_state": again.seed_}
    assert same_bits(again.score_samples(x[:9], particles=5), model.score_samples(x[:9], particles=5))
    assert same_bits(again.transform(x[:9]), model.transform(x)[:9])


def test_partial_fit_goes_on_from_call_to_call():
    x = vectors()
    model = vae(hidden=(8,), batch_size=30, learning_rate=0.01)
    values = []
    for _ in range(6):
        model.partial_fit(x[:300], epochs=4)
        values.append(model.score(x[300:]))
    assert model.n_iter_ == 6 * 4 * 9
    assert values[-1] > values[0] + 0.05  # a fit that starts anew each time would stay, to the bit
    with pytest.raises(InputError, match=r"epochs=0: a positive number"):
        model.partial_fit(x, epochs=0)
    with pytest.raises(InputError, match="shape"):
        model.partial_fit(x[:, :2])
    for option, value in (("prior", "vamp"), ("latent_dim", 3), ("likelihood", "student-t"), ("refine_steps", 2)):
        with pytest.raises(InputError, match=f"{option} was .* which needs another model"):
            copy.copy(model).set_params(**{option: value}).partial_fit(x)


def test_a_cosine_run_resumed_is_the_uninterrupted_one(tmp_path):
    x, options = (
        vectors()[:60],
        {"hidden": (8,), "schedule": "cosine", "max_epochs": 120, "bound": "iwae", "particles": 3},
    )
    whole = quiet_fit(vae(**options), x)
    stopped = quiet_fit(vae(**options, max_time=1e-9), x, run_dir=tmp_path / "run")  # after the first visit
    assert stopped.n_iter_ < whole.n_iter_
    resumed = quiet_fit(vae(**options), x, run_dir=tmp_path / "run", resume=True)
    assert same_bits(resumed.transform(x), whole.transform(x))
    with pytest.raises(InputError, match="another bound or way to train"):
        vae(**{**options, "particles": 4}).fit(x, run_dir=tmp_path / "run", resume=True)


def test_event_files_are_written_where_the_writer_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    x = vectors()[:60]
    model = quiet_fit(vae(hidden=(8,), max_epochs=20), x, run_dir=tmp_path / "run", tensorboard=True)
    assert written[0] == str(tmp_path / "run" / "tensorboard")
    assert written[-1] == "closed"
    scalars = {name: value for name, value, _ in written[1:-1]}
    assert scalars["elbo/held out"] == pytest.approx(model.history_["held_out_elbo_per_datum"][-1])
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"needs the package tensorboardX: pip install 'qphi\[tensorboard\]'"):
        vae().fit(x, run_dir=tmp_path / "other", tensorboard=True)
    with pytest.raises(InputError, match="tensorboard=True needs run_dir="):
        vae().fit(x, tensorboard=True)


WRONG = {
    "prior='vamps' is not known": {"prior": "vamps"},
    "does not go with posterior='diagonal'. Let both be 'ladder'": {"prior": "ladder"},
    "does not divide into one-hot variables": {"prior": "categorical", "posterior": "categorical", "categories": 3},
    "a flow needs latent_dim of at least 2": {"posterior": "iaf", "latent_dim": 1},
    "a ladder needs 2 to latent_dim=2 levels": {"prior": "ladder", "posterior": "ladder", "levels": 5},
    "refine_steps moves along gradients": {"prior": "categorical", "posterior": "categorical", "refine_steps": 1},
    "bound='iw' is not known": {"bound": "iw"},
    "alpha=1.0: a number from 0": {"bound": "iwae", "alpha": 1.0},
    "alpha=0.5 has no effect on bound='elbo'": {"alpha": 0.5},
    "has no KL of its own": {"bound": "dreg", "beta": 2.0},
    "categorical ones use 'elbo'": {"prior": "categorical", "posterior": "categorical", "bound": "dreg"},
    "particles=0: a whole number": {"particles": 0},
    "free_bits=-1: a number": {"free_bits": -1},
    "clip_norm=0: a number that is positive": {"clip_norm": 0},
    "cycles=0: a whole number": {"cycles": 0},
    "schedule='cosine' needs max_epochs": {"schedule": "cosine"},
    "precision='half' is not known": {"precision": "half"},
    "components=0, refine_steps=0: at least 1 component": {"prior": "mixture", "components": 0},
    "learning_rate=0: a positive number": {"learning_rate": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_said_before_any_work(message):
    with pytest.raises(InputError, match=message):
        vae(**WRONG[message]).fit(vectors()[:30])


def test_what_was_climbed_is_said_in_words():
    from qphi.estimators.options import objective_words

    assert objective_words(vae()) == "ELBO: a bound on log p(x)"
    assert objective_words(vae(beta=4.0)) == "beta-weighted, beta=4.0: not a bound on log p(x)"
    assert objective_words(vae(beta=9.0, capacity=2.0)).endswith("not a bound on log p(x)")
    assert objective_words(vae(bound="dreg", alpha=0.5)) == (
        "VR-IWAE bound, alpha=0.5 with 8 particles: a bound on log p(x)"
    )
