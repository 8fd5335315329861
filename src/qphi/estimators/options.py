"""The options of `VAE` beyond the first few: checked, turned into an architecture, a bound and a way to train."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import secrets
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from sklearn.utils import check_random_state

from qphi.autoencoders.build import Architecture, choose_channels, choose_network
from qphi.autoencoders.choices import check, choose_bound
from qphi.data.given import Given, fit_given
from qphi.data.scaling import OWN, Scaling, fit_scaling
from qphi.errors import InputError

if TYPE_CHECKING:
    from qphi.estimators.vae import VAE

__all__ = [
    "OPTIONS",
    "check_budgets",
    "check_options",
    "check_same",
    "check_sizes",
    "climbs_elbo",
    "first_look",
    "mixed_precision",
    "objective_words",
    "own_parts",
    "plain",
    "positive",
    "seed_of",
    "settings_of",
    "training_of",
]

_MODEL = ("prior", "components", "posterior", "levels", "categories", "refine_steps", "activation")
_OBJECTIVE = ("bound", "particles", "alpha", "free_bits", "warm_up_epochs", "cycles", "capacity")
_STEPS = ("learning_rate", "batch_size", "slice_size", "schedule", "clip_norm", "patience", "precision")
OPTIONS = (*_MODEL, *_OBJECTIVE, *_STEPS)  # what a model file records of them
SCHEDULES, PRECISIONS = ("plateau", "constant", "cosine"), ("float32", "mixed")
MIXTURE, VAMP = 10, 500  # components unless told


def check_options(vae: VAE) -> None:
    """Raises InputError for options that no data could make right."""
    check_sizes(vae)
    if not (isinstance(vae.beta, (int, float)) and math.isfinite(vae.beta) and vae.beta >= 0):
        raise InputError(f"beta={vae.beta!r}: a finite number of at least 0 is needed; 1 gives the ELBO.")
    training_of(vae)


def check_sizes(estimator: Any) -> None:
    """Raises InputError for widths and budgets that are none."""
    positive(estimator.latent_dim, "latent_dim")
    check_budgets(estimator)


def check_budgets(estimator: Any) -> None:
    """Raises InputError for `max_epochs`, `max_time` or `hidden` that are none."""
    for name in ("max_epochs", "max_time"):
        value = getattr(estimator, name)
        if value is not None and not (isinstance(value, (int, float, np.number)) and value > 0):
            raise InputError(f"{name}={value!r}: a positive number or None is needed.")
    hidden = estimator.hidden
    if not np.ndim(hidden) or not len(hidden) or min(hidden) < 1:
        raise InputError(f"hidden={hidden!r}: at least one layer of at least one unit is needed: (512, 512).")


def check_same(vae: VAE, rows: int) -> None:
    """Raises InputError where the options now ask for another model than the one that was begun."""
    had, wanted = vae.architecture_, architecture_of(vae, vae.scaling_, vae.given_, rows)
    if vae.components is None:  # then as many as the first rows allowed
        wanted = dataclasses.replace(wanted, components=had.components)
    likelihood = vae.likelihood if isinstance(vae.likelihood, str) and vae.likelihood != "auto" else had.likelihood
    wanted = dataclasses.replace(wanted, likelihood=likelihood)
    names = [field.name for field in dataclasses.fields(had)]
    changed = [name for name in names if getattr(had, name) != getattr(wanted, name)]
    if changed:
        raise InputError(
            f"{changed[0]} was {getattr(had, changed[0])!r} when this model was begun and is now "
            f"{getattr(wanted, changed[0])!r}, which needs another model. Set it back, or train a new VAE."
        )


def own_parts(vae: VAE) -> dict[str, Any]:
    """Encoder, decoder and likelihood, those that are the user's."""
    own = {name: getattr(vae, name) for name in ("encoder", "decoder", "likelihood")}
    return {name: part for name, part in own.items() if part is not None and not isinstance(part, str)}


def first_look(
    vae: VAE, x: Any, covariates: Any = None, size_factors: Any = None
) -> tuple[Scaling, Given, Architecture]:
    """What training data decide. Raises InputError for data or options that do not fit together."""
    likelihood = vae.likelihood
    name = likelihood if isinstance(likelihood, str) else getattr(likelihood, "name", OWN)
    scaling = fit_scaling(x, name, getattr(likelihood, "levels", None))
    given = fit_given(len(x), covariates, size_factors)
    if given.sized and scaling.kind != "counts":
        raise InputError(
            f"size_factors multiply the mean of counts, but the likelihood is {scaling.likelihood!r}. "
            "Use likelihood='negative-binomial', or give them as covariates."
        )
    return scaling, given, architecture_of(vae, scaling, given, len(x))


def architecture_of(vae: VAE, scaling: Scaling, given: Given, rows: int) -> Architecture:
    """Everything that fixes the shape of the model. Raises InputError for options that do not fit together."""
    for name in ("components", "levels", "categories", "refine_steps"):
        value = getattr(vae, name)
        if not isinstance(value, (int, np.integer)) and not (name == "components" and value is None):
            raise InputError(f"{name}={value!r}: a whole number is needed.")
    network = choose_network(scaling.model_shape, vae.network)
    usual = {"mixture": MIXTURE, "vamp": min(VAMP, rows)}.get(vae.prior, 1)
    architecture = Architecture(
        scaling.model_shape,
        int(vae.latent_dim),
        scaling.likelihood,
        network,
        tuple(int(width) for width in vae.hidden),
        choose_channels(scaling.model_shape, network),
        classes=scaling.classes,
        covariates=len(given.offset),
        sized=given.sized,
        own=tuple(sorted(own_parts(vae))),
        activation=vae.activation,
        prior=vae.prior,
        components=usual if vae.components is None else int(vae.components),
        posterior=vae.posterior,
        levels=int(vae.levels),
        categories=int(vae.categories),
        refine_steps=int(vae.refine_steps),
    )
    check(architecture)
    return architecture


