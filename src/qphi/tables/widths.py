"""How wide the intervals of gaps have to be: what hidden cells of held-out rows say of the model's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from qphi.tables.mask import UNKNOWN

__all__ = ["Widths", "fit_factors", "hidden", "interval"]

COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
TURNS = 3  # every cell is hidden once, a third of them at a time
FEWEST = 60  # cells: fewer say too little
NARROWEST, WIDEST = 0.5, 3.0
SURE = 1.28  # standard errors


@dataclasses.dataclass(frozen=True)
class Widths:
    """Factors for the distances of an interval's ends from the median of the draws, one for each of `COVERAGES`.

    `points` are for columns of real numbers, `steps` for those of whole ones, which are covered too often by nature.

    A model that was fitted to few rows knows them better than others, and its intervals are too narrow. Factors are
    those with which held-out cells are covered as often as promised, over all columns of a sort together, on the scale
    of normal scores: conformal prediction with the model's own interval as the measure of distance (Romano, Patterson &
    Candès 2019; scaled from the median as by Kivaranovic, Johnson & Leeb 2020). The held-out rows also chose when
    training stopped, so that factors are a little small.
    """

    points: tuple[float, ...] = (1.0,) * len(COVERAGES)
    steps: tuple[float, ...] = (1.0,) * len(COVERAGES)

    def at(self, coverage: float, stepped: bool) -> float:
        """The factor for intervals of this coverage, of a column with steps or without."""
        return float(np.interp(coverage, COVERAGES, self.steps if stepped else self.points))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return {"points": list(self.points), "steps": list(self.steps)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Widths:
        """The inverse of `to_json`."""
        points, steps = (tuple(float(v) for v in values[name]) for name in ("points", "steps"))
        if len(points) != len(COVERAGES) or len(steps) != len(COVERAGES):
            raise ValueError(f"{len(points)} and {len(steps)} factors of widths")
        return Widths(points, steps)


def hidden(
    x: Float[np.ndarray, "rows columns 3"], seed: int
) -> Iterator[tuple[Bool[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns 3"]]]:
    """Which cells are hidden, and the rows without them: `TURNS` times, each observed cell once."""
    turn = np.random.default_rng(seed).permuted(np.tile(np.arange(x.shape[1]) % TURNS, (len(x), 1)), axis=1)
    for t in range(TURNS):
        gone = (turn == t) & ~np.isnan(x[..., 0])
        yield gone, np.where(gone[..., None], np.array([np.nan, UNKNOWN, np.nan], np.float32), x)


def interval(
    u: Float[np.ndarray, "rows draws"], coverage: float, factor: float = 1.0
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """The central interval of the draws of a column's scores, its ends moved away from the median by a factor."""
    low, middle, high = np.quantile(u, [(1 - coverage) / 2, 0.5, (1 + coverage) / 2], axis=1)
    return middle + factor * (low - middle), middle + factor * (high - middle)


def fit_factors(
    cells: list[tuple[Float[np.ndarray, "_ 3"], Float[np.ndarray, "_ draws"]]], rows: int
) -> tuple[float, ...] | None:
    """Factors from hidden cells of so many rows, as they were, and draws of them; None of fewer than 60 cells.

    A cell with a probability of its own is an interval of scores, and covered where its nearer end is. To promise too
    much is worse than too little: intervals are widened by as much as it takes, and narrowed where the coverage is too
    high by 1.28 standard errors; the cells of a row hang together, so these are of a share of rows.
    """
    x = np.concatenate([x for x, _ in cells]) if cells else np.zeros((0, 3))
    if len(x) < FEWEST:
        return None
    u = np.concatenate([u for _, u in cells])
    middle = np.median(u, axis=1)
    factors = []
    for coverage in COVERAGES:
        low, high = interval(u, coverage)
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = np.maximum((x[:, 0] - middle) / (high - middle), (middle - x[:, 1]) / (middle - low))
        error = SURE * math.sqrt(coverage * (1 - coverage) / rows)
        widened = min(math.ceil((len(x) + 1) * coverage) / len(x), 1.0)
        shares = [widened, min(max(coverage + error, widened), 1.0)]
        low, high = np.quantile(np.nan_to_num(beyond, nan=0.0, posinf=WIDEST), shares).clip(NARROWEST, WIDEST)
        factors.append(float(np.clip(1.0, low, high)))
    return tuple(factors)
