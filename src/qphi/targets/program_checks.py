"""What a NumPyro program must be like for its posterior to be a density over R^dim; refusals that say what
to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Delta, constraints

from qphi.errors import InputError
from qphi.targets.base import describe

__all__ = ["SubsampledPlateError", "Trace", "check_program", "is_latent"]

Trace = Mapping[str, dict[str, Any]]


class SubsampledPlateError(InputError):
    """A plate has subsample_size: this is no density of the whole data. `SubsampledTarget` is."""

    def __init__(self, name: str, size: int, subsample_size: int):
        self.name, self.size, self.subsample_size = name, size, subsample_size
        super().__init__(
            f"Plate {name!r} is subsampled ({subsample_size} of {size}); the log density of the whole data is needed. "
            "Leave subsample_size out."
        )


def is_latent(site: dict[str, Any]) -> bool:
    """Whether a site of a trace is to be inferred."""
    return site["type"] == "sample" and not site["is_observed"]


def check_program(trace: Trace) -> None:
    """Raise InputError for a program that has no posterior density over its continuous latents, naming the
    site.
    """
    latents = {name: site for name, site in trace.items() if is_latent(site)}
    for name, site in trace.items():
        if site["type"] in ("param", "mutable"):
            raise InputError(
                f"The program has the {site['type']} site {name!r}; a posterior needs priors. Use"
                " numpyro.sample with a prior, or pass a constant as an argument."
            )
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            size, subsample_size = site["args"]
            raise SubsampledPlateError(name, size, subsample_size)
        if site["type"] == "sample" and site["is_observed"]:
            _check_observed(name, site)
    for name, site in latents.items():
        _check_latent(name, site, trace)
    if not latents:
        raise InputError(
            "The program has no latent site (it has"
            f" {', '.join(map(repr, trace)) or 'no NumPyro statement'}); nothing is to be inferred. Add"
            " numpyro.sample statements without obs=; for a plain JAX log density, give example={name:"
            " value}."
        )


def _check_latent(name: str, site: dict[str, Any], trace: Trace) -> None:
    law = site["fn"]
    if law.support.is_discrete:
        raise InputError(
            f"Latent site {name!r} ({_law_name(law)}) is discrete; q is a density over continuous values."
            " Marginalise it: dist.MixtureSameFamily for a mixture, or logsumexp over its states in"
            " numpyro.factor."
        )
    if _law_name(law) == Delta.__name__:
        raise InputError(f"Latent site {name!r} is a Delta, which has no density. Use numpyro.deterministic instead.")
    whole = name.removesuffix("_unobserved")
    if whole != name and f"{whole}_observed" in trace and whole in trace:
        raise InputError(
            f"Site {whole!r} uses obs_mask, which leaves latents without any prior where data are observed."
            " Sample the missing entries as a site of their own and put them in place with jnp.where."
        )


def _law_name(law: Any) -> str:
    while hasattr(law, "base_dist") and type(law).__name__ in ("Independent", "ExpandedDistribution"):
        law = law.base_dist
    return type(law).__name__


def _check_observed(name: str, site: dict[str, Any]) -> None:
    """Refuse data outside an elementwise support that does not depend on latents.

    NumPyro gives such data density zero: no start would be finite, and the reason would be lost.
    """
    law, value = site["fn"], site["value"]
    support: Any = law.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    known = not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((support, value)))
    if not known or constraints.is_dependent(support) or support.event_dim or "Masked" in type(law).__name__:
        return
    value = np.asarray(value)
    if value.dtype.kind == "c":
        raise InputError(f"The observed values of site {name!r} are complex; real ones are needed.")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise InputError(
            f"{np.sum(~np.isfinite(value))} of {value.size} observed values of site {name!r} are not finite."
            " Leave them out, or make them latents: a site of their own, put in place with jnp.where."
        )
    outside = int(np.sum(~np.asarray(support(value), bool)))
    if outside:
        raise InputError(
            f"{outside} of {value.size} observed values of site {name!r} are outside the support "
            f"({describe(support)}) of its {_law_name(law)}. Correct the data, mask them out "
            "(numpyro.handlers.mask), or use another distribution."
        )
