"""The example and the supports of a plain log density: checked, and mapped to unconstrained space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint

from qphi.errors import InputError
from qphi.targets.base import default_dtype, describe, is_real

__all__ = ["checked_supports", "example_values", "unconstrained"]


def example_values(example: object) -> dict[str, Array]:
    """The example as a dict of floating-point arrays; TypeError or InputError where it cannot be one."""
    if not isinstance(example, Mapping) or not example:
        raise TypeError(
            f"example is {example!r:.60}; a dict from each name to a number or array is needed, such as "
            "example={'mu': 0.0, 'theta': jnp.zeros(8)}."
        )
    return {str(name): _example_value(str(name), value) for name, value in example.items()}


def _example_value(name: str, value: Any) -> Array:
    array = value if isinstance(value, jax.Array) else _as_numpy(value)
    if array is None or array.dtype.kind not in "biufc":
        raise TypeError(f"example[{name!r}] is a {type(value).__name__}; a number or an array of numbers is needed.")
    if array.size == 0 or array.dtype.kind not in "iuf":
        raise InputError(
            f"example[{name!r}] has shape {array.shape} and dtype {array.dtype}; a real array that is not"
            " empty is needed: latents are continuous."
        )
    numbers = jnp.asarray(array)
    return numbers.astype(jnp.promote_types(numbers.dtype, default_dtype()))


def _as_numpy(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # a ragged list
        return None


def checked_supports(supports: Mapping[str, Any], values: Mapping[str, Array]) -> dict[str, Constraint]:
    """The supports that are not the real line; TypeError or InputError for one that cannot be used."""
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
    if constraints.is_dependent(support) or support.is_discrete or isinstance(support, type(constraints.complex)):
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


def unconstrained(values: dict[str, Array], supports: dict[str, Constraint]) -> dict[str, Array]:
    """The example's block of z for each name; InputError for a value outside its support or at its edge."""
    blocks, inside = _invert(values, supports)
    for name, value in values.items():
        if not isinstance(value, Tracer) and not bool(inside[name]):
            raise InputError(
                f"example[{name!r}] = {np.asarray(value)!s:.60} is outside, or at the edge of, its support "
                f"({describe(supports.get(name, constraints.real))}). Give a value inside."
            )
    return blocks


@eqx.filter_jit
def _invert(values: dict[str, Array], supports: dict[str, Constraint]) -> tuple[dict[str, Array], dict[str, Array]]:
    blocks, inside = {}, {}
    for name, value in values.items():
        support: Any = supports.get(name, constraints.real)
        transform: Any = biject_to(support)
        blocks[name] = jnp.asarray(transform.inv(value))
        inside[name] = jnp.all(support(value)) & jnp.all(jnp.isfinite(blocks[name]))
    return blocks, inside
