"""Which likelihood suits which data: what `likelihood='auto'` picks, and what is said of a pair that does not match."""

from __future__ import annotations

import warnings

import numpy as np

from qphi.errors import InputError

__all__ = [
    "KINDS",
    "LIKELIHOODS",
    "check_pairing",
    "choose",
    "has_outliers",
    "is_binary",
    "is_whole",
    "looks_like_counts",
]

KINDS = {  # what data each needs
    "gaussian": "real",
    "gaussian-per-feature": "real",
    "gaussian-output-scale": "real",
    "student-t": "real",
    "bernoulli": "binary",
    "continuous-bernoulli": "unit",
    "discretised-logistic": "levels",
    "discretised-logistic-mixture": "levels",
    "categorical": "codes",
    "ordinal": "codes",
    "poisson": "counts",
    "negative-binomial": "counts",
    "zero-inflated-negative-binomial": "counts",
}
LIKELIHOODS = ("auto", *KINDS)
MOST_CODES, MOST_LEVELS = 256, 1024  # an output for each code; more are numbers, not codes
MANY_CODES = 50  # from here on counts are likelier than categories
FAR, SHARE = 20.0, 0.5  # standard deviations; the share of a column's variance


def is_binary(x: np.ndarray, levels: tuple[float, float]) -> bool:
    """Whether every value is 0 or 1 (or 0 and 255)."""
    return levels[0] == 0 and levels[1] in (1, 255) and bool(np.isin(x, levels).all())


def is_whole(x: np.ndarray) -> bool:
    """Whether every value is a whole number."""
    return bool(np.issubdtype(x.dtype, np.integer) or x.dtype == bool or (x == np.rint(x)).all())


def looks_like_counts(x: np.ndarray) -> bool:
    """A table (n, d) of whole numbers, none negative, some zero, some above 1: how often each of d things was seen.

    Measurements in whole units rarely have zeros; pictures are not tables.
    """
    return x.ndim == 2 and is_whole(x) and float(x.min()) == 0 and float(x.max()) > 1


def has_outliers(x: np.ndarray) -> bool:
    """Whether a table (n, d) has a value 20 standard deviations from its column's mean, or one that makes up half of
    its column's variance: a sum of squared errors says more of that value than of all others.

    Columns in which one value fills half of the rows are left out: there the others are rare, but no errors.
    """
    if x.ndim != 2 or len(x) < 3:
        return False
    mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    farthest = np.maximum(x.max(axis=0) - mean, mean - x.min(axis=0)) ** 2
    far = x[:, farthest > np.minimum(FAR**2, SHARE * len(x)) * variance]
    return bool(((far == np.median(far, axis=0)).mean(axis=0) < 0.5).any())


def choose(x: np.ndarray, levels: tuple[float, float]) -> str:
    """What 'auto' means: Bernoulli for 0 and 1, negative binomial for tables of counts, Student-t for tables of numbers
    with outliers, Gaussian for the rest.

    Grey and colour pictures get a Gaussian with a learned scale: it is the quickest to train, and its reconstructions
    are the sharpest for the time. For bits per dimension ask for 'discretised-logistic-mixture'.
    """
    if is_binary(x, levels):
        return "bernoulli"
    if looks_like_counts(x):
        return "negative-binomial"
    return "student-t" if has_outliers(x) else "gaussian"


def check_pairing(x: np.ndarray, likelihood: str, levels: tuple[float, float]) -> None:
    """InputError where the likelihood has no density for such data; a warning where another one suits them better."""
    kind, image, binary = KINDS[likelihood], x.ndim > 2, is_binary(x, levels)
    words = f"X ranges from {x.min():g} to {x.max():g}"
    {"binary": _binary, "unit": _unit, "levels": _levels, "codes": _codes, "counts": _counts}.get(kind, _nothing)(
        x, likelihood, levels, words
    )
    better = None
    if binary and kind not in ("binary", "codes"):
        better = "'bernoulli'", f"every value of X is {levels[0]:g} or {levels[1]:g}"
    elif kind == "real" and looks_like_counts(x):
        better = "'negative-binomial'", f"X is a table of counts ({words}, all whole)"
    elif kind == "counts" and image:
        better = "'discretised-logistic-mixture' or 'gaussian'", f"X are pictures ({words})"
    elif kind == "codes" and looks_like_counts(x) and x.max() >= MANY_CODES:
        better = "'negative-binomial'", f"X has codes up to {x.max():g}, as counts do"
    if better is not None:
        warnings.warn(
            f"likelihood={likelihood!r} does not suit these data: {better[1]}. Use likelihood={better[0]}, or go on if "
            "you mean it.",
            UserWarning,
            stacklevel=4,  # the caller of VAE.fit
        )


def _nothing(x: np.ndarray, likelihood: str, levels: tuple[float, float], words: str) -> None:
    pass


def _binary(x: np.ndarray, likelihood: str, levels: tuple[float, float], words: str) -> None:
    if not is_binary(x, levels):
        other = "continuous-bernoulli' or 'gaussian" if x.ndim > 2 else "gaussian"
        other = "negative-binomial" if looks_like_counts(x) else other
        raise InputError(
            f"likelihood='bernoulli' needs values that are 0 or 1 (or 0 and 255), but {words} with "
            f"{len(np.unique(x))} different values. Use likelihood='{other}', or binarise the data first."
        )


def _unit(x: np.ndarray, likelihood: str, levels: tuple[float, float], words: str) -> None:
    if levels[0] < 0 or (x.ndim == 2 and levels[1] != 1):
        raise InputError(
            f"likelihood='continuous-bernoulli' needs values in 0..1 (or images from 0 up), but {words}. "
            "Use likelihood='gaussian', or rescale the data to 0..1."
        )


def _levels(x: np.ndarray, likelihood: str, levels: tuple[float, float], words: str) -> None:
    if not is_whole(x) or x.min() < 0 or levels[1] >= MOST_LEVELS:
        raise InputError(
            f"likelihood={likelihood!r} needs whole levels from 0 up to {MOST_LEVELS - 1} at most, as 8-bit pictures "
            f"have, but {words}{'' if is_whole(x) else ' with fractions'}. Give np.round(255 * X) if X are levels "
            "divided by 255, or use likelihood='gaussian'."
        )


def _codes(x: np.ndarray, likelihood: str, levels: tuple[float, float], words: str) -> None:
    if not is_whole(x) or x.min() < 0 or x.max() >= MOST_CODES:
        raise InputError(
            f"likelihood={likelihood!r} needs codes 0, 1, ..., at most {MOST_CODES - 1}, but {words}"
            f"{'' if is_whole(x) else ' with fractions'}. Number the categories from 0, or use likelihood='gaussian'."
        )


def _counts(x: np.ndarray, likelihood: str, levels: tuple[float, float], words: str) -> None:
    if not is_whole(x) or x.min() < 0:
        wrong = "has fractions" if not is_whole(x) else "has negative values"
        raise InputError(
            f"likelihood={likelihood!r} needs counts 0, 1, 2, ..., but X {wrong} ({words}): normalised or logged "
            "already? Give the raw counts, with size_factors= for rows of different totals, or use "
            "likelihood='gaussian'."
        )
