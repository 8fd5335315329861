"""What a report is about: a trained model and, where there are data, what it makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["SEED", "Drawings", "Drawn", "Maker", "Subject"]

SEED = 0  # the pictures of a report choose the same rows and draws every time


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a report is about. Without data all but `vae` are None.

    `x` holds the rows that were encoded into `means` and `scales` (n, latent_dim), `labels` theirs; `shown`
    are the positions among them that pictures of single data take.
    """

    vae: Any
    x: NDArray | None = None
    labels: NDArray | None = None
    means: NDArray | None = None
    scales: NDArray | None = None
    shown: NDArray | None = None
    kl: NDArray | None = None  # (latent_dim,), nats per datum
    active: NDArray | None = None  # (latent_dim,), bool

    @property
    def units(self) -> NDArray:
        """Latent units, those with the largest KL first; in their own order where the KL is unknown."""
        return np.arange(self.vae.latent_dim) if self.kl is None else np.argsort(-self.kl, kind="stable")


Drawn = Figure | NDArray[np.uint8]
Drawings = Iterator[tuple[Drawn, str]]  # each with its caption; none where what they need is missing
Maker = Callable[[Subject], Drawings]
