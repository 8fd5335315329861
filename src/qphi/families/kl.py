"""Closed-form KL(q || p), nats, for the pairs that have one."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.families.base import AbstractFamily
from qphi.families.categorical import Categorical
from qphi.families.gaussian import DiagonalGaussian, FullRankGaussian, StandardNormal

__all__ = ["has_kl", "kl_divergence", "register_kl"]

_Formula = Callable[..., Float[Array, ""]]
_FORMULAS: dict[tuple[type, type], _Formula] = {}


def register_kl(q: type, p: type) -> Callable[[_Formula], _Formula]:
    """Register a closed form of KL(q || p) for two family types; the decorated function takes (q, p)."""

    def register(formula: _Formula) -> _Formula:
        _FORMULAS[q, p] = formula
        return formula

    return register


def has_kl(q: AbstractFamily, p: AbstractFamily) -> bool:
    """Whether `kl_divergence` knows this pair."""
    return _lookup(q, p) is not None


def kl_divergence(q: AbstractFamily, p: AbstractFamily) -> Float[Array, ""]:
    """KL(q || p) = E_q[log q(z) - log p(z)] >= 0, nats, in closed form.

    Raises TypeError where there is none: estimate it by Monte Carlo instead (`qphi.MonteCarlo`).
    """
    formula = _lookup(q, p)
    if formula is None:
        raise TypeError(
            f"No closed-form KL from {type(q).__name__} to {type(p).__name__}. Use qphi.MonteCarlo(), or add the "
            "formula with qphi.families.register_kl."
        )
    return formula(q, p)


def _lookup(q: AbstractFamily, p: AbstractFamily) -> _Formula | None:
    formula = _FORMULAS.get((type(q), type(p)))
    if formula is not None:
        return formula
    from qphi.families.from_numpyro import FromNumPyro

    if isinstance(q, FromNumPyro) and isinstance(p, FromNumPyro):
        return _numpyro_formula(q, p)
    return None


def _numpyro_formula(q: AbstractFamily, p: AbstractFamily) -> _Formula | None:
    import jax
    from numpyro.distributions import kl_divergence as numpyro_kl

    def formula(q, p):
        return jnp.asarray(numpyro_kl(q._law, p._law))

    try:  # NumPyro says "no closed form" only by raising, so ask abstractly, before any work
        jax.eval_shape(formula, q, p)
    except NotImplementedError:
        return None
    return formula


@register_kl(DiagonalGaussian, StandardNormal)
def _diagonal_to_standard(q: DiagonalGaussian, p: StandardNormal) -> Float[Array, ""]:
    # 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)   (Kingma & Welling 2014, appendix B)
    return 0.5 * jnp.sum(q.mean**2 + jnp.exp(2 * q.log_scale) - 2 * q.log_scale - 1)


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _diagonal_to_diagonal(q: DiagonalGaussian, p: DiagonalGaussian) -> Float[Array, ""]:
    log_ratio = q.log_scale - p.log_scale
    shift = (q.mean - p.mean) / p.scale
    return 0.5 * jnp.sum(jnp.exp(2 * log_ratio) + shift**2 - 2 * log_ratio - 1)


@register_kl(FullRankGaussian, StandardNormal)
def _full_to_standard(q: FullRankGaussian, p: StandardNormal) -> Float[Array, ""]:
    # 1/2 (|mu|^2 + tr(C C') - d) - log|det C|
    return 0.5 * (jnp.sum(q.mean**2) + jnp.sum(q.scale_tril**2) - q.dim) - q._log_det()


@register_kl(Categorical, Categorical)
def _categorical(q: Categorical, p: Categorical) -> Float[Array, ""]:
    log_q, log_p = q.log_probabilities, p.log_probabilities
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p))
