"""Cells that are missing because of their own value: the mask's probabilities and draws by integrals, and a fit."""

import json
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from qphi import Imputer, InputError, TableVAE
from qphi.tables.build import TableArchitecture, skeleton
from qphi.tables.mask import MOST_SLOPE, RATE, UNKNOWN, MaskModel, is_gap
from qphi.tables.rows import Shape

SHAPE = Shape(2, (3, 2))
A = np.array([-0.5, 0.3, -1.0, 0.2])
B, LEVELS = np.array([1.5, -0.8]), np.array([0.5, -1.0, 1.2, 0.0, 0.7])
MEAN, SCALE = np.array([0.4, -0.6]), np.array([0.7, 1.3])
LOG_LEVELS = np.stack([log_softmax([0.1, 0.9, -0.4]), [*log_softmax([0.3, -0.2]), -np.inf]])
U = np.linspace(-9, 9, 20_001)


def mask() -> MaskModel:
    model = MaskModel(SHAPE, jnp.asarray(norm.cdf(A)))
    raw = [jnp.asarray(MOST_SLOPE / RATE * np.arctanh(v / MOST_SLOPE), jnp.float32) for v in (B, LEVELS)]
    return eqx.tree_at(lambda m: [m.raw_slope, m.raw_level_slope], model, raw)


def density(j: int) -> np.ndarray:
    """p(u_j | z, missing), on the grid U, but for a constant: an integral with no formula in it."""
    return norm.pdf(U, MEAN[j], SCALE[j]) * norm.cdf(A[j] + B[j] * U)


def log_prob(x: np.ndarray) -> float:
    return float(mask().log_prob(jnp.asarray(MEAN), jnp.asarray(SCALE), jnp.asarray(LOG_LEVELS), jnp.asarray(x)))


def test_gaps_have_the_probability_of_their_unseen_values():
    missing = np.full((4, 3), np.nan)
    shares = [np.trapezoid(density(j), U) for j in (0, 1)]
    shares += [
        np.exp(LOG_LEVELS[0]) @ norm.cdf(A[2] + LEVELS[:3]),
        np.exp(LOG_LEVELS[1, :2]) @ norm.cdf(A[3] + LEVELS[3:]),
    ]
    assert log_prob(missing) == pytest.approx(np.sum(np.log(shares)), abs=1e-4)


def test_seen_cells_have_the_probability_of_being_seen_and_others_none():
    seen = np.repeat(np.array([[0.9], [-1.1], [2.0], [1.0]]), 3, axis=1)
    at = A + np.array([B[0] * 0.9, B[1] * -1.1, LEVELS[2], LEVELS[4]])
    assert log_prob(seen) == pytest.approx(np.sum(norm.logcdf(-at)), abs=1e-4)
    unknown = np.full((4, 3), np.nan)
    unknown[:, 1] = UNKNOWN
    assert log_prob(unknown) == 0.0
    assert list(is_gap(jnp.asarray(np.stack([seen[0], unknown[0], np.full(3, np.nan)])))) == [False, False, True]


def test_draws_of_gaps_have_the_moments_of_the_integral():
    # 40,000 draws: means err by sd / 200, sds by sd / 283; 5 standard errors
    drawn = mask().numbers_of_gaps(jax.random.key(0), *(jnp.broadcast_to(v, (40_000, 2)) for v in (MEAN, SCALE)))
    for j, column in enumerate(np.asarray(drawn).T):
        weight = density(j) / density(j).sum()
        mean = weight @ U
        sd = np.sqrt(weight @ (U - mean) ** 2)
        assert column.mean() == pytest.approx(mean, abs=5 * sd / 200)
        assert column.std() == pytest.approx(sd, abs=5 * sd / 283)


def test_levels_of_gaps_are_reweighted():
    found = np.asarray(mask().levels_of_gaps(jnp.asarray(LOG_LEVELS)[None]))[0]
    np.testing.assert_allclose(found[0], LOG_LEVELS[0] + norm.logcdf(A[2] + LEVELS[:3]), rtol=1e-4)
    assert found[1, 2] == -np.inf


def test_what_missing_can_be():
    with pytest.raises(InputError, match=r"missing='never' is not known\. Use one of 'at random', 'not at random'"):
        TableVAE(missing="never").fit(np.ones((5, 2)))
    assert Imputer(missing="not at random").get_params()["missing"] == "not at random"


def test_a_model_file_has_a_place_for_the_mask():
    architecture = TableArchitecture(2, (3, 2), 4, (8,), (1,), not_at_random=True)
    again = TableArchitecture.from_json(json.loads(json.dumps(architecture.to_json())))
    like = eqx.filter_eval_shape(skeleton, again, jax.random.key(0))
    assert (like.likelihood.mask.raw_slope.shape, like.likelihood.mask.raw_level_slope.shape) == ((2,), (5,))
    old = {name: value for name, value in architecture.to_json().items() if name != "not_at_random"}
    assert not TableArchitecture.from_json(old).not_at_random


@pytest.fixture(scope="module")
def censored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of one factor, which high values of the first column are missing, and the rows with these gaps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1)) + 0.5 * rng.normal(size=(400, 3))
    gap = rng.random(400) < norm.cdf(1.5 * x[:, 0])
    holed = x.copy()
    holed[gap, 0] = np.nan
    return x, gap, holed


def fit(missing: str, x: np.ndarray) -> TableVAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return TableVAE(missing=missing, hidden=(8,), particles=5, max_epochs=20, random_state=0).fit(x)


def test_the_ordinary_fit_of_self_censored_cells_is_biased(censored):
    # it takes the seen cells for typical of their rows
    x, gap, holed = censored
    assert (fit("at random", holed).impute(holed, draws=64) - x)[gap, 0].mean() < -0.6


def test_a_fit_that_knows_of_self_censoring_is_less_biased(censored):
    x, gap, holed = censored
    model = fit("not at random", holed)
    slopes = model.model_.likelihood.mask.slopes
    assert slopes[0] > 0.3
    assert np.abs(slopes[1:]).max() < 0.2  # nothing is missing there
    assert abs((model.impute(holed, draws=64) - x)[gap, 0].mean()) < 0.45
    assert np.isfinite(model.sample(5, given={"x1": 1.0})).all()
