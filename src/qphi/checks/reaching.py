"""A proposal that reaches far out, and what it tells of moments: whether tails end."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln, logsumexp

from qphi.checks.proposal import Draws, Proposal
from qphi.checks.weighted import Moments
from qphi.noise import stratified_normal
from qphi.solvers.exact import Gaussian
from qphi.targets.oracle import AbstractOracle

__all__ = ["Reaching", "with_ends"]

_TURNED, _STRAIGHT = 0.2, 0.35  # shares of the draws: in any direction, and along a coordinate
_NEAREST, _FURTHEST = 0.5, 1e4  # sds
_SCANNED, _FEWEST_STEPS = 40, 6  # distances at which log p is looked at; those that are always reached: 2.3 sds
_GONE, _GONE_EACH = 100.0, 10.0  # nats below the highest, and as many for each dimension: nothing beyond
_LAST = 1 / 3  # of the logarithmic range: its end
_FAR = 8.0  # sds: a Gaussian's tail, which ends within 20, has nothing there
_LEFT = 0.12  # share of a moment there: x^-1 has a third
_ENDLESS = 1.0  # Pareto k


@dataclasses.dataclass(frozen=True)
class Reaching:
    """A proposal in three parts: `base`, and two that reach far out from a Gaussian.

        r(z) = 9/20 base(z) + 1/5 s(z) + 7/20 mean_i a_i(z)

    s: uniform direction, log-uniform distance in the Gaussian's sds. a_i: the Gaussian with another distribution of
    coordinate i in the place of its own: either sign, log-uniform distance. All are symmetric about a mean. `furthest`:
    distances along each coordinate beyond which there is nothing, 10,000 at most; s reaches as far as any.
    """

    base: Proposal
    around: Gaussian
    along: Int[np.ndarray, " coordinates"]
    furthest: Float[np.ndarray, " coordinates"]

    @classmethod
    def of(
        cls, base: Proposal, around: Gaussian, along: Int[np.ndarray, " coordinates"], oracle: AbstractOracle
    ) -> Reaching:
        """With distances from a look at log p along each coordinate's regression line, on either side."""
        distances = _NEAREST * (_FURTHEST / _NEAREST) ** np.linspace(0, 1, _SCANNED)
        v = np.concatenate([distances, -distances])
        lines = around.mean + (v[:, None] * around.sd[along, None, None]) * _onto(around, along)[:, None]
        height = oracle.values(lines.reshape(-1, len(around.mean))).reshape(len(along), 2, _SCANNED)
        height = np.where(np.isfinite(height), height, -np.inf)  # too far out for numbers
        gone = height < np.max(height, initial=-1e300) - _GONE - _GONE_EACH * len(around.mean)
        first = np.where(gone.any(axis=2), np.argmax(gone, axis=2), _SCANNED - 1).max(axis=1)
        return cls(base, around, along, distances[np.maximum(first, _FEWEST_STEPS)])

    @property
    def shares(self) -> Float[np.ndarray, " components"]:
        """Of the base's components."""
        return self.base.shares

    def draw(self, random: np.random.Generator, pairs: int) -> Draws:
        """`pairs` reflected pairs, stratified over parts and distances."""
        turned, straight = round(_TURNED * pairs), round(_STRAIGHT * pairs)
        base = self.base.draw(random, pairs - turned - straight)
        d, mean = len(self.around.mean), self.around.mean
        u = random.standard_normal((turned, d))
        u *= (math.sqrt(d) * _distances(random, self.furthest.max(), turned) / np.linalg.norm(u, axis=1))[:, None]
        steps = [self.around.stretch(u), self._straight(random, straight)]
        half = len(base.z) // 2
        z = np.concatenate([base.z[:half], *(mean + s for s in steps), base.z[half:], *(mean - s for s in steps)])
        gaussian = np.concatenate([base.is_gaussian[:half], np.zeros(turned + straight, bool)])
        return Draws(z, self.log_prob(z), np.tile(gaussian, 2))

    def log_prob(self, z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        """log r(z) of each row, nats."""
        d, radius = len(self.around.mean), self.around.radius(z)
        spans = np.log(self.furthest / _NEAREST)
        log_sphere = math.log(2) + 0.5 * d * math.log(math.pi) - gammaln(0.5 * d)
        distance = 0.5 * np.log(np.maximum(radius, 1e-300))
        turned = -log_sphere - d * distance - math.log(spans.max()) - self.around.log_det
        within = _within(distance - 0.5 * math.log(d), spans.max())
        terms = [
            math.log(1 - _TURNED - _STRAIGHT) + self.base.log_prob(z),
            np.where(within, math.log(_TURNED) + turned, -np.inf),
        ]
        log_q = -0.5 * radius - 0.5 * d * math.log(2 * math.pi) - self.around.log_det
        for v, span in zip(self.coordinates(z).T, spans, strict=True):
            size = np.log(np.maximum(np.abs(v), 1e-300))
            straight = log_q + 0.5 * v**2 + 0.5 * math.log(2 * math.pi) - math.log(2 * span) - size
            terms.append(np.where(_within(size, span), math.log(_STRAIGHT / len(self.along)) + straight, -np.inf))
        return np.asarray(logsumexp(terms, axis=0))

    def log_gaussian(self, z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        """log q(z) of the fitted Gaussians, nats."""
        return self.base.log_gaussian(z)

    def coordinates(self, z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws coordinates"]:
        """Those along which draws reach, standardised."""
        return ((z - self.around.mean) / self.around.sd)[:, self.along]

    def at_the_end(self, z: Float[np.ndarray, "draws dim"]) -> Bool[np.ndarray, " draws"]:
        """Which lie in the last third of the distances, where that is far out: light tails end before."""
        least = self.furthest * (_NEAREST / self.furthest) ** _LAST
        far = least > _FAR
        if not far.any():
            return np.zeros(len(z), bool)
        out = np.sqrt(self.around.radius(z) / z.shape[1])
        return (out > least.max()) | (np.abs(self.coordinates(z)[:, far]) > least[far]).any(axis=1)

    def _straight(self, random: np.random.Generator, count: int) -> Float[np.ndarray, "count dim"]:
        steps = self.around.stretch(stratified_normal(random, count, len(self.around.mean)))
        which = np.arange(count) % len(self.along)
        i = self.along[which]
        v = self.around.sd[i] * _distances(random, self.furthest[which], count) * random.choice([-1.0, 1.0], count)
        return steps + _onto(self.around, i) * (v - steps[np.arange(count), i])[:, None]


def with_ends(
    moments: Moments,
    values: Float[np.ndarray, "draws columns"],
    weights: Float[np.ndarray, " draws"],
    last: Bool[np.ndarray, " draws"],
) -> Moments:
    """Moments with a tail of shape 1, which none exists with, where the `last` draws hold a share of them."""
    distance = np.abs(values - moments.mean)
    khats = []
    with np.errstate(over="ignore", invalid="ignore"):
        for khat, size in zip((moments.mean_khat, moments.sd_khat), (distance, distance**2), strict=True):
            parts = np.where(weights[:, None] > 0, weights[:, None] * size, 0.0)
            left = parts[last].sum(axis=0) / parts.sum(axis=0)
            khats.append(np.where(left >= _LEFT, np.maximum(khat, _ENDLESS), khat))  # NaN: a constant
    return dataclasses.replace(moments, mean_khat=khats[0], sd_khat=khats[1])


def _distances(
    random: np.random.Generator, furthest: Float[np.ndarray, " count"] | float, count: int
) -> Float[np.ndarray, " count"]:
    share = (random.permutation(count) + random.uniform(size=count)) / max(count, 1)
    return _NEAREST * (furthest / _NEAREST) ** share


def _within(log_distance: Float[np.ndarray, " draws"], span: float) -> Bool[np.ndarray, " draws"]:
    return (log_distance >= math.log(_NEAREST)) & (log_distance <= math.log(_NEAREST) + span)


def _onto(q: Gaussian, i: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows dim"]:
    """By how much q's mean moves in each coordinate where coordinate i is known to be one further."""
    return (q.tril @ q.tril.T)[i] / q.sd[i, None] ** 2
