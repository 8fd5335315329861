"""How good a trained latent-variable model is, in nats, datum by datum.

Randomness is fixed per row: the key of a row is a hash of its own bytes, so a score is the same at every call, whatever
rows stand beside it. Rows go through the device in blocks of one size, padded, so that nothing recompiles.
"""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt32

from qphi.autoencoders.aggregate import shared_code
from qphi.autoencoders.annealed import annealed_log_evidence, check_annealable
from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.model import LatentVariableModel
from qphi.bounds.factored import kl_per_unit, kl_to_prior, knows_kl
from qphi.checks.pareto import khat_threshold, tail_shape_of_largest, tail_size
from qphi.families import Batch, DiagonalGaussian, FullRankGaussian

__all__ = ["Evaluation", "Figure", "RowScores", "evaluate", "figure_of", "row_keys", "score_rows"]

DRAWS = 8  # particles at once for each row: bounds memory, keeps matrix products large
LARGEST = 1 + tail_size(5000)  # weights kept of each row for Pareto's k
ACTIVE = 0.01  # Burda et al. (2016): a unit is active when Var_x(E_q[z|x]) exceeds this


@dataclasses.dataclass(frozen=True)
class Figure:
    """A mean over data and its standard error."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.standard_error:.2f}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. Nats per datum in the units of the data; higher is better except for `kl`."""

    elbo: Figure
    log_likelihood: Figure  # E_q[log p(x|z)]
    kl: Figure  # KL(q || prior)
    log_evidence: Figure  # importance-weighted log p(x), from `particles` draws: between the ELBO and the truth
    bits_per_dimension: float | None  # -log_evidence / (dimensions log 2), for whole-number data
    active_units: int
    kl_per_unit: np.ndarray  # NaN where q or the prior is no product over units
    latent_dim: int
    n: int
    particles: int
    # (n,): above 0.7 a row's log_evidence is not to be relied on; NaN for under 25 particles
    pareto_k: np.ndarray = dataclasses.field(repr=False)
    unreliable: float  # fraction of rows whose k says so; NaN where k is unknown
    reconstruction_error: float  # root mean square over data and elements
    mutual_information: float | None  # I_q(x; z) of these rows, nats: at most log n; None for other q than Gaussians
    aggregate_kl: float | None  # KL(q(z) || p(z)), q(z) the mixture over these rows: kl - mutual_information
    prior_mismatch: float | None  # the part of it that moments and marginals of q(z) show; no bias from few rows


class RowScores(eqx.Module):
    """Per-row results, nats in the model's units."""

    elbo: Float[Array, " data"]
    log_likelihood: Float[Array, " data"]
    kl: Float[Array, " data"]
    log_evidence: Float[Array, " data"]
    mean: Float[Array, "data dim"]  # of q(z|x)
    scale: Float[Array, "data dim"]
    kl_per_unit: Float[Array, "data dim"]  # NaN where units do not separate
    largest: Float[Array, "data largest"]  # log weights, in descending order
    squared_error: Float[Array, " data"]  # of E[x | E_q[z]], mean over elements


def row_keys(xs: Float[Array, "data ..."], seed: int = 0) -> Key[Array, " data"]:
    """One key per row, from a hash of the row's bits: equal rows get equal keys, wherever they stand."""
    return jax.vmap(lambda words: _fold(jax.random.key(seed, impl="threefry2x32"), words))(_words(xs))


def _words(xs: Array) -> UInt32[Array, "data words"]:
    xs = xs.astype(jnp.float32) + 0.0  # -0.0 and 0.0 are one number
    return jax.lax.bitcast_convert_type(xs.reshape(xs.shape[0], -1), jnp.uint32)


def _fold(key: PRNGKeyArray, words: UInt32[Array, " words"]) -> PRNGKeyArray:
    # Two sums of position-dependent mixes, modulo 2^32: exact, so independent of the order of summation.
    place = jnp.arange(words.size, dtype=jnp.uint32)
    for multiplier, offset in ((0x9E3779B1, 0x85EBCA77), (0xC2B2AE3D, 0x27D4EB2F)):
        mixed = (words + place * jnp.uint32(offset)) * jnp.uint32(multiplier)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
        key = jax.random.fold_in(key, jnp.sum(mixed ^ (mixed >> 12), dtype=jnp.uint32))
    return key


