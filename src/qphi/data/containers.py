"""Plain columns back to what they came in, with the types they had there.

None of pandas, polars and pyarrow is imported before it is needed.
"""

from __future__ import annotations

import datetime
import re
from decimal import Context, Decimal
from typing import Any

import numpy as np

from qphi.data.frames import SPARSE, Table
from qphi.errors import InputError

__all__ = ["of_columns", "to_arrow", "to_container"]


def to_container(table: Table) -> Any:
    """The table as what it came in, with the column types it had there."""
    if table.container in ("csv", "dict"):
        return table if table.container == "csv" else dict(table.columns)
    if table.container in SPARSE:
        return _to_sparse(table)
    if table.container == "numpy":
        dtype = np.dtype(next(iter(table.dtypes.values())))
        columns = list(table.columns.values())
        if dtype.kind != "O":
            wide = np.stack([np.asarray(c, float) for c in columns], axis=1)
            return wide if dtype.kind in "iub" and np.isnan(wide).any() else wide.astype(dtype)
        return np.stack([c.astype(object) for c in columns], axis=1)
    try:
        return {"pandas": _to_pandas, "polars": _to_polars, "pyarrow": _to_arrow}[table.container](table)
    except ImportError:
        raise InputError(
            f"this model was fitted to a {table.container} table, but {table.container} is not installed. Install it."
        ) from None


def of_columns(columns: dict[str, np.ndarray], like: Table) -> Table:
    """New columns of numbers, dates and text, for the rows of a table and in its container: of an array's, a
    dictionary."""
    kinds = {
        "polars": {"f": "Float64", "M": "Datetime(time_unit='us')", "O": "String"},
        "pyarrow": {"f": "double", "M": "timestamp[us]", "O": "string"},
    }.get(like.container, {"f": "float64", "M": "datetime64[ns]", "O": "object"})
    container = like.container if like.named else "dict"
    dtypes = {name: kinds[cells.dtype.kind] for name, cells in columns.items()}
    return Table(columns, container, dtypes, index=like.index)


def to_arrow(table: Table) -> Any:
    """A pyarrow table, with types of Parquet for those of other containers."""
    if table.container == "pyarrow":
        return _to_arrow(table)
    kinds = {"f": "double", "M": "timestamp[us]", "O": "object"}
    dtypes = {}
    for name, cells in table.columns.items():
        dtype = table.dtypes.get(name, table.dtypes.get("x", "")).lower()
        dtypes[name] = dtype if dtype.startswith(("int", "uint")) else kinds[cells.dtype.kind]
        if dtypes[name] == "object" and not any(cell is not None for cell in cells):  # no type to be told by
            dtypes[name] = "bool" if dtype.startswith("bool") else "string"
    return _to_arrow(Table(dict(table.columns), "pyarrow", dtypes))


def _to_sparse(table: Table) -> Any:
    from scipy import sparse

    dtype = np.dtype(next(iter(table.dtypes.values())))
    columns = [np.asarray(cells, np.float64) for cells in table.columns.values()]
    if dtype.kind in "iub" and any(np.isnan(cells).any() for cells in columns):
        dtype = np.dtype(np.float64)
    places = [np.flatnonzero(cells) for cells in columns]  # gaps, NaN, are not zero and stay
    data = np.concatenate([cells[place] for cells, place in zip(columns, places, strict=True)]).astype(dtype)
    ends = np.cumsum([0, *map(len, places)])
    parts = (data, np.concatenate(places), ends)
    made = sparse.csc_array(parts, shape=(table.rows, len(columns))).asformat(table.container[:3])
    return made if table.container.endswith("array") else getattr(sparse, table.container)(made)


def _to_pandas(table: Table) -> Any:
    import pandas  # pyright: ignore[reportMissingImports]

    frame = {}
    for key, values in table.columns.items():
        dtype: Any = table.dtypes[key]
        if dtype.endswith("[pyarrow]"):
            arrow = _to_arrow(Table({key: values}, "pyarrow", {key: dtype.removesuffix("[pyarrow]")}))[key]
            frame[key] = pandas.Series(pandas.arrays.ArrowExtensionArray(arrow), index=table.index)
            continue
        if key in table.levels:
            categories, ordered = table.levels[key]
            dtype = pandas.CategoricalDtype(categories, ordered=ordered)
        gaps = values.dtype.kind == "f" and np.isnan(values).any()
        if gaps and dtype[:3] in ("int", "uin"):
            dtype = "float64"
        if dtype == "bool" and any(v is None for v in values):
            dtype = "object"
        if isinstance(dtype, str) and dtype.startswith("object of "):
            values, dtype = _as_objects(values, dtype.removeprefix("object of ")), "object"
        series = pandas.Series(values, index=table.index, dtype=object if values.dtype.kind == "O" else None)
        if isinstance(dtype, str) and dtype.startswith("datetime64") and "," in dtype:  # has a time zone: ours is UTC
            series = series.dt.tz_localize("UTC")
        frame[key] = series.astype(dtype)
    return pandas.DataFrame(frame, index=table.index)


