"""Filling gaps: draws of what is missing to single values, intervals and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from qphi.data.codec import TableCodec
from qphi.data.containers import of_columns, to_container
from qphi.data.csv_text import cell_text
from qphi.data.frames import Table, as_cells
from qphi.data.schema import NUMERIC, are_truths, as_truths, seen_cells
from qphi.errors import InputError
from qphi.tables.widths import Widths, interval

__all__ = [
    "conditions",
    "ends",
    "filled",
    "give_back",
    "intervals",
    "joined",
    "level_shares",
    "listed",
    "measured",
    "middles",
    "probabilities",
]


def middles(
    codec: TableCodec, u: Float[np.ndarray, "rows draws columns"], gaps: Bool[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """Each gap's draws as one number: the mean of numbers, the median of ordinals and dates, the commonest level.

    NaN where there is no gap: most of the time would be spent on values that nobody asks for.
    """
    found = np.full(gaps.shape, np.nan)
    for j, column in enumerate(codec.schema.modelled):
        rows = gaps[:, j]
        values = codec.values(column.name, u[rows, :, j])
        if column.kind in ("categorical", "binary"):
            found[rows, j] = _commonest(values.round().astype(int))
        else:
            found[rows, j] = np.median(values, axis=1) if column.kind in ("ordinal", "date") else values.mean(axis=1)
    return found


def filled(
    codec: TableCodec, table: Table, rows: Int[np.ndarray, " drawn"], values: Float[np.ndarray, "drawn columns"]
) -> Table:
    """The table with the gaps of `rows`, which are all that have any, filled with `values`."""
    columns, dtypes, levels = dict(table.columns), dict(table.dtypes), dict(table.levels)
    for j, column in enumerate(codec.schema.modelled):
        cells = columns[column.name]
        gaps = ~seen_cells(cells)[rows]
        if not gaps.any():
            continue
        made = codec.cells(column.name, values[gaps, j])
        if made.dtype.kind != cells.dtype.kind and not seen_cells(cells).any():  # all gaps, of whatever type
            cells = np.full(len(cells), np.datetime64("NaT") if made.dtype.kind == "M" else None, made.dtype)
            dtypes |= of_columns({column.name: cells}, table).dtypes
            levels.pop(column.name, None)
        if are_truths(cells):
            made = as_truths(made)
        new = cells.copy()
        new[rows[gaps]] = made.astype(object) if cells.dtype.kind == "O" else made
        columns[column.name] = new
    for column in codec.schema.columns:
        if column.kind == "constant" and column.name in columns and column.value is not None:
            cells = columns[column.name]
            columns[column.name] = np.where(seen_cells(cells), cells, codec.constant(column, len(cells)))
    return dataclasses.replace(table, columns=columns, dtypes=dtypes, levels=levels)


def _commonest(levels: np.ndarray) -> Float[np.ndarray, " rows"]:
    counts = np.stack([(levels == k).sum(axis=1) for k in range(int(levels.max(initial=0)) + 1)], axis=1)
    return counts.argmax(axis=1).astype(float)


def ends(
    codec: TableCodec, u: Float[np.ndarray, "rows draws columns"], coverage: float, widths: Widths
) -> dict[str, Shaped[np.ndarray, "2 rows"]]:
    """Central intervals of the draws of numeric columns, widened; ends are values that a cell can have."""
    found = {}
    for j, column in enumerate(codec.numeric):
        name = column.name
        both = interval(u[:, :, j], coverage, widths.at(coverage, bool(codec.scores[j].step)))
        found[name] = np.stack([codec.cells(name, codec.values(name, end)) for end in both])
    return found


def measured(codec: TableCodec) -> dict[int, bool]:
    """The columns that say how wide intervals have to be, and whether their values come in steps: not ordinal ones,
    which are covered too often whatever the width."""
    return {j: bool(codec.scores[j].step) for j, column in enumerate(codec.numeric) if column.kind != "ordinal"}


def intervals(
    table: Table, rows: Int[np.ndarray, " drawn"], ends: Mapping[str, Shaped[np.ndarray, "2 drawn"]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ends at the gaps of `rows`, which are all that have any; observed cells twice."""
    found = {}
    for name, both in ends.items():
        cells = table.columns[name]
        gaps = ~seen_cells(cells)[rows]
        if both.dtype.kind == "M" and cells.dtype.kind != "M":  # all gaps, of whatever type
            cells = np.full(len(cells), np.datetime64("NaT"), both.dtype)
        low, high = cells.astype(both.dtype), cells.astype(both.dtype)
        low[rows[gaps]], high[rows[gaps]] = both[:, gaps]
        found[name] = (low, high)
    return found


