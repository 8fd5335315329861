"""Likelihoods of whole numbers from a fixed set: levels of a picture, categories, ordered grades."""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.likelihoods.base import AbstractLikelihood, soft_clip, split_outputs

__all__ = ["Categorical", "DiscretisedLogistic", "Ordinal"]

MIN_LOG_SCALE, MAX_LOG_SCALE = -8.0, 4.0  # at the floor one of 256 levels has 99 % of the mass


class DiscretisedLogistic(AbstractLikelihood):
    """Levels 0..levels-1 of a picture: a mixture of logistic distributions, cut into bins of width 1.

        p(i) = sum_k w_k [F_k(i + 1/2) - F_k(i - 1/2)],  F_k(v) = sigmoid((v - m_k) / s_k),

    where the first bin reaches down to -infinity and the last up to infinity: nats of a probability of whole numbers,
    as bits per dimension need. x is the level divided by levels - 1, so in 0..1, and so are m and s. Outputs of an
    element: m and log s, or for more than one component the log weights, all m, all log s. m is 1/2 + output/4 and
    log s is output - 2, so that outputs near 0 are a wide guess in the middle. Colours are independent given z.

    With a = (i + 1/2 - m)/s and b = (i - 1/2 - m)/s the mass of a bin is sigmoid(a) sigmoid(-b) (1 - e^(b - a)): an
    identity without cancellation, exact far out in the tails.
    Sources: Kingma et al. (2016), arXiv 1606.04934, section 5.2; Salimans et al. (2017), arXiv 1701.05517, eq. 2.
    """

    components: int = eqx.field(static=True, default=1)
    levels: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        if self.components < 1 or self.levels < 2:
            raise ValueError(
                f"A discretised logistic needs at least 1 component and 2 levels, got {self.components} and "
                f"{self.levels}. Give DiscretisedLogistic(components=5, levels=256) for 8 bits."
            )

    @property
    def name(self) -> str:
        return "discretised-logistic" if self.components == 1 else "discretised-logistic-mixture"

    @property
    def per_element(self) -> int:
        return 2 if self.components == 1 else 3 * self.components

    def _parts(self, outputs: Array) -> tuple[Array, Array, Array]:
        """Log weights, centres and scales in levels, each (*shape, components)."""
        parts = split_outputs(outputs, self.per_element)
        weights, centres, log_scales = (
            (jnp.zeros_like(parts[..., :1]), parts[..., :1], parts[..., 1:])
            if self.components == 1
            else jnp.split(parts, 3, axis=-1)
        )
        top = self.levels - 1
        centres = top * soft_clip(0.5 + centres / 4, -9.0, 10.0)  # far outside, all mass is in an edge bin anyway
        scales = top * jnp.exp(soft_clip(log_scales - 2.0, MIN_LOG_SCALE, MAX_LOG_SCALE))
        return jax.nn.log_softmax(weights), centres, scales

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        weights, centres, scales = self._parts(outputs)
        level = jnp.round(x * (self.levels - 1))[..., None]
        upper, lower = (level + 0.5 - centres) / scales, (level - 0.5 - centres) / scales
        return jnp.sum(jax.nn.logsumexp(weights + _log_mass(lower, upper, level == 0, level == self.levels - 1), -1))

    def mean(self, outputs: Array) -> Array:
        # E[i] = sum_{j >= 1} P(i >= j), one level after another: no array of all levels
        weights, centres, scales = self._parts(outputs)

        def add(j: Array, total: Array) -> Array:
            return total + jnp.sum(jnp.exp(weights) * jax.nn.sigmoid((centres - j + 0.5) / scales), axis=-1)

        total = jax.lax.fori_loop(1, self.levels, add, jnp.zeros(centres.shape[:-1], centres.dtype))
        return total / (self.levels - 1)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        weights, centres, scales = self._parts(outputs)
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, weights)[..., None]
        centre, scale = (jnp.take_along_axis(a, which, axis=-1)[..., 0] for a in (centres, scales))
        value = centre + scale * jax.random.logistic(noise_key, centre.shape, centre.dtype)
        return jnp.clip(jnp.round(value), 0, self.levels - 1) / (self.levels - 1)


