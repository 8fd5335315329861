"""Any table to plain columns: pandas, polars, pyarrow, NumPy, SciPy's sparse matrices, dictionaries.

None of them is imported first.
"""

from __future__ import annotations

import dataclasses
import datetime
import numbers
import warnings
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from qphi.errors import InputError

__all__ = ["Table", "in_pieces", "is_sparse", "is_table", "mixed_table", "read_table"]

SPARSE = ("csr_array", "csr_matrix", "csc_array", "csc_matrix")
CONTAINERS = ("pandas", "polars", "pyarrow", "numpy", "dict", "csv", *SPARSE)
MOST_CELLS = 100_000_000  # of a sparse matrix as plain columns: 0.8 GB, and 2 GB more of what a model sees of them
EARLIEST, LATEST = (np.datetime64(day, "us") for day in ("1678-01-01", "2262-01-01"))
PIECE = 20_000  # rows of a sparse matrix that are plain columns at once


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Columns by name, each a NumPy array: float64 (gaps NaN), datetime64[ns] (gaps NaT) or objects (gaps None).

    `container` is what the table came in; `dtypes` the names of the columns' own types there, to give back; `levels`
    the declared levels of category types, with whether they are ordered. `index` is a frame's own.
    """

    columns: dict[str, np.ndarray]
    container: str
    dtypes: dict[str, str]
    levels: dict[str, tuple[list[Any], bool]] = dataclasses.field(default_factory=dict)
    index: Any = None

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def named(self) -> bool:
        """Whether the columns had names where the table came from; those of arrays are told by their place."""
        return self.container not in ("numpy", *SPARSE)

    def take(self, rows: Any) -> Table:
        """Some of the rows."""
        index = None if self.index is None else self.index[rows]
        return dataclasses.replace(self, columns={k: v[rows] for k, v in self.columns.items()}, index=index)


def is_table(x: Any) -> bool:
    """Whether x is a data frame (or dictionary of columns) rather than an array."""
    if _module(x) == "scipy":  # some of its sparse matrices are mappings
        return False
    return isinstance(x, (Table, Mapping)) or _module(x) in ("pandas", "polars", "pyarrow")


def is_sparse(x: Any) -> bool:
    """Whether x is one of SciPy's sparse arrays or matrices, of any format."""
    return _module(x) == "scipy" and hasattr(x, "tocsr")


def in_pieces(x: Any) -> Iterator[Any]:
    """A sparse matrix 20,000 rows at a time, so that few of its zeros are ever written out; anything else whole."""
    if not is_sparse(x) or x.ndim != 2 or x.shape[0] <= PIECE:
        yield x
        return
    rows = x.tocsr()
    for first in range(0, rows.shape[0], PIECE):
        yield rows[first : first + PIECE]


def read_table(x: Any, name: str = "X") -> Table:
    """Columns of a pandas or polars frame, a pyarrow table, a dictionary of columns, a 2-d array or sparse matrix.

    Raises InputError for what is no table, has no rows or no columns, or names a column twice, and for a sparse matrix
    whose cells, zeros included, would not fit into memory as columns.
    """
    if isinstance(x, Table):
        return x
    reader = {"pandas": _from_pandas, "polars": _from_polars, "pyarrow": _from_arrow, "scipy": _from_sparse}.get(
        _module(x), _from_array
    )
    mapping = isinstance(x, Mapping) and not is_sparse(x)  # some sparse matrices are mappings
    table = _from_dict(x) if mapping else reader(x, name)
    if not table.columns or not table.rows:
        raise InputError(
            f"{name} has {table.rows} rows and {len(table.columns)} columns. Give at least one row and one column."
        )
    return table