def level_shares(
    codec: TableCodec, u: Float[np.ndarray, "rows draws columns"]
) -> dict[str, Float[np.ndarray, "rows _"]]:
    """How often each level of the columns that have levels is among the draws; pooled ones by their own frequency."""
    found = {}
    for j, column in enumerate(codec.schema.modelled):
        if column.levels:
            drawn = codec.values(column.name, u[:, :, j]).round()
            shares = np.stack([(drawn == k).mean(axis=1) for k in range(len(column.levels))], axis=1)
            found[column.name] = codec.unpooled(column.name, shares)
    return found


def probabilities(
    codec: TableCodec,
    table: Table,
    rows: Int[np.ndarray, " drawn"],
    shares: Mapping[str, Float[np.ndarray, "drawn _"]],
) -> dict[str, Float[np.ndarray, "rows _"]]:
    """Shares of levels at the gaps of `rows`, which are all that have any; 1 at the level of an observed cell."""
    found = {}
    for name, share in shares.items():
        codes = codec.numbers(name, table)
        whole = (codes[:, None] == np.arange(share.shape[1])).astype(float)
        gaps = np.isnan(codes[rows])
        whole[rows[gaps]] = share[gaps]
        found[name] = whole
    return found


def listed(
    codec: TableCodec,
    table: Table,
    full: Table,
    rows: Int[np.ndarray, " drawn"],
    ends: Mapping[str, Shaped[np.ndarray, "2 drawn"]],
    shares: Mapping[str, Float[np.ndarray, "drawn _"]],
) -> Table:
    """A line for each gap of a modelled column: row, column, what it was filled with, the ends of its interval and the
    probability of its level, gaps where a column has none. Values are text, since columns differ in type."""
    parts: list[dict[str, np.ndarray]] = []
    for column in codec.schema.modelled:
        name = column.name
        at = np.flatnonzero(~seen_cells(table.columns[name])[rows])
        cells, blank = full.columns[name][rows[at]], np.full(len(at), np.nan)
        part = {"row": rows[at].astype(float), "column": np.full(len(at), name, object), "probability": blank}
        for key, values in zip(("filled", "low", "high"), (cells, *ends.get(name, (None, None))), strict=True):
            values = blank if values is None else values if key == "filled" else values[at]
            part[key] = np.array([cell_text(v, column.dtype) or None for v in values], object)
        if name in shares:
            levels = codec.numbers(name, Table({name: cells}, table.container, {})).astype(int)
            part["probability"] = shares[name][at, levels]
        parts.append(part)
    keys = {"row": "int64", "column": "str", "filled": "str", "low": "str", "high": "str", "probability": "float64"}
    whole = {key: np.concatenate([part[key] for part in parts]) for key in keys}
    return Table(whole, "csv", keys).take(np.argsort(whole["row"], kind="stable"))


