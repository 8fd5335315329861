"""Do samples look like data? Distances between two sets of points in a space that needs no download."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from qphi.errors import InputError

__all__ = ["SampleQuality", "sample_quality"]

COMPONENTS = 32  # principal components of the data, at most
ROWS = 2000  # of each set, at most: pairs are held at once
NEIGHBOURS = 3  # Kynkaanniemi et al. (2019), section 3


@dataclasses.dataclass(frozen=True)
class SampleQuality:
    """Samples against data, in the space of the data's principal components, in units of their mean variance.

    `frechet` is |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), 0 for equal means and covariances; `frechet_of_data` is
    that between two halves of the data: what noise alone gives. `precision`: the share of samples within reach of data
    (no farther from a datum than its third neighbour is), `recall`: of data within reach of samples. The space knows
    no shapes: pictures that are blurred or shifted can score well, and figures compare between models of the same data
    only. Sources: Heusel et al. (2017), eq. 6; Kynkaanniemi et al. (2019), arXiv 1904.06991, eq. 1 and 2.
    """

    frechet: float
    frechet_of_data: float
    precision: float
    recall: float
    components: int
    n: int


def sample_quality(data: Float[np.ndarray, "n ..."], samples: Float[np.ndarray, "m ..."]) -> SampleQuality:
    """Compare as many samples as there are data, at most 2,000 of each. Raises InputError for fewer than 20 data."""
    n = min(len(data), len(samples), ROWS)
    if n < 20:
        raise InputError(f"sample quality needs at least 20 data and samples, got {len(data)} and {len(samples)}.")
    order = np.random.default_rng(0).permutation(len(data))[:n]
    x = np.asarray(data, np.float64)[order].reshape(n, -1)
    y = np.asarray(samples, np.float64)[:n].reshape(n, -1)
    centre = x.mean(axis=0)
    _, singular, directions = np.linalg.svd(x - centre, full_matrices=False)
    kept = singular > 1e-6 * singular[0]
    count = min(COMPONENTS, n // 4, int(kept.sum()))
    # one unit for all: with a unit for each, the faintest noise would count as much as the shape of a face
    unit = math.sqrt(np.mean(singular[:count] ** 2) / n)
    x, y = ((points - centre) @ directions[:count].T / unit for points in (x, y))
    half = n // 2
    return SampleQuality(
        frechet=_frechet(x, y),
        frechet_of_data=_frechet(x[:half], x[half : 2 * half]),
        precision=_within_reach(y, x),
        recall=_within_reach(x, y),
        components=count,
        n=n,
    )


def _frechet(x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "n dim"]) -> float:
    first, second = (np.cov(a.T).reshape(x.shape[1], -1) for a in (x, y))
    # tr (C1 C2)^(1/2) from the eigenvalues of C1 C2, which are real and not negative
    roots = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0))
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * roots.sum())


def _within_reach(points: Float[np.ndarray, "n dim"], of: Float[np.ndarray, "m dim"]) -> float:
    reach = np.partition(_squared_distances(of, of), NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # itself is the nearest
    return float(np.mean((_squared_distances(points, of) <= reach).any(axis=1)))


def _squared_distances(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "n m"]:
    return np.sum(a**2, axis=1)[:, None] - 2 * a @ b.T + np.sum(b**2, axis=1)