def mixed_table(x: Any, name: str = "X") -> Table | None:
    """x as a Table, if it is a data frame that no array of numbers can hold; None for all else.

    One with text, categories, dates or gaps, or with true and false beside numbers. Numbers throughout, or true and
    false throughout, are an array.
    """
    if not is_table(x):
        return None
    if _module(x) == "pandas" and getattr(x, "ndim", 2) == 2:
        plain = all(getattr(dtype, "kind", "O") in "iuf" for dtype in x.dtypes)
        if plain and not x.isna().to_numpy().any():
            return None
    table = read_table(x, name)
    kinds = {_content(cells) for cells in table.columns.values()}
    return None if kinds in ({"numbers"}, {"booleans"}) and table.container != "dict" else table


def _content(cells: np.ndarray) -> str:
    if cells.dtype.kind == "f" and not np.isnan(cells).any():
        return "numbers"
    booleans = cells.dtype.kind == "O" and all(isinstance(v, (bool, np.bool_)) for v in cells)
    return "booleans" if booleans else "mixed"


def as_cells(values: Any) -> np.ndarray:
    """One column as a Table holds it: float64, datetime64[ns] or objects, gaps NaN, NaT or None."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise InputError(f"a column has shape {values.shape}; one value for each row is needed. Split it into columns.")
    if values.dtype.kind == "M":
        return as_dates(values)
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    if values.dtype.kind == "c":
        raise InputError("a column is complex. Complex data not supported: give real and imaginary parts as columns.")
    if values.dtype.kind == "b":
        return values.astype(object)
    cells = np.empty(len(values), object)
    cells[:] = [None if _is_gap(v) else v for v in values.tolist()]
    kinds = {type(v) for v in cells if v is not None}
    if kinds and kinds <= {int, float, Decimal} and values.dtype.kind == "O":
        return np.array([np.nan if v is None else float(v) for v in cells], float)
    if kinds and all(issubclass(kind, datetime.date) for kind in kinds):
        return as_dates(["NaT" if v is None else v for v in cells])
    return cells


def as_dates(values: Any) -> np.ndarray:
    """Dates and times as datetime64[ns], times with a zone in UTC. Raises ValueError for what is none.

    Raises InputError for years that nanoseconds do not reach, which NumPy would turn into other years.
    """
    if getattr(values, "dtype", None) == "datetime64[ns]":
        return values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no explicit representation of timezones")
        made = np.array(values, "datetime64[us]")
    outside = (made < EARLIEST) | (made > LATEST)
    if outside.any():
        raise InputError(f"{made[outside][0]} is outside the years 1678 to 2261, between which dates can be told.")
    return made.astype("datetime64[ns]")


def _is_gap(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' NA does not say whether it is itself
        return True
    return isinstance(value, (numbers.Number, np.generic)) and bool(value != value)


def _module(x: Any) -> str:
    return type(x).__module__.split(".")[0]


def _from_dict(x: Mapping) -> Table:
    columns = {str(k): as_cells(v) for k, v in x.items()}
    lengths = {len(v) for v in columns.values()}
    if len(lengths) > 1:
        raise InputError(f"the columns have different lengths: {sorted(lengths)}. Give one value for each row.")
    return Table(columns, "dict", {k: str(np.asarray(v).dtype) for k, v in x.items()} if columns else {})


def _from_array(x: Any, name: str) -> Table:
    x = np.asarray(x)
    if x.dtype.kind == "c":
        raise InputError(f"{name} is complex. Complex data not supported: give real and imaginary parts as columns.")
    if x.ndim != 2:
        raise InputError(f"{name} has shape {x.shape}; a table is 2-d, one row per datum. Reshape your data.")
    if not x.shape[1]:
        raise InputError(f"{name} has 0 feature(s) (shape={x.shape}) while a minimum of 1 is required. Give columns.")
    return Table({f"x{j}": as_cells(x[:, j]) for j in range(x.shape[1])}, "numpy", {"x": str(x.dtype)})


def _from_sparse(x: Any, name: str) -> Table:
    if not is_sparse(x) or x.ndim != 2:
        raise InputError(f"{name} is a {type(x).__name__}; of SciPy, a sparse matrix (rows, columns) is needed.")
    rows, count = x.shape
    if not count:
        raise InputError(f"{name} has 0 feature(s) (shape={x.shape}) while a minimum of 1 is required. Give columns.")
    if rows * count > MOST_CELLS:
        raise InputError(
            f"{name} is sparse, {rows} x {count}; a model of a table looks at every cell, zeros too, and these are "
            f"more than {MOST_CELLS:,}. Fit fewer rows, or columns that sklearn.decomposition.TruncatedSVD makes of it."
        )
    columns = x.tocsc()
    kind = f"{'csc' if x.format == 'csc' else 'csr'}_{'matrix' if type(x).__name__.endswith('matrix') else 'array'}"
    cells = {f"x{j}": as_cells(columns[:, [j]].toarray()[:, 0]) for j in range(count)}
    return Table(cells, kind, {"x": str(x.dtype)})


def _from_pandas(x: Any, name: str) -> Table:
    if getattr(x, "ndim", 2) != 2:
        raise InputError(f"{name} is one column; a table is needed. Give {name}.to_frame().")
    _check_names([str(c) for c in x.columns], name)
    columns, dtypes, levels = {}, {}, {}
    for position, label in enumerate(x.columns):
        series, key = x.iloc[:, position], str(label)
        dtypes[key] = str(series.dtype)
        if dtypes[key] == "category":
            levels[key] = (series.cat.categories.tolist(), bool(series.cat.ordered))
            columns[key] = as_cells(np.asarray(series.astype(object)))
        elif dtypes[key].endswith("[pyarrow]"):
            columns[key] = _numbers_or_cells(series.array.__arrow_array__().to_pylist(), dtypes[key])
        elif series.dtype.kind == "M":
            columns[key] = as_dates(series.to_numpy(dtype=f"datetime64[{getattr(series.dtype, 'unit', 'us')}]"))
        elif series.dtype.kind in "iuf":
            columns[key] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            objects = np.asarray(series.astype(object))
            columns[key] = as_cells(objects)
            if dtypes[key] == "object" and columns[key].dtype.kind != "O":  # what to_pandas makes of them again
                kinds = {_python_type(v) for v in objects if not _is_gap(v)}
                dtypes[key] = f"object of {kinds.pop()}" if len(kinds) == 1 else "object"
    return Table(columns, "pandas", dtypes, levels, x.index)


def _python_type(value: Any) -> str:
    return "aware datetime" if getattr(value, "tzinfo", None) is not None else type(value).__name__


def _from_polars(x: Any, name: str) -> Table:
    for kind, words in (("LazyFrame", "collect()"), ("Series", "to_frame()")):
        if type(x).__name__ == kind:
            raise InputError(f"{name} is a polars {kind}; a table is needed. Give {name}.{words}.")
    columns = {c: _numbers_or_cells(x[c].to_list(), str(x[c].dtype)) for c in x.columns}
    levels = {c: (x[c].dtype.categories.to_list(), False) for c in x.columns if str(x[c].dtype).startswith("Enum")}
    return Table(columns, "polars", {c: str(x[c].dtype) for c in x.columns}, levels)


def _from_arrow(x: Any, name: str) -> Table:
    _check_names(list(x.column_names), name)
    columns = {c: _numbers_or_cells(x[c].to_pylist(), str(x[c].type)) for c in x.column_names}
    return Table(columns, "pyarrow", {c: str(x[c].type) for c in x.column_names})


def _numbers_or_cells(values: list, dtype: str) -> np.ndarray:
    lowered = dtype.lower()
    if lowered.startswith(("int", "uint", "float", "double", "half", "decimal")):
        return np.array([np.nan if v is None else v for v in values], np.float64)
    if lowered.startswith(("date", "timestamp")):
        return as_dates(values)
    cells = np.empty(len(values), object)
    cells[:] = values
    return cells


def _check_names(names: list[str], name: str) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{name} names column {twice[0]!r} more than once. Rename one of them.")