def _log_mass(lower: Array, upper: Array, first: Array, last: Array) -> Array:
    """log [sigmoid(upper) - sigmoid(lower)]; the first bin has no lower end, the last no upper one."""
    above = jnp.where(last, 0.0, -jax.nn.softplus(-upper))
    below = jnp.where(first, 0.0, -jax.nn.softplus(lower))
    edge = first | last
    between = jnp.log(-jnp.expm1(jnp.where(edge, -1.0, lower - upper)))
    return above + below + jnp.where(edge, 0.0, between)


class Categorical(AbstractLikelihood):
    """Codes 0..levels-1 without an order: `levels` outputs for each element, p = softmax(outputs).

    Codes have no average, so `mean` is the most probable code.
    """

    levels: int = eqx.field(static=True)

    @property
    def name(self) -> str:
        return "categorical"

    @property
    def has_average(self) -> bool:
        return False

    @property
    def per_element(self) -> int:
        return self.levels

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        log_p = jax.nn.log_softmax(split_outputs(outputs, self.levels))
        return jnp.sum(jnp.take_along_axis(log_p, jnp.round(x).astype(int)[..., None], axis=-1))

    def mean(self, outputs: Array) -> Array:
        return jnp.argmax(split_outputs(outputs, self.levels), axis=-1).astype(outputs.dtype)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        return jax.random.categorical(key, split_outputs(outputs, self.levels)).astype(outputs.dtype)


class Ordinal(AbstractLikelihood):
    """Ordered grades 0..levels-1 by cumulative logits: P(x <= i) = sigmoid(c_i - output), one output an element.

    The cut points c_0 < c_1 < ... are learned, shared by all elements, or with the `shape` of x each its own. They
    start where an output of 0 gives all grades the same probability. Source: McCullagh (1980), section 2.
    """

    first: Float[Array, "*shape 1"]
    raw_gaps: Float[Array, "*shape gaps"]
    levels: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(self, levels: int, *, shape: tuple[int, ...] = (), rate: float = 3.0):
        if levels < 2:
            raise ValueError(f"An ordinal likelihood needs at least 2 grades, got {levels}.")
        self.levels, self.rate = levels, rate
        cuts = [math.log((i + 1) / (levels - i - 1)) for i in range(levels - 1)]
        raw = jnp.asarray([math.log(math.expm1(b - a)) / rate for a, b in itertools.pairwise(cuts)])
        self.first = jnp.full((*shape, 1), cuts[0] / rate)
        self.raw_gaps = jnp.broadcast_to(raw.reshape(-1).astype(float), (*shape, levels - 2))

    @property
    def name(self) -> str:
        return "ordinal"

    @property
    def cuts(self) -> Float[Array, "*shape cuts"]:
        """The cut points, ascending, levels - 1 of them."""
        gaps = jax.nn.softplus(self.rate * self.raw_gaps) + 1e-4  # never equal, or a grade could not be had
        return self.rate * self.first + jnp.concatenate([jnp.zeros_like(self.first), jnp.cumsum(gaps, -1)], -1)

    def log_prob(self, outputs: Array, x: Array) -> Float[Array, ""]:
        grade = jnp.round(x).astype(int)[..., None]
        cuts = jnp.broadcast_to(self.cuts, (*x.shape, self.levels - 1))
        upper = jnp.take_along_axis(cuts, jnp.minimum(grade, self.levels - 2), axis=-1)[..., 0]
        lower = jnp.take_along_axis(cuts, jnp.maximum(grade - 1, 0), axis=-1)[..., 0]
        grade = grade[..., 0]
        return jnp.sum(_log_mass(lower - outputs, upper - outputs, grade == 0, grade == self.levels - 1))

    def mean(self, outputs: Array) -> Array:
        # E[i] = sum_i P(x > i)
        return jnp.sum(jax.nn.sigmoid(outputs[..., None] - self.cuts), axis=-1)

    def sample(self, key: PRNGKeyArray, outputs: Array) -> Array:
        # x counts the cut points below a logistic variable around the output
        value = outputs + jax.random.logistic(key, outputs.shape, outputs.dtype)
        return jnp.sum(value[..., None] > self.cuts, axis=-1).astype(outputs.dtype)
