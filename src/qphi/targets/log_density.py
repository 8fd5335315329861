"""A plain JAX log density over named values with supports, as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint

from qphi.errors import InputError
from qphi.precision import mixed_precision
from qphi.targets.base import (
    AbstractTarget,
    Site,
    arrays_as_leaves,
    blocks_of,
    default_dtype,
    is_real,
    split,
)
from qphi.targets.example import checked_supports, example_values, unconstrained

__all__ = ["LogDensity"]


class LogDensity(AbstractTarget):
    """log p(x, values), written in JAX on the values' own scales, as a density over flat unconstrained z.

    With values = T(z), T being `numpyro.distributions.biject_to(support)` for each name,

        log_density(z) = log p(x, T(z)) + sum over names of log |det dT / dz|.

    `log_density(values, *args)` takes a dict with the names and shapes of `example` and answers one number,
    in nats, for the whole data set. `example` is a point of positive density, with room around it: it gives
    names, shapes and the start. `supports` are `numpyro.distributions.constraints`; names without one are
    real. A support whose free coordinates are fewer than its values (simplex, correlation Cholesky...) is
    handled. Arrays in `args` are leaves: under jit, new data of the same shapes run the program already
    compiled.

    Raises TypeError for a wrong kind of argument, InputError (a ValueError) for names, shapes, supports or a
    density that cannot be used, before anything is fitted.

    >>> import jax.numpy as jnp
    >>> target = LogDensity(lambda v: -v["tau"], {"tau": 1.0}, supports={"tau": constraints.positive})
    >>> float(target.log_density(jnp.zeros(1)))  # -exp(0) + log|d exp(z)/dz| at z = 0
    -1.0
    """

    function: Callable[..., Any]
    supports: dict[str, Constraint]
    args: tuple[Any, ...]
    origin: Float[Array, " dim"]
    sites: tuple[Site, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __init__(
        self,
        log_density: Callable[..., Any],
        example: Mapping[str, Any],
        *,
        supports: Mapping[str, Constraint] | None = None,
        args: tuple[Any, ...] = (),
    ):
        if not callable(log_density):
            raise TypeError(
                f"log_density is a {type(log_density).__name__}; a function log_density(values, *args) is needed."
            )
        if not isinstance(args, tuple):
            raise TypeError(f"args is a {type(args).__name__}; a tuple is needed: args=(data,).")
        values = example_values(example)
        self.function = log_density
        self.supports = checked_supports(supports or {}, values)
        self.args = arrays_as_leaves(args)
        self.sites = tuple(_site(name, value, self._support(name)) for name, value in values.items())
        blocks = unconstrained(values, self.supports)
        self.origin = jnp.concatenate([blocks[name].reshape(-1) for name in values])
        self.dim = self.origin.shape[0]
        _check_output(log_density, values, self.args)
        self._check_finite(values)

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return _log_density(self, z)

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        return _constrain(self, z)

    def start(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """The example, on the unconstrained scale, whatever the key."""
        return self.origin.astype(default_dtype())

    def center(self) -> Float[Array, " dim"]:
        return self.origin

    def log_density_parts(self, z: Float[Array, " dim"]) -> dict[str, Float[Array, ""]]:
        """`log_density` as written by the user, and `log_jacobian` of each constrained name."""
        values, parts = {}, {}
        for name, block in split(z, self.sites).items():
            transform = self._transform(name)
            values[name] = jnp.asarray(transform(block))
            if name in self.supports:
                log_jacobian = transform.log_abs_det_jacobian(block, values[name])
                parts[f"log_jacobian[{name}]"] = jnp.sum(jnp.asarray(log_jacobian))
        return {"log_density": jnp.asarray(self.function(values, *self.args), z.dtype), **parts}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {site.name: site.shape for site in self.sites}

    def real_blocks(self) -> dict[str, slice]:
        return {site.name: block for site, block in blocks_of(self.sites) if site.is_real}

    def _support(self, name: str) -> Constraint:
        return self.supports.get(name, constraints.real)

    def _transform(self, name: str) -> Any:
        return biject_to(self._support(name))

    def _check_finite(self, values: Mapping[str, Array]) -> None:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((self.args, self.origin))):
            return  # built inside jit or vmap: there is no number to look at
        value = float(_log_density(self, self.origin))
        if not np.isfinite(value):
            raise InputError(
                f"The log density at the example is {value}; a finite one is needed, where every fit begins."
                " Give an example of positive density, or look for log(0), 0/0 and overflow in log_density"
                " or its data."
            )


@eqx.filter_jit
def _log_density(target: LogDensity, z: Float[Array, " dim"]) -> Float[Array, ""]:
    # jitted, because a distribution that validates its arguments raises on concrete values and not on traced
    # ones
    return sum(target.log_density_parts(z).values(), start=jnp.zeros((), z.dtype)).astype(z.dtype)


@eqx.filter_jit
def _constrain(target: LogDensity, z: Float[Array, " dim"]) -> dict[str, Array]:
    blocks = split(z, target.sites)
    return {name: jnp.asarray(target._transform(name)(block)) for name, block in blocks.items()}


def _site(name: str, value: Array, support: Constraint) -> Site:
    transform: Any = biject_to(support)
    return Site(name, value.shape, tuple(transform.inverse_shape(value.shape)), is_real(support))


def _check_output(function: Callable[..., Any], values: Mapping[str, Array], args: tuple[Any, ...]) -> None:
    arrays, rest = eqx.partition(args, eqx.is_array)
    shapes = {name: value.shape for name, value in values.items()}
    try:
        output = jax.eval_shape(lambda v, a: function(v, *eqx.combine(a, rest)), dict(values), arrays)
    except jax.errors.JAXTypeError as error:
        raise InputError(
            f"log_density cannot be traced by JAX ({type(error).__name__}). Write it with jax.numpy, not"
            " NumPy, and with jnp.where in place of `if` on values."
        ) from error
    except Exception as error:
        raise InputError(
            f"log_density raised {type(error).__name__}: {error} - when called with values of shapes {shapes}"
            f" and {len(args)} further argument(s). Make log_density(values, *args) run on the example."
            f"{mixed_precision(error)}"
        ) from error
    if getattr(output, "shape", None) != ():
        given = f"an array of shape {output.shape}" if hasattr(output, "shape") else f"a {type(output).__name__}"
        raise InputError(f"log_density answers {given}; one number is needed. Sum over data and components.")
    if output.dtype.kind == "c":
        raise InputError("log_density answers a complex number; a real one is needed. Take its real part.")
