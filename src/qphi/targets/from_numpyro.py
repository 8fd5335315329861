"""A NumPyro program as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import biject_to

from qphi.errors import InputError
from qphi.precision import mixed_precision
from qphi.targets.base import (
    AbstractTarget,
    Site,
    arrays_as_constants,
    arrays_as_leaves,
    blocks_of,
    default_dtype,
    describe,
    is_real,
    split,
    thawed,
)
from qphi.targets.program_checks import Trace, check_program, is_latent

__all__ = ["NumPyroTarget"]


class NumPyroTarget(AbstractTarget):
    """The posterior of a NumPyro program `model(*args, **kwargs)`, over its continuous latent sites.

    The program is run once, abstractly, to find its sites; after that every evaluation replays it with the
    latents put in place, so a support that depends on another site (`Uniform(0, x)`), plates, `scan`,
    `numpyro.factor`, `handlers.scale`, masks and observed sites mean what they mean to NumPyro's own
    samplers:

        log_density(z) = sum over sites of scale * log p(site) + sum over latents of log |det dT / dz|,

    T being `biject_to(support)` of each latent. The Jacobian is never scaled or masked. `constrain` gives the
    latents and every `numpyro.deterministic` site. Arrays in `args` and `kwargs` are leaves: new data of the
    same shapes run the program already compiled; everything else in them is a constant. Where the program needs
    their values while it is traced (`len(np.unique(group))`), arrays are constants as well.

    Raises InputError (a ValueError) for a discrete latent, a program without latents, `numpyro.param`,
    data outside their distribution's support, or a program that does not run;
    its kind SubsampledPlateError for a subsampled plate.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> target = NumPyroTarget(model, (jnp.array([0.0, 0.0]),))
    >>> round(float(target.log_density(jnp.zeros(1))), 4)  # three standard normal densities at 0
    -2.7568
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sites: tuple[Site, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    reported: tuple[tuple[str, tuple[int, ...]], ...] = eqx.field(static=True)

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None):
        if not callable(model):
            raise TypeError(f"model is a {type(model).__name__}; a function of NumPyro statements is needed.")
        self.model = model
        given = arrays_as_leaves((tuple(args), dict(kwargs or {})))
        self.args, self.kwargs = given if _takes_tracers(model, *given) else arrays_as_constants(given)
        self.sites, self.reported = _structure(model, *self.data())
        self.dim = sum(site.size for site in self.sites)

    def data(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the program is called with."""
        return thawed((self.args, self.kwargs))

    def log_density(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return _log_density(self, z)

    def constrain(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        return _constrain(self, z)

    def log_density_parts(self, z: Float[Array, " dim"]) -> dict[str, Float[Array, ""]]:
        """The log density of each sample site, and `log_jacobian[name]` of each constrained latent."""
        return _parts(self, z)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.reported)

    def real_blocks(self) -> dict[str, slice]:
        return {site.name: block for site, block in blocks_of(self.sites) if site.is_real}


# All evaluation is jitted: a distribution that validates its arguments raises on concrete values outside its
# support and leaves traced ones alone, so a start or a draw out there must never be concrete.
@eqx.filter_jit
def _log_density(target: NumPyroTarget, z: Float[Array, " dim"]) -> Float[Array, ""]:
    return sum(_parts(target, z).values(), start=jnp.zeros((), z.dtype)).astype(z.dtype)


@eqx.filter_jit
def _parts(target: NumPyroTarget, z: Float[Array, " dim"]) -> dict[str, Float[Array, ""]]:
    trace, blocks = _replay(target, z), split(z, target.sites)
    parts = {}
    for name, site in trace.items():
        if site["type"] == "sample":
            parts[name] = _site_log_prob(site).astype(z.dtype)
    for name, block in blocks.items():
        site = trace[name]
        if not is_real(site["fn"].support):
            transform: Any = biject_to(site["fn"].support)
            parts[f"log_jacobian[{name}]"] = jnp.sum(transform.log_abs_det_jacobian(block, site["value"]))
    return parts


@eqx.filter_jit
def _constrain(target: NumPyroTarget, z: Float[Array, " dim"]) -> dict[str, Array]:
    trace = _replay(target, z)
    return {name: jnp.asarray(trace[name]["value"]) for name, _ in target.reported}


def _replay(target: NumPyroTarget, z: Float[Array, " dim"]) -> Trace:
    blocks = split(z, target.sites)

    def place(site: dict[str, Any]) -> Any:
        if site["type"] == "sample" and not site["is_observed"] and site["name"] in blocks:
            return _place(site, blocks[site["name"]])
        return None

    trace = _run(target.model, *target.data(), place)
    extra = [name for name, site in trace.items() if is_latent(site) and name not in blocks]
    if extra:
        raise InputError(
            f"The program's sites changed between two runs: {', '.join(map(repr, extra))} appeared. A model's"
            " sites must be the same at every call; state outside it, or Python randomness, changes them."
        )
    return trace


def _place(site: dict[str, Any], block: Array) -> Array:
    """The constrained value of a latent from its block of z; within `scan`, of the step being made."""
    transform: Any = biject_to(site["fn"].support)
    step = site["infer"].get("_scan_current_index")
    if step is not None and block.ndim > len(transform.inverse_shape(_shape(site))):
        block = block[step]
    return jnp.asarray(transform(block))


def _shape(site: dict[str, Any]) -> tuple[int, ...]:
    return tuple(site["kwargs"].get("sample_shape", ())) + tuple(site["fn"].shape())


def _site_log_prob(site: dict[str, Any]) -> Array:
    # Validation makes the density zero outside a support, as it must be for data. A latent is inside by
    # construction, but for rounding: the check would cut off a simplex of many components in float32.
    with numpyro.validation_enabled(not is_latent(site)):
        log_prob = site["fn"].log_prob(site["value"])
    return jnp.sum(log_prob if site["scale"] is None else site["scale"] * log_prob)


def _run(model: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], place: Callable[..., Any]) -> Trace:
    seeded = handlers.seed(model, jax.random.key(0))
    return handlers.trace(handlers.substitute(seeded, substitute_fn=place)).get_trace(*args, **kwargs)


def _takes_tracers(model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the program can be traced with its data unknown; what else is wrong with it is not asked here."""
    arrays, rest = eqx.partition((args, kwargs), eqx.is_array)
    if not jax.tree.leaves(arrays):
        return True

    def explore(arrays: Any) -> None:
        args, kwargs = eqx.combine(arrays, rest)
        _run(model, args, kwargs, _middle)

    try:
        jax.eval_shape(explore, arrays)
    except jax.errors.JAXTypeError:
        return False
    except Exception:
        return True
    return True


def _structure(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple[Site, ...], tuple[tuple[str, tuple[int, ...]], ...]]:
    """The latent sites in the program's order, and name and shape of everything `constrain` reports."""
    found: dict[str, Any] = {}

    def explore(_: Array) -> None:
        trace = _run(model, args, kwargs, _middle)
        check_program(trace)
        found["sites"] = tuple(_describe_latent(name, s) for name, s in trace.items() if is_latent(s))
        found["reported"] = tuple(
            (name, jnp.shape(s["value"]))
            for name, s in trace.items()
            if is_latent(s) or (s["type"] == "deterministic" and _is_number(s["value"]))
        )

    try:
        jax.eval_shape(explore, jax.ShapeDtypeStruct((), default_dtype()))  # nothing is computed, and nothing compiled
    except InputError:
        raise
    except jax.errors.JAXTypeError as error:
        raise InputError(
            f"The NumPyro program cannot be traced by JAX ({type(error).__name__}). Use jax.numpy instead of"
            " NumPy on latents, and jnp.where or masks instead of `if`."
        ) from error
    except Exception as error:
        raise InputError(
            f"The NumPyro program raised {type(error).__name__}: {error} - when run on {len(args)}"
            f" argument(s){_names(kwargs)}. Make model(*args, **kwargs) run under numpyro.handlers.seed; a"
            f" plain JAX log density needs example={{name: value}}.{mixed_precision(error)}"
        ) from error
    return found["sites"], found["reported"]


def _names(kwargs: Mapping[str, Any]) -> str:
    return f" and keyword(s) {', '.join(kwargs)}" if kwargs else ""


def _middle(site: dict[str, Any]) -> Any:
    """The image of 0 as the value of a continuous latent: improper priors cannot be sampled."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].support.is_discrete:
        return None
    try:
        transform: Any = biject_to(site["fn"].support)
    except NotImplementedError as error:
        raise InputError(
            f"Latent site {site['name']!r} has the support {describe(site['fn'].support)}, to which NumPyro"
            " knows no map from unconstrained space. Sample real values and transform them in the model."
        ) from error
    return transform(jnp.zeros(transform.inverse_shape(_shape(site)), default_dtype()))


def _describe_latent(name: str, site: dict[str, Any]) -> Site:
    support, shape = site["fn"].support, jnp.shape(site["value"])
    transform: Any = biject_to(support)
    return Site(name, shape, tuple(transform.inverse_shape(shape)), is_real(support))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.ndarray | jax.Array) and not jnp.iscomplexobj(value)
