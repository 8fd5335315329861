"""Between a table and what a model sees of it: normal scores for numbers, level numbers for categories; and back."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from qphi.data.frames import Table
from qphi.data.schema import (
    LEFT_OUT,
    MANY,
    MOST_LEVELS,
    NUMERIC,
    Column,
    Schema,
    are_truths,
    as_truths,
    find_schema,
    seen_cells,
)
from qphi.data.scores import NormalScores, fit_scores
from qphi.errors import InputError

__all__ = ["Encoded", "TableCodec", "fit_codec"]


# scores in the order of their distance from the median
NEAR_MEDIAN = np.array([0.01] + [sign * 0.02 * k for k in range(1, 251) for sign in (1, -1)])
DAY = 86_400e9  # nanoseconds


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """x: what the model sees, gaps NaN. log_slope: log du/dx of each cell: moves log p to data units.

    new: which gaps are levels that the fit did not see.
    """

    x: Float[np.ndarray, "rows columns 3"]
    log_slope: Float[np.ndarray, "rows columns"]
    new: Bool[np.ndarray, "rows columns"]

    def take(self, rows: Any) -> Encoded:
        """Some of the rows."""
        return Encoded(self.x[rows], self.log_slope[rows], self.new[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class TableCodec:
    """A fitted schema with the map of every numeric column and the shares of every category's levels.

    Levels beyond the 100 most frequent are one level to the model; decoding draws among them by their frequency.
    """

    schema: Schema
    scores: tuple[NormalScores, ...]  # of the numeric columns
    shares: tuple[tuple[float, ...], ...]  # of the categorical columns' levels

    @functools.cached_property
    def numeric(self) -> tuple[Column, ...]:
        """The numeric columns, in the model's order."""
        return tuple(c for c in self.schema.modelled if c.kind in NUMERIC)

    @functools.cached_property
    def categorical(self) -> tuple[Column, ...]:
        """The categorical and binary columns, in the model's order."""
        return tuple(c for c in self.schema.modelled if c.kind not in NUMERIC)

    @property
    def level_counts(self) -> tuple[int, ...]:
        """How many levels of each categorical column the model tells apart."""
        return tuple(min(len(c.levels), MOST_LEVELS) for c in self.categorical)

    @property
    def intervals(self) -> tuple[int, ...]:
        """Which numeric columns have values with probability of their own, by number."""
        return tuple(j for j, s in enumerate(self.scores) if s.step or s.atoms)

    @property
    def typical_slope(self) -> Float[np.ndarray, " columns"]:
        """log du/dx of each continuous column at the score next to its median that is no atom; of a column of steps the
        log of how many scores the step at its median has; 0 for the others."""
        return np.array([*(_typical_slope(scores) for scores in self.scores), *(0.0 for _ in self.shares)])

    def relative_slope(self, encoded: Encoded) -> Float[np.ndarray, "rows columns"]:
        """`log_slope` less the column's typical one: moves log p to units that no column's own have a part in. 0 for
        gaps, categories and atoms."""
        stepped = np.array([*(s.step > 0 for s in self.scores), *(False for _ in self.shares)])
        seen = ~np.isnan(encoded.x[..., 0])
        return np.where(seen & (stepped | (encoded.log_slope != 0)), encoded.log_slope - self.typical_slope, 0.0)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that the model sees, in its order."""
        return tuple(c.name for c in self.schema.modelled)

    def transform(self, table: Table) -> Encoded:
        """What the model sees of a table with the columns of the fit, in any order.

        A category that was not there at the fit becomes a gap, with a warning that names column and row; a number
        beside the levels of an ordinal column lies between or beyond them. Raises InputError for columns that are
        missing, too many or of another type, naming column and row.
        """
        self._check_columns(table)
        rows, columns = table.rows, len(self.schema.modelled)
        x, log_slope = np.full((rows, columns, 3), np.nan, np.float32), np.zeros((rows, columns))
        new = np.zeros((rows, columns), bool)
        for j, column in enumerate(self.schema.modelled):
            cells = table.columns[column.name]
            if j < len(self.scores):
                values = self._numbers(column, cells)
                seen = ~np.isnan(values)
                if seen.any():
                    x[seen, j], log_slope[seen, j] = self.scores[j].encode(values[seen])
            else:
                codes = np.minimum(_codes(column, cells), self.level_counts[j - len(self.scores)] - 1)
                x[:, j] = np.where(codes < 0, np.nan, codes)[:, None]
            new[:, j] = np.isnan(x[:, j, 0]) & seen_cells(cells)
        return Encoded(x, log_slope, new)

    def inverse_transform(
        self, u: Float[np.ndarray, "rows columns"], *, rng: np.random.Generator | None = None, like: Table | None = None
    ) -> Table:
        """The table of normal scores and level numbers u (NaN: gaps), with the fit's columns, types, ranges and levels.

        Columns that were left out are gaps (ids and text) or their one value (constants). `rng` draws among pooled
        levels; without it the most frequent of them is taken.
        """
        columns: dict[str, np.ndarray] = {}
        at = {name: j for j, name in enumerate(self.names)}
        for column in self.schema.columns:
            if column.kind in LEFT_OUT:
                columns[column.name] = _filled(column, len(u))
            elif column.kind in NUMERIC:
                columns[column.name] = self._values(column, self.scores[at[column.name]], u[:, at[column.name]])
            else:
                columns[column.name] = self._labels(column, at[column.name], u[:, at[column.name]], rng)
        container = self.schema.container if like is None else like.container
        dtypes = {c.name: c.dtype for c in self.schema.columns} if like is None else like.dtypes
        levels = dict(self.schema.category_levels if like is None else like.levels)
        return Table(columns, container, dtypes, levels)

    def values(self, name: str, u: Float[np.ndarray, "..."]) -> np.ndarray:
        """Normal scores or level numbers of one column as float64: numbers in its units, or level numbers."""
        j = self.names.index(name)
        column = self.schema.modelled[j]
        return self._plain_values(column, self.scores[j], u) if j < len(self.scores) else np.asarray(u, float)

    def cells(self, name: str, values: np.ndarray) -> np.ndarray:
        """What `values` gave (perhaps averaged) as a Table's cells: rounded, within range, labels for levels."""
        column = self.schema[name]
        if column.kind in ("categorical", "binary"):
            return self._labels(column, self.names.index(name), values, None)
        return _finished(column, values)

    def numbers(self, name: str, table: Table) -> Float[np.ndarray, " rows"]:
        """One column as numbers, gaps NaN: in its units, nanoseconds of dates, level numbers of all that has levels."""
        return self._numbers(self.schema[name], table.columns[name])

    def unpooled(self, name: str, shares: Float[np.ndarray, "rows levels"]) -> Float[np.ndarray, "rows levels"]:
        """Probabilities of a column's levels from those of the levels that the model tells apart: what is pooled is
        shared out by frequency."""
        if self.schema[name].kind in NUMERIC:
            return shares
        j = self.names.index(name) - len(self.scores)
        last, own = self.level_counts[j] - 1, _within_pool(self.shares[j], self.level_counts[j])
        return np.concatenate([shares[:, :last], shares[:, last : last + 1] * own], axis=1)

    def constant(self, column: Column, rows: int) -> np.ndarray:
        """A constant column's cells; of a column that was left out, gaps."""
        return _filled(column, rows)

    def _check_columns(self, table: Table) -> None:
        wanted = [c.name for c in self.schema.columns if c.kind not in ("id", "text", "constant")]
        missing = [name for name in wanted if name not in table.columns]
        extra = [name for name in table.columns if name not in {c.name for c in self.schema.columns}]
        if missing or extra:
            words = [f"has no column {missing[0]!r}"] if missing else []
            words += [f"has a column {extra[0]!r} that the model does not know"] if extra else []
            more = len(missing) + len(extra) - len(words)
            raise InputError(
                f"the table {' and '.join(words)}{f' (and {more} more)' if more else ''}. "
                f"Give the columns of the fit: {', '.join(wanted)}."
            )

    def _numbers(self, column: Column, cells: np.ndarray) -> Float[np.ndarray, " rows"]:
        if column.kind not in NUMERIC or (column.kind == "ordinal" and not _has_numbers(column)):
            codes = _codes(column, cells)
            return np.where(codes < 0, np.nan, codes.astype(float))
        if column.kind == "date":
            if not seen_cells(cells).any():  # of whatever type its gaps are
                return np.full(len(cells), np.nan)
            if cells.dtype.kind != "M":
                raise InputError(_wrong_type(column, cells, "a date"))
            return np.where(np.isnat(cells), np.nan, cells.astype("int64").astype(float))
        if cells.dtype.kind != "f":
            cells = _as_numbers(column, cells)
        if np.isinf(cells).any():
            row = int(np.flatnonzero(np.isinf(cells))[0])
            raise InputError(f"column {column.name!r} has infinity in row {row}. Make it a gap or a number.")
        return _places(column, cells) if column.kind == "ordinal" else cells

    def _plain_values(self, column: Column, scores: NormalScores, u: np.ndarray) -> np.ndarray:
        x = scores.decode(np.asarray(u, float))
        if column.kind == "ordinal":
            return np.clip(np.round(x), 0, len(column.levels) - 1)
        return np.clip(x, column.low, column.high)

    def _values(self, column: Column, scores: NormalScores, u: np.ndarray) -> np.ndarray:
        return _finished(column, self._plain_values(column, scores, u))

    def _labels(self, column: Column, j: int, u: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        shares = np.asarray(self.shares[j - len(self.scores)])
        count = min(len(shares), MOST_LEVELS)
        codes = _whole(u, count)
        pooled = codes == count - 1
        if len(shares) > count and rng is not None and pooled.any():
            among = _within_pool(self.shares[j - len(self.scores)], count)
            codes[pooled] = count - 1 + rng.choice(len(among), size=int(pooled.sum()), p=among)
        return _level_values(column, codes)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return {
            "schema": self.schema.to_json(),
            "scores": [s.to_json() for s in self.scores],
            "shares": [list(s) for s in self.shares],
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> TableCodec:
        """The inverse of `to_json`."""
        scores = tuple(NormalScores.from_json(s) for s in values["scores"])
        return TableCodec(Schema.from_json(values["schema"]), scores, tuple(tuple(s) for s in values["shares"]))


def _typical_slope(scores: NormalScores) -> float:
    ends, log_slope = scores.encode(scores.decode(NEAR_MEDIAN))
    if scores.step:
        return float(np.log(ends[0, 1] - ends[0, 0]))
    return float(next(iter(log_slope[log_slope != 0]), 0.0))


def fit_codec(
    table: Table,
    kinds: Mapping[str, str] | str | Path | None = None,
    rows: Int[np.ndarray, " rows"] | None = None,
) -> TableCodec:
    """Find the schema of a table and fit the map of every column. Raises InputError when no column can be modelled.

    `rows`, where not all count alike: those to fit the maps to, each as often as it counts.
    """
    schema = find_schema(table, kinds)
    if not schema.modelled:
        raise InputError(
            "no column can be modelled: all are constant, ids or text. Give columns with at least two values, or say "
            "their kinds with kinds={'column': 'categorical'}."
        )
    half = TableCodec(schema, (), ())
    scores, shares = [], []
    for column in schema.modelled:
        cells = table.columns[column.name]
        if rows is not None and len(set(cells[rows][seen_cells(cells[rows])].tolist())) > 1:
            cells = cells[rows]
        if column.kind in NUMERIC:
            values = half._numbers(column, cells)
            # shorter steps of dates are as good as none, and so are days where they are as many as such whole numbers
            days = column.kind == "date" and column.step == DAY and column.different <= MANY
            step = 1.0 if column.kind == "ordinal" else column.step if column.kind == "count" or days else 0.0
            log = column.kind == "positive"
            scores.append(fit_scores(values[~np.isnan(values)], step=step, log=log, every=column.kind == "ordinal"))
        else:
            counts = np.bincount(_codes(column, cells) + 1, minlength=len(column.levels) + 1)[1:]
            shares.append(tuple((counts / max(counts.sum(), 1)).tolist()))
    return TableCodec(schema, tuple(scores), tuple(shares))


def _within_pool(shares: tuple[float, ...], count: int) -> np.ndarray:
    """Shares among the levels that are the last of `count` to the model; equal ones where rows that count have none."""
    own = np.asarray(shares[count - 1 :])
    return own / own.sum() if own.sum() else np.full(len(own), 1 / len(own))


def _codes(column: Column, cells: np.ndarray) -> np.ndarray:
    """Level numbers, -1 for gaps; unseen levels become gaps with a warning."""
    place = {level: i for i, level in enumerate(column.levels)}
    if are_truths(cells):  # the fit may have read them as text
        place |= dict(zip(as_truths(np.array(column.levels, object)).tolist(), range(len(column.levels)), strict=True))
    seen = seen_cells(cells)
    codes = np.full(len(cells), -1)
    codes[seen] = [place.get(v, -1) for v in cells[seen].tolist()]
    unseen = np.flatnonzero(seen & (codes < 0))
    if len(unseen):
        value = cells[unseen[0] : unseen[0] + 1].tolist()[0]
        if not isinstance(column.levels[0], str) and isinstance(value, str):
            raise InputError(_wrong_type(column, cells, "a number"))
        warnings.warn(
            f"column {column.name!r} has a level that the fit did not see, {value!r}, in row {unseen[0]}"
            f"{f' and {len(unseen) - 1} more rows' if len(unseen) > 1 else ''}: it counts as missing, and as odd.",
            UserWarning,
            stacklevel=2,
        )
    return codes


def _has_numbers(column: Column) -> bool:
    return all(isinstance(level, (int, float)) and not isinstance(level, bool) for level in column.levels)


def _places(column: Column, values: np.ndarray) -> np.ndarray:
    """Where numbers lie among an ordinal column's levels: level numbers, and between and beyond them in proportion."""
    levels = np.asarray(column.levels, float)
    usual = (levels[-1] - levels[0]) / (len(levels) - 1)
    beyond = (np.maximum(values - levels[-1], 0) - np.maximum(levels[0] - values, 0)) / usual
    return np.interp(values, levels, np.arange(len(levels))) + beyond


def _as_numbers(column: Column, cells: np.ndarray) -> np.ndarray:
    numbers = np.full(len(cells), np.nan)
    for row in np.flatnonzero(seen_cells(cells)):
        try:
            numbers[row] = float(cells[row])
        except (TypeError, ValueError):
            raise InputError(
                f"column {column.name!r} has {cells[row]!r} in row {row}, where a number is needed. Correct it, or "
                f"make it a gap."
            ) from None
    return numbers


def _wrong_type(column: Column, cells: np.ndarray, needed: str) -> str:
    row = int(np.flatnonzero(seen_cells(cells))[0]) if seen_cells(cells).any() else 0
    return f"column {column.name!r} has {cells[row]!r} in row {row}, where {needed} is needed. Convert the column."


def _finished(column: Column, x: np.ndarray) -> np.ndarray:
    """Numbers as a table holds them: rounded to steps and decimals, within the observed range."""
    x = np.asarray(x, float)
    if column.kind == "ordinal":
        return _level_values(column, _whole(x, len(column.levels)))
    if column.step:
        x = column.low + np.round((x - column.low) / column.step) * column.step
    elif column.decimals is not None:
        x = np.round(x, column.decimals)
    x = np.clip(x, column.low, column.high)
    if column.kind != "date":
        return x
    gap = np.isnan(x)
    days = np.where(gap, 0, x).astype("int64").astype("datetime64[ns]")
    days[gap] = np.datetime64("NaT")
    return days


def _whole(u: np.ndarray, count: int) -> np.ndarray:
    """Level numbers from 0 to count - 1; -1 for gaps."""
    gap = np.isnan(u)
    return np.where(gap, -1, np.clip(np.round(np.where(gap, 0, u)), 0, count - 1)).astype(int)


def _level_values(column: Column, codes: np.ndarray) -> np.ndarray:
    numbers = _has_numbers(column)
    levels = np.empty(len(column.levels) + 1, float if numbers else object)
    levels[:-1] = column.levels
    levels[-1] = np.nan if numbers else None  # where code -1, a gap, finds it
    return levels[codes]


def _filled(column: Column, rows: int) -> np.ndarray:
    value = column.value
    if value is None or column.kind != "constant":
        return (
            np.full(rows, np.nan) if column.dtype.startswith(("int", "uint", "float")) else np.full(rows, None, object)
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        whole = column.dtype.startswith("datetime") or column.dtype.lower().startswith(("date", "timestamp"))
        return np.full(rows, int(value)).astype("datetime64[ns]") if whole else np.full(rows, float(value))
    return np.full(rows, value, object)
