"""From what a person types to arrays: `load("digits")`, `load("photos/")`, `load("x.npz:images")`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qphi.data import builtin
from qphi.data.arrays import check_numeric, read_npy, read_npz
from qphi.data.idx import is_idx_name, read_idx
from qphi.data.images import read_folder
from qphi.errors import InputError

__all__ = ["Dataset", "builtin_names", "load"]

_TABLES = (".csv", ".tsv", ".parquet", ".feather", ".arrow", ".xlsx", ".csv.gz", ".tsv.gz")
_PICTURES = (".png", ".jpg", ".jpeg")
_FORMATS = "a folder of PNG or JPEG pictures, .npy, .npz, or an idx file (*-ubyte, .gz, .xz)"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of data as they were given: original type and range (uint8 pictures stay uint8).

    `x` are images (n, h, w) or (n, h, w, c), or vectors (n, d). `labels` has one entry a row (integers, or
    names of classes) and only colours plots; nothing is fitted to it. `name` fits into a file name.
    """

    x: np.ndarray
    name: str
    labels: np.ndarray | None = None


def builtin_names() -> tuple[str, ...]:
    """The data sets that have a name instead of a path."""
    return tuple(builtin.NAMES)


def load(source: str | Path) -> Dataset:
    """The data set that `source` names.

    A built-in name (`digits`, `mnist`, `mnist-test`, `frey`) comes first; to read a folder of the same name
    write `./digits`. Otherwise a path: a folder of pictures, `.npy`, `.npz` (`file.npz:name` picks an array),
    or an idx file, plain or packed; labels beside an idx file of images (`...labels-idx1...`) are read too.

    >>> load("digits").x.shape
    (1797, 8, 8)
    """
    text = str(source)
    if text in builtin.NAMES:
        x, labels = builtin.NAMES[text]()
        return Dataset(x, text, labels)
    path, member = _split(text)
    if not path.exists():
        raise InputError(_unknown(text, path))
    if path.is_dir():
        _refuse_run_folder(path)
        return Dataset(*_named(read_folder(path), path.resolve().name))
    suffixes = "".join(path.suffixes[-2:]).lower()
    if path.suffix.lower() in _TABLES or suffixes in _TABLES:
        raise InputError(
            f"{path} is a table. `qphi fit` takes it, and so do `qphi schema`, `impute`, `score`, `encode` and "
            "`evaluate`; others need images or vectors: save its numbers as an array of shape (n, d) with np.save."
        )
    return _load_file(path, member)


def _load_file(path: Path, member: str | None) -> Dataset:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        x, labels = read_npz(path, member)
        name = path.stem if member is None else f"{path.stem}-{member}"
    elif suffix == ".npy":
        x, labels, name = read_npy(path), None, path.stem
    elif is_idx_name(path.name):
        x, labels = read_idx(path), _labels_beside(path)
        name = re.sub(r"[-.]idx\d.*$|[-.]ubyte.*$|\.idx.*$", "", path.name) or path.stem
    elif suffix in _PICTURES:
        raise InputError(f"{path} is a single picture; a data set is needed. Give the folder: {path.parent}")
    else:
        raise InputError(f"cannot tell what {path} is from its name. Readable are {_FORMATS}.")
    given = str(path) if member is None else f"{path}:{member}"
    return Dataset(*_named((check_numeric(x, given), labels), name))


def _named(data: tuple[np.ndarray, np.ndarray | None], name: str) -> tuple[np.ndarray, str, np.ndarray | None]:
    x, labels = data
    return x, re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data", labels


def _split(text: str) -> tuple[Path, str | None]:
    """`file.npz:name` as file and name; a path that exists as it stands is never split."""
    path = Path(text).expanduser()
    stem, colon, member = text.rpartition(":")
    if colon and member and not path.exists() and stem.lower().endswith(".npz"):
        return Path(stem).expanduser(), member
    return path, None


def _labels_beside(path: Path) -> np.ndarray | None:
    if "images" not in path.name or "idx3" not in path.name:
        return None
    wanted = re.sub(r"\.(gz|xz)$", "", path.name).replace("images", "labels").replace("idx3", "idx1")
    beside = [path.with_name(wanted + packing) for packing in ("", ".gz", ".xz")]
    return next((read_idx(labels) for labels in beside if labels.is_file()), None)


def _refuse_run_folder(path: Path) -> None:
    if (path / "run.json").is_file() or (path / "model.json").is_file():
        raise InputError(f"{path} is a run folder, not data. Give {_FORMATS}; the run folder comes before the data.")


def _unknown(text: str, path: Path) -> str:
    names = ", ".join(builtin.NAMES)
    close = difflib.get_close_matches(text.lower(), builtin.NAMES, n=1)
    if close:
        return f"no data set and no file is called {text}. Did you mean {close[0]}? Built in: {names}."
    if "/" in text or "." in text:
        missing = next(p for p in (*reversed(path.parents), path) if not p.exists())
        where = "" if missing == path else f" ({missing} is not there)"
        return f"no such file or folder: {text}{where}. Give {_FORMATS}, or one of {names}."
    return f"no data set and no file is called {text}. Built in: {names}; otherwise give {_FORMATS}."
