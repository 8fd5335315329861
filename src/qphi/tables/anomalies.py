"""How odd a row is, among the rows of the fit, and which of its cells make it so."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from qphi.data.codec import Encoded, TableCodec
from qphi.data.frames import Table

__all__ = ["Typical", "again", "fit_typical", "unlikeliness"]

REFERENCE = 2000  # rows of the fit, at most, that oddness is counted among
STEPS = 200  # of the tail function at most


@dataclasses.dataclass(frozen=True)
class Typical:
    """How the rows of the fit lie: what makes two kinds of oddness comparable.

    joint: a row's -log p(x_obs) in units that no column's scale moves. own: what each cell has by itself, z^2 / 2 of
    numbers, z by the column's mean and standard deviation, and -log share of levels, less its mean in the fit. A level
    that the fit did not see has -log `rarest` in both, the share that Krichevsky & Trofimov (1981) give it. A flexible
    density lends some probability to a cluster of odd rows; columns by themselves do not see odd combinations. A row is
    as odd as the rarer of the two is,

    s = max(-log P(joint' >= joint), -log P(own' >= own)), nats,

    with primes for a row of the fit. Between rows of the fit, tails are interpolated; beyond all of them they go on
    with the slope of the upper half.
    """

    centre: tuple[float, ...]  # of the numeric columns
    spread: tuple[float, ...]
    levels: tuple[tuple[float, ...], ...]  # -log share of each level of the categorical columns
    usual: tuple[float, ...]  # mean of each column's own oddness in the fit
    rarest: float  # share of a level that the fit did not see
    joint: tuple[float, ...]  # quantiles at shares that fall geometrically
    own: tuple[float, ...]

    def own_oddness(self, codec: TableCodec, table: Table, encoded: Encoded) -> Float[np.ndarray, " rows"]:
        """Sum over the observed cells of what each has by itself; a gap counts nothing."""
        cells = _cells(codec, table, encoded, self.centre, self.spread, self.levels)
        return np.nansum(np.where(encoded.new, -np.log(self.rarest), cells) - self.usual, axis=1)

    def oddness(self, joint: Float[np.ndarray, " rows"], own: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """The formula above; NaN where a part is NaN."""
        return np.maximum(_tail(joint, self.joint), _tail(own, self.own))

    def with_joint(self, joint: Float[np.ndarray, " rows"]) -> Typical:
        """The same with the joint oddness of the fit's rows."""
        return dataclasses.replace(self, joint=_quantiles(joint))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Typical:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Typical(**{**fields, "levels": tuple(tuple(one) for one in fields["levels"])})


def fit_typical(codec: TableCodec, table: Table, encoded: Encoded, seed: int) -> tuple[Typical, Encoded]:
    """Means, standard deviations and shares of all rows of the fit, quantiles of at most 2,000 of them, and those rows.

    `joint` is still to come: `with_joint` of what `unlikeliness` says of the rows.
    """
    numbers = [codec.numbers(column.name, table) for column in codec.numeric]
    # neither 1e300 nor 1e-300 has a square
    sizes = [float(np.nanmax(np.abs(x))) or 1.0 for x in numbers]
    centre, spread = (
        tuple(float(size * f(x / size)) for x, size in zip(numbers, sizes, strict=True))
        for f in (np.nanmean, np.nanstd)
    )
    scale = np.exp(-codec.typical_slope)  # for columns that are all alike, as rows that weights repeat can be
    spread = tuple(own if own > 0 else float(usual) for own, usual in zip(spread, scale[: len(spread)], strict=True))
    rarest = 0.5 / (table.rows + 1)
    levels = tuple(
        _surprises(shares, count, rarest) for shares, count in zip(codec.shares, codec.level_counts, strict=True)
    )
    usual = np.nanmean(_cells(codec, table, encoded, centre, spread, levels), axis=0)
    typical = Typical(centre, spread, levels, tuple(float(v) for v in usual), rarest, (), ())
    return again(typical, codec, table, encoded, seed)


def again(typical: Typical, codec: TableCodec, table: Table, encoded: Encoded, seed: int) -> tuple[Typical, Encoded]:
    """The same means, deviations and shares, with other rows to count oddness among; `joint` is still to come."""
    rows = np.sort(np.random.default_rng(seed).permutation(table.rows)[:REFERENCE])
    some = encoded.take(rows)
    return dataclasses.replace(typical, own=_quantiles(typical.own_oddness(codec, table.take(rows), some))), some


def unlikeliness(
    scores: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows columns"]],
    encoded: Encoded,
    slope: Float[np.ndarray, "rows columns"],
    rarest: float,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows columns"]]:
    """-log p(x_obs) of each row and -log p(x_j | other cells) of each cell, nats, whatever the units of the columns.

    scores: log p of both, in the model's units, from `score_cells`.

    A density's unit is that of its column's median, by `slope` = `TableCodec.relative_slope`, so that only what is
    rarer than the middle of its column counts, and columns can be compared. A level that the fit did not see has
    -log `rarest`.
    """
    evidence, cells = scores
    new = np.where(encoded.new, -np.log(rarest), 0.0)
    return new.sum(axis=1) - (evidence + slope.sum(axis=1)), new - (cells + slope)


def _cells(codec, table, encoded, centre, spread, levels) -> Float[np.ndarray, "rows columns"]:
    parts = []
    for j, column in enumerate(codec.numeric):
        parts.append(0.5 * ((codec.numbers(column.name, table) - centre[j]) / spread[j]) ** 2)
    for j, surprises in enumerate(levels):
        codes = encoded.x[:, len(codec.numeric) + j, 0]
        seen = ~np.isnan(codes)
        parts.append(np.where(seen, np.asarray(surprises)[np.where(seen, codes, 0).astype(int)], np.nan))
    return np.stack(parts, axis=1)


def _surprises(shares: tuple[float, ...], count: int, rarest: float) -> tuple[float, ...]:
    pooled = np.append(shares[: count - 1], np.sum(shares[count - 1 :]))
    return tuple(float(v) for v in -np.log(np.maximum(pooled, rarest)))


def _heights(count: int) -> Float[np.ndarray, " steps"]:
    """-log share, from 0 to that of one row of `count`: as many as fit between quantiles."""
    return np.linspace(0.0, np.log(count), min(count, STEPS))


def _quantiles(values: Float[np.ndarray, " rows"]) -> tuple[float, ...]:
    # the count of rows is not kept: the number of steps and the last height say how many there were
    heights = _heights(len(values))
    shares = len(values) * (1 - np.exp(-heights)) / max(len(values) - 1, 1)  # the largest value has that of one row
    return (float(heights[-1]), *(float(v) for v in np.quantile(values, np.minimum(shares, 1.0))))


def _tail(values: np.ndarray, kept: tuple[float, ...]) -> np.ndarray:
    """-log P(a row of the fit has at least this), by the heights of the quantiles."""
    places = np.asarray(kept[1:])
    heights = np.linspace(0.0, kept[0], len(places))
    middle = len(places) // 2
    slope = (heights[-1] - heights[middle]) / max(places[-1] - places[middle], 1e-9)
    beyond = np.maximum(values - places[-1], 0.0) * slope
    return np.interp(values, places, heights) + beyond