@eqx.filter_jit
def _score_block(model: LatentVariableModel, xs: Float[Array, "data ..."], particles: Int[Array, ""]) -> RowScores:
    q, p, prior = model.posterior(xs), model.observe(xs), model.prior
    closed = knows_kl(q, prior)
    keys = row_keys(xs)

    def chunk(index, carry):
        top, total, joint, likelihood, largest = carry
        wanted = (index * DRAWS + jnp.arange(DRAWS) < particles)[:, None]  # the last chunk may have too many
        chunk_keys = jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)
        z, log_q = q.each(lambda member, k: member.sample_and_log_prob_many(k, DRAWS), chunk_keys, out_axes=1)
        log_likelihood = p.log_likelihood_many(z)
        log_prior = prior.log_prob_many(z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])
        log_weights = log_likelihood + log_prior - log_q
        sums = [
            before + jnp.sum(jnp.where(wanted, values, 0.0), axis=0)
            for before, values in ((joint, log_weights), (likelihood, log_likelihood))
        ]
        log_weights = jnp.where(wanted, log_weights, -jnp.inf)
        new_top = jnp.maximum(top, jnp.max(log_weights, axis=0))  # streaming log-sum-exp
        shift = jnp.where(new_top == -jnp.inf, 0.0, new_top)  # weights that are all zero
        total = total * jnp.exp(top - shift) + jnp.sum(jnp.exp(log_weights - shift), axis=0)
        largest, _ = jax.lax.top_k(jnp.concatenate([largest, log_weights.T], axis=1), LARGEST)
        return (new_top, total, *sums, largest)

    zeros = jnp.zeros(xs.shape[0])
    start = (jnp.full(xs.shape[0], -jnp.inf), zeros, zeros, zeros, jnp.full((xs.shape[0], LARGEST), -jnp.inf))
    top, total, joint, likelihood, largest = jax.lax.fori_loop(0, -(-particles // DRAWS), chunk, start)
    likelihood = likelihood / particles
    kl = kl_to_prior(q, prior) if closed else likelihood - joint / particles
    mean, scale = moments(q)
    per_unit = kl_per_unit(q, prior)
    per_unit = jnp.full(mean.shape, jnp.nan) if per_unit is None else per_unit
    error = jnp.mean(_difference(model, xs, mean).reshape(xs.shape[0], -1) ** 2, axis=1)
    # normalised by the number of weights actually summed
    evidence = top + jnp.log(total) - jnp.log(particles)
    return RowScores(likelihood - kl, likelihood, kl, evidence, mean, scale, per_unit, largest, error)


def _difference(model: LatentVariableModel, xs: Float[Array, "data ..."], z: Float[Array, "data dim"]) -> Array:
    if model.rows is None:
        return model.mean(z) - xs
    data, given = jax.vmap(model.rows.split)(xs)
    return model.mean(z, given) - data


def moments(q: Batch) -> tuple[Float[Array, "data dim"], Float[Array, "data dim"]]:
    """Mean and standard deviation of each q(z|x_i): exact for Gaussians, from 256 fixed draws otherwise."""
    if isinstance(q.family, DiagonalGaussian):
        return q.family.mean, jax.vmap(lambda member: member.scale)(q.family)
    if isinstance(q.family, FullRankGaussian):
        return q.family.mean, jax.vmap(lambda member: jnp.linalg.norm(member.scale_tril, axis=-1))(q.family)
    key = jax.random.key(0, impl="threefry2x32")  # one for all: a row does not depend on its neighbours
    draws = q.each(lambda member: member.sample_many(key, 256), out_axes=1)
    return jnp.mean(draws, axis=0), jnp.std(draws, axis=0)


def score_rows(model: LatentVariableModel, xs: np.ndarray, particles: int) -> RowScores:
    """ELBO, its parts and the importance-weighted log evidence of each row, from `particles` draws.

    log p(x) >= E[log (1/K) sum_k p(x, z_k) / q(z_k|x)], rising with K (Burda et al. 2016, eq. 8).
    """
    numbers = math.prod(xs.shape[1:])
    return in_blocks(lambda block: _score_block(model, jnp.asarray(block), jnp.asarray(particles)), xs, numbers)


def evaluate(
    model: LatentVariableModel,
    xs: np.ndarray,
    *,
    particles: int = 500,
    log_jacobian: float = 0.0,
    whole: bool = False,
    unit: float = 1.0,
    annealed: bool = False,
) -> Evaluation:
    """Every figure of `Evaluation`. `log_jacobian` moves densities from the model's units to those of the data, `unit`
    the reconstruction error. With `annealed` the log evidence of rows with a bad k is estimated anew by annealing."""
    if annealed:
        check_annealable(model, xs)  # before the work of scoring
    rows = score_rows(model, xs, particles)
    k = tail_shape_of_largest(np.asarray(rows.largest), particles)
    bad = k > khat_threshold(max(particles, 25))
    log_evidence = np.asarray(rows.log_evidence, np.float64)
    if annealed and bad.any():
        log_evidence[bad] = annealed_log_evidence(model, xs[bad])
    evidence = figure_of(log_evidence + log_jacobian)
    given = 0 if model.rows is None else model.rows.given
    kl = figure_of(rows.kl)
    shared = shared_code(model, xs, rows.mean, rows.scale, kl.value)
    return Evaluation(
        elbo=figure_of(rows.elbo + log_jacobian),
        log_likelihood=figure_of(rows.log_likelihood + log_jacobian),
        kl=kl,
        log_evidence=evidence,
        bits_per_dimension=-evidence.value / ((math.prod(xs.shape[1:]) - given) * math.log(2)) if whole else None,
        active_units=int(np.sum(np.var(rows.mean, axis=0) > ACTIVE)),
        kl_per_unit=np.mean(np.asarray(rows.kl_per_unit, np.float64), axis=0),
        latent_dim=model.latent_dim,
        n=len(xs),
        particles=particles,
        pareto_k=k,
        unreliable=math.nan if np.isnan(k).all() else float(np.mean(bad)),
        reconstruction_error=unit * math.sqrt(np.mean(np.asarray(rows.squared_error, np.float64))),
        **shared,
    )


def figure_of(values: ArrayLike) -> Figure:
    """The mean of values, one a datum, and its standard error."""
    values = np.asarray(values, dtype=np.float64)
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Figure(float(np.mean(values)), float(error))
