"""Training a table's model: its objective in the one loop, and a prior fitted to where the posteriors lie."""

from __future__ import annotations

import dataclasses
import warnings

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as MixtureFit

from qphi.autoencoders.evaluation import in_blocks
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.training import Training, plan
from qphi.bounds import IWAE
from qphi.tables.objective import TableObjective
from qphi.tables.prior import WhitenedMixture

__all__ = ["fit_prior", "plan_table"]

MOST_HIDDEN = 0.5  # share of the rows of which training hides cells, less what is missing anyway
SMALL, LARGE = 5_000, 20_000  # rows: up to the first 20 particles, from the second on 5
LEAST = 0.02  # nats per row that a rise within the patience has to come to: less is not seen in thousands of rows
COMPONENTS = (1, 2, 4, 16)
FEWEST_ROWS = 50  # for each component of a mixture
PRIOR_ROWS = 20_000
# beside a variance of about 1: a component that closes in on few rows leaves held-out ones near it very unlikely
COVARIANCE_FLOOR = 0.05
SETTLED = 1e-2  # nats per row and step of expectation maximisation; held-out rows see no difference from a tenth of it


def plan_table(
    model: LatentVariableModel,
    train: Float[np.ndarray, "train columns 3"],
    held_out: Float[np.ndarray, "held_out columns 3"],
    key: PRNGKeyArray,
    *,
    weights: tuple[Float[np.ndarray, " train"], Float[np.ndarray, " held_out"]],
    particles: int | None = None,
    learning_rate: float = 2e-3,
) -> Training:
    """The one loop's plan with a table's objective: importance-weighted, cells hidden at random, rows weighted.

    Small tables can afford 20 particles and gain most from them; large ones take 5 and larger batches.
    """
    size = len(train)
    if particles is None:
        particles = 20 if size <= SMALL else 10 if size <= LARGE else 5
    batch = None if size <= SMALL else 256
    training = plan(
        model,
        with_weights(train, weights[0]),
        with_weights(held_out, weights[1]),
        key,
        bound=IWAE(particles),
        learning_rate=learning_rate,
        batch_size=batch,
        patience=8 if size <= SMALL else 4,
    )
    missing = float(np.mean(np.isnan(train[..., 0])))
    hide = jnp.asarray(max(0.0, MOST_HIDDEN - missing))
    problem = dataclasses.replace(
        training.problem,
        objective=TableObjective(IWAE(particles), hide),
        scoring=TableObjective(IWAE(particles), jnp.asarray(0.0)),
    )
    stopping = dataclasses.replace(training.stopping, least=LEAST)
    return dataclasses.replace(training, problem=problem, stopping=stopping)


def with_weights(
    x: Float[np.ndarray, "rows columns 3"], weights: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows columns_and_weight 3"]:
    """Rows with their weights as one more column, as `TableObjective` reads them."""
    return np.concatenate([x, np.repeat(weights[:, None, None], 3, axis=2)], axis=1).astype(np.float32)


def fit_prior(
    model: LatentVariableModel,
    train: Float[np.ndarray, "train columns 3"],
    held_out: Float[np.ndarray, "held_out columns 3"],
    seed: int,
) -> tuple[LatentVariableModel, int]:
    """The model with a mixture of Gaussians for p(z), and its number of components; 0: N(0, I) is as good.

    The ELBO depends on the prior through E_q[log p(z)] alone, so a mixture fitted to draws of q(z|x) of the training
    rows raises it exactly as much as it raises that mean; held-out rows choose the number of components, and a mixture
    is taken when its gain exceeds its own standard error. Sources: Tomczak & Welling (2018) on the best prior, the
    aggregated posterior; Ghosh et al. (2020) on fitting it afterwards.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(train))[:PRIOR_ROWS])
    z = _draws(model, train[rows], rng)
    judged = _draws(model, held_out, rng)
    standard = -0.5 * np.sum(judged**2, axis=1) - 0.5 * judged.shape[1] * np.log(2 * np.pi)
    best, best_gain, taken = None, 0.0, 0
    for count in COMPONENTS:
        if count > 1 and len(z) < FEWEST_ROWS * count:
            break
        fitted = MixtureFit(
            count, reg_covar=COVARIANCE_FLOOR, max_iter=50, tol=SETTLED, random_state=seed, init_params="k-means++"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: it is judged on held-out rows
            fitted.fit(z)
        difference = fitted.score_samples(judged) - standard
        gain, noise = float(np.mean(difference)), float(np.std(difference) / np.sqrt(len(difference)))
        if gain > max(best_gain, noise):
            best, best_gain, taken = fitted, gain, count
        elif taken:
            break
    if best is None:
        return model, 0
    found = (best.weights_, best.means_, best.covariances_)
    prior = WhitenedMixture.of(*(np.asarray(part, np.float64) for part in found))
    return eqx.tree_at(lambda m: m.prior, model, prior), taken


@eqx.filter_jit
def _posterior_parts(model: LatentVariableModel, xs: Float[Array, "rows columns 3"]):
    q = model.posterior(xs).family
    return q.mean, q.factor  # pyright: ignore[reportAttributeAccessIssue]


def _draws(model: LatentVariableModel, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw of q(z|x) for each row."""
    mean, factor = in_blocks(lambda block: _posterior_parts(model, jnp.asarray(block)), x)
    return mean + np.einsum("nij,nj->ni", factor, rng.normal(size=mean.shape))
