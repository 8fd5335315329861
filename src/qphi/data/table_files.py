"""Tables in files: CSV and TSV (plain or .gz) without any further package, Parquet through pyarrow. Read in pieces."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qphi.data.frames import Table, as_dates, read_table, to_container
from qphi.data.schema import FEW, NUMERIC, Schema, as_truths
from qphi.errors import InputError
from qphi.files import atomic_write

__all__ = [
    "TABLE_SUFFIXES",
    "cell_text",
    "choose_rows",
    "is_table_file",
    "read_table_file",
    "table_pieces",
    "table_writer",
]

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
GAPS = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "nil", "<na>"))
TYPOS = 0.1  # share of a column's cells up to which text among numbers, or no date among dates, is an oversight
ISO = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*")
DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T].*)?")
AMOUNT = re.compile(r"[-+(]?[$€£¥]? ?[-+]?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d+)?( ?[%$€£¥])?\)?")
ROWS = 20_000  # of a piece
MOST_CELLS = 10_000_000  # that `choose_rows` keeps: under 2 GB with what a model sees of them
FEWEST_KEPT = 10_000  # rows, however many columns


def is_table_file(path: str | Path) -> bool:
    """Whether a file's name says that it is a table."""
    return str(path).lower().endswith(TABLE_SUFFIXES)


def read_table_file(path: str | Path) -> Table:
    """A whole table, its column types found from all of it. Raises InputError, naming line and column."""
    return choose_rows(path, None)[0]


def choose_rows(path: str | Path, most_cells: int | None = MOST_CELLS) -> tuple[Table, int]:
    """A table to fit, and how many rows its file has: all of them, or a random choice of at most `most_cells` cells
    (None keeps all).

    The choice is the same each time, keeps the order of rows, and has at least half of the cells that are allowed. The
    file is read once, a piece at a time, so that memory does not grow with it. Raises InputError as `read_table_file`.
    """
    path = _existing(path)
    if path.suffix.lower() == ".parquet":
        with _parquet(path) as file:
            import pyarrow  # pyright: ignore[reportMissingImports]

            most = _most_rows(most_cells, len(file.schema_arrow.names))
            batches = (pyarrow.Table.from_batches([batch]) for batch in file.iter_batches(ROWS))
            kept, count = _thinned(batches, most, lambda piece, keep: piece.filter(pyarrow.array(keep)))
            return read_table(pyarrow.concat_tables(kept), str(path)), count
    pieces = _csv_pieces(path, ROWS)
    first = next(pieces)
    most = _most_rows(most_cells, len(first.names))
    rows = (piece.rows for piece in itertools.chain([first], pieces))
    kept, count = _thinned(rows, most, lambda piece, keep: list(itertools.compress(piece, keep)))
    return _from_text(first._replace(rows=[row for piece in kept for row in piece]), None, path), count


def _most_rows(most_cells: int | None, columns: int) -> float:
    return math.inf if most_cells is None else max(most_cells // max(columns, 1), FEWEST_KEPT)


def _thinned(pieces: Iterable[Any], most: float, take: Callable[[Any, np.ndarray], Any]) -> tuple[list[Any], int]:
    """At most `most` rows of all pieces, and how many there were. A row stays while its own u ~ U(0, 1) is below the
    share that is kept, which halves whenever there are too many."""
    rng, share, count = np.random.default_rng(0), 1.0, 0
    kept: list[tuple[Any, np.ndarray]] = []
    for piece in pieces:
        u = rng.random(len(piece))
        count += len(u)
        kept.append((piece, u) if share == 1 else (take(piece, u < share), u[u < share]))
        while sum(len(u) for _, u in kept) > most:
            share /= 2
            kept = [(take(piece, u < share), u[u < share]) for piece, u in kept]
    return [piece for piece, _ in kept], count


def table_pieces(path: str | Path, schema: Schema, rows: int = ROWS) -> Iterator[Table]:
    """A table a piece at a time, its columns read as `schema` says: memory does not grow with the file."""
    path = _existing(path)
    if path.suffix.lower() == ".parquet":
        with _parquet(path) as file:
            for batch in file.iter_batches(rows):
                import pyarrow  # pyright: ignore[reportMissingImports]

                yield read_table(pyarrow.Table.from_batches([batch]), str(path))
        return
    for piece in _csv_pieces(path, rows):
        yield _from_text(piece, schema, path)


@contextlib.contextmanager
def table_writer(path: str | Path) -> Iterator[Callable[[Table], None]]:
    """A function that appends tables to a new file, which is there whole when all went well, or not at all."""
    path = Path(path)
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet  # pyright: ignore[reportMissingImports]

            made: list[Any] = []

            def append(table: Table) -> None:
                arrow = to_container(_arrow_like(table))
                if not made:
                    made.append(pyarrow.parquet.ParquetWriter(temporary, arrow.schema))
                made[0].write_table(arrow.cast(made[0].schema))

            try:
                yield append
            finally:
                for writer in made:
                    writer.close()
            return
        opener = gzip.open if path.suffix.lower() == ".gz" else open
        with opener(temporary, "wt", newline="", encoding="utf-8") as file:  # type: ignore[operator]
            writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name.lower() else ",")
            started = []

            def write(table: Table) -> None:
                if not started:
                    writer.writerow(list(table.columns))
                    started.append(True)
                writer.writerows(zip(*_as_text(table), strict=True))

            yield write


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no such file: {path}. Give a table: {', '.join(TABLE_SUFFIXES)}.")
    return path


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"{path} is Parquet, which needs pyarrow: pip install pyarrow. Or give a .csv file.") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path}: {error}. It is cut off, or no Parquet file; write it again.") from None
    with file:
        if not file.metadata.num_rows:
            raise InputError(f"{path} has a header but 0 rows. Give at least one row.")
        yield file


