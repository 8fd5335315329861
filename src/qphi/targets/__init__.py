"""`p`: what is inferred, from whatever it is written in. Constraints are handled here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpyro.distributions.constraints import Constraint

from qphi.targets.base import AbstractTarget, Site, finite_start
from qphi.targets.from_numpyro import NumPyroTarget
from qphi.targets.from_pymc import PyMCTarget, is_pymc
from qphi.targets.log_density import LogDensity
from qphi.targets.program_checks import SubsampledPlateError
from qphi.targets.subsampled import SubsampledTarget

__all__ = ["AbstractTarget", "LogDensity", "NumPyroTarget", "Site", "SubsampledTarget", "as_target", "finite_start"]


def as_target(
    model: object,
    *args: Any,
    supports: Mapping[str, Constraint] | None = None,
    example: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> AbstractTarget:
    """`model` as a target: a target as it is, a `pymc.Model` as PyMC's, a function with `example=` as a `LogDensity`,
    another as NumPyro's.

    `args` (and, for NumPyro, `kwargs`) are the model's own. Raises TypeError for anything else, and where an
    argument would have no effect.
    """
    if isinstance(model, AbstractTarget) or is_pymc(model):
        if args or kwargs or supports or example:
            what = type(model).__name__ if isinstance(model, AbstractTarget) else "a PyMC model"
            raise TypeError(
                f"{what} is complete, but further arguments were given and would have no"
                " effect. Give them when you make the target."
            )
        return model if isinstance(model, AbstractTarget) else PyMCTarget(model)
    if not callable(model):
        raise TypeError(
            f"Got a {type(model).__name__} where a model is needed: a NumPyro program, a PyMC model, a JAX log density "
            "log_density(values, *args) with example={name: value}, or a qphi target."
        )
    if example is not None:
        if kwargs:
            raise TypeError(
                f"A log density takes positional arguments only, and {', '.join(kwargs)} was given by name."
                " Give data after the function, in order."
            )
        return LogDensity(model, example, supports=supports, args=args)
    if supports is not None:
        raise TypeError(
            "supports was given without example. A plain log density needs both: example={name: value} gives"
            " names and shapes. A NumPyro program has its supports in itself."
        )
    try:
        return NumPyroTarget(model, args, kwargs)
    except SubsampledPlateError as plate:
        return SubsampledTarget(model, args, kwargs, plate)
