"""Where an autoencoder of vectors starts: at the exact answer of the linear model, or as it was."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qphi.autoencoders.build import Architecture, build
from qphi.autoencoders.evaluation import evaluate
from qphi.autoencoders.latent import posterior_moments
from qphi.autoencoders.linear_start import linear_start, ppca
from qphi.autoencoders.model import LatentVariableModel

COLUMNS, LATENTS = 5, 4


def rows(n: int, rank: int = 2, noise: float = 0.2, seed: int = 0) -> np.ndarray:
    """Rows along `rank` directions of five, with noise."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(7).normal(size=(COLUMNS, COLUMNS)))[0][:rank]
    x = rng.normal(size=(n, rank)) * [2.0, 1.0, 1.5, 1.2, 0.9][:rank] @ directions
    return (x + noise * rng.normal(size=(n, COLUMNS)) + 3.0).astype(np.float32)


def model_of(latents: int = LATENTS, **changes: Any) -> LatentVariableModel:
    fields: dict[str, Any] = {"likelihood": "gaussian", "network": "mlp", "hidden": (48, 40), **changes}
    shape = fields.pop("shape", (COLUMNS,))
    return build(
        Architecture(shape, latents, fields.pop("likelihood"), fields.pop("network"), **fields), jax.random.key(0)
    )


def same(a: LatentVariableModel, b: LatentVariableModel) -> bool:
    return all(bool(jnp.array_equal(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_density_of_each_rank_is_that_of_its_covariance():
    x = rows(100).astype(float)
    for fit in ppca(x, COLUMNS):
        weight = fit.axes.T * np.sqrt(fit.variance - fit.noise)
        law = stats.multivariate_normal(fit.mean, weight @ weight.T + fit.noise * np.eye(COLUMNS))
        np.testing.assert_allclose(fit.log_prob(x), law.logpdf(x), rtol=1e-8)
        assert fit.explained == pytest.approx(np.sum(fit.variance) / x.var(axis=0).sum())
    sample = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True))
    last = ppca(x, COLUMNS)[-1]  # of one column less: the rows' own covariance
    assert len(last.variance) == COLUMNS - 1
    np.testing.assert_allclose(last.log_prob(x), sample.logpdf(x), rtol=1e-8)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_latents_that_the_data_do_not_need_stay_out(rank):
    """One direction of noise looks like a latent in less than one of 100 such sets of rows."""
    x = rows(1000, rank).astype(float)
    best = max(ppca(x, LATENTS), key=lambda fit: fit.bic(x))
    assert len(best.variance) == rank


def test_a_model_starts_at_the_exact_posterior_and_evidence_of_the_linear_one():
    x, held_out = rows(400), rows(100, seed=1)
    model: Any = linear_start(model_of(latents=7), x)
    fit = ppca(x, COLUMNS)[1]
    r = len(fit.variance)
    told = evaluate(model, held_out, particles=64)
    assert float(model.likelihood.scale) == pytest.approx(np.sqrt(fit.noise), rel=1e-4)
    mean, scale = posterior_moments(model, held_out)
    signed = (held_out - fit.mean) @ fit.axes.T * np.sqrt(fit.variance - fit.noise) / fit.variance
    np.testing.assert_allclose(mean[:, :r], signed, atol=2e-3)
    np.testing.assert_allclose(scale[:, :r], np.broadcast_to(np.sqrt(fit.noise / fit.variance), (100, r)), rtol=2e-3)
    # latents beyond its rank are not heard, and cost what they are from the prior
    decoded = model.decoder.batch(jnp.asarray(mean))
    moved = model.decoder.batch(jnp.asarray(mean).at[:, r:].add(5.0))
    np.testing.assert_allclose(moved, decoded, atol=1e-5)
    mean, scale = (np.asarray(a, np.float64)[:, r:] for a in (mean, scale))
    cost = np.sum((mean**2 + scale**2 - 1) / 2 - np.log(scale), axis=1)
    assert told.elbo.value + cost.mean() == pytest.approx(fit.log_prob(held_out).mean(), abs=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"likelihood": "gaussian-output-scale"},
        {"activation": "tanh"},
        {"activation": "gated"},
        {"network": "residual-mlp"},
        {"prior": "mixture", "components": 3},
        {"posterior": "full-rank"},
        {"hidden": (6, 6)},  # too narrow to carry anything
    ],
)
def test_other_models_stay_as_they_are(changes):
    model = model_of(**changes)
    assert linear_start(model, rows(100)) is model


def test_a_linear_model_that_explains_little_is_no_start():
    x = np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32)
    model = model_of(shape=(20,))
    assert linear_start(model, x) is model
    assert linear_start(model, np.ones((400, 20), np.float32)) is model  # nothing varies


def test_outliers_do_not_turn_the_start_of_a_model_that_forgives_them():
    x = rows(400)
    wild = x.copy()
    wild[:3] = 300.0
    model: Any = linear_start(model_of(likelihood="student-t"), wild)
    fit = ppca(x.astype(float), LATENTS)[1]
    assert float(model.likelihood.scale) == pytest.approx(math.sqrt(fit.noise), rel=0.1)
    mean, _ = posterior_moments(model, x)
    again = np.asarray(model.decoder.batch(jnp.asarray(mean)))
    assert np.mean((again - x) ** 2) < 2 * fit.noise


def test_few_rows_for_the_columns_are_no_start():
    model = model_of()
    assert linear_start(model, rows(99)) is model
    assert linear_start(model, rows(100)) is not model


@pytest.mark.parametrize("what", ["collinear", "constant column"])
def test_rows_without_a_full_covariance_start_finite(what):
    x = rows(200)
    if what == "collinear":
        x[:, 1:] = x[:, :1] * np.arange(2, 6)
    else:
        x[:, 2] = 1.0
    model = linear_start(model_of(), x)
    assert not same(model, model_of())
    assert np.isfinite(evaluate(model, x, particles=4).elbo.value)
