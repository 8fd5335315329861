"""p(observed cells | z): Gaussian normal scores for numbers, a softmax for categories; missing cells left out."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from qphi.autoencoders.likelihoods import AbstractLikelihood
from qphi.tables.mask import MaskModel, is_gap
from qphi.tables.rows import Shape, is_seen

__all__ = ["TableLikelihood", "log_interval"]

MIN_LOG_SCALE = -4.6  # 1 % of a normal score: columns that others determine have an unbounded density otherwise
LEAST_ABOVE = 0.1  # how far, in logs, a scale starts above the floor at least
MOST_SHIFT = 2.0  # how far, in logs, a row's scale may be from its column's
ASTRAY = 2.0  # standard deviation of cells that follow nothing, in normal scores


@jax.custom_jvp
def log_interval(low: Float[Array, "*shape"], high: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(Phi(high) - Phi(low)) for low < high, without cancellation in either tail.

    Its derivatives, phi(high) / P and -phi(low) / P with P the probability itself, are given as such: through the
    branches of the function they cost many times as much.
    """
    # mirrored so that the interval lies below zero or around it: there log Phi is exact to the last digits
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    top, bottom = log_ndtr(high), log_ndtr(low)
    gap = jnp.maximum(top - bottom, 1e-6)
    return top + jnp.log(-jnp.expm1(-gap))


@log_interval.defjvp
def _log_interval_jvp(primals, tangents):
    low, high = primals
    value = log_interval(low, high)
    slope_low, slope_high = (jnp.exp(-0.5 * end**2 - 0.5 * math.log(2 * math.pi) - value) for end in primals)
    return value, slope_high * tangents[1] - slope_low * tangents[0]


