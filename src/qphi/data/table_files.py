"""Tables in files: CSV and TSV (plain or .gz) without any further package, Parquet through pyarrow. Read in pieces."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qphi.data.containers import to_arrow
from qphi.data.csv_text import as_text, csv_pieces, from_text
from qphi.data.frames import Table, read_table
from qphi.data.schema import Schema
from qphi.errors import InputError
from qphi.files import atomic_write

__all__ = [
    "TABLE_SUFFIXES",
    "choose_rows",
    "is_table_file",
    "read_table_file",
    "table_pieces",
    "table_writer",
]

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
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
    pieces = csv_pieces(path, ROWS)
    first = next(pieces)
    most = _most_rows(most_cells, len(first.names))
    rows = (list(zip(piece.lines, piece.rows, strict=True)) for piece in itertools.chain([first], pieces))
    kept, count = _thinned(rows, most, lambda piece, keep: list(itertools.compress(piece, keep)))
    chosen = list(itertools.chain.from_iterable(kept))
    piece = first._replace(rows=[row for _, row in chosen], lines=[line for line, _ in chosen])
    return from_text(piece, None, path), count


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


def table_pieces(path: str | Path, schema: Schema, rows: int | None = None) -> Iterator[Table]:
    """A table a piece at a time, its columns read as `schema` says: memory does not grow with the file."""
    path, rows = _existing(path), rows or ROWS
    if path.suffix.lower() == ".parquet":
        with _parquet(path) as file:
            for batch in file.iter_batches(rows):
                import pyarrow  # pyright: ignore[reportMissingImports]

                yield read_table(pyarrow.Table.from_batches([batch]), str(path))
        return
    for piece in csv_pieces(path, rows):
        yield from_text(piece, schema, path)


@contextlib.contextmanager
def table_writer(path: str | Path) -> Iterator[Callable[[Table], None]]:
    """A function that appends tables to a new file, which is there whole when all went well, or not at all."""
    path = Path(path)
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet  # pyright: ignore[reportMissingImports]

            made: list[Any] = []

            def append(table: Table) -> None:
                arrow = to_arrow(table)
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
                writer.writerows(zip(*as_text(table), strict=True))

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
