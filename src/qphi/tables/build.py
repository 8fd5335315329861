"""A table's model from plain values, and where it starts: the factor analysis of its normal scores."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.model import LatentVariableModel
from qphi.families import StandardNormal
from qphi.tables.likelihood import TableLikelihood
from qphi.tables.linear import FactorAnalysis, factor_analysis
from qphi.tables.mask import MaskModel
from qphi.tables.networks import SkipDecoder, TableEncoder
from qphi.tables.prior import WhitenedMixture
from qphi.tables.rows import Shape, pseudo_numbers

__all__ = ["TableArchitecture", "build", "choose", "linear_start", "skeleton"]

PILOT = 2000  # rows of the factor analysis
MOST_FACTORS = 16
SILENT = 1e-4  # mean square weight below which a factor has shrunk to nothing
DRAWS, ROUNDS = 500, 30  # to find how often levels come
FEWEST_LATENTS = 10  # a bend needs latents that the linear part has no use for


@dataclasses.dataclass(frozen=True)
class TableArchitecture:
    """Everything that fixes the shape of a table's model."""

    numeric: int
    levels: tuple[int, ...]
    latent_dim: int
    hidden: tuple[int, ...]
    intervals: tuple[int, ...] = ()  # numeric columns that have values with probability of their own
    components: int = 0  # of the prior: 0 for N(0, I), otherwise a mixture of Gaussians
    not_at_random: bool = False  # whether cells may be missing because of their own value
    stray: float = 0.0  # share of a column's numbers that follow nothing

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> TableArchitecture:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return TableArchitecture(**fields)

    def with_components(self, components: int) -> TableArchitecture:
        """The same with another prior."""
        return dataclasses.replace(self, components=components)

    @property
    def shape(self) -> Shape:
        """The rows' shape."""
        return Shape(self.numeric, self.levels, self.intervals)


def choose(
    shape: Shape, latent_dim: int | None, hidden: tuple[int, ...], rows: int, *, not_at_random: bool = False
) -> TableArchitecture:
    """Latents: as many as there are columns (levels less one for categories), at least 10, at most 16, unless told.

    Strays: 1 / (2 (rows + 1)), what Krichevsky & Trofimov (1981) expect of something that was not seen in so many
    rows, to a power of two, so that tables of about the same length share their programs.
    """
    if latent_dim is None:
        freedom = shape.numeric + sum(n - 1 for n in shape.levels)
        latent_dim = int(np.clip(freedom, FEWEST_LATENTS, MOST_FACTORS))
    return TableArchitecture(
        shape.numeric,
        shape.levels,
        int(latent_dim),
        hidden,
        shape.intervals,
        not_at_random=not_at_random,
        stray=2.0 ** -round(math.log2(2 * (rows + 1))),
    )


def linear_start(
    x: Float[np.ndarray, "rows columns 3"], a: TableArchitecture, rng: np.random.Generator
) -> FactorAnalysis:
    """Factor analysis of at most 2,000 rows' normal scores and level indicators; further latents nearly silent.

    Indicators are divided by their standard deviation for it, so that a rare level counts as much as a column.
    """
    rows = np.sort(rng.permutation(len(x))[:PILOT])
    values, mask = (np.array(part, np.float64) for part in pseudo_numbers(a.shape, jnp.asarray(x[rows])))
    values[mask == 0] = np.nan
    with np.errstate(invalid="ignore"):
        spread = np.nanstd(values, axis=0)
    spread = np.where(spread > 1e-2, spread, 1e-2)
    factors = min(a.latent_dim, max(1, a.shape.indicators - len(a.levels) - 1))
    found = factor_analysis(values / spread, factors, seed=int(rng.integers(2**31)))
    weight = 0.05 * rng.normal(size=(len(spread), a.latent_dim))
    alive = np.flatnonzero(np.mean(found.weight**2, axis=0) > SILENT)
    weight[:, : len(alive)] = found.weight[:, alive]
    return FactorAnalysis(weight * spread[:, None], found.mean * spread, found.noise * spread**2)


def build(
    a: TableArchitecture,
    linear: FactorAnalysis,
    key: PRNGKeyArray,
    missing: Float[np.ndarray, " columns"] | Float[Array, " columns"] | None = None,
) -> LatentVariableModel:
    """The model that equals the factor analysis at the start. `missing`: share of each column's cells that are gaps.

    A level's logit starts near log share + v'z, v = w / share, as softmax then gives share + w'z to first order. What
    seeing a level says of z is then v'z - share (v'z)^2 / 2 to second order: to the encoder its indicator has the noise
    `share`. (The factor analysis', made for Gaussian indicators, would put z of a rare level dozens of units away.)
    """
    encoder_key, decoder_key = jax.random.split(key)
    n, shape = a.numeric, a.shape
    share = jnp.clip(jnp.asarray(linear.mean[n:], float), 1e-3, 1.0)
    weight, zeros = jnp.asarray(linear.weight, float), jnp.zeros((n, a.latent_dim))
    levels = jnp.clip(weight[n:] / share[:, None], -3.0, 3.0)
    mean, noise = (jnp.asarray(part[:n], float) for part in (linear.mean, linear.noise))
    encoder = TableEncoder(
        jnp.concatenate([weight[:n], share[:, None] * levels]),
        jnp.concatenate([mean, share]),
        jnp.concatenate([noise, share]),
        shape,
        a.hidden,
        key=encoder_key,
    )
    weight = jnp.concatenate([weight[:n], zeros, levels])
    bias = jnp.concatenate([mean, jnp.zeros(n), _offsets(shape, levels, share)])
    prior: Any = StandardNormal(a.latent_dim)
    if a.components:
        count, dim = a.components, a.latent_dim
        eye = np.broadcast_to(np.eye(dim), (count, dim, dim))
        prior = WhitenedMixture.of(np.full(count, 1 / count), np.zeros((count, dim)), eye)
    mask = None
    if a.not_at_random:
        mask = MaskModel(shape, jnp.zeros(shape.columns) if missing is None else jnp.asarray(missing))
    return LatentVariableModel(
        prior=prior,
        encoder=encoder,
        decoder=SkipDecoder(weight, bias, a.hidden, key=decoder_key),
        likelihood=TableLikelihood(shape, jnp.sqrt(noise), mask=mask, stray=a.stray),
    )


def _offsets(
    shape: Shape, weight: Float[Array, "levels dim"], share: Float[Array, " levels"]
) -> Float[Array, " levels"]:
    """Logits' offsets with which levels come as often as in the data, E[softmax(offset + v'z)] = share, z ~ N(0, I).

    With log share for an offset rare levels would come too often, since softmax is convex there.
    """
    if not shape.levels:
        return jnp.log(share)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(DRAWS, weight.shape[1])), weight.dtype)
    member = jnp.asarray(shape.column_of[:, None] == shape.column_of, weight.dtype)

    def closer(_, offset):
        logits = offset + z @ weight.T
        odds = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True)) + 1e-30
        return offset + jnp.log(share) - jnp.log(jnp.mean(odds / (odds @ member), axis=0))

    return jax.lax.fori_loop(0, ROUNDS, closer, jnp.log(share))


def skeleton(a: TableArchitecture, key: PRNGKeyArray) -> LatentVariableModel:
    """A model of this shape with no meaning in its numbers: what a saved model's arrays are put into."""
    count = a.shape.indicators
    return build(a, FactorAnalysis(np.zeros((count, a.latent_dim)), np.zeros(count), np.ones(count)), key)
