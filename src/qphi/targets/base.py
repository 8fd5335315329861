"""`p`: what is inferred. A log density over flat unconstrained coordinates."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from numpyro.distributions import constraints

from qphi.errors import InputError

__all__ = ["AbstractTarget", "Constant", "Site", "component_names", "finite_start", "split"]

START_RADIUS = 2.0  # half-width of the box of starts, unconstrained scale: Stan's default
START_ATTEMPTS = 100  # as Stan and NumPyro


@dataclasses.dataclass(frozen=True)
class Site:
    """One named latent: the shape of its value, and of its block of z (a simplex of 3 has a block of 2).

    `is_real` says that the value *is* the block, without any transformation.
    """

    name: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    is_real: bool

    @property
    def size(self) -> int:
        """Length of the block of z."""
        return math.prod(self.unconstrained_shape)


class AbstractTarget(eqx.Module):
    """An unnormalised posterior, log p(x, z) with x fixed, over z in R^dim.

    Constraints live here and nowhere else: `log_density` already contains the log Jacobian of the map from z
    to the named, constrained values, so families and solvers see a flat real vector. A subclass gives `dim`,
    `log_density` and `constrain`; the other methods have answers that it may improve on.
    """

    dim: eqx.AbstractVar[int]

    @abc.abstractmethod
    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        """log p(x, z) + log |d constrained / d z|, nats, whole data set."""

    @abc.abstractmethod
    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        """The named values, on their own supports, that z stands for."""

    def log_density_many(self, z: Float[Array, "particles dim"]) -> Float[Array, " particles"]:
        """`log_density` of each row."""
        return jax.vmap(self.log_density)(z)

    def start(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """A point to begin at. Unless the target knows better, uniform in the box (-2, 2)^dim, as Stan does.

        The density need not be finite there: `finite_start` looks until it is.
        """
        return jax.random.uniform(key, (self.dim,), minval=-START_RADIUS, maxval=START_RADIUS)

    def center(self) -> Float[Array, " dim"]:
        """The middle of where starts are looked for: zero, unless the target knows better."""
        return jax.device_put(np.zeros(self.dim, default_dtype()))  # compiles nothing

    def log_density_parts(self, z: Float[Array, " dim"]) -> dict[str, Float[Array, ""]]:
        """Named terms that sum to `log_density`: what to look at when it is not finite."""
        return {"log_density": self.log_density(z)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every value that `constrain` gives, in the order in which to print them."""
        z = jax.ShapeDtypeStruct((self.dim,), default_dtype())
        return {name: value.shape for name, value in jax.eval_shape(self.constrain, z).items()}

    def real_blocks(self) -> dict[str, slice]:
        """Names whose value is a slice of z itself, and which: their moments are q's own, exactly."""
        return {}


def default_dtype() -> jnp.dtype:
    """float32, or float64 where JAX has it enabled."""
    return jnp.zeros(()).dtype


def split(z: Float[Array, " dim"], sites: tuple[Site, ...]) -> dict[str, Array]:
    """The unconstrained block of each site, in its own shape: `sites` partition z in their order."""
    blocks = {}
    for site, block in blocks_of(sites):
        blocks[site.name] = z[block].reshape(site.unconstrained_shape)
    return blocks


def blocks_of(sites: tuple[Site, ...]) -> Iterator[tuple[Site, slice]]:
    """Each site with its slice of z."""
    begin = 0
    for site in sites:
        yield site, slice(begin, begin + site.size)
        begin += site.size


