"""What one does with a trained table model: draw cells given others, score rows and cells, sample."""

from __future__ import annotations

from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from qphi.autoencoders.evaluation import in_blocks, row_keys
from qphi.autoencoders.model import LatentVariableModel
from qphi.tables.likelihood import TableLikelihood
from qphi.tables.mask import UNKNOWN

__all__ = ["decoded_modes", "draw_given", "encode_rows", "sample_given", "sample_rows", "score_cells"]

KEEP = 0x7AB1E  # folded into keys: not a stream that training used
AT_ONCE = 500  # rows sampled given the same cells by one call of one program, whatever the number asked for
PROPOSED = 4  # rows whose particles are worth less than half of them are drawn from so many times as many
UNEVEN, MORE = 8.0, 16  # rows whose weights are worth fewer particles get so many times as many


class _Weighted(NamedTuple):
    """Keys of rows; particles z ~ q(z|x_obs) with what each decodes to, log p of each cell, and log weights."""

    keys: Key[Array, " rows"]
    outputs: Float[Array, "particles rows outputs"]
    cells: Float[Array, "particles rows columns"]
    log_weights: Float[Array, "particles rows"]  # normalised

    @property
    def worth(self) -> Float[Array, " rows"]:
        """The effective number of particles."""
        return jnp.exp(-logsumexp(2 * self.log_weights, axis=0))


def _weighted(
    model: LatentVariableModel, xs: Float[Array, "rows columns 3"], seed: Array, particles: int
) -> tuple[_Weighted, Float[Array, " rows"]]:
    """Particles of each row, and its log p(x_obs)."""
    q, likelihood = model.posterior(xs), cast(TableLikelihood, model.likelihood)
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, KEEP), seed))(row_keys(xs))
    z = eqx.filter_vmap(lambda member, k: member.sample_many(k, particles), out_axes=1)(q.family, keys)
    flat = z.reshape(-1, z.shape[-1])
    log_prior = model.prior.log_prob_many(flat).reshape(z.shape[:-1])
    outputs = model.decode(flat).reshape(*z.shape[:-1], -1)
    cells, log_gaps = (
        jax.vmap(jax.vmap(f), in_axes=(0, None))(outputs, xs) for f in (likelihood.cells, likelihood.log_gaps)
    )
    log_joint = jnp.sum(cells, axis=-1) + log_gaps + log_prior - q.log_prob_many(z)
    total = logsumexp(log_joint, axis=0)
    return _Weighted(keys, outputs, cells, log_joint - total), total - jnp.log(particles)


def _numbers(model: LatentVariableModel, particles: int) -> int:
    """How many numbers a row's particles come to, for `in_blocks`: few per outputs of the decoder."""
    return 4 * particles * cast(TableLikelihood, model.likelihood).shape.indicators


@eqx.filter_jit
def _draw_block(
    model: LatentVariableModel, xs: Float[Array, "rows columns 3"], seed: Array, draws: int, particles: int
) -> tuple[Float[Array, "rows draws columns"], Float[Array, " rows"]]:
    found, _ = _weighted(model, xs, seed, particles)
    # systematic resampling: one uniform number a row, its draws evenly spread over the weights
    ends = jnp.cumsum(jnp.exp(found.log_weights), axis=0)
    offset = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(found.keys)
    wanted = (jnp.arange(draws)[:, None] + offset) / draws
    index = jax.vmap(jnp.searchsorted, in_axes=1, out_axes=1)(ends, wanted).clip(0, particles - 1)
    # resampling leaves equal draws side by side; whoever takes some of the draws should take any
    order = np.random.default_rng(KEEP).permutation(draws)
    chosen = jnp.take_along_axis(found.outputs, index[order][:, :, None], axis=0)
    # one stream of noise for each row: a key for every draw would compile several times slower
    drawn = jax.vmap(cast(TableLikelihood, model.likelihood).sample_many, in_axes=(0, 1, 0), out_axes=1)(
        jax.vmap(lambda k: jax.random.fold_in(k, 2))(found.keys), chosen, xs
    )
    return jnp.swapaxes(drawn, 0, 1), found.worth


