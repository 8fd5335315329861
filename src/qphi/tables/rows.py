"""What a row of a table is to the model: numbers as intervals of normal scores, categories as level numbers.

A row is an array (columns, 3), numeric columns first. A number is an interval of normal scores (`data.scores`): its low
end, its high end and the mean of a standard normal inside; the ends are equal where the column is continuous. A
category is its level's number, three times. A missing cell is NaN, and stays so until the place where it is left
out.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

__all__ = ["Shape", "is_seen", "pseudo_numbers"]


class Shape(eqx.Module):
    """How many numeric columns a row has, which of them have intervals, and how many levels each category has."""

    numeric: int = eqx.field(static=True)
    levels: tuple[int, ...] = eqx.field(static=True)
    intervals: tuple[int, ...] = eqx.field(static=True, default=())  # numbers of the columns that have any

    @property
    def columns(self) -> int:
        """Columns of a row."""
        return self.numeric + len(self.levels)

    @property
    def indicators(self) -> int:
        """Numbers in `pseudo_numbers` of a row: one for each numeric column and one for each level."""
        return self.numeric + sum(self.levels)

    @property
    def column_of(self) -> np.ndarray:
        """The column that each level belongs to, (sum of levels,)."""
        return np.repeat(np.arange(self.numeric, self.columns), self.levels)

    @property
    def level_of(self) -> np.ndarray:
        """Each level's number in its column, (sum of levels,)."""
        return np.concatenate([np.arange(n) for n in self.levels]) if self.levels else np.zeros(0, int)

    @property
    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each categorical column's levels stand, (columns, most levels), and which of these exist."""
        most = max(self.levels, default=1)
        starts = np.cumsum([0, *self.levels])[:-1]
        place = starts[:, None] + np.arange(most)[None] if self.levels else np.zeros((0, most), int)
        exists = np.arange(most)[None] < np.asarray(self.levels, int).reshape(-1, 1)
        return np.where(exists, place, 0).astype(int), exists


def is_seen(x: Float[Array, "*rows columns 3"]) -> Bool[Array, "*rows columns"]:
    """Which cells are observed."""
    return ~jnp.isnan(x[..., 0])


def pseudo_numbers(
    shape: Shape, x: Float[Array, "rows columns 3"]
) -> tuple[Float[Array, "rows indicators"], Float[Array, "rows indicators"]]:
    """Rows as plain numbers and their mask (1 seen, 0 missing): means of intervals, then indicators of levels.

    Zero where the mask is zero.
    """
    seen = is_seen(x)
    numbers = jnp.where(seen, x[..., 2], 0.0)
    columns = shape.column_of
    indicators = (numbers[:, columns] == shape.level_of) & seen[:, columns]
    values = jnp.concatenate([numbers[:, : shape.numeric], indicators.astype(numbers.dtype)], axis=1)
    mask = jnp.concatenate([seen[:, : shape.numeric], seen[:, columns]], axis=1)
    return values, mask.astype(numbers.dtype)
