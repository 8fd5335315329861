"""A PyMC model as a target, through PyMC's own JAX graphs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.errors import InputError
from qphi.targets.base import START_RADIUS, AbstractTarget, Site, blocks_of, default_dtype, split

__all__ = ["PyMCTarget", "is_pymc"]


def is_pymc(model: object) -> bool:
    """Whether this is a `pymc.Model`. Imports nothing: only a program that has imported PyMC has one."""
    pymc = sys.modules.get("pymc")
    return pymc is not None and isinstance(model, pymc.Model)


class PyMCTarget(AbstractTarget):
    """The posterior of a `pymc.Model`, over the value variables that PyMC's own samplers move.

        log_density(z) = model.logp(), Jacobians of PyMC's transforms and potentials included.

    `constrain` gives the free variables on their own supports, and the deterministic ones. Data are constants of the
    compiled program: another model compiles anew. Raises InputError for discrete free variables, for a model without
    free ones, and for one that PyMC cannot turn into JAX.
    """

    log_p: Callable[..., Any]
    outputs: Callable[..., Any]
    origin: Float[Array, " dim"]
    names: tuple[str, ...] = eqx.field(static=True)
    sites: tuple[Site, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __init__(self, model: Any):
        from pymc.sampling.jax import get_jaxified_graph  # pyright: ignore[reportMissingImports]

        _check_model(model)
        values = model.value_vars
        free = [model.values_to_rvs[value].name for value in values]
        self.names = (*free, *(variable.name for variable in model.deterministics))
        named = {variable.name: variable for variable in model.unobserved_value_vars}
        try:
            self.log_p = get_jaxified_graph(inputs=values, outputs=[model.logp()])
            self.outputs = get_jaxified_graph(inputs=values, outputs=[named[name] for name in self.names])
        except Exception as error:
            line = str(error).strip().split("\n")[0].rstrip(".")
            raise InputError(
                f"PyMC cannot write this model in JAX: {type(error).__name__}: {line}. Use operations that PyTensor "
                "has in JAX, or write the log density in JAX with example={name: value}."
            ) from error
        point = model.initial_point()
        blocks = [np.asarray(point[value.name], float) for value in values]
        shapes = [a.shape for a in jax.eval_shape(lambda: self.outputs(*map(jnp.asarray, blocks)))]
        self.sites = tuple(
            Site(name, shape, block.shape, value.name == name)
            for name, shape, block, value in zip(free, shapes, blocks, values, strict=False)
        )
        self.origin = jnp.concatenate([jnp.asarray(block.ravel()) for block in blocks])
        self.dim = len(self.origin)

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return jnp.asarray(self.log_p(*split(z, self.sites).values())[0], z.dtype)

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        found = self.outputs(*split(z, self.sites).values())
        return {name: jnp.asarray(value) for name, value in zip(self.names, found, strict=True)}

    def center(self) -> Float[Array, " dim"]:
        """PyMC's initial point."""
        return self.origin.astype(default_dtype())

    def start(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """Uniform in the box of half-width 2 around PyMC's initial point."""
        return self.center() + jax.random.uniform(key, (self.dim,), minval=-START_RADIUS, maxval=START_RADIUS)

    def real_blocks(self) -> dict[str, slice]:
        return {site.name: block for site, block in blocks_of(self.sites) if site.is_real}


def _check_model(model: Any) -> None:
    discrete = [model.values_to_rvs[value].name for value in model.discrete_value_vars]
    if discrete:
        raise InputError(
            f"Free variable(s) {', '.join(discrete)} are discrete; q is a density over continuous values. Sum them "
            "out: pm.Mixture, or marginalize of the package pymc-extras."
        )
    if not model.value_vars:
        raise InputError("The PyMC model has no free variable; nothing is to be inferred. Add priors.")