class _Piece(NamedTuple):
    """Rows of a CSV file as text, and where they stand."""

    names: list[str]
    rows: list[list[str]]
    line: int  # of the first row
    delimiter: str


def _csv_pieces(path: Path, rows: int | None = None) -> Iterator[_Piece]:
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
            kept: Iterator[list[str]] = reader
            line = 2
            if names is None:
                names, kept, line = [f"column{j}" for j in range(len(first))], itertools.chain([first], reader), 1
            found = False
            while piece := list(itertools.islice(kept, rows)):
                whole = [row for row in piece if row]
                for offset, row in enumerate(piece):
                    if row and len(row) != len(names):
                        raise InputError(
                            f"{path} has {len(row)} cells in line {line + offset}, and {len(names)} columns: "
                            f"it is cut off, or a cell holds the delimiter {delimiter!r}. Quote or complete that line."
                        )
                if whole:
                    found = True
                    yield _Piece(names, whole, line, delimiter)
                line += len(piece)
            if not found:
                raise InputError(f"{path} has a header but 0 rows. Give at least one row.")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 ({error.reason} in line {_undecodable(path, opener)}). "
            "Convert it with iconv -t utf-8."
        ) from None
    except (EOFError, csv.Error, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InputError(f"cannot read {path} near line {max(line, 1)}: {error}. It is cut off or damaged.") from None


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


def _from_text(piece: _Piece, schema: Schema | None, path: Path) -> Table:
    text = np.array(piece.rows, object).reshape(len(piece.rows), len(piece.names))
    columns, dtypes = {}, {}
    known = {} if schema is None else {c.name: c for c in schema.columns}
    for j, name in enumerate(piece.names):
        cells = [cell.strip() for cell in text[:, j]]
        # beside another delimiter a comma may be that of decimals; numbers are written back with points
        points = cells if piece.delimiter == "," else [_with_point(cell) for cell in cells]
        column = known.get(name)
        if column is None:
            columns[name], dtypes[name] = _guess(cells, points, name, piece.line, path)
        else:
            levels = [v for v in column.levels if not isinstance(v, str)]
            numeric = column.kind in NUMERIC if not column.levels else bool(levels)
            if column.kind == "date":
                columns[name] = _dates(cells, name, piece.line, path)
            elif levels and all(isinstance(level, bool) for level in levels):
                columns[name] = as_truths(_labels(cells))
            elif numeric or (column.kind == "constant" and isinstance(column.value, (int, float))):
                columns[name] = _numbers(points, name, piece.line, path)
            else:
                columns[name] = _labels(cells)
            dtypes[name] = column.dtype
        if columns[name].dtype.kind == "f":
            text[:, j] = points
    return Table(columns, "csv", dtypes, index=text)


def _with_point(cell: str) -> str:
    point = cell.replace(",", ".", 1)
    return point if point != cell and _is_number(point) else cell


def _guess(cells: list[str], points: list[str], name: str, line: int, path: Path) -> tuple[np.ndarray, str]:
    """A column of text as numbers, dates or labels; `points`: the same with decimal points in its numbers."""
    seen = [cell for cell in points if cell.lower() not in GAPS]
    if seen and all(map(_is_number, seen)) and not _are_codes(seen):
        whole = all("." not in c and "e" not in c.lower() for c in seen)
        return _numbers(points, name, line, path), "int64" if whole else "float64"
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


def _numbers(cells: list[str], name: str, first: int, path: Path) -> np.ndarray:
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
                    f"{path}: column {name!r} has {cell!r} in line {first + row}, where {needed} is needed. "
                    "Correct it, or leave the cell empty."
                )
    return numbers


def _dates(cells: list[str], name: str, first: int, path: Path) -> np.ndarray:
    dates = np.full(len(cells), "NaT", "datetime64[ns]")
    for row, cell in enumerate(cells):
        if cell.lower() not in GAPS:
            try:
                dates[row] = as_dates([cell])[0]
            except ValueError:
                raise InputError(
                    f"{path}: column {name!r} has {cell!r} in line {first + row}, where a date as 2024-05-01 is needed."
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


def _as_text(table: Table) -> list[list[str]]:
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


def _arrow_like(table: Table) -> Table:
    """The table as pyarrow's, with types of Parquet for those of other containers."""
    if table.container == "pyarrow":
        return table
    kinds = {"f": "double", "M": "timestamp[us]", "O": "object"}
    dtypes = {}
    for name, cells in table.columns.items():
        dtype = table.dtypes.get(name, table.dtypes.get("x", "")).lower()
        dtypes[name] = dtype if dtype.startswith(("int", "uint")) else kinds[cells.dtype.kind]
    return Table(dict(table.columns), "pyarrow", dtypes)
