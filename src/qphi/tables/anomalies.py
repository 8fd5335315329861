"""How odd a row is, and which of its cells make it so."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from qphi.autoencoders.model import LatentVariableModel
from qphi.data.codec import Encoded
from qphi.tables.uses import score_cells

__all__ = ["oddness"]


def oddness(
    model: LatentVariableModel, encoded: Encoded, particles: int
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows columns"]]:
    """-log p(x_obs) of each row and -log p(x_j | other cells) of each cell, nats in the units of the data."""
    evidence, cells = score_cells(model, encoded.x, particles)
    return -(evidence + encoded.log_slope.sum(axis=1)), -(cells + encoded.log_slope)