def draw_given(
    model: LatentVariableModel, x: Float[np.ndarray, "rows columns 3"], draws: int, *, seed: int = 0, particles: int = 0
) -> Float[np.ndarray, "rows draws columns"]:
    """Draws of every cell from p(x_j | x_obs): normal scores and level numbers; the observed cells' are new too.

    Latents are drawn by importance resampling of `particles` (as many as draws, at least 64) draws of q(z|x_obs) with
    weights p(x_obs, z) / q(z), then cells from p(x_j | z): exact for many particles. Rows whose particles are worth
    fewer than half of them get four times as many. Source: Mattei & Frellsen (2019), section 3.2. Randomness is a
    row's own: its draws depend on no other row.
    """
    particles = max(draws, particles, 64)

    def drawn(rows, count):
        return in_blocks(
            lambda xs: _draw_block(model, jnp.asarray(xs), jnp.asarray(seed), draws, count),
            rows,
            _numbers(model, count),
        )

    found, worth = drawn(x, particles)
    again = np.flatnonzero(~(worth >= particles / 2))
    if len(again):
        found[again], _ = drawn(x[again], PROPOSED * particles)
    return found


def sample_given(
    model: LatentVariableModel, row: Float[np.ndarray, "columns 3"], count: int, seed: int
) -> Float[np.ndarray, "count columns"]:
    """`count` rows of normal scores and level numbers from p(x | the row's observed cells), in bounded memory.

    The other cells are not asked for, which is not the same as missing.
    """
    row = row.copy()
    row[np.isnan(row[:, 0]), 1] = UNKNOWN
    parts = []
    for number in range(-(-count // AT_ONCE)):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
        parts.append(draw_given(model, row[None], AT_ONCE, seed=own)[0])
    return np.concatenate(parts)[:count]


@eqx.filter_jit
def _score_block(model: LatentVariableModel, xs: Float[Array, "rows columns 3"], particles: int):
    found, evidence = _weighted(model, xs, jnp.asarray(0), particles)
    # log p(x_j | the other cells) = -log E[1 / p(x_j | z)] over the posterior: a harmonic mean
    alone = -logsumexp(found.log_weights[..., None] - jnp.maximum(found.cells, -40.0), axis=0)
    return evidence, alone, found.worth


def score_cells(
    model: LatentVariableModel, x: Float[np.ndarray, "rows columns 3"], particles: int = 64
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows columns"]]:
    """log p(x_obs) of each row, and log p(x_j | other observed cells) of each cell; nats on the scale of scores.

    Rows that q(z|x) is wrong about, odd ones mostly, have an effective sample size of a few particles, and the estimate
    would be too low: where it is below 8 they are scored by 16 times as many.
    """

    def scored(rows, count):
        return in_blocks(lambda xs: _score_block(model, jnp.asarray(xs), count), rows, _numbers(model, count))

    evidence, alone, worth = (part.astype(float) for part in scored(x, particles))
    again = np.flatnonzero(worth < min(UNEVEN, particles / 2))
    if len(again):
        evidence[again], alone[again], _ = scored(x[again], MORE * particles)
    return evidence, np.where(np.isnan(x[..., 0]), 0.0, alone)


@eqx.filter_jit
def _encode_block(model: LatentVariableModel, xs: Float[Array, "rows columns 3"]):
    q = model.posterior(xs).family
    return q.mean, jnp.sqrt(jnp.sum(q.factor**2, axis=-1))  # pyright: ignore[reportAttributeAccessIssue]


def encode_rows(
    model: LatentVariableModel, x: Float[np.ndarray, "rows columns 3"]
) -> tuple[Float[np.ndarray, "rows dim"], Float[np.ndarray, "rows dim"]]:
    """Means and standard deviations of q(z | observed cells)."""
    return in_blocks(lambda block: _encode_block(model, jnp.asarray(block)), x, x.shape[1] * 3)


@eqx.filter_jit
def _mode_block(model: LatentVariableModel, z: Float[Array, "rows dim"]) -> Float[Array, "rows columns"]:
    return jax.vmap(model.likelihood.mean)(model.decode(z))[..., 0]


def decoded_modes(model: LatentVariableModel, z: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows columns"]:
    """The mean normal score and the likeliest level of every column given z."""
    return in_blocks(lambda block: _mode_block(model, jnp.asarray(block)), np.asarray(z, np.float32), 100)


@eqx.filter_jit
def _sample_block(
    model: LatentVariableModel, key: Key[Array, ""], numbers: Int[Array, " rows"]
) -> Float[Array, "rows columns"]:
    split = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(numbers)
    z = jax.vmap(model.prior.sample)(split[:, 0])
    return jax.vmap(model.likelihood.sample)(split[:, 1], model.decode(z))[..., 0]


def sample_rows(model: LatentVariableModel, count: int, seed: int) -> Float[np.ndarray, "rows columns"]:
    """Rows of normal scores and level numbers, z from p(z), x from p(x|z); the i-th is the same for every `count`."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), KEEP)

    return in_blocks(lambda numbers: _sample_block(model, key, jnp.asarray(numbers)), np.arange(count), 100)
