"""What `VAE` can be asked for by name: priors, posteriors, bounds, and the rules that combine them."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from qphi.autoencoders.encoders import AbstractEncoder, GaussianEncoder
from qphi.autoencoders.gated import ACTIVATIONS
from qphi.autoencoders.heads import CategoricalHead, FlowHead, FullRankHead, HeadEncoder, LadderHead, StudentTHead
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import AbstractNetwork
from qphi.autoencoders.vamp import VampPrior
from qphi.bounds import ELBO, IWAE, AbstractBound, DReG, LeaveOneOut, MonteCarlo, StickingTheLanding
from qphi.errors import InputError
from qphi.families import (
    AbstractFamily,
    AutoregressiveFlow,
    Categorical,
    CouplingFlow,
    Mixture,
    StandardNormal,
    TopDown,
)

if TYPE_CHECKING:
    from qphi.autoencoders.build import Architecture

__all__ = ["BOUNDS", "POSTERIORS", "PRIORS", "choose_bound", "make_encoder", "make_prior", "start_vamp"]

PRIORS = ("normal", "mixture", "vamp", "flow", "categorical", "ladder")
POSTERIORS = ("diagonal", "full-rank", "student-t", "iaf", "coupling", "categorical", "ladder")
BOUNDS = ("elbo", "monte-carlo", "sticking-the-landing", "iwae", "dreg", "leave-one-out")
_ONLY_TOGETHER = ("categorical", "ladder")  # such a posterior has the prior of its name


def check(architecture: Architecture) -> None:
    """Raises InputError unless prior, posterior and sizes are known and go together."""
    a = architecture
    for name, value, known in (
        ("prior", a.prior, PRIORS),
        ("posterior", a.posterior, POSTERIORS),
        ("activation", a.activation, tuple(ACTIVATIONS)),
    ):
        if value not in known:
            raise InputError(f"{name}={value!r} is not known. Use one of {', '.join(known)}.")
    if "encoder" in a.own and (a.posterior != "diagonal" or a.prior in _ONLY_TOGETHER):
        raise InputError(
            f"an encoder= of your own says itself what q(z|x) is, so posterior={a.posterior!r} and prior={a.prior!r} "
            "do not go with it. Leave encoder= or these out, or use qphi.LatentVariableModel."
        )
    if a.network == "residual-mlp" and a.activation != "relu":
        raise InputError(f"activation={a.activation!r} has no effect on network='residual-mlp'. Use network='mlp'.")
    for kind in _ONLY_TOGETHER:
        if (a.prior == kind) != (a.posterior == kind):
            raise InputError(f"prior={a.prior!r} does not go with posterior={a.posterior!r}. Let both be {kind!r}.")
    if (a.prior == "flow" or a.posterior in ("iaf", "coupling")) and a.latent_dim < 2:
        raise InputError(f"a flow needs latent_dim of at least 2, got {a.latent_dim}. Use prior='mixture' for one.")
    if a.prior == "ladder" and not 2 <= a.levels <= a.latent_dim:
        raise InputError(f"a ladder needs 2 to latent_dim={a.latent_dim} levels, got levels={a.levels}.")
    if a.prior == "categorical" and (a.categories < 2 or a.latent_dim % a.categories):
        raise InputError(
            f"latent_dim={a.latent_dim} does not divide into one-hot variables of categories={a.categories}. "
            "Give a multiple of categories, which is at least 2."
        )
    if a.prior == "categorical" and a.refine_steps:
        raise InputError("refine_steps moves along gradients of draws; categorical latents have none. Set it to 0.")
    if a.components < 1 or a.refine_steps < 0:
        raise InputError(
            f"components={a.components}, refine_steps={a.refine_steps}: at least 1 component and 0 steps are needed."
        )


def make_prior(architecture: Architecture, key: PRNGKeyArray) -> AbstractFamily | VampPrior:
    """p(z) as it is before training."""
    a, dim = architecture, architecture.latent_dim
    match a.prior:
        case "normal":
            return StandardNormal(dim)
        case "mixture":
            return Mixture.of_gaussians(dim, a.components, key=key)
        case "vamp":
            return VampPrior(jnp.zeros((a.components, *a.row_shape)), dim)
        case "flow":
            return CouplingFlow.around(jnp.zeros(dim), jnp.eye(dim), key=key, layers=6, width=64)
        case "categorical":
            return Categorical(jnp.zeros((dim // a.categories, a.categories)))
        case _:
            return TopDown(_levels(dim, a.levels), key=key)


def make_encoder(
    architecture: Architecture, features: AbstractNetwork, size: int, key: PRNGKeyArray
) -> AbstractEncoder:
    """q_phi(z|x) as it is before training, on top of `size` features of x."""
    a, dim = architecture, architecture.latent_dim
    match a.posterior:
        case "diagonal":
            return GaussianEncoder(features, size, dim, key=key)
        case "full-rank":
            return HeadEncoder(features, FullRankHead(size, dim, key=key))
        case "student-t":
            return HeadEncoder(features, StudentTHead(size, dim, key=key))
        case "iaf":
            return HeadEncoder(features, FlowHead(AutoregressiveFlow, size, dim, key=key))
        case "coupling":
            return HeadEncoder(features, FlowHead(CouplingFlow, size, dim, key=key))
        case "categorical":
            return HeadEncoder(features, CategoricalHead(size, dim, a.categories, key=key))
        case _:
            return HeadEncoder(features, LadderHead(size, dim, key=key))


def start_vamp(model: LatentVariableModel, x: np.ndarray, key: PRNGKeyArray) -> LatentVariableModel:
    """The model with the pseudo-inputs of its VampPrior, if it has one, at random rows of x plus noise of sd 0.01."""
    prior = model.given_prior
    if not isinstance(prior, VampPrior):
        return model
    row_key, noise_key = jax.random.split(key)
    shape = prior.pseudo_inputs.shape
    rows = jax.random.choice(row_key, len(x), (shape[0],), replace=len(x) < shape[0])
    inputs = jnp.asarray(x[np.asarray(rows)]).reshape(shape) + 0.01 * jax.random.normal(noise_key, shape)
    return eqx.tree_at(lambda m: m.given_prior.pseudo_inputs, model, inputs)


def choose_bound(name: str, particles: int | None, alpha: float, discrete: bool) -> AbstractBound:
    """The bound of this name. Raises InputError for names, numbers and latents that do not fit."""
    if name not in BOUNDS:
        raise InputError(f"bound={name!r} is not known. Use one of {', '.join(BOUNDS)}.")
    if particles is not None and not (isinstance(particles, (int, np.integer)) and particles >= 1):
        raise InputError(f"particles={particles!r}: a whole number of at least 1 is needed, or None.")
    if not (isinstance(alpha, (int, float)) and math.isfinite(alpha) and 0 <= alpha < 1):
        raise InputError(f"alpha={alpha!r}: a number from 0 up to, but not, 1 is needed; 0 is the plain bound.")
    if alpha and name not in ("iwae", "dreg"):
        raise InputError(f"alpha={alpha} has no effect on bound={name!r}. Leave it out, or use 'iwae' or 'dreg'.")
    if discrete and name not in ("elbo", "leave-one-out"):
        raise InputError(f"bound={name!r} needs draws with a gradient; categorical ones use 'elbo' or 'leave-one-out'.")
    several = 8 if particles is None else int(particles)
    given: dict[str, Any] = {} if particles is None else {"particles": int(particles)}
    match name:
        case "iwae":
            return IWAE(several, float(alpha))
        case "dreg":
            return DReG(several, float(alpha))
        case "leave-one-out":
            return LeaveOneOut(**given)
        case "monte-carlo":
            return MonteCarlo(**given)
        case "sticking-the-landing":
            return StickingTheLanding(**given)
        case _:
            return ELBO(**given)


def more_draws(bound: AbstractBound, rows: int) -> AbstractBound:
    """The bound with more draws where held-out rows are few: about 2,000 draws a check, at most 16 a row.

    The number of draws is part of an importance-weighted bound, so there it stays.
    """
    if isinstance(bound, IWAE | DReG):
        return bound
    return dataclasses.replace(bound, particles=max(bound.particles, min(16, 2000 // rows)))


def _levels(dim: int, levels: int) -> list[int]:
    """latent_dim shared out evenly, the top first; what is left over goes to the lowest levels."""
    return [dim // levels + (level >= levels - dim % levels) for level in range(levels)]