def training_of(vae: VAE) -> dict[str, Any]:
    """Arguments of `plan`. Raises InputError for what training cannot do."""
    bound = choose_bound(vae.bound, vae.particles, vae.alpha, discrete=vae.posterior == "categorical")
    if vae.bound in ("iwae", "dreg") and (vae.beta != 1 or vae.capacity is not None):
        raise InputError(
            f"beta={vae.beta} and capacity={vae.capacity} weigh the KL of the ELBO; bound={vae.bound!r} has no KL of "
            "its own. Use bound='elbo', or leave them out."
        )
    for name, least in (("free_bits", 0), ("warm_up_epochs", 0), ("capacity", 0), ("clip_norm", None), ("patience", 1)):
        value = getattr(vae, name)
        if value is None and name == "capacity":
            continue
        if not (
            isinstance(value, (int, float, np.number))
            and math.isfinite(value)
            and (value > 0 if least is None else value >= least)
        ):
            needed = "positive and finite" if least is None else f"finite and at least {least}"
            raise InputError(f"{name}={value!r}: a number that is {needed} is needed.")
    for name in ("cycles", "batch_size", "slice_size"):
        value = getattr(vae, name)
        if not (isinstance(value, (int, np.integer)) and value >= 1) and not (value is None and name != "cycles"):
            raise InputError(f"{name}={value!r}: a whole number of at least 1 is needed.")
    if not (isinstance(vae.learning_rate, (int, float)) and math.isfinite(vae.learning_rate) and vae.learning_rate > 0):
        raise InputError(f"learning_rate={vae.learning_rate!r}: a positive number is needed.")
    for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
        if getattr(vae, name) not in known:
            raise InputError(f"{name}={getattr(vae, name)!r} is not known. Use one of {', '.join(known)}.")
    if vae.schedule == "cosine" and vae.max_epochs is None:
        raise InputError("schedule='cosine' needs max_epochs, where the step size reaches zero. Give it, or 'plateau'.")
    return {
        "bound": bound,
        "beta": float(vae.beta),
        "learning_rate": float(vae.learning_rate),
        "batch_size": vae.batch_size,
        "warm_up_epochs": float(vae.warm_up_epochs),
        "cycles": int(vae.cycles),
        "capacity": None if vae.capacity is None else float(vae.capacity),
        "free_bits": float(vae.free_bits),
        "schedule": vae.schedule,
        "clip_norm": float(vae.clip_norm),
        "patience": int(vae.patience),
        "max_epochs": vae.max_epochs,
    }


def settings_of(vae: VAE) -> dict[str, Any]:
    """What a run has to be resumed with, in plain values."""
    settings = {name: plain(getattr(vae, name)) for name in (*_OBJECTIVE, *_STEPS)}
    return settings | ({"max_epochs": vae.max_epochs} if vae.schedule == "cosine" else {})


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """The seed that `random_state` stands for."""
    if random_state is None:
        return secrets.randbelow(2**31)  # from the system; global random state is neither read nor moved
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def positive(value: Any, name: str) -> int:
    """A whole number of at least 1, or InputError that names it."""
    if not (isinstance(value, (int, np.integer)) and value >= 1):
        raise InputError(f"{name}={value!r}: a whole number of at least 1 is needed.")
    return int(value)


def plain(value: Any) -> Any:
    """A NumPy number as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def objective_words(vae: VAE) -> str:
    """What was maximised, in words, and whether it is a bound on log p(x)."""
    if vae.capacity is not None:
        return f"capacity-controlled, beta={vae.beta} and C={vae.capacity} nats: not a bound on log p(x)"
    if vae.beta != 1:
        return f"beta-weighted, beta={vae.beta}: not a bound on log p(x)"
    if vae.bound in ("iwae", "dreg"):
        draws = choose_bound(vae.bound, vae.particles, vae.alpha, discrete=False).particles
        kind = f"VR-IWAE bound, alpha={vae.alpha}" if vae.alpha else "importance-weighted bound"
        return f"{kind} with {draws} particles: a bound on log p(x)"
    return "ELBO: a bound on log p(x)"


def climbs_elbo(vae: VAE) -> bool:
    """Whether less KL at the same reconstruction is always better: not under a capacity, nor where the KL is no term
    of the objective."""
    return vae.beta > 0 and vae.capacity is None and vae.bound not in ("iwae", "dreg")


def mixed_precision(vae: VAE) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16, sums in float32, on devices that have it; weights and densities stay float32."""
    platform = vae.device or jax.default_backend()
    fast = {"gpu": "BF16_BF16_F32", "tpu": "bfloat16"}.get(platform)
    if vae.precision == "mixed" and fast is not None:
        return jax.default_matmul_precision(fast)
    return contextlib.nullcontext()  # CPUs are slower in bfloat16
