"""Posteriors of many rows, by subsamples of them: fresh ones at every step, whitened, with less noise."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.bounds import AbstractBound, MonteCarlo, StickingTheLanding
from qphi.bounds.objective import AbstractObjective, Scores
from qphi.by_gradients import CHECK_EVERY, FAMILIES, ascend, named_family
from qphi.errors import InputError
from qphi.families import AbstractFamily, DiagonalGaussian, FullRankGaussian, LowRankGaussian, StudentT
from qphi.loop import Progress
from qphi.modes import PATH_STEPS, climb, fit_modes
from qphi.noise import generator
from qphi.posterior import Posterior, posterior_from
from qphi.search import EFFORTS, Search
from qphi.solvers import AbstractNoisySolver, StochasticGradient
from qphi.solvers.exact import MOST_DENSE, Gaussian
from qphi.targets.oracle import Oracle
from qphi.targets.starts import dispersed_starts
from qphi.targets.subsampled import BLOCK, SubsampledTarget

__all__ = ["fit_minibatches"]

_PILOT_ROWS = 2048
_SCORING_ROWS, _SCORING_PARTICLES = 65536, 128
_PARTICLES = 16
_CHECKING_DRAWS = 512  # log densities of all the data
_PASSES, _NEAR = 10, 0.1  # over all rows, to find the centre; of its own sd in each direction


def fit_minibatches(
    target: SubsampledTarget,
    key: PRNGKeyArray,
    family: str | AbstractFamily | None,
    *,
    bound: AbstractBound | None,
    particles: int | None,
    solver: AbstractNoisySolver | None,
    max_steps: int | None,
    max_time: float | None,
    watch: Callable[[Progress], None] | None,
) -> Posterior:
    """The posterior given all rows, from steps that see `target.subsample_size` of them.

    PILOT    Pathfinder and Newton on some thousand rows, weighted to stand for all: widths and correlations
    CENTRE   a few passes over all rows move its mean to where their gradient vanishes
    FIT      stochastic gradients in coordinates u in which the pilot is N(0, I), a fresh subsample and fresh draws at
             every step, averaged iterates; the log density of a subsample B has a control variate (see `_Whitened`)
    CHECK    importance weights with the log density of all rows: the verdict is about all of the data

    Raises InputError for a family that is not named, above 1,000 coordinates, and where no start is finite.
    """
    began = time.monotonic()
    family = "full-rank" if family is None else family
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"family={family!r:.60} cannot be fitted by minibatches. Use {', '.join(map(repr, FAMILIES))}."
        )
    if target.dim > MOST_DENSE:
        raise InputError(
            f"The program has {target.dim} coordinates; minibatches are for {MOST_DENSE} at most. Leave subsample_size "
            "out, so that all data are used at every step."
        )
    pilot_key, run_key, answer_key = jax.random.split(key, 3)
    pilot = _centred(target, _pilot(target, pilot_key))
    origin, tril = _coordinates(pilot, family)
    bound = bound or StickingTheLanding(_PARTICLES if particles is None else particles)
    whitened = _Whitened.at(target, jnp.asarray(origin), jnp.asarray(tril))
    q, result = ascend(
        named_family(family, jnp.zeros(target.dim), 1.0, run_key, df=30.0),
        Minibatches(whitened, bound, target.subsample_size),
        Minibatches(whitened, MonteCarlo(_SCORING_PARTICLES), min(_SCORING_ROWS, target.size)),
        solver or StochasticGradient(learning_rate=0.02, average_over=CHECK_EVERY, refinements=2),
        run_key,
        patience=3,
        max_steps=max_steps,
        max_time=max_time,
        watch=watch,
        seconds_before=time.monotonic() - began,
    )
    posterior = posterior_from(
        target,
        _moved(q, whitened.origin, whitened.tril),
        result.status,
        answer_key,
        steps=int(result.run.step),
        history=result.history,
        reason=result.reason,
        n=_CHECKING_DRAWS,
    )
    return dataclasses.replace(posterior, seconds=time.monotonic() - began)


class _Whitened(eqx.Module):
    """log p in coordinates u, z = origin + C u, estimated from rows B with a control variate:

        log p(u) ~ log p_B(u) - [log p_B(0) + u' g_B] + [log p(0) + u' g],   g = gradient of log p(u) at 0,

    unbiased, since log p_B is. The bracket on the right is computed once, from all rows. What is left of B's noise is
    that of second derivatives, 1/sqrt(|B|) of the whole; without it, it is sqrt(N/|B|) times as large as the gradient
    of a posterior sd. Source: Baker, Fearnhead, Fox & Nemeth (2019), for Langevin dynamics.
    """

    target: SubsampledTarget
    origin: Float[Array, " dim"]
    tril: Float[Array, "dim dim"]
    value: Float[Array, ""]
    slope: Float[Array, " dim"]

    @staticmethod
    def at(target: SubsampledTarget, origin: Float[Array, " dim"], tril: Float[Array, "dim dim"]) -> _Whitened:
        value, gradient = _value_and_gradient(target, origin)
        return _Whitened(target, origin, tril, value + jnp.linalg.slogdet(tril)[1], tril.T @ gradient)

    def on(self, rows: Int[Array, "blocks block"]) -> _Estimated:
        """The density estimated from these rows."""

        def at(u: Float[Array, " dim"]) -> Float[Array, ""]:
            return self.target.log_density_of(rows, (self.origin + self.tril @ u)[None])[0]

        value, slope = jax.value_and_grad(at)(jnp.zeros_like(self.origin))
        return _Estimated(self, rows, self.value - value, self.slope - slope)


class _Estimated(eqx.Module):
    """log p of u, from some rows; what `bounds` asks of a density."""

    whitened: _Whitened
    rows: Int[Array, "blocks block"]
    value: Float[Array, ""]
    slope: Float[Array, " dim"]

    def log_density_many(self, z: Float[Array, "particles dim"]) -> Float[Array, " particles"]:
        there = self.whitened.origin + z @ self.whitened.tril.T
        return self.whitened.target.log_density_of(self.rows, there) + self.value + z @ self.slope


class Minibatches(AbstractObjective):
    """The ELBO of one family against one target, from `rows` rows drawn anew with each key. The items are draws."""

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_joint", "entropy")
    whitened: _Whitened
    bound: AbstractBound
    rows: int = eqx.field(static=True)

    def score(self, trainable: PyTree, batch: None, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        row_key, draw_key = jax.random.split(key)
        block = min(self.rows, BLOCK)
        size = self.whitened.target.size
        rows = jax.random.randint(row_key, (self.rows // block, block), 0, size)
        estimate = self.bound(trainable, self.whitened.on(rows), draw_key)
        parts = {"elbo": jnp.mean(estimate.elbo), **{k: jnp.mean(v) for k, v in estimate.parts.items()}}
        return Scores(estimate.surrogate, estimate.log_weights, parts)


@eqx.filter_jit
def _value_and_gradient(
    target: SubsampledTarget, z: Float[Array, " dim"]
) -> tuple[Float[Array, ""], Float[Array, " dim"]]:
    return jax.value_and_grad(target.log_density)(z)


def _pilot(target: SubsampledTarget, key: PRNGKeyArray) -> Gaussian:
    """A Gaussian fitted to some rows that stand for all: as wide as the posterior, its mean some sds off."""
    random = generator(key)
    count = min(_PILOT_ROWS, target.size)
    rows = random.choice(target.size, count, replace=False)
    numbers = sum(a.size for a in jax.tree.leaves(eqx.filter(target, eqx.is_array)))
    oracle = Oracle(target.on(jnp.asarray(rows)), data=numbers * count // target.size)
    search = Search(oracle, random, key, EFFORTS["quick"], math.inf)
    starts, _ = dispersed_starts(oracle, random, search.effort.starts, key)
    fit_modes(search, climb(search, starts, PATH_STEPS))
    if not search.fits:
        raise InputError(
            f"No Gaussian could be fitted to {count} rows of the data: the posterior may be improper. Look at it with "
            "subsample_size left out, and fewer data."
        )
    return search.gaussians[0]


def _centred(target: SubsampledTarget, pilot: Gaussian) -> Gaussian:
    """The pilot at the mode of all rows, by Newton steps with its own covariance, halved until they climb."""
    mean, step, best = pilot.mean, np.zeros(target.dim), -math.inf
    for _ in range(_PASSES):
        value, gradient = map(np.asarray, _value_and_gradient(target, jnp.asarray(mean + step)))
        if not value > best:
            step = step / 2
            continue
        mean, best = mean + step, float(value)
        natural = pilot.tril.T @ gradient
        if np.max(np.abs(natural)) < _NEAR:
            break
        step = pilot.tril @ natural
    return Gaussian(mean, pilot.tril)


def _coordinates(pilot: Gaussian, family: str) -> tuple[np.ndarray, np.ndarray]:
    """Origin and C of z = origin + C u; C is diagonal for families whose form a rotation would change."""
    if family in ("full-rank", "student-t"):
        return pilot.mean, pilot.tril
    inverse = np.linalg.inv(pilot.tril)
    conditional = np.sum(inverse**2, axis=0) ** -0.5  # where mean field's optimum is
    return pilot.mean, np.diag(conditional)


def _moved(q: AbstractFamily, origin: Float[Array, " dim"], tril: Float[Array, "dim dim"]) -> AbstractFamily:
    """The family of origin + C u, for u from q."""
    if isinstance(q, DiagonalGaussian | LowRankGaussian):
        scale = jnp.diagonal(tril)
        changed = {"mean": origin + scale * q.mean, "log_scale": q.log_scale + jnp.log(scale)}
        if isinstance(q, LowRankGaussian):
            changed["factor"] = scale[:, None] * q.factor
        return dataclasses.replace(q, **changed)
    assert isinstance(q, FullRankGaussian | StudentT)
    return dataclasses.replace(q, mean=origin + tril @ q.mean, tril=tril @ jnp.tril(q.tril))
