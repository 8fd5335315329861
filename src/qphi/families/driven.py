"""A Gaussian whose scales and means follow a few of its own coordinates: for hierarchical models."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qphi.families.base import AbstractTransport

__all__ = ["DrivenGaussian"]


class DrivenGaussian(AbstractTransport):
    """An affine autoregressive map of noise in which a few coordinates, the drivers, set scales and shifts of the rest.

        z[order] = mean[order] + L h,
        h_i = u_i exp(c_i + D_i phi(u_<i)) + E_i psi(u_<i),     u ~ N(0, I),

    with L unit lower triangular, phi(u) = (u, sqrt(1 + u^2) - 1) and psi(u) = (sqrt(1 + u^2) - 1, tanh u) of the
    drivers, the first r in `order`, as far as they come before i. In a hierarchical model log tau drives the scale of
    every effect: Neal's funnel x ~ N(0, exp(v)) is a member of the family. With D = E = 0 it is a full-rank Gaussian.
    The features are of the noise, whose tails are light, so that no scale explodes. Numbers of `scale_drive` (D) and
    `shift_drive` (E) that would let a coordinate drive itself or an earlier one are not used.

    A structured relative of the inverse autoregressive flow (Kingma et al. 2016, arXiv 1606.04934, eq. 10), with the
    conditional structure of partially non-centred hierarchical models (Papaspiliopoulos, Roberts & Sköld 2007).
    """

    mean: Float[Array, " dim"]
    lower: Float[Array, "dim dim"]
    log_scale: Float[Array, " dim"]
    scale_drive: Float[Array, "dim features"]
    shift_drive: Float[Array, "dim features"]
    order: Int[Array, " dim"]

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        eps = eps.astype(self.mean.dtype)
        log_scale, shift = self._driven(eps[: self._drivers])
        h = eps * jnp.exp(log_scale) + shift
        return self.mean.at[self.order].add(self._unit_lower @ h)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        residual = (z - self.mean)[self.order]
        h = jax.scipy.linalg.solve_triangular(self._unit_lower, residual, lower=True, unit_diagonal=True)
        drivers = jnp.zeros(self._drivers, h.dtype)
        for i in range(self._drivers):  # each needs those before it
            log_scale, shift = self._driven(drivers)
            drivers = drivers.at[i].set((h[i] - shift[i]) * jnp.exp(-log_scale[i]))
        log_scale, shift = self._driven(drivers)
        u = (h - shift) * jnp.exp(-log_scale)
        return jnp.sum(-0.5 * u**2 - log_scale) - 0.5 * self.dim * math.log(2 * math.pi)

    @property
    def _drivers(self) -> int:
        return self.scale_drive.shape[-1] // 2

    @property
    def _unit_lower(self) -> Float[Array, "dim dim"]:
        return jnp.tril(self.lower, -1) + jnp.eye(self.dim, dtype=self.lower.dtype)

    def _driven(self, drivers: Float[Array, " drivers"]) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
        """The log scale and the shift of each h_i."""
        earlier = jnp.arange(self._drivers) < jnp.arange(self.dim)[:, None]
        used = jnp.concatenate([earlier, earlier], axis=1)
        bent = jnp.sqrt(1 + drivers**2) - 1
        log_scale = self.log_scale + (used * self.scale_drive) @ jnp.concatenate([drivers, bent])
        return log_scale, (used * self.shift_drive) @ jnp.concatenate([bent, jnp.tanh(drivers)])
