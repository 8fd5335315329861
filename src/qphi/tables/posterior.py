"""q(z | observed cells): a full-rank Gaussian by the precision that the observed cells add up to."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.families import AbstractTransport, StandardNormal
from qphi.families.kl import register_kl

__all__ = ["FactorGaussian"]

_LOG_2PI = math.log(2 * math.pi)


class FactorGaussian(AbstractTransport):
    """N(mean, F F') with F upper triangular: z = mean + F eps.

    Where a precision is known by its Cholesky factor L, P = L L', F = L'^-1 is upper triangular, hence this family
    beside `FullRankGaussian`, whose factor is lower triangular. F^-1 = L' is kept too, so that a density is a product
    and not the solution of a system (see `qphi.systems`).
    """

    mean: Float[Array, " dim"]
    factor: Float[Array, "dim dim"]
    inverse: Float[Array, "dim dim"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.mean + self.factor @ eps.astype(self.mean.dtype)

    def transported(
        self, eps: Float[Array, "count dim"], *, frozen: bool = False
    ) -> tuple[Float[Array, "count dim"], Float[Array, " count"]]:
        if frozen:
            return super().transported(eps, frozen=True)
        # log q of a draw by the noise it was made of: the same number and derivatives, without F^-1
        log_q = -0.5 * jnp.sum(eps**2, axis=1) - self.log_det() - 0.5 * self.dim * _LOG_2PI
        return jax.vmap(self.transport)(eps), log_q

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        eps = self.inverse @ (z - self.mean)
        return -0.5 * jnp.sum(eps**2) - self.log_det() - 0.5 * self.dim * _LOG_2PI

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        return self.log_det() + 0.5 * self.dim * (1 + _LOG_2PI)

    def log_det(self) -> Float[Array, ""]:
        """log |det F|."""
        return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.factor))))


@register_kl(FactorGaussian, StandardNormal)
def _factor_to_standard(q: FactorGaussian, p: StandardNormal) -> Float[Array, ""]:
    # 1/2 (|mu|^2 + tr(F F') - d) - log|det F|
    return 0.5 * (jnp.sum(q.mean**2) + jnp.sum(q.factor**2) - q.dim) - q.log_det()
