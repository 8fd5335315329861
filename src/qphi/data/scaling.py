"""From a user's array to what a model sees, and back: shapes, units and the checks that go with them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from qphi.data.frames import is_sparse
from qphi.data.kinds import KINDS, LIKELIHOODS, check_pairing, choose, is_whole
from qphi.errors import InputError

__all__ = ["KINDS", "LIKELIHOODS", "Scaling", "dense", "fit_scaling"]

OWN = "own"  # the likelihood of a class that is not qphi's: its data are taken as they are
CODED = ("levels", "codes")
MOST_CELLS = 500_000_000  # of a sparse matrix written out
LARGEST = 1e38  # just below float32's: results are given in it


@dataclasses.dataclass(frozen=True)
class Scaling:
    """x_model = (x - offset) / scale, with the shape of one datum and the units of the data.

    Log densities are reported in the units that the data came in: log p(x) = log p(x_model) - sum log scale. A column
    multiplied by 1,000 thus moves log p by log 1000 and nothing else.
    """

    shape: tuple[int, ...]  # of one datum, as given
    image: bool
    likelihood: str
    offset: tuple[float, ...]  # one number for images, one per column for vectors
    scale: tuple[float, ...]
    levels: tuple[float, float] | None  # the display range of images
    whole: bool  # integer data: log p is comparable with a probability, so bits per dimension mean something
    classes: int = 0  # how many values coded data and levels can take, 0 for other data

    @property
    def kind(self) -> str:
        """'real', 'binary', 'unit', 'levels', 'codes', 'counts' or 'own': what the likelihood takes."""
        return KINDS.get(self.likelihood, OWN)

    @property
    def model_shape(self) -> tuple[int, ...]:
        """(h, w, channels) or (d,)."""
        return (*self.shape, 1) if self.image and len(self.shape) == 2 else self.shape

    @property
    def size(self) -> int:
        """Numbers in one datum."""
        return math.prod(self.shape)

    @property
    def log_jacobian(self) -> float:
        """log |d x_model / d x|, nats per datum; 0 for a probability mass, such as Bernoulli's."""
        if self.kind not in ("real", "unit"):
            return 0.0
        return -float(np.sum(np.log(self.scale))) * (self.size if len(self.scale) == 1 else 1)

    def prepare(self, x: Any, name: str = "X") -> np.ndarray:
        """Checked float32 rows for the model, (n, *model_shape). Raises InputError."""
        x = check_array(x, name)
        if x.shape[1:] != self.shape and x.ndim == 2 and not self.image:
            raise InputError(
                f"{name} has {x.shape[1]} features, but VAE is expecting {self.size} features as input. "
                f"Give an array of shape (n, {self.size}), the columns of the fit."
            )
        if x.shape[1:] != self.shape:
            raise InputError(
                f"{name} has rows of shape {x.shape[1:]}, but the model was fitted to {self.shape}. "
                f"Give an array of shape (n, {', '.join(map(str, self.shape))})."
            )
        self._check_values(x, name)
        return self.to_model(x)

    def to_model(self, x: np.ndarray) -> np.ndarray:
        """Rows in the data's units, unchecked, as the model sees them: float32, (n, *model_shape)."""
        scaled = (x.astype(np.float64) - np.asarray(self.offset)) / np.asarray(self.scale)
        return scaled.astype(np.float32).reshape(len(x), *self.model_shape)

    def _check_values(self, x: np.ndarray, name: str) -> None:
        if self.kind in ("real", OWN):
            return
        low, high = self.offset[0], self.offset[0] + self.scale[0]
        low, high = (0.0, float(self.classes - 1)) if self.kind == "codes" else (low, high)
        high = math.inf if self.kind == "counts" else high
        if x.min() < low or x.max() > high:
            raise InputError(
                f"{name} ranges from {x.min():g} to {x.max():g}, but the model was fitted to {low:g}..{high:g}. "
                "Bring the data to the same units."
            )
        if self.kind == "binary" and not np.isin(x, (low, high)).all():
            raise InputError(
                f"{name} has values between {low:g} and {high:g}, but the model's Bernoulli likelihood needs "
                f"exactly {low:g} or {high:g}. Binarise the data as for the fit."
            )
        if self.kind in ("levels", "codes", "counts") and not is_whole(x):
            raise InputError(
                f"{name} has fractions, but the model's {self.likelihood} likelihood was fitted to whole numbers. "
                "Give the data as for the fit."
            )

    def restore(self, x: np.ndarray) -> np.ndarray:
        """Model values back in the user's shape and units, float32; images are kept within their levels."""
        x = np.asarray(x, dtype=np.float64).reshape(-1, *self.shape)
        x = x * np.asarray(self.scale) + np.asarray(self.offset)
        return (x if self.levels is None else np.clip(x, *self.levels)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a model file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Scaling:
        """The inverse of `to_json`."""
        pairs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Scaling(**pairs)


def fit_scaling(x: Any, likelihood: str = "auto", classes: int | None = None) -> Scaling:
    """Look at training data once: images or vectors, which range, which likelihood. Raises InputError.

    `classes` is how many codes or levels there can be, if that is known better than from the data.
    """
    if likelihood not in (*LIKELIHOODS, OWN):
        raise InputError(f"likelihood={likelihood!r} is not known. Use one of {', '.join(LIKELIHOODS)}.")
    x = check_array(x, "X")
    image = x.ndim > 2
    levels = _levels(x)
    if x.min() == x.max():
        raise InputError(f"every value of X is {x.min():g}: there is nothing to learn. Check how it was read.")
    if likelihood == "auto":
        likelihood = choose(x, levels)
    elif likelihood != OWN:
        check_pairing(x, likelihood, levels)
    kind = KINDS.get(likelihood, OWN)
    if classes is not None and kind in CODED:
        if x.max() >= classes:
            raise InputError(
                f"X has values up to {x.max():g}, but the likelihood has {classes} levels, 0 to {classes - 1}. "
                f"Give it levels={int(x.max()) + 1}."
            )
        levels = (0.0, classes - 1.0)
    if kind == "real" and not image:
        offset, scale = _standardise(x)
    elif kind == "real":  # centred, or the constant part of a picture would drown what the encoder has to see
        offset, scale = (float(x.mean(dtype=np.float64)),), (float(x.std(dtype=np.float64)),)
    elif kind in ("codes", "counts", OWN):
        offset, scale = (0.0,), (1.0,)
    else:
        offset, scale = (levels[0],), (levels[1] - levels[0],)
    return Scaling(
        shape=x.shape[1:],
        image=image,
        likelihood=likelihood,
        offset=offset,
        scale=scale,
        levels=levels if image else None,
        whole=is_whole(x),
        classes=(classes or max(int(levels[1] if kind == "levels" else x.max()) + 1, 2)) * (kind in CODED),
    )


def dense(x: Any, name: str = "X") -> Any:
    """A sparse matrix with its zeros written out, what has no length as an array, anything else as it is.

    Raises InputError beyond 500 million cells.

    A model of vectors looks at every cell of a row, zeros too, so batches are dense whatever the data are kept as.
    """
    if not is_sparse(x):
        return x if hasattr(x, "__len__") else np.asarray(x)
    cells = math.prod(x.shape)
    if cells > MOST_CELLS:
        raise InputError(
            f"{name} is sparse, {' x '.join(map(str, x.shape))}; written out it has {cells:.1e} cells, and "
            f"{MOST_CELLS:.0e} can be held. Give fewer columns, the most frequent, or rows, the rest to partial_fit."
        )
    return x.toarray()


def check_array(x: Any, name: str) -> np.ndarray:
    """A finite, real, non-empty array of vectors (n, d) or images (n, h, w[, c]); InputError says what is wrong."""
    x = np.asarray(dense(x, name))
    if x.dtype == object:
        x = _numbers(x, name)
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
        raise InputError(f"{name} has dtype {x.dtype}; numbers are needed. Convert it with astype(float).")
    if np.iscomplexobj(x):
        raise InputError(f"{name} is complex; Complex data not supported. Give real and imaginary parts as columns.")
    if x.ndim not in (2, 3, 4):
        raise InputError(
            f"{name} has shape {x.shape}; vectors (n, d) or images (n, h, w) or (n, h, w, channels) are needed. "
            "Reshape your data: one row per datum (a single datum is x[None])."
        )
    if x.size == 0:
        none = (
            f"0 feature(s) (shape={x.shape}) while a minimum of 1 is required" if x.shape[1:] == (0,) else "it is empty"
        )
        raise InputError(f"{name} has shape {x.shape}: {none}. Give at least one row and one column.")
    if x.ndim == 4 and x.shape[-1] > 4:
        raise InputError(
            f"{name} has shape {x.shape}: channels come last, and {x.shape[-1]} is too many for an image. "
            "Move the channel axis with np.moveaxis(x, 1, -1), or flatten to vectors."
        )
    if not np.isfinite(x).all():
        bad = np.argwhere(~np.isfinite(x))
        rows = len(np.unique(bad[:, 0]))
        raise InputError(
            f"{name} has {len(bad)} values that are NaN or infinity, in {rows} rows "
            f"(first at {tuple(bad[0].tolist())}). "
            "Remove those rows, fill the gaps, or fit a table with gaps: qphi.TableVAE().fit(X)."
        )
    largest = max(abs(float(x.min())), abs(float(x.max())))
    if largest > LARGEST:
        raise InputError(f"{name} has values up to {largest:g}, too large for single precision. Rescale them.")
    return np.ascontiguousarray(x)  # means differ in the last bit with the layout


def _numbers(x: np.ndarray, name: str) -> np.ndarray:
    """An array of Python objects as float64; it comes from tables of mixed columns. None becomes NaN."""
    try:
        return x.astype(np.float64)
    except ValueError as error:
        raise InputError(
            f"{name} has dtype object; numbers are needed: {error}. Encode or drop the text, or fit a table: "
            "qphi.TableVAE().fit(X)."
        ) from None
    except TypeError as error:  # as scikit-learn does: a wrong type, not a wrong value
        raise TypeError(f"{name} has dtype object; numbers are needed: {error}.") from None


def _levels(x: np.ndarray) -> tuple[float, float]:
    """The range that pixels live in: 0..255 for 8 bits, 0..1 for fractions, otherwise what is there."""
    low, high = float(x.min()), float(x.max())
    if x.dtype == np.uint8 and high > 1:
        return 0.0, 255.0
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return min(low, 0.0), high


def _standardise(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    # Relative to its size a constant column still has rounding noise.
    constant = np.flatnonzero(scale <= 1e-10 * np.maximum(1e-30, np.abs(mean)))
    if len(x) < 2:
        raise InputError("X has 1 row (n_samples = 1): a density of vectors needs at least 2. Give more rows.")
    if len(constant):
        columns = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")
        raise InputError(
            f"column(s) {columns} of X are constant, so their Gaussian density is unbounded. "
            f"Drop them: np.delete(X, {constant[:8].tolist()}, axis=1)."
        )
    return tuple(mean.tolist()), tuple(scale.tolist())
