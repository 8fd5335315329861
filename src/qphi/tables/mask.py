"""p(gaps | row) where cells are missing because of their own value: a probit for every column."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, logsumexp, ndtri
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from qphi.tables.rows import Shape

__all__ = ["UNKNOWN", "MaskModel", "is_gap"]

UNKNOWN = 0.0  # in the middle of a cell's three numbers, the first NaN: neither seen nor known to be a gap
RATE = 3.0  # slopes are this times what Adam moves, so that they get where they belong as fast as weights do
MOST_SLOPE = 3.0  # per normal score: a cell that is surely missing beyond some value has an unbounded one otherwise


def is_gap(x: Float[Array, "*rows columns 3"]) -> Bool[Array, "*rows columns"]:
    """Which cells are missing from the data: neither seen nor hidden on the way (`UNKNOWN`)."""
    return jnp.isnan(x[..., 0]) & jnp.isnan(x[..., 1])


class MaskModel(eqx.Module):
    """P(cell j is missing | row) = Phi(a_j + b_j u_j), u_j its normal score; of a category Phi(a_j + b_jl), l level.

    A cell's value decides on its own gap and no other column's does: with columns that go together, this is what tells
    the slopes from chance. The unseen value is integrated out given z, with u ~ N(m, s^2), in closed form,

    P(missing | z) = Phi((a + b m) / sqrt(1 + b^2 s^2)),  P(missing | z) = sum_l p_l Phi(a + b_l),

    and drawn exactly: with t ~ N(a + b u, 1), missing means t > 0, so t is a truncated normal and u given t normal.
    Source: Ipsen, Mattei & Frellsen (2021), not-MIWAE, who have a logistic curve for Phi and draws for the integral.
    """

    intercept: Float[Array, " columns"]
    raw_slope: Float[Array, " numeric"]
    raw_level_slope: Float[Array, " levels"]
    shape: Shape

    def __init__(self, shape: Shape, share: Float[Array, " columns"]):
        self.shape = shape
        self.intercept = ndtri(jnp.clip(jnp.asarray(share, float), 1e-3, 1 - 1e-3)) / RATE
        self.raw_slope = jnp.zeros(shape.numeric)
        self.raw_level_slope = jnp.zeros(sum(shape.levels))

    @property
    def slopes(self) -> Float[Array, " numeric"]:
        """b of the numeric columns."""
        return MOST_SLOPE * jnp.tanh(RATE * self.raw_slope / MOST_SLOPE)

    @property
    def level_slopes(self) -> Float[Array, "categorical most"]:
        """b of every level of the categorical columns, padded as the likelihood's levels are."""
        place, exists = self.shape.padded
        if not self.shape.levels:
            return jnp.zeros((0, 1))
        return jnp.where(exists, MOST_SLOPE * jnp.tanh(RATE * self.raw_level_slope[place] / MOST_SLOPE), 0.0)

    def log_prob(
        self,
        mean: Float[Array, " numeric"],
        scale: Float[Array, " numeric"],
        log_levels: Float[Array, "categorical most"],
        x: Float[Array, "columns 3"],
    ) -> Float[Array, ""]:
        """log p(which cells are missing | z, seen cells), summed over the cells of which it is known."""
        count = self.shape.numeric
        seen, gap = ~jnp.isnan(x[:, 0]), is_gap(x)
        a, b = RATE * self.intercept, self.slopes
        at_value = a[:count] + b * jnp.where(seen[:count], x[:count, 2], 0.0)
        unseen = (a[:count] + b * mean) / jnp.sqrt(1 + (b * scale) ** 2)
        numbers = jnp.where(seen[:count], log_ndtr(-at_value), log_ndtr(unseen))
        each = a[count:, None] + self.level_slopes
        levels = jnp.where(seen[count:], x[count:, 0], 0).astype(int)
        kept = jnp.take_along_axis(log_ndtr(-each), levels[:, None], axis=1)[:, 0]
        categories = jnp.where(seen[count:], kept, logsumexp(log_levels + log_ndtr(each), axis=1))
        return jnp.sum(jnp.where(seen | gap, jnp.concatenate([numbers, categories]), 0.0))

    def numbers_of_gaps(
        self, key: PRNGKeyArray, mean: Float[Array, "draws numeric"], scale: Float[Array, "draws numeric"]
    ) -> Float[Array, "draws numeric"]:
        """Draws of normal scores given z and that they are missing."""
        first, second = jax.random.split(key)
        a, b = RATE * self.intercept[: self.shape.numeric], self.slopes
        spread = jnp.sqrt(1 + (b * scale) ** 2)
        start = (a + b * mean) / spread
        # t = spread (start + e), e > -start: e = -Phi^-1(U Phi(start)); in logs, Phi(start) may be tiny
        share = jnp.maximum(jax.random.uniform(first, mean.shape), 1e-6) * jnp.exp(jnp.maximum(log_ndtr(start), -80.0))
        above = -ndtri(jnp.clip(share, 1e-36, 1 - 1e-6))
        centre = mean + b * scale**2 / spread * above
        return centre + scale / spread * jax.random.normal(second, mean.shape)

    def levels_of_gaps(
        self, log_levels: Float[Array, "draws categorical most"]
    ) -> Float[Array, "draws categorical most"]:
        """log p of the levels, but for a constant, given z and that they are missing."""
        return log_levels + log_ndtr(RATE * self.intercept[self.shape.numeric :, None] + self.level_slopes)
