"""Many rows through the device in blocks of one size."""

from __future__ import annotations

import jax
import numpy as np

__all__ = ["in_blocks"]

ROWS = 128  # per block


def in_blocks(function, xs: np.ndarray, numbers: int = 1):
    """`function` of blocks of equally many rows (the last one padded), put together again as NumPy arrays.

    Blocks of one size keep a row's result independent of how many rows stand beside it, and compile once. The size, at
    most 128, follows from how many `numbers` one datum has, so that memory stays bounded.
    """
    rows = int(np.clip(2 ** int(np.log2(max(400_000 / numbers, 1))), 1, ROWS))
    pieces = []
    for first in range(0, len(xs), rows):
        block = xs[first : first + rows]
        padded = np.concatenate([block, np.repeat(block[-1:], rows - len(block), axis=0)])
        count = len(block)
        pieces.append(jax.tree.map(lambda a, count=count: np.asarray(a)[:count], function(padded)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