def _as_objects(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers and dates as the Python objects that they were; gaps None."""
    make = {
        "int": int,
        "Decimal": lambda v: Decimal(repr(v)),
        "date": lambda v: np.datetime64(v, "ns").astype("datetime64[D]").item(),
        "datetime": lambda v: np.datetime64(v, "ns").astype("datetime64[us]").item(),
        "aware datetime": lambda v: np.datetime64(v, "ns").astype("datetime64[us]").item().replace(tzinfo=datetime.UTC),
    }.get(kind)
    if make is None:
        return values
    gaps = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    made = np.empty(len(values), object)
    made[:] = [None if gap else make(v) for v, gap in zip(values.tolist(), gaps, strict=True)]
    return made


def _to_polars(table: Table) -> Any:
    import polars  # pyright: ignore[reportMissingImports]

    made = []
    for key, values in _to_lists(table).items():
        name = table.dtypes[key].split("(")[0]
        dtype = getattr(polars, name, None)
        series = polars.Series(key, values, strict=False)
        if name == "Enum":
            series = series.cast(polars.Enum(table.levels[key][0]))
        elif name == "Datetime":
            unit, zone = (re.search(rf"{part}='([^']+)'", table.dtypes[key]) for part in ("time_unit", "time_zone"))
            told: Any = unit[1] if unit else "us"
            series = series.cast(polars.Datetime(told), strict=False)
            if zone:
                series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone[1])
        elif name == "Decimal":
            digits, places = (re.search(rf"{part}=(\d+)", table.dtypes[key]) for part in ("precision", "scale"))
            series = series.cast(
                polars.Decimal(int(digits[1]) if digits else None, int(places[1]) if places else 0), strict=False
            )
        elif dtype is not None and name not in ("Null", "List", "Array", "Struct", "Object"):
            series = series.cast(dtype, strict=False)
        made.append(series)
    return polars.DataFrame(made)


def _to_arrow(table: Table) -> Any:
    import pyarrow  # pyright: ignore[reportMissingImports]

    arrays = {}
    for key, values in _to_lists(table).items():
        name = table.dtypes[key]
        fixed = re.fullmatch(r"decimal(\d+)\((\d+), (-?\d+)\)", name)
        if fixed:
            unit = Decimal(1).scaleb(-int(fixed[3]))
            exact = Context(prec=int(fixed[2]) + 1)
            values = [None if v is None else Decimal(repr(v)).quantize(unit, context=exact) for v in values]
            kind = pyarrow.decimal256 if fixed[1] == "256" else pyarrow.decimal128
            arrays[key] = pyarrow.array(values, kind(int(fixed[2]), int(fixed[3])))
            continue
        array = pyarrow.array(values, pyarrow.uint64() if name == "uint64" else None)
        if name.startswith(("int", "uint", "float", "double", "bool", "date", "timestamp[", "string", "large_string")):
            wanted = {"double": "float64", "float": "float32", "halffloat": "float16"}.get(name, name)
            unit = "date32" if name.startswith("date32") else "date64" if name.startswith("date64") else wanted
            zoned = re.fullmatch(r"timestamp\[(\w+)(?:, tz=(.+))?\]", name)
            kind = pyarrow.timestamp(zoned[1], zoned[2]) if zoned else pyarrow.type_for_alias(unit)
            array = array.cast(kind, safe=False)
        elif name.startswith("dictionary"):
            array = array.dictionary_encode()
        arrays[key] = array
    return pyarrow.table(arrays)


def _to_lists(table: Table) -> dict[str, list]:
    """Columns as Python values with None for gaps; whole numbers as int where the type was one."""
    made: dict[str, list] = {}
    for key, values in table.columns.items():
        if values.dtype.kind == "M":
            made[key] = [None if np.isnat(v) else v.astype("datetime64[us]").item() for v in values]
        elif values.dtype.kind == "f":
            whole = table.dtypes[key].lower().startswith(("int", "uint"))
            made[key] = [None if np.isnan(v) else int(v) if whole else float(v) for v in values]
        else:
            made[key] = values.tolist()
    return made
