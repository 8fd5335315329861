"""CSV and TSV, plain or .gz, between text and columns: names, delimiters, types, and where something is wrong."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qphi.data.frames import Table, as_dates
from qphi.data.schema import FEW, NUMERIC, Schema, as_truths
from qphi.errors import InputError

__all__ = ["Piece", "as_text", "cell_text", "csv_pieces", "from_text"]

GAPS = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "nil", "<na>"))
TYPOS = 0.1  # share of a column's cells up to which text among numbers, or no date among dates, is an oversight
ISO = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*")
DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T].*)?")
AMOUNT = re.compile(r"[-+(]?[$€£¥]? ?[-+]?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d+)?( ?[%$€£¥])?\)?")


class Piece(NamedTuple):
    """Rows of a CSV file as text, and where they stand."""

    names: list[str]
    rows: list[list[str]]
    lines: list[int]  # where each row begins
    delimiter: str


def csv_pieces(path: Path, rows: int | None = None) -> Iterator[Piece]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    line = 0
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:  # type: ignore[operator]
            head = file.readline()
            if not head.strip():
                raise InputError(f"{path} is empty. Give a table with a line of column names and at least one row.")
            delimiter = max(",;\t|", key=head.count)
            lines = itertools.chain([head], file)  # a name may have a line break in it
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
            first = next(reader)
            names = _names(first, path)
            kept = _with_lines(reader)
            if names is None:
                names, kept = [f"column{j}" for j in range(len(first))], itertools.chain([(1, first)], kept)
            while piece := list(itertools.islice(kept, rows)):
                for line, row in piece:
                    if len(row) != len(names):
                        raise InputError(
                            f"{path} has {len(row)} cells in line {line}, and {len(names)} columns: "
                            f"it is cut off, or a cell holds the delimiter {delimiter!r}. Quote or complete that line."
                        )
                yield Piece(names, [row for _, row in piece], [line for line, _ in piece], delimiter)
            if not line:
                raise InputError(f"{path} has a header but 0 rows. Give at least one row.")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 ({error.reason} in line {_undecodable(path, opener)}). "
            "Convert it with iconv -t utf-8."
        ) from None
    except (EOFError, csv.Error, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InputError(f"cannot read {path} near line {line + 1}: {error}. It is cut off or damaged.") from None


def _with_lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows and the lines that they begin in, which a cell may have several of; empty lines left out."""
    begins = reader.line_num + 1
    for row in reader:
        if row:
            yield begins, row
        begins = reader.line_num + 1


def _undecodable(path: Path, opener: Any) -> int:
    """The number of the first line that is not UTF-8."""
    with opener(path, "rb") as file:
        for number, text in enumerate(file, 1):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _names(first: list[str], path: Path) -> list[str] | None:
    """The names in a first line; None where it is data: any number or gap in it. Some may have none, but not all."""
    names = [cell.strip() or f"column{j}" for j, cell in enumerate(first)]
    if any(name.lower() in GAPS or _is_number(name) for name in names) or not any(map(str.strip, first)):
        return None
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} names column {twice[0]!r} more than once. Rename one of them.")
    return names


def from_text(piece: Piece, schema: Schema | None, path: Path) -> Table:
    text = np.array(piece.rows, object).reshape(len(piece.rows), len(piece.names))
    columns, dtypes = {}, {}
    known = {} if schema is None else {c.name: c for c in schema.columns}
    for j, name in enumerate(piece.names):
        cells = [cell.strip() for cell in text[:, j]]
        # beside another delimiter a comma may be that of decimals; numbers are written back with points
        points = cells if piece.delimiter == "," else [_with_point(cell) for cell in cells]
        column = known.get(name)
        if column is None:
            columns[name], dtypes[name] = _guess(cells, points, name, piece.lines, path)
        else:
            levels = [v for v in column.levels if not isinstance(v, str)]
            numeric = column.kind in NUMERIC if not column.levels else bool(levels)
            if column.kind == "date":
                columns[name] = _dates(cells, name, piece.lines, path)
            elif levels and all(isinstance(level, bool) for level in levels):
                columns[name] = as_truths(_labels(cells))
            elif numeric or (column.kind == "constant" and isinstance(column.value, (int, float))):
                columns[name] = _numbers(points, name, piece.lines, path)
            else:
                columns[name] = _labels(cells)
            dtypes[name] = column.dtype
        if columns[name].dtype.kind == "f":
            text[:, j] = points
    return Table(columns, "csv", dtypes, index=text)


def _with_point(cell: str) -> str:
    point = cell.replace(",", ".", 1)
    return point if point != cell and _is_number(point) else cell