class TableLikelihood(AbstractLikelihood):
    """log p(x_obs | z), each column by its kind, summed over the observed cells only.

    `outputs` hold a mean and a shift of the log scale for every numeric column, then logits for every level. A number
    is u ~ N(mean, scale^2) on the scale of normal scores; a value with probability of its own has that of its interval,
    Phi((high - mean) / scale) - Phi((low - mean) / scale): an ordered probit for ordinals and counts, a point mass for
    the zeros of a zero-inflated column. Each column has a scale of its own, learned, so no column dominates; log scales
    are `rate * raw`, see `autoencoders.Gaussian`. With a `mask` the density is of the gaps too, p(x_obs, gaps | z).

    With `stray` = e > 0 a number may be what the rest of its row says nothing of: (1 - e) p(u | z) + e N(u | 0, 2^2). A
    few rows say little of the tails, and without it one cell would decide on the density of a row.
    """

    raw_log_scale: Float[Array, " numeric"]
    shape: Shape
    mask: MaskModel | None
    rate: float = eqx.field(static=True)
    stray: float = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        scale: Float[Array, " numeric"],
        rate: float = 3.0,
        *,
        mask: MaskModel | None = None,
        stray: float = 0.0,
    ):
        self.stray = stray
        self.shape = shape
        self.mask = mask
        self.rate = rate
        above = jnp.maximum(jnp.log(jnp.asarray(scale, float)) - MIN_LOG_SCALE, LEAST_ABOVE)
        # the inverse of the soft floor, so that the scale starts where it is asked to
        self.raw_log_scale = (MIN_LOG_SCALE + above + jnp.log(-jnp.expm1(-above))) / rate

    def numbers(self, outputs: Float[Array, " outputs"]) -> tuple[Float[Array, " numeric"], Float[Array, " numeric"]]:
        """Mean and scale of every numeric column's normal score."""
        count = self.shape.numeric
        shift = MOST_SHIFT * jnp.tanh(outputs[count : 2 * count] / MOST_SHIFT)
        log_scale = self.rate * self.raw_log_scale + shift
        return outputs[:count], jnp.exp(MIN_LOG_SCALE + jax.nn.softplus(log_scale - MIN_LOG_SCALE))

    def log_levels(self, outputs: Float[Array, " outputs"]) -> Float[Array, "categorical most"]:
        """log p of every level of every categorical column; -inf where a column has no such level."""
        place, exists = self.shape.padded
        logits = outputs[2 * self.shape.numeric :]
        padded = jnp.where(exists, logits[place], -1e30) if self.shape.levels else jnp.zeros((0, 1))
        return jnp.where(exists, jax.nn.log_softmax(padded), -jnp.inf)

    def cells(self, outputs: Float[Array, " outputs"], x: Float[Array, "columns 3"]) -> Float[Array, " columns"]:
        """log p of each observed cell given z, nats on the scale of normal scores; 0 for a missing one."""
        seen, count = is_seen(x), self.shape.numeric
        mean, scale = self.numbers(outputs)
        u = jnp.where(seen[:count, None], x[:count, :2], 0.0)
        numbers = self._log_normal(u, x, mean, scale)
        if self.stray:
            astray = self._log_normal(u, x, jnp.zeros(count), jnp.full(count, ASTRAY))
            numbers = jnp.logaddexp(math.log1p(-self.stray) + numbers, math.log(self.stray) + astray)
        levels = jnp.where(seen[count:], x[count:, 0], 0).astype(int)
        return jnp.where(seen, jnp.concatenate([numbers, self._log_chosen(outputs[2 * count :], levels)]), 0.0)

    def _log_normal(
        self,
        u: Float[Array, "numeric 2"],
        x: Float[Array, "columns 3"],
        mean: Float[Array, " numeric"],
        scale: Float[Array, " numeric"],
    ) -> Float[Array, " numeric"]:
        """Log density of each number, or log probability of its interval."""
        ends = (u - mean[:, None]) / scale[:, None]
        numbers = -0.5 * ends[:, 0] ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)
        if self.shape.intervals:  # a normal distribution function costs ten times what a density does
            some = np.array(self.shape.intervals)
            inside = x[some, 0] < x[some, 1]  # false for gaps, too
            low, high = jnp.where(inside, ends[some].T, jnp.array([[-1.0], [1.0]]))
            numbers = numbers.at[some].set(jnp.where(inside, log_interval(low, high), numbers[some]))
        return numbers

    def _log_chosen(
        self, logits: Float[Array, " levels"], chosen: Int[Array, " categorical"]
    ) -> Float[Array, " categorical"]:
        """log p of one level of each categorical column: as `log_levels`, by sums over what is there, unpadded."""
        if not self.shape.levels:
            return jnp.zeros(0)
        place, exists = self.shape.padded
        member = jnp.asarray(self.shape.column_of[:, None] == self.shape.numeric + np.arange(len(place)), logits.dtype)
        highest = jnp.max(jnp.where(exists, jax.lax.stop_gradient(logits)[place], -jnp.inf), axis=1)
        return logits[place[:, 0] + chosen] - highest - jnp.log(jnp.exp(logits - member @ highest) @ member)

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        return jnp.sum(self.cells(outputs, x)) + self.log_gaps(outputs, x)

    def log_gaps(self, outputs: Float[Array, " outputs"], x: Float[Array, "columns 3"]) -> Float[Array, ""]:
        """log p of which cells are missing given z; 0 where they are missing at random."""
        if self.mask is None:
            return jnp.zeros(())
        return self.mask.log_prob(*self.numbers(outputs), self.log_levels(outputs), x)

    def mean(self, outputs: Array) -> Array:
        levels = jnp.argmax(self.log_levels(outputs), axis=1)
        return _as_row(self.numbers(outputs)[0], levels)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        values = self.sample_many(key, outputs[None])[0]
        return jnp.stack([values] * 3, axis=1)

    def sample_many(
        self, key: PRNGKeyArray, outputs: Float[Array, "draws outputs"], x: Float[Array, "columns 3"] | None = None
    ) -> Float[Array, "draws columns"]:
        """One draw of every cell for each of the outputs: normal scores, then level numbers (by Gumbel noise).

        With a mask, cells that are missing in the row x are drawn given that they are, and do not go astray.
        """
        number_key, level_key = jax.random.split(key)
        mean, scale = jax.vmap(self.numbers)(outputs)
        numbers = jax.random.normal(number_key, mean.shape)
        if self.stray:
            astray = jax.random.bernoulli(jax.random.fold_in(number_key, 2), self.stray, mean.shape)
            numbers = jnp.where(astray, ASTRAY * numbers, mean + scale * numbers)
        else:
            numbers = mean + scale * numbers
        gap = None if self.mask is None or x is None else is_gap(x)
        count = self.shape.numeric
        if gap is not None and self.mask is not None:
            missing = self.mask.numbers_of_gaps(jax.random.fold_in(number_key, 1), mean, scale)
            numbers = jnp.where(gap[:count], missing, numbers)
        parts = [numbers]
        if self.shape.levels:
            log_levels = jax.vmap(self.log_levels)(outputs)
            if gap is not None and self.mask is not None:
                log_levels = jnp.where(gap[count:, None], self.mask.levels_of_gaps(log_levels), log_levels)
            noise = jax.random.gumbel(level_key, log_levels.shape)
            parts.append(jnp.argmax(log_levels + noise, axis=2).astype(mean.dtype))
        return jnp.concatenate(parts, axis=1)


def _as_row(numbers: Float[Array, " numeric"], levels: Array) -> Float[Array, "columns 3"]:
    values = jnp.concatenate([numbers, levels.astype(numbers.dtype)])
    return jnp.stack([values] * 3, axis=1)
