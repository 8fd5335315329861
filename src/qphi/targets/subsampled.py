"""A NumPyro program with a subsampled plate, as a target: whole, or estimated from some of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.primitives import Messenger

from qphi.errors import InputError
from qphi.targets.base import AbstractTarget, Site
from qphi.targets.from_numpyro import NumPyroTarget
from qphi.targets.program_checks import SubsampledPlateError, is_latent

__all__ = ["SubsampledTarget"]

BLOCK = 8192  # rows whose densities are computed at once


class SubsampledTarget(AbstractTarget):
    """The posterior of a NumPyro program that has a plate with `subsample_size`, given all of its data.

    With l_i the terms of the plate's row i and l_0 all others, NumPyro's subsample B of the plate's N rows stands for

        log p_B(z) = l_0(z) + N / |B| sum_{i in B} l_i(z),

    whose mean over B is log_density(z) = l_0(z) + sum_i l_i(z). That is computed in blocks of rows, in bounded memory:
    log p = sum over blocks of |block| / N log p_block. `on(rows)` is the target of a subsample, `subsample_size` the
    number of rows that the program asks for.

    Raises InputError for latents inside the plate (one for each row) and for a second subsampled plate.
    """

    batch: NumPyroTarget
    size: int = eqx.field(static=True)
    subsample_size: int = eqx.field(static=True)
    sites: tuple[Site, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __init__(
        self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], plate: SubsampledPlateError
    ):
        self.size, self.subsample_size = plate.size, plate.subsample_size
        rows = jnp.zeros((1,), jnp.int32)
        program = _OnRows(model, plate.name)
        try:
            self.batch = NumPyroTarget(program, (rows, *args), kwargs)
        except SubsampledPlateError as second:
            raise InputError(
                f"Plates {plate.name!r} and {second.name!r} are both subsampled; one can be. Leave the other's "
                "subsample_size out."
            ) from None
        if program.inside:
            raise InputError(
                f"Latent site {program.inside[0]!r} is inside the subsampled plate {plate.name!r}: it has a value for "
                "each row, and q needs them all. Leave subsample_size out, or sum the latent out."
            )
        self.sites, self.dim = self.batch.sites, self.batch.dim

    def on(self, rows: Int[Array, " rows"]) -> NumPyroTarget:
        """The target of these rows, weighted to stand for all."""
        return eqx.tree_at(lambda batch: batch.args[0], self.batch, rows)

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return self.log_density_many(z[None])[0]

    def log_density_many(self, z: Float[Array, "particles dim"]) -> Float[Array, " particles"]:
        block = min(self.size, BLOCK)
        whole = self.size // block * block
        total = whole / self.size * self.log_density_of(jnp.arange(whole).reshape(-1, block), z)
        if whole < self.size:
            rest = self.on(jnp.arange(whole, self.size)).log_density_many(z)
            total = total + (1 - whole / self.size) * rest
        return total

    def log_density_of(
        self, rows: Int[Array, "blocks block"], z: Float[Array, "particles dim"]
    ) -> Float[Array, " particles"]:
        """The estimate from these rows, block by block; nothing but the sum is kept, also for derivatives."""

        @jax.checkpoint
        def add(total: Array, block: Array) -> tuple[Array, None]:
            return total + self.on(block).log_density_many(z), None

        return jax.lax.scan(add, jnp.zeros(z.shape[0], z.dtype), rows)[0] / rows.shape[0]

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        found = self.batch.constrain(z)
        return {name: found[name] for name in self.shapes()}

    def log_density_parts(self, z: Float[Array, " dim"]) -> dict[str, Float[Array, ""]]:
        """Of as many rows as the program asks for, the first ones."""
        return self.on(jnp.arange(self.subsample_size)).log_density_parts(z)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {site.name: site.shape for site in self.sites}

    def real_blocks(self) -> dict[str, slice]:
        return self.batch.real_blocks()


class _OnRows:
    """The program with its first argument as the rows of a plate. Compared by what it wraps, so compiled once."""

    def __init__(self, model: Callable[..., Any], plate: str):
        self.model, self.plate, self.inside = model, plate, list[str]()

    def __call__(self, rows: Array, *args: Any, **kwargs: Any) -> Any:
        with _Rows(self, rows):
            return self.model(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OnRows) and (self.model, self.plate) == (other.model, other.plate)

    def __hash__(self) -> int:
        return hash((self.model, self.plate))


class _Rows(Messenger):
    def __init__(self, program: _OnRows, rows: Array):
        super().__init__(None)
        self.program, self.rows = program, rows

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate" and msg["name"] == self.program.plate:
            msg["args"], msg["value"] = (msg["args"][0], None), self.rows
        elif msg["type"] == "sample" and is_latent(msg):
            plates = {frame.name for frame in msg["cond_indep_stack"]}
            if self.program.plate in plates and msg["name"] not in self.program.inside:
                self.program.inside.append(msg["name"])