def _guess(cells: list[str], points: list[str], name: str, lines: list[int], path: Path) -> tuple[np.ndarray, str]:
    """A column of text as numbers, dates or labels; `points`: the same with decimal points in its numbers."""
    seen = [cell for cell in points if cell.lower() not in GAPS]
    if seen and all(map(_is_number, seen)) and not _are_codes(seen):
        whole = all("." not in c and "e" not in c.lower() for c in seen)
        return _numbers(points, name, lines, path), "int64" if whole else "float64"
    if seen and all(len(c) >= 8 and c[:4].isdigit() and c[4] == "-" for c in seen):
        with contextlib.suppress(ValueError):
            return as_dates([c if c.lower() not in GAPS else "NaT" for c in cells]), "datetime64[ns]"
    _warn_of_text(seen, name)
    return _labels(cells), "str"


def _are_codes(seen: list[str]) -> bool:
    """Whether cells are figures of one length, at least three, with zeros in front of some: a zip code is no number."""
    widths = {len(cell) for cell in seen}
    return len(widths) == 1 and min(widths) >= 3 and all(map(str.isdecimal, seen)) and any(c[0] == "0" for c in seen)


def _warn_of_text(seen: list[str], name: str) -> None:
    """One cell among numbers makes a column text; so do dates and numbers that are written in other ways."""
    numbers = set(filter(_is_number, seen))
    others = [cell for cell in seen if cell not in numbers]
    if len(numbers) > FEW and 0 < len(others) < TYPOS * len(seen):
        warnings.warn(
            f"column {name!r} has {others[0]!r} among numbers, {len(others)} of {len(seen)} cells are none: it counts "
            "as text. Correct such cells, or leave them empty.",
            UserWarning,
            stacklevel=2,
        )
    for looks, words in ((DATE, "a date. Write 2024-05-01, from 1678 to 2261"), (AMOUNT, "a number. Write 1234.5")):
        if len(set(others)) > FEW and sum(looks.fullmatch(cell) is not None for cell in seen) > (1 - TYPOS) * len(seen):
            odd = next((cell for cell in others if not ISO.fullmatch(cell) or not _is_date(cell)), others[0])
            warnings.warn(
                f"column {name!r} has {odd!r}, which counts as text but looks like {words}.", UserWarning, stacklevel=2
            )
            return


def _labels(cells: list[str]) -> np.ndarray:
    labels = np.empty(len(cells), object)
    labels[:] = [None if cell.lower() in GAPS else cell for cell in cells]
    return labels


def _numbers(cells: list[str], name: str, lines: list[int], path: Path) -> np.ndarray:
    numbers = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell.lower() not in GAPS:
            try:
                numbers[row] = float(cell)
                needed = "a finite number"
            except ValueError:
                numbers[row], needed = math.inf, "a number"
            if math.isinf(numbers[row]):
                raise InputError(
                    f"{path}: column {name!r} has {cell!r} in line {lines[row]}, where {needed} is needed. "
                    "Correct it, or leave the cell empty."
                )
    return numbers


def _dates(cells: list[str], name: str, lines: list[int], path: Path) -> np.ndarray:
    dates = np.full(len(cells), "NaT", "datetime64[ns]")
    for row, cell in enumerate(cells):
        if cell.lower() not in GAPS:
            try:
                dates[row] = as_dates([cell])[0]
            except ValueError:
                raise InputError(
                    f"{path}: column {name!r} has {cell!r} in line {lines[row]}, where a date as 2024-05-01 is needed."
                ) from None
    return dates


def _is_date(cell: str) -> bool:
    try:
        as_dates([cell])
    except ValueError:
        return False
    return True


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip().lower() not in GAPS and "_" not in cell  # 1_000 is a number to Python alone


def as_text(table: Table) -> list[list[str]]:
    """Columns as text: what a cell's own text was, where it had one; gaps empty."""
    made = []
    for j, (name, cells) in enumerate(table.columns.items()):
        dtype = table.dtypes.get(name, table.dtypes.get("x", ""))
        new = [cell_text(value, dtype) for value in cells]
        if isinstance(table.index, np.ndarray) and table.container == "csv" and j < table.index.shape[1]:
            old = [str(cell) for cell in table.index[:, j]]
            new = [o if o.strip().lower() not in GAPS else n for o, n in zip(old, new, strict=True)]
        made.append(new)
    return made


def cell_text(value: Any, dtype: str) -> str:
    """A cell as a file of text has it; "" for a gap."""
    if value is None or value != value:
        return ""
    if isinstance(value, np.datetime64):
        return "" if np.isnat(value) else str(value.astype("datetime64[s]")).removesuffix("T00:00:00")
    if isinstance(value, float):
        whole = dtype.lower().startswith(("int", "uint")) and value == int(value)
        return str(int(value)) if whole else repr(float(value))
    return str(value)
