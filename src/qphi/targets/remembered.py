"""The target of a posterior that was read from files: names and shapes, without the model."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Float

from qphi.errors import InputError
from qphi.targets.base import AbstractTarget

__all__ = ["Remembered"]


class Remembered(AbstractTarget):
    """Knows what a model's values were called and how they were shaped; its density was not saved.

    Raises InputError from everything that needs the model itself.
    """

    named_shapes: tuple[tuple[str, tuple[int, ...]], ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        raise InputError(_MISSING)

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        raise InputError(_MISSING)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.named_shapes)


_MISSING = (
    "This posterior was read from files, which hold its draws and not its model. Fit the model again for what needs it."
)
