"""What kinds of columns a table has: found from values and types, printable, overridable, kept as JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qphi.data.frames import Table
from qphi.errors import InputError

__all__ = ["KINDS", "Column", "Schema", "find_schema", "read_kinds"]

KINDS = ("real", "positive", "bounded", "count", "ordinal", "categorical", "binary", "date", "id", "text", "constant")
NUMERIC = ("real", "positive", "bounded", "count", "ordinal", "date")
NUMBERS = ("real", "positive", "bounded", "count")
LEFT_OUT = ("id", "text", "constant")
TRUTHS = {"true": True, "false": False}  # how text says what a file with types says
LABELS = (str, bool, int, float, np.generic)  # what a cell of a categorical column can be
MOST_LEVELS = 100  # of a categorical column; the rarer ones are pooled
FEW = 12  # different whole numbers up to which a column is ordinal
MANY = 256  # different whole numbers from which on a count is as good as continuous, and rounded
SKEWED = 1.0  # positive columns whose skewness is above this are modelled by their logarithm


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its kind, its type in the user's table, and what else has to come back right.

    levels: labels of a categorical or binary column, values of an ordinal one, in order. step: distance between whole
    numbers (counts, dates), 0 for continuous columns; decimals: what continuous values are rounded to, None for no
    rounding. low, high: the observed range, which new values keep to. value: a constant column's.
    """

    name: str
    kind: str
    dtype: str
    missing: int
    different: int
    levels: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    decimals: int | None = None
    value: Any = None

    @property
    def words(self) -> str:
        """What is known of its values, for people."""
        if self.kind in ("categorical", "binary", "ordinal"):
            shown = ", ".join(_short(level) for level in self.levels[:4])
            return f"{len(self.levels)} levels: {shown}{', ...' if len(self.levels) > 4 else ''}"
        if self.kind == "constant":
            return "no values" if self.value is None else f"always {_short(self.value)}"
        if self.kind in ("text", "id"):
            return f"{self.different} different values; left out"
        if self.kind == "date":
            return f"{_day(self.low)} to {_day(self.high)}"
        return f"{self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, and what container it came in."""

    columns: tuple[Column, ...]
    container: str
    rows: int
    category_levels: dict[str, tuple[list[Any], bool]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that a model sees: numbers first, then categories."""
        numbers = [c for c in self.columns if c.kind in NUMERIC]
        return tuple(numbers + [c for c in self.columns if c.kind in ("categorical", "binary")])

    @functools.cached_property
    def _named(self) -> dict[str, Column]:
        return {c.name: c for c in self.columns}

    def __getitem__(self, name: str) -> Column:
        if name in self._named:
            return self._named[name]
        raise InputError(f"there is no column {name!r}. The columns are {', '.join(c.name for c in self.columns)}.")

    def __str__(self) -> str:
        head = ("column", "kind", "missing", "values")
        rows = [
            (" ".join(c.name.split()), c.kind, f"{100 * c.missing / max(self.rows, 1):.1f} %", c.words)
            for c in self.columns
        ]
        widths = [max(len(r[i]) for r in [head, *rows]) for i in range(3)]
        return "\n".join("  ".join([*(r[i].ljust(widths[i]) for i in range(3)), r[3]]).rstrip() for r in [head, *rows])

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file or for `kinds=`."""
        columns = [dataclasses.asdict(c) for c in self.columns]
        levels = {k: [v[0], v[1]] for k, v in self.category_levels.items()}
        return {"columns": columns, "container": self.container, "rows": self.rows, "category_levels": levels}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`."""
        columns = tuple(Column(**{**c, "levels": tuple(c["levels"])}) for c in values["columns"])
        levels = {k: (list(v[0]), bool(v[1])) for k, v in values["category_levels"].items()}
        return Schema(columns, values["container"], values["rows"], levels)


def find_schema(table: Table, kinds: Mapping[str, str] | str | Path | None = None) -> Schema:
    """The schema of a table. `kinds` overrides kinds by column name: a dictionary or a JSON file of one.

    Found in this order: one value or none at all: constant. Dates by their type. Booleans and columns of two values:
    binary. Text: categorical, or left out when most values differ from each other. Whole numbers: a running number is
    an id and left out; up to 12 different ones are ordinal; otherwise a count. Other numbers: positive when they are
    and are skewed, bounded when they fill 0 to 1, otherwise real.
    """
    wanted = read_kinds(kinds)
    for name, kind in wanted.items():
        if name not in table.columns:
            raise InputError(f"kinds names column {name!r}, which is not there. Columns: {', '.join(table.columns)}.")
        if kind not in KINDS:
            raise InputError(f"kinds gives column {name!r} the kind {kind!r}. Use one of {', '.join(KINDS)}.")
    columns = []
    for name, cells in table.columns.items():
        dtype = table.dtypes.get(name, table.dtypes.get("x", ""))
        if wanted.get(name) in NUMBERS and cells.dtype.kind == "O":
            cells, dtype = _told_numbers(cells, dtype)
        column = _column(name, cells, dtype, wanted.get(name), table.levels.get(name))
        if column.kind == "id" and name not in wanted and not table.named:
            column = _column(name, cells, dtype, "real", None)  # an array's columns are there to be modelled
        columns.append(column)
    return Schema(tuple(columns), table.container, table.rows, dict(table.levels))


def read_kinds(kinds: Mapping[str, str] | str | Path | None) -> dict[str, str]:
    """Column: kind, as given or from a JSON file. Raises InputError for a file that does not hold that."""
    if kinds is None or isinstance(kinds, Mapping):
        return {str(k): v for k, v in (kinds or {}).items()}
    try:
        values = json.loads(Path(kinds).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the kinds in {kinds}: {error}. Give a JSON object of column: kind.") from None
    if isinstance(values, dict) and "columns" in values:  # what `qphi schema --json` prints
        return {c["name"]: c["kind"] for c in values["columns"]}
    if not isinstance(values, dict):
        raise InputError(f"{kinds} holds no JSON object. Give one of column: kind.")
    return values


def _told_numbers(cells: np.ndarray, dtype: str) -> tuple[np.ndarray, str]:
    """Text that is numbers throughout as such, with their type; anything else as it is."""
    try:
        numbers = np.array([np.nan if cell is None else float(cell) for cell in cells])
    except (TypeError, ValueError):
        return cells, dtype
    return numbers, "int64" if (numbers[~np.isnan(numbers)] % 1 == 0).all() else "float64"


def _column(name: str, cells: np.ndarray, dtype: str, kind: str | None, declared: Any) -> Column:
    seen = cells[seen_cells(cells)]
    different = _different(seen)
    missing = len(cells) - len(seen)
    made = Column(name, "constant", dtype, missing, len(different))
    if kind == "constant" or len(different) <= 1:
        return dataclasses.replace(made, value=_plain(different[0]) if len(different) else None)
    if cells.dtype.kind == "O":
        return _of_labels(made, seen, different, kind, declared)
    if kind in ("id", "text"):
        return dataclasses.replace(made, kind=kind)
    if cells.dtype.kind == "M":
        numbers = seen.astype("int64").astype(float)
        step = _common_step(numbers, (86_400e9, 3600e9, 60e9, 1e9, 1.0))
        made = dataclasses.replace(made, kind="date", step=step)
    else:
        numbers = seen
        if not np.isfinite(numbers).all():
            raise InputError(
                f"column {name!r} has infinity in row {int(np.flatnonzero(np.isinf(cells))[0])}. Make it a gap."
            )
        kind = kind or _kind_of_numbers(numbers, different)
        made = dataclasses.replace(made, kind=kind)
        if kind in ("binary", "categorical", "ordinal"):
            order = different if kind != "categorical" else _by_frequency(seen, different)
            return dataclasses.replace(
                made, levels=tuple(_plain(v) for v in order), low=min(different), high=max(different)
            )
        if kind == "count" and not (numbers == np.round(numbers)).all():
            row = int(np.flatnonzero(numbers != np.round(numbers))[0])
            raise InputError(f"column {name!r} cannot be a count: {numbers[row]:g} is no whole number. Use kind real.")
        if kind == "positive" and numbers.min() <= 0:
            raise InputError(f"column {name!r} cannot be positive: it has {numbers.min():g}. Use kind real.")
        whole = kind == "count"
        step = float(np.gcd.reduce(np.diff(np.asarray(different)).astype(np.int64))) if whole else 0.0
        made = dataclasses.replace(made, step=step, decimals=None if whole else _decimals(numbers))
    return dataclasses.replace(made, low=float(numbers.min()), high=float(numbers.max()))


def _of_labels(made: Column, seen: np.ndarray, different: list, kind: str | None, declared: Any) -> Column:
    if kind in (*NUMBERS, "date"):
        raise InputError(
            f"column {made.name!r} cannot be {kind}: it has text such as {different[0]!r}. Use categorical."
        )
    ordered = declared is not None and declared[1]
    if not all(isinstance(v, LABELS) for v in seen):
        if kind not in (None, "id", "text"):
            raise InputError(
                f"column {made.name!r} cannot be {kind}: it has {seen[0]!r}. Make it text, numbers or dates."
            )
        kind = "text"
    if kind is None:
        if len(different) == 2:
            kind = "binary"
        elif ordered:
            kind = "ordinal"
        else:
            kind = "text" if len(different) > max(20, 0.5 * len(seen)) else "categorical"
    if kind in ("text", "id"):
        return dataclasses.replace(made, kind=kind)
    if kind == "ordinal":
        order = [v for v in declared[0] if v in set(different)] if declared is not None else different
    else:
        order = _by_frequency(seen, different) if kind == "categorical" else different
    return dataclasses.replace(made, kind=kind, levels=tuple(_plain(v) for v in order))


def _kind_of_numbers(numbers: np.ndarray, different: list) -> str:
    if len(different) == 2:
        return "binary"
    if (numbers == np.round(numbers)).all() and np.abs(numbers).max() < 2**53:
        span = different[-1] - different[0] + 1
        if len(different) == len(numbers) == span and len(numbers) >= 20:
            return "id"
        if len(different) <= FEW and span <= 4 * len(different):
            return "ordinal"
        if len(different) <= MANY:
            return "count"
    if numbers.min() >= 0 and 0.9 < numbers.max() <= 1 and numbers.min() < 0.1:
        return "bounded"
    scaled = numbers / np.abs(numbers).max()  # neither 1e300 nor 1e-300 has a cube
    skewness = np.mean((scaled - scaled.mean()) ** 3) / max(float(np.std(scaled)) ** 3, 1e-300)
    return "positive" if numbers.min() > 0 and skewness > SKEWED else "real"


def are_truths(cells: np.ndarray) -> bool:
    """Whether all cells that are no gaps, and there are some, are True or False."""
    seen = cells[seen_cells(cells)].tolist()
    return bool(seen) and all(isinstance(v, (bool, np.bool_)) for v in seen)


def as_truths(cells: np.ndarray) -> np.ndarray:
    """True and False for text that says so; all else as it is."""
    told = np.empty(len(cells), object)
    told[:] = [TRUTHS.get(v.lower(), v) if isinstance(v, str) else v for v in cells.tolist()]
    return told


def seen_cells(cells: np.ndarray) -> np.ndarray:
    """Which cells of a column are not gaps, (rows,) bool."""
    if cells.dtype.kind == "M":
        return ~np.isnat(cells)
    if cells.dtype.kind == "f":
        return ~np.isnan(cells)
    return np.array([v is not None for v in cells], bool)


def _different(seen: np.ndarray) -> list:
    if seen.dtype.kind != "O":
        return np.unique(seen).tolist()
    if not all(isinstance(v, LABELS) for v in seen):  # lists, durations, ...: no labels, and not to be ordered
        return sorted({str(v) for v in seen})
    return sorted(set(seen.tolist()), key=lambda v: (type(v).__name__, v))


def _by_frequency(seen: np.ndarray, different: list) -> list:
    place = {v: i for i, v in enumerate(different)}
    counts = np.bincount([place[v] for v in seen.tolist()], minlength=len(different))
    return [different[i] for i in np.argsort(-counts, kind="stable")]


def _common_step(numbers: np.ndarray, steps: tuple[float, ...]) -> float:
    return next((s for s in steps if not np.any((numbers - numbers[0]) % s)), steps[-1])


def _decimals(numbers: np.ndarray) -> int | None:
    return next((d for d in range(5) if np.allclose(numbers, np.round(numbers, d), rtol=1e-12, atol=0)), None)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())  # a cell may have many lines
    return text if len(text) <= 20 else text[:19] + "…"


def _day(nanoseconds: float) -> str:
    return str(np.datetime64(int(nanoseconds), "ns").astype("datetime64[D]"))
