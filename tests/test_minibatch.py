"""Programs with a subsampled plate: the density of all rows, its estimates, and fits with known answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import qphi
from qphi.by_gradients import named_family
from qphi.minibatch import Minibatches, _moved, _Whitened
from qphi.precision import double
from qphi.targets import NumPyroTarget, SubsampledTarget, as_target

KEY = jax.random.key(0)
N, NOISE = 20_000, 2.0
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
Y = X @ [0.5, -1.0] + 1.0 + NOISE * RANDOM.normal(size=N)


def regression(x, y, subsample_size=None):
    level = numpyro.sample("level", dist.Normal(0, 5))
    slopes = numpyro.sample("slopes", dist.Normal(0, 5).expand([2]).to_event(1))
    numpyro.deterministic("sum", slopes.sum())
    with numpyro.plate("rows", len(y), subsample_size=subsample_size) as rows:
        numpyro.sample("y", dist.Normal(level + x[rows] @ slopes, NOISE), obs=y[rows])


def exact():
    x = np.column_stack([np.ones(N), X])
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(3) / 25)
    return covariance @ x.T @ Y / NOISE**2, covariance


def test_the_density_is_that_of_all_rows_whatever_the_blocks():
    # 20,000 rows are two whole blocks and a rest
    with double():
        whole, target = as_target(regression, X, Y), as_target(regression, X, Y, 100)
        assert isinstance(whole, NumPyroTarget)
        assert isinstance(target, SubsampledTarget)
        z = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
        np.testing.assert_allclose(target.log_density_many(z), whole.log_density_many(z), rtol=1e-12)
        np.testing.assert_allclose(jax.grad(target.log_density)(z[0]), jax.grad(whole.log_density)(z[0]), rtol=1e-10)
        assert target.shapes() == {"level": (), "slopes": (2,)}
        assert sum(target.log_density_parts(z[0]).values()) == pytest.approx(
            target.on(jnp.arange(100)).log_density(z[0])
        )


def test_estimates_are_unbiased_and_quiet_about_the_centre():
    mean, covariance = exact()
    with double():
        target = as_target(regression, X, Y, 100)
        whitened = _Whitened.at(target, jnp.asarray(mean), jnp.asarray(np.linalg.cholesky(covariance)))
        u = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3)))
        truth = target.log_density_many(whitened.origin + u @ whitened.tril.T)[0]
        truth = float(truth + jnp.linalg.slogdet(whitened.tril)[1])

        @jax.jit
        def estimate(rows):
            return whitened.on(rows[None]).log_density_many(u)[0], whitened.target.on(rows).log_density(
                whitened.origin + whitened.tril @ u[0]
            )

        rows = np.random.default_rng(2).integers(N, size=(400, 100))
        with_control, without = np.array([estimate(jnp.asarray(r)) for r in rows]).T
    # four standard errors: false alarm 6e-5, the seed is fixed
    assert abs(with_control.mean() - truth) < 4 * with_control.std() / 20
    assert with_control.std() < 0.01 * without.std()


@pytest.mark.parametrize("family", ["full-rank", "mean-field"])
def test_fits_have_the_exact_moments(family):
    mean, covariance = exact()
    sd = np.sqrt(np.diag(covariance))
    posterior = qphi.fit(regression, X, Y, 200, key=KEY, family=family)
    found = np.concatenate([posterior.mean()["level"][None], posterior.mean()["slopes"]])
    scale = posterior.sd(allow_unreliable=True)
    found_sd = np.concatenate([scale["level"][None], scale["slopes"]])
    right = np.diag(np.linalg.inv(covariance)) ** -0.5 if family == "mean-field" else sd
    assert np.max(np.abs(found - mean) / sd) < 0.1
    assert np.max(np.abs(found_sd / right - 1)) < 0.05
    # correlated slopes: the mean field is not the posterior, and the weights of all the data know
    assert posterior.verdict.trust == ("unreliable" if family == "mean-field" else "trusted")


@pytest.mark.parametrize("family", ["full-rank", "mean-field", "low-rank", "student-t"])
def test_a_family_of_the_whitened_coordinates_is_one_of_the_programs(family):
    with double():
        q = named_family(family, jnp.zeros(3), 1.0, KEY)
        q = jax.tree.map(lambda a: a + 0.1 * jnp.arange(a.size, dtype=float).reshape(a.shape), q)
        origin, tril = jnp.arange(3.0), jnp.array([[2.0, 0, 0], [0.5, 3, 0], [-1, 0.2, 0.1]])
        if family in ("mean-field", "low-rank"):
            tril = jnp.diag(jnp.diagonal(tril))
        u = jnp.array([0.3, -1.0, 0.7])
        there = _moved(q, origin, tril).log_prob(origin + tril @ u) + jnp.linalg.slogdet(tril)[1]
        assert there == pytest.approx(float(q.log_prob(u)), abs=1e-10)


def test_a_wrong_fit_is_judged_by_all_of_the_data():
    posterior = qphi.fit(regression, X, Y, 200, key=KEY, max_steps=5)
    assert posterior.verdict.trust == "unreliable"
    assert posterior.steps == 5


def test_the_same_key_gives_the_same_bits():
    first, again, other = (
        qphi.fit(regression, X, Y, 200, key=jax.random.key(k), max_steps=20).mean() for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first["slopes"], again["slopes"])
    assert not np.array_equal(first["slopes"], other["slopes"])


def test_rows_are_fresh_at_every_step():
    with double():
        target = as_target(regression, X, Y, 50)
        whitened = _Whitened.at(target, jnp.zeros(3), 0.1 * jnp.eye(3))
        objective = Minibatches(whitened, qphi.MonteCarlo(1), 50)
        q = qphi.DiagonalGaussian(jnp.zeros(3), jnp.full(3, -20.0))  # draws are its mean: only rows make noise
        q = qphi.DiagonalGaussian(jnp.ones(3), q.log_scale)
        scores = [float(objective.score(q, None, jax.random.key(k)).surrogate) for k in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def latent_rows(y):
    with numpyro.plate("rows", 100, subsample_size=10) as rows:
        numpyro.sample("y", dist.Normal(numpyro.sample("own", dist.Normal(0, 1)), 1), obs=y[rows])


def two_plates(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    for name in "ab":
        with numpyro.plate(name, 100, subsample_size=10) as rows:
            numpyro.sample(f"y{name}", dist.Normal(x, 1), obs=y[rows])


def many(y):
    x = numpyro.sample("x", dist.Normal(0, 1).expand([1001]).to_event(1))
    with numpyro.plate("rows", 100, subsample_size=10) as rows:
        numpyro.sample("y", dist.Normal(x.sum(), 1), obs=y[rows])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (latent_rows, {}, "Latent site 'own' is inside the subsampled plate 'rows'"),
        (two_plates, {}, "Plates 'a' and 'b' are both subsampled"),
        (many, {}, "1001 coordinates; minibatches are for 1000 at most"),
        (regression, {"family": qphi.StandardNormal(3)}, "cannot be fitted by minibatches. Use 'mean-field'"),
    ],
)
def test_what_minibatches_cannot_do_is_refused(model, options, message):
    arguments = (X, Y, 100) if model is regression else (np.zeros(100),)
    with pytest.raises(qphi.InputError, match=message):
        qphi.fit(model, *arguments, key=KEY, **options)