def component_names(name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """Names of the components of one value, in C order, counted from 0 as in Python.

    >>> list(component_names("theta", (2, 2)))
    ['theta[0,0]', 'theta[0,1]', 'theta[1,0]', 'theta[1,1]']
    >>> list(component_names("mu", ()))
    ['mu']
    """
    for flat in range(math.prod(shape)):
        index, rest = [], flat
        for size in reversed(shape):
            rest, i = divmod(rest, size)
            index.append(str(i))
        yield f"{name}[{','.join(reversed(index))}]" if shape else name


def finite_start(target: AbstractTarget, key: PRNGKeyArray) -> Float[Array, " dim"]:
    """The first of at most 100 starts at which the log density and its gradient are finite.

    Raises InputError when there is none, with counts of NaN and infinite values and the terms to blame.
    """
    z, found, nan, infinite = _seek_start(target, key)
    if bool(found):
        return z
    parts = {name: float(part) for name, part in target.log_density_parts(z).items()}
    guilty = ", ".join(f"{name} = {part}" for name, part in parts.items() if not math.isfinite(part))
    raise InputError(
        f"None of {START_ATTEMPTS} starts has a finite log density and gradient: {int(nan)} NaN,"
        f" {int(infinite)} infinite, {START_ATTEMPTS - int(nan) - int(infinite)} with a gradient that is not"
        f" finite. At the last: {guilty or 'the gradient alone'}. A fit needs one point where both are"
        " finite: check the data and the supports, or rescale; a log density can be given another example."
    )


@eqx.filter_jit
def _seek_start(
    target: AbstractTarget, key: PRNGKeyArray
) -> tuple[Float[Array, " dim"], Bool[Array, ""], Int[Array, ""], Int[Array, ""]]:
    def attempt(state):
        i, _, _, nan, infinite = state
        z = target.start(jax.random.fold_in(key, i))
        value, gradient = jax.value_and_grad(target.log_density)(z)
        found = jnp.isfinite(value) & jnp.isfinite(gradient).all()
        return i + 1, z, found, nan + jnp.isnan(value), infinite + jnp.isinf(value)

    def go_on(state):
        return (state[0] < START_ATTEMPTS) & ~state[2]

    z = jax.eval_shape(target.start, key)
    state = (jnp.array(0), jnp.zeros(z.shape, z.dtype), jnp.array(False), jnp.array(0), jnp.array(0))
    return jax.lax.while_loop(go_on, attempt, state)[1:]


def is_real(support: Any) -> bool:
    """Whether the support is the real line, elementwise."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))


def describe(support: Any) -> str:
    """A support's name for messages."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = [getattr(support, bound, None) for bound in ("lower_bound", "upper_bound")]
    given = ", ".join(f"{bound:g}" for bound in bounds if isinstance(bound, int | float))
    return type(support).__name__.strip("_") + (f"({given})" if given else "")


def arrays_as_leaves(tree: Any) -> Any:
    """`tree` with NumPy arrays as JAX arrays, which jit treats as data; every other leaf must be hashable.

    Arrays get JAX's default precision: build a target under `jax.enable_x64()` for float64. TypeError for a
    leaf that is neither an array of numbers nor hashable.
    """
    return jax.tree.map(_as_leaf, tree)


class Constant:
    """An array that jit takes for a part of the program, compared by identity: what `np.unique(x)` is asked of."""

    def __init__(self, value: np.ndarray):
        self.value = value


def arrays_as_constants(tree: Any) -> Any:
    """`tree` with arrays as `Constant`s; new data compile anew."""
    return jax.tree.map(lambda leaf: Constant(np.asarray(leaf)) if eqx.is_array(leaf) else leaf, tree)


def thawed(tree: Any) -> Any:
    """`tree` with the arrays of `Constant`s in their place."""
    return jax.tree.map(lambda leaf: leaf.value if isinstance(leaf, Constant) else leaf, tree)


def _as_leaf(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.kind not in "biufc":
            raise TypeError(
                f"An array of dtype {leaf.dtype} is among the model's arguments; JAX needs numbers. Encode it"
                " as integers or floats first."
            )
        return jax.device_put(leaf)  # compiles nothing, which jnp.asarray does for each new shape
    if not isinstance(leaf, jax.Array) and type(leaf).__hash__ is None:
        raise TypeError(
            f"A {type(leaf).__name__} is among the model's arguments; arrays, numbers, strings and tuples,"
            " lists or dicts of them are needed. Give `.to_numpy()` of a table's columns."
        )
    return leaf
