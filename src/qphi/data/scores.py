"""Normal scores: a monotone map from a column's values to a scale on which it is roughly N(0, 1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr, ndtri

__all__ = ["NormalScores", "fit_scores"]

ATOM = 0.02  # a value with this share of a column's cells has a probability of its own
FEWEST = 5  # cells that an atom has at least
REACH = 2.2  # normal scores between which knots lie: 97 % of the cells
BEND = 5.0  # beyond it scores grow as logarithms, so that no outlier, however far, leads a fit
SMALLEST_RISE = 1e-7  # of scores from knot to knot
NARROWEST = 1e-3  # width of an interval of scores: below it single precision cannot tell its ends apart


@dataclasses.dataclass(frozen=True)
class NormalScores:
    """u = T(x), increasing and piecewise linear between knots, T roughly Phi^-1 of the column's distribution function.

    Where a value has a probability of its own (an atom: zeros of a zero-inflated column, the bounds of a censored one)
    two knots share their x, and the value is the interval of scores between them. With `step` every value is an
    interval: x stands for [x - step/2, x + step/2], so whole numbers have probabilities, not densities. With `log` the
    knots are those of log x. Beyond the outermost knots T goes on with its slope over the last score before them (two
    neighbouring values may be as good as equal), and beyond a score of 5 as a logarithm. Wrong where the column has
    structure finer than its knots; they are few where cells are few.
    """

    knots: tuple[float, ...]
    scores: tuple[float, ...]
    atoms: tuple[float, ...]
    step: float
    log: bool

    def encode(self, x: Float[np.ndarray, " rows"]) -> tuple[Float[np.ndarray, "rows 3"], Float[np.ndarray, " rows"]]:
        """Low end, high end and mean of each value's interval of scores, and log dT/dx where it is a point (else 0)."""
        if self.step:
            low, high = self._score(x - self.step / 2)[0], self._score(x + self.step / 2)[0]
            inside, slope = np.ones(len(x), bool), np.ones(len(x))
        else:
            low, slope = self._score(x)
            high = low.copy()
            inside = np.isin(x, self.atoms)
            knots, scores = np.asarray(self.knots), np.asarray(self.scores)
            at = self._coordinate(x[inside])
            low[inside] = scores[np.searchsorted(knots, at, "left")]
            high[inside] = scores[np.searchsorted(knots, at, "right") - 1]
        high = np.where(inside, np.maximum(high, low + NARROWEST), low)
        return np.stack([low, high, _centre(low, high, inside)], axis=1), np.where(inside, 0.0, np.log(slope))

    def decode(self, u: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """T^-1(u). Rounding to whole steps, and the range, are the codec's."""
        knots, scores = np.asarray(self.knots), np.asarray(self.scores)
        u = np.where(np.abs(u) > BEND, np.sign(u) * (BEND + np.expm1(np.minimum(np.abs(u) - BEND, 30.0))), u)
        x = np.interp(u, scores, knots)
        first, last = self._tails()
        x = np.where(u < scores[0], knots[0] + (u - scores[0]) / first, x)
        x = np.where(u > scores[-1], knots[-1] + (u - scores[-1]) / last, x)
        return np.exp(np.minimum(x, 700.0)) if self.log else x

    def _coordinate(self, x: np.ndarray) -> np.ndarray:
        # Numbers that were never seen and have no logarithm lie below all that were
        return np.log(np.maximum(x, np.exp(self.knots[0]) * 1e-3)) if self.log else x

    def _score(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """T and its derivative."""
        knots, scores, at = np.asarray(self.knots), np.asarray(self.scores), self._coordinate(x)
        piece = np.clip(np.searchsorted(knots, at, "right") - 1, 0, len(knots) - 2)
        first, last = self._tails()
        widths = np.diff(knots)
        slopes = np.diff(scores) / np.where(widths > 0, widths, 1.0)
        slope = np.where(widths[piece] > 0, slopes[piece], 1.0)
        u = scores[piece] + slope * (at - knots[piece])
        below, above = at < knots[0], at > knots[-1]
        u = np.where(below, scores[0] + first * (at - knots[0]), u)
        u = np.where(above, scores[-1] + last * (at - knots[-1]), u)
        slope = np.where(below, first, np.where(above, last, slope))
        far = np.maximum(np.abs(u) - BEND, 0.0)
        u = np.where(far > 0, np.sign(u) * (BEND + np.log1p(far)), u)
        slope = slope / (1.0 + far)
        return u, slope / np.exp(at) if self.log else slope

    def _tails(self) -> tuple[float, float]:
        """Slopes beyond the first and the last knot: those of T over a score next to them, or as far as it goes."""
        knots, scores = np.asarray(self.knots), np.asarray(self.scores)
        inner = np.flatnonzero((scores > scores[0] + 1) & (knots > knots[0]))
        outer = np.flatnonzero((scores < scores[-1] - 1) & (knots < knots[-1]))
        second = inner[0] if inner.size else -1
        last = outer[-1] if outer.size else 0
        first_slope = (scores[second] - scores[0]) / (knots[second] - knots[0])
        return float(first_slope), float((scores[-1] - scores[last]) / (knots[-1] - knots[last]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> NormalScores:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return NormalScores(**fields)


def fit_scores(
    x: Float[np.ndarray, " cells"], *, step: float = 0.0, log: bool = False, every: bool = False
) -> NormalScores:
    """Knots from a column's observed cells (finite, at least two different): about n^(1/3) of them, 6 to 32, and atoms.

    step: the distance between neighbouring values of whole numbers, 0 for a continuous column. every: each value that
    was seen is an atom (ordinal columns).
    """
    values, counts = np.unique(x, return_counts=True)
    total = counts.sum()
    wanted = int(np.clip(round(total ** (1 / 3)), 6, 32))
    own = counts >= max(ATOM * total, FEWEST)
    if every or (step and len(values) <= wanted):
        own[:] = True
    after = np.cumsum(counts) / total
    before = after - counts / total
    half = step / 2
    least = 0.5 / (total + 1)

    def score(share: Any) -> np.ndarray:
        return ndtri(np.clip(share, least, 1 - least))

    atoms = values[own]
    ends = [(atoms - half, score(before[own])), (atoms + half, score(after[own]))]
    grid = np.linspace(-REACH, REACH, wanted)
    if not own.all():
        rest = np.flatnonzero(~own)
        # where the cells that are no atoms have their quantiles; the score there is that of all cells
        within = (np.cumsum(counts[rest]) - counts[rest] / 2) / counts[rest].sum()
        at = rest[np.unique(np.searchsorted(within, ndtr(grid)).clip(0, len(rest) - 1))]
        at = np.unique(np.append(at, rest[[0, -1]]))
        # a step ends above its value; a continuous value lies in the middle of its own cells
        ends.append((values[at] + half, score(after[at] if step else (before[at] + after[at]) / 2)))
    places, scores = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    if log:
        places = np.log(np.maximum(places, values[values > 0].min() * 0.5))
    order = np.lexsort((scores, places))
    places, scores = _increasing(places[order], scores[order])
    return NormalScores(
        tuple(places.tolist()), tuple(scores.tolist()), tuple(atoms.tolist()) if not step else (), step, log
    )


def _increasing(places: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores that rise strictly, also between atoms with nothing in between."""
    scores = np.maximum.accumulate(scores) + SMALLEST_RISE * np.arange(len(scores))
    return places, scores


def _centre(low: np.ndarray, high: np.ndarray, inside: Bool[np.ndarray, " rows"]) -> np.ndarray:
    """(phi(low) - phi(high)) / (Phi(high) - Phi(low)), the mean of a standard normal inside; a point is its own."""
    mass = np.where(inside, ndtr(high) - ndtr(low), 1.0)
    middle = (low + high) / 2
    mean = (np.exp(-0.5 * low**2) - np.exp(-0.5 * high**2)) / np.sqrt(2 * np.pi) / np.maximum(mass, 1e-12)
    return np.where(inside & (mass > 1e-6), np.clip(mean, low, high), middle)
