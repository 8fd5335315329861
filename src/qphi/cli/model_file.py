"""A model in a Python file and its data in another: `model.py:name`, `data.json`, `data.csv`."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qphi.errors import InputError

__all__ = ["load_data", "load_model", "matched"]


def load_model(named: str) -> Callable[..., Any]:
    """The function `name` of `path/to/model.py:name`. Raises InputError, saying what the file has instead."""
    path_text, colon, name = named.rpartition(":")
    path = Path(path_text).expanduser()
    if not colon or not name:
        raise InputError(f"{named} names no model. Give a file and a function in it: model.py:name")
    if not path.is_file():
        raise InputError(f"there is no file {path}. Give a Python file and a function in it: model.py:name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file. Give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    model = getattr(module, name, None)
    if not callable(model):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise InputError(f"{path} has no function {name!r}; it has {', '.join(found) or 'none'}.")
    return model


def load_data(path: Path) -> dict[str, Any]:
    """Named numbers and arrays: a JSON object, the columns of a CSV file, or the arrays of an .npz file.

    Numbers become NumPy arrays; other JSON values stay as they are. Raises InputError with the place of what cannot
    be read.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    readers = {".json": _read_json, ".csv": _read_csv, ".npz": _read_npz}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is neither .json, .csv nor .npz. Give one of these.")
    return reader(path)


def matched(model: Callable[..., Any], data: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """The model's arguments by name from the data. Raises InputError for what is missing; what is extra is left out."""
    parameters = inspect.signature(model).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(data)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in data]
    if missing:
        has = f"{path} has {', '.join(data) or 'nothing'}" if path else "no --data was given"
        raise InputError(f"the model needs {', '.join(missing)}; {has}. Use the model's names in the data.")
    return {p.name: data[p.name] for p in named if p.name in data}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f'{path} holds a {type(values).__name__}; an object is needed: {{"y": [1, 2], "n": 2}}')
    return {name: _array(path, name, value) for name, value in values.items()}


def _array(path: Path, name: str, value: Any) -> Any:
    if value is None:
        raise InputError(f"{path}: {name} is null. Leave it out, or give a number.")
    if isinstance(value, bool | str | dict):
        return value
    if isinstance(value, int | float):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{path}: {name} is a ragged list; rows of one length are needed.") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} holds values that are not numbers. Encode them as integers first.")
    return array


def _read_csv(path: Path) -> dict[str, Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8: {error}.") from error
    if len(rows) < 2:
        raise InputError(f"{path} has no rows under its header.")
    header = [name.strip() for name in rows[0]]
    columns: dict[str, list[float]] = {name: [] for name in header}
    if len(columns) < len(header):
        raise InputError(f"{path} has two columns of one name. Rename one.")
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} cells, the header has {len(header)}.")
        for name, cell in zip(header, row, strict=True):
            columns[name].append(_number(path, number, name, cell))
    arrays = {name: np.array(values) for name, values in columns.items()}
    # counts and codes are whole: a model may index with them
    return {
        name: values.astype(np.int64)
        if np.all(values == np.round(values)) and np.all(np.abs(values) < 2**53)
        else values
        for name, values in arrays.items()
    }


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        hint = " Separate cells by commas." if ";" in cell else ""
        raise InputError(f"{path}, line {line}, column {column}: {cell!r} is not a number.{hint}") from None
    if not math.isfinite(value):
        raise InputError(
            f"{path}, line {line}, column {column}: {cell!r} is not finite. Leave the row out, or fill it."
        )
    return value


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        if "pickle" in str(error):  # NumPy's words about loading objects would be bad advice
            error = "it is damaged, or holds Python objects; arrays of numbers are needed"
        raise InputError(f"{path} cannot be read as .npz: {error}.") from None