def conditions(codec: TableCodec, given: Mapping[str, Any], balanced: str | None) -> list[Table]:
    """Tables of one row with the given cells and gaps elsewhere: one, or one for each level of the balanced column.

    Raises InputError for unknown columns and levels, for cells that are no value, and for a balanced column that has no
    levels or is given.
    """
    if balanced is None:
        return [_one_row(codec, given)]
    column = codec.schema[balanced]
    if not column.levels:
        having = [c.name for c in codec.schema.columns if c.levels]
        raise InputError(
            f"balanced={balanced!r}: the column is {column.kind} and has no levels to draw equally often. "
            + (f"Use one of {', '.join(map(repr, having[:8]))}." if having else "No column of this table has any.")
        )
    if balanced in given:
        raise InputError(f"column {balanced!r} is both given and balanced: it can have one value or all. Choose one.")
    return [_one_row(codec, {**given, balanced: level}) for level in column.levels]


def _one_row(codec: TableCodec, given: Mapping[str, Any]) -> Table:
    columns = {}
    for column in codec.schema.columns:
        numeric = column.kind in NUMERIC and column.kind not in ("ordinal", "date")
        blank: Any = np.full(1, np.nan) if numeric else np.full(1, None, object)
        columns[column.name] = np.array(["NaT"], "datetime64[ns]") if column.kind == "date" else blank
    for name, value in given.items():
        column = codec.schema[name]
        if column.kind in ("id", "text", "constant"):
            raise InputError(f"given {name}: the column is {column.kind} and not part of the model. Leave it out.")
        if column.levels and value not in column.levels:
            raise InputError(
                f"given {name}={value!r}: the fit saw no such level. Use one of "
                f"{', '.join(map(repr, column.levels[:8]))}."
            )
        columns[name] = _given_cell(name, value, column.kind)
    return Table(columns, codec.schema.container, {c.name: c.dtype for c in codec.schema.columns})


def _given_cell(name: str, value: Any, kind: str) -> np.ndarray:
    try:
        cell = as_cells(np.array([value], object) if kind != "date" else np.array([value], "datetime64[ns]"))
    except ValueError:
        raise InputError(f"given {name}={value!r}: a date is needed, such as '2024-05-01'.") from None
    if not seen_cells(cell).all():
        raise InputError(f"given {name}={value!r}: a value is needed. Leave the column out if any will do.")
    return cell


def joined(parts: Sequence[Any]) -> Any:
    """Pieces of one table, as `in_pieces` made them, put together again."""
    if len(parts) == 1:
        return parts[0]
    from scipy import sparse  # the only kind of table that comes in pieces

    whole = sparse.vstack(parts, format=parts[0].format)
    return whole if isinstance(whole, type(parts[0])) else type(parts[0])(whole)


def give_back(table: Table, original: Any) -> Any:
    """The filled table in its container. A frame keeps its very cells where nothing was missing: whole numbers beyond
    2^53 and decimals too, which the model sees rounded."""
    new = to_container(table)
    if table.container == "pandas":
        made = original.copy()
        for position, label in enumerate(original.columns):
            cells = original.iloc[:, position]
            if cells.isna().any():
                # objects, and pandas' own whole numbers with gaps, unless there is nothing to keep
                exact = (str(cells.dtype) == "object" or cells.dtype.kind in "iu") and cells.notna().any()
                filled = new[str(label)]
                made.isetitem(position, cells.where(cells.notna(), filled) if exact else filled)
        return made
    if table.container == "polars":
        exact = [c for c in original.columns if original[c].dtype.is_integer() or original[c].dtype.is_decimal()]
        exact = [c for c in exact if new[c].dtype == original[c].dtype]
        return new.with_columns(original[c].zip_with(original[c].is_not_null(), new[c]) for c in exact)
    if table.container == "pyarrow":
        from pyarrow import compute  # pyright: ignore[reportMissingImports]

        for position, name in enumerate(new.column_names):
            kind = str(new.schema.field(name).type)
            if kind.startswith(("int", "uint", "decimal")) and kind == str(original.schema.field(name).type):
                parts = [original[name].is_valid(), original[name], new[name]]
                new = new.set_column(position, name, compute.call_function("if_else", parts))
    return new
