"""How odd a row is, and which of its cells make it so."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from qphi.autoencoders.model import LatentVariableModel
from qphi.data.codec import Encoded
from qphi.tables.uses import score_cells

__all__ = ["oddness"]


def oddness(
    model: LatentVariableModel, encoded: Encoded, typical_slope: Float[np.ndarray, " columns"], particles: int
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows columns"]]:
    """-log p(x_obs) of each row and -log p(x_j | other cells) of each cell, nats, whatever the units of the columns.

    A density's unit is that of its column's median: `typical_slope` is log du/dx there, so that only what is rarer than
    the middle of its column counts, and columns can be compared.
    """
    evidence, cells = score_cells(model, encoded.x, particles)
    seen = ~np.isnan(encoded.x[..., 0])
    slope = np.where(seen & (encoded.log_slope != 0), encoded.log_slope - typical_slope, 0.0)
    return -(evidence + slope.sum(axis=1)), -(cells + slope)
