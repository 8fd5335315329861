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
from qphi.targets.base import (
    AbstractTarget,
    Site,
    arrays_as_leaves,
    blocks_of,
    default_dtype,
    describe,
    is_real,
    split,
)

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
                f"log_density is a {type(log_density).__name__}; a function log_density(values, *args) is"
                " needed."
            )
        if not isinstance(args, tuple):
            raise TypeError(f"args is a {type(args).__name__}; a tuple is needed: args=(data,).")
        values = _example_values(example)
        self.function = log_density
        self.supports = _checked_supports(supports or {}, values)
        self.args = arrays_as_leaves(args)
        self.sites = tuple(_site(name, value, self._support(name)) for name, value in values.items())
        blocks = [_unconstrained(name, value, self._support(name)) for name, value in values.items()]
        self.origin = jnp.concatenate([block.reshape(-1) for block in blocks])
        self.dim = self.origin.shape[0]
        _check_output(log_density, values, self.args)
        self._check_finite(values)

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return _log_density(self, z)

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        blocks = split(z, self.sites)
        return {name: jnp.asarray(self._transform(name)(block)) for name, block in blocks.items()}

    def start(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """The example, on the unconstrained scale, whatever the key."""
        return self.origin.astype(default_dtype())

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


def _example_values(example: object) -> dict[str, Array]:
    if not isinstance(example, Mapping) or not example:
        raise TypeError(
            f"example is {example!r:.60}; a dict from each name to a number or array is needed, such as "
            "example={'mu': 0.0, 'theta': jnp.zeros(8)}."
        )
    return {str(name): _example_value(str(name), value) for name, value in example.items()}


def _example_value(name: str, value: Any) -> Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"example[{name!r}] is a {type(value).__name__}; a number or an array of numbers is needed."
        ) from error
    if array.size == 0 or array.dtype.kind not in "iuf":
        raise InputError(
            f"example[{name!r}] has shape {array.shape} and dtype {array.dtype}; a real array that is not"
            " empty is needed: latents are continuous."
        )
    return array.astype(jnp.result_type(array.dtype, default_dtype()))


def _checked_supports(supports: Mapping[str, Any], values: Mapping[str, Array]) -> dict[str, Constraint]:
    unknown = [name for name in supports if name not in values]
    if unknown:
        raise InputError(
            f"supports names {', '.join(map(repr, unknown))}; the example has {', '.join(map(repr, values))}."
            " Use the same names in both."
        )
    for name, support in supports.items():
        if not isinstance(support, Constraint):
            raise TypeError(
                f"supports[{name!r}] is a {type(support).__name__}; a constraint from "
                "numpyro.distributions.constraints is needed, such as constraints.positive."
            )
        _check_support(name, support, values[name])
    return {name: support for name, support in supports.items() if not is_real(support)}


def _check_support(name: str, support: Constraint, value: Array) -> None:
    if (
        constraints.is_dependent(support)
        or support.is_discrete
        or isinstance(support, type(constraints.complex))
    ):
        raise InputError(
            f"supports[{name!r}] is {describe(support)}; a continuous real support is needed. Sum discrete "
            "values out inside log_density (logsumexp over their states)."
        )
    if value.ndim < support.event_dim:
        raise InputError(
            f"example[{name!r}] has shape {value.shape}; {describe(support)} needs at least"
            f" {support.event_dim} dimension(s)."
        )
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise InputError(
            f"supports[{name!r}] is {describe(support)}, to which NumPyro knows no map from unconstrained"
            " space. Write the value as a function of real ones inside log_density."
        ) from error


def _unconstrained(name: str, value: Array, support: Constraint) -> Array:
    transform: Any = biject_to(support)
    block = jnp.asarray(transform.inv(value))
    if isinstance(block, Tracer):
        return block
    if not (np.all(support(value)) and np.all(np.isfinite(block))):
        raise InputError(
            f"example[{name!r}] = {np.asarray(value)!s:.60} is outside, or at the edge of, its support "
            f"({describe(support)}). Give a value inside."
        )
    return block


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
        ) from error
    if getattr(output, "shape", None) != ():
        given = (
            f"an array of shape {output.shape}" if hasattr(output, "shape") else f"a {type(output).__name__}"
        )
        raise InputError(f"log_density answers {given}; one number is needed. Sum over data and components.")
    if output.dtype.kind == "c":
        raise InputError("log_density answers a complex number; a real one is needed. Take its real part.")
