"""Data sets with a name: digits, MNIST, Frey faces."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from qphi.data.arrays import read_npz
from qphi.data.idx import read_idx
from qphi.errors import InputError
from qphi.files import atomic_write, cache_folder

__all__ = ["NAMES"]

_Data = tuple[np.ndarray, np.ndarray | None]
_TRAIN_ROWS = 60_000  # MNIST: the first 60,000 of OpenML's 70,000 are the training set


def digits() -> _Data:
    """1,797 handwritten digits, 8 x 8, from 0 to 16: scikit-learn's (UCI Optical Recognition, test set)."""
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    return np.asarray(flat).reshape(-1, 8, 8), np.asarray(labels)


def mnist() -> _Data:
    """MNIST's 60,000 training images, 28 x 28, uint8."""
    return _mnist("train", "train")


def mnist_test() -> _Data:
    """MNIST's 10,000 test images."""
    return _mnist("t10k", "test")


def frey() -> _Data:
    """1,965 frames of Brendan Frey's face, 28 x 20, uint8, from the folder in QPHI_DATA only."""
    for folder in _data_folders():
        path = folder / "frey_faces.npz"
        if path.is_file():
            return read_npz(path)
    raise InputError(
        f"Frey faces have no public loader: set QPHI_DATA to a folder with images/frey_faces.npz ({_looked()})."
    )


NAMES: Mapping[str, Callable[[], _Data]] = {
    "digits": digits,
    "mnist": mnist,
    "mnist-test": mnist_test,
    "frey": frey,
}


def _data_folders() -> list[Path]:
    root = os.environ.get("QPHI_DATA")
    return (
        []
        if not root
        else [Path(root).expanduser() / "images", Path(root).expanduser() / "mnist", Path(root).expanduser()]
    )


def _looked() -> str:
    folders = _data_folders()
    return "looked in " + ", ".join(map(str, folders)) if folders else "it is not set"


def _mnist(part: str, openml_part: str) -> _Data:
    images, labels = (_find_idx(part, kind, axes) for kind, axes in (("images", 3), ("labels", 1)))
    if images is not None:
        return read_idx(images), None if labels is None else read_idx(labels)
    return _from_cache_or_openml(openml_part)


def _find_idx(part: str, kind: str, axes: int) -> Path | None:
    stems = [f"{prefix}{part}-{kind}{joint}idx{axes}-ubyte" for prefix in ("mnist_", "") for joint in ("-", ".")]
    paths = [d / (stem + packing) for d in _data_folders() for stem in stems for packing in ("", ".gz", ".xz")]
    return next((path for path in paths if path.is_file()), None)


def _from_cache_or_openml(part: str) -> _Data:
    """OpenML's file is text and slow to read, so what it holds is kept as a small archive of bytes."""
    folder = cache_folder()
    cached = None if folder is None else folder / "mnist.npz"
    if cached is not None and cached.is_file():
        try:
            x, labels = read_npz(cached, "x")
        except InputError:
            cached.unlink(missing_ok=True)
            x, labels = _fetch_mnist()
    else:
        x, labels = _fetch_mnist()
    if cached is not None and not cached.exists():
        _keep(cached, x, labels)
    rows = slice(None, _TRAIN_ROWS) if part == "train" else slice(_TRAIN_ROWS, None)
    return x[rows], None if labels is None else labels[rows]


def _fetch_mnist() -> _Data:
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning for every retry
            # "liac-arff" needs no pandas, which qphi does not install
            x, labels = fetch_openml(
                "mnist_784", version=1, as_frame=False, parser="liac-arff", return_X_y=True, n_retries=1
            )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"MNIST is not on this machine and could not be fetched from openml.org ({reason}). Set "
            "QPHI_DATA to a folder with images/mnist_train-images-idx3-ubyte.gz or train-images-idx3-ubyte "
            f"({_looked()}), or give the path of an idx file."
        ) from error
    return np.asarray(x).astype(np.uint8).reshape(-1, 28, 28), np.asarray(labels).astype(np.uint8)


def _keep(path: Path, x: np.ndarray, labels: np.ndarray | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, x=x, labels=np.zeros(len(x), np.uint8) if labels is None else labels)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
