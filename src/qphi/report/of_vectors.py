"""The pictures of a model of vectors: the data against its samples, and against what it makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qphi.report.plots import data_against_samples, marginals, reconstructed_columns
from qphi.report.subject import SEED, Drawings, Subject

__all__ = ["columns_again", "further_columns", "samples"]

POINTS = 1000  # rows in a scatter plot
PAIRED = 4  # columns


def samples(subject: Subject) -> Drawings:
    if subject.x is None:
        return
    data = _flat(subject.x)[:POINTS]
    drawn = _flat(subject.vae.sample(len(data), random_state=SEED))
    width = data.shape[1]
    names = [f"column {index}" for index in range(width)]
    single = "The data (grey) and as many samples of the model (blue)."
    which = "The first four columns" if width > PAIRED else "The columns"
    paired = f"{which} in pairs: data (grey) below the diagonal, as many samples (blue) above it."
    yield data_against_samples(data, drawn, names), single if width == 1 else paired


def further_columns(subject: Subject) -> Drawings:
    if subject.x is None or subject.vae.n_features_in_ <= PAIRED:
        return
    data = _flat(subject.x)[:POINTS, PAIRED:]
    drawn = _flat(subject.vae.sample(len(data), random_state=SEED))[:, PAIRED:]
    names = [f"column {index + PAIRED}" for index in range(data.shape[1])]
    yield marginals(data, drawn, names), "Data (grey) and as many samples of the model (blue)."


def columns_again(subject: Subject) -> Drawings:
    if subject.x is None:
        return
    data = subject.x[:POINTS]
    again = _flat(subject.vae.reconstruct(data))
    names = [f"column {index}" for index in range(again.shape[1])]
    yield (
        reconstructed_columns(_flat(data), again, names),
        "Each datum's code, decoded again, against the datum. On the line the reconstruction is perfect; a "
        "flat cloud is a column about which the code says nothing.",
    )


def _flat(rows: Any) -> NDArray:
    rows = np.asarray(rows, float)
    return rows.reshape(len(rows), -1)
