"""NumPy's own files, `.npy` and `.npz`, read without pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from qphi.data.scaling import dense
from qphi.errors import InputError

__all__ = ["LABEL_NAMES", "check_numeric", "read_arrays", "read_npy", "read_npz"]

DATA_NAMES = ("x", "X", "data", "images")
LABEL_NAMES = ("y", "labels", "label", "target")
_DAMAGED = (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def read_arrays(path: Path, member: str | None = None, *, prefer: tuple[str, ...] = DATA_NAMES) -> np.ndarray:
    """The array in a `.npy` file, or one array of a `.npz` file."""
    if path.suffix.lower() == ".npz":
        return read_npz(path, member, prefer=prefer)[0]
    return read_npy(path)


def read_npy(path: Path) -> np.ndarray:
    """The array in a `.npy` file. Arrays of Python objects are refused: reading them could run anything."""
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
    except _DAMAGED as error:
        raise InputError(f"cannot read {path}: {_reason(error)}. {_REMEDY}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an .npz archive under another name. Rename it to end in .npz.")
    return array


def read_npz(
    path: Path, member: str | None = None, *, prefer: tuple[str, ...] = DATA_NAMES
) -> tuple[np.ndarray, np.ndarray | None]:
    """One array of a `.npz` archive and its labels, if the archive has any.

    The array is `member`; without it the only array there is (labels aside), or the only one with one of the
    names in `prefer`.
    """
    try:
        # Opened here, because np.load leaves a damaged archive open
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is not an .npz archive. If it is one array, rename it to end in .npy.")
            sparse = member is None and "data" in archive.files and {"format", "indptr"} & set(archive.files)
            chosen = "data" if sparse else _choose(path, list(archive.files), member, prefer)
            array = _sparse(path, archive) if sparse else archive[chosen]
            labels = next((archive[name] for name in LABEL_NAMES if name in archive.files and name != chosen), None)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"cannot read {path}: {_reason(error)}. {_REMEDY}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{chosen!r} in {path} is not an array. Save the archive again with np.savez.")
    if labels is not None and (array.ndim == 0 or labels.shape != array.shape[:1]):
        labels = None
    return array, labels


def check_numeric(array: np.ndarray, given: str) -> np.ndarray:
    """`array` if it can be images (n, h, w[, c]) or vectors (n, d) of real numbers; otherwise an error."""
    if array.dtype.kind not in "buif":
        raise InputError(f"{given} holds {array.dtype} entries; real numbers are needed. Convert it to a number type.")
    if array.ndim not in (2, 3, 4):
        hint = "For single numbers use x[:, None]." if array.ndim == 1 else "Reshape it."
        raise InputError(
            f"{given} has shape {array.shape}; needed are images (n, h, w) or (n, h, w, c), or vectors (n, d). {hint}"
        )
    if array.size == 0:
        raise InputError(f"{given} is empty (shape {array.shape}). Give at least one row with one entry.")
    if array.ndim == 4 and array.shape[3] > 4 and array.shape[1] in (1, 3, 4):
        raise InputError(
            f"{given} has shape {array.shape}, which looks like channels first (n, c, h, w); "
            "needed is (n, h, w, c). Save np.moveaxis(x, 1, -1)."
        )
    return array


_REMEDY = "Save it again with np.save or np.savez, without objects."


def _choose(path: Path, names: list[str], member: str | None, prefer: tuple[str, ...]) -> str:
    if not names:
        raise InputError(f"{path} holds no arrays. Save it again with np.savez(path, x=...).")
    listed = ", ".join(sorted(names))
    if member is not None:
        if member not in names:
            raise InputError(f"{path} has no array {member!r}; it has {listed}. Pick one: {path}:{names[0]}")
        return member
    data = [name for name in names if name not in LABEL_NAMES] or names
    candidates = data if len(data) == 1 else [name for name in prefer if name in names]
    if len(candidates) != 1:
        example = f"{path}:{(candidates or data)[0]}"
        raise InputError(f"{path} holds several arrays: {listed}. Pick one by its name: {example}")
    return candidates[0]


def _sparse(path: Path, archive: Any) -> np.ndarray:
    """A matrix that `scipy.sparse.save_npz` wrote, zeros and all."""
    from scipy import sparse

    kind = archive["format"].item() if "format" in archive.files else "csr"
    kind = kind.decode() if isinstance(kind, bytes) else kind
    try:
        shape, values = tuple(archive["shape"].tolist()), archive["data"]
        if kind in ("csr", "csc", "bsr"):
            make = getattr(sparse, f"{kind}_array")
            return dense(make((values, archive["indices"], archive["indptr"]), shape=shape), str(path))
        if kind == "coo":
            return dense(sparse.coo_array((values, (archive["row"], archive["col"])), shape=shape), str(path))
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the sparse matrix in {path}: {_reason(error)}. {_REMEDY_SPARSE}") from error
    raise InputError(f"{path} holds a sparse matrix of the format {kind!r}. {_REMEDY_SPARSE}")


_REMEDY_SPARSE = "Save it again with scipy.sparse.save_npz(path, x.tocsr())."


def _reason(error: Exception) -> str:
    text = str(error)
    if "allow_pickle" in text or "pickled" in text:
        return "it is not a NumPy array of numbers (objects, or another format), and qphi never unpickles"
    if isinstance(error, EOFError) or "EOF" in text or "cannot reshape" in text or "not a zip" in text:
        return "it is cut off or damaged"
    return " ".join(text.split()) or type(error).__name__
