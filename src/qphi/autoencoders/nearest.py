"""The latent whose decode is nearest to a datum: to a decoder what the projection is to PCA."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.model import LatentVariableModel
from qphi.systems import triangular_factors

__all__ = ["nearest_latents"]

STEPS = 30
FIRST_DAMPING, LEAST_DAMPING = 1e-2, 1e-5  # of the mean eigenvalue of J'J; less is nothing in single precision


def nearest_latents(
    model: LatentVariableModel,
    xs: Float[np.ndarray, "rows numbers"],
    z: Float[np.ndarray, "rows dim"],
    given: Float[np.ndarray, "rows given"],
) -> Float[np.ndarray, "rows dim"]:
    """argmin_z |x - E[x|z]|^2 of each row, by Levenberg-Marquardt steps from z; never farther from x than z's decode.

    (J'J + lambda I) step = J'(x - E[x|z]), J = dE[x|z]/dz, lambda three times smaller after a step that helped and
    three times larger after one that did not (Marquardt 1963). A local minimum: the one next to z. The prior has no
    say, so the answer has the noise of x in it where E_q[z|x] is drawn towards the prior's mean.
    """
    cuts = np.cumsum([xs.shape[1], z.shape[1]])

    def block(rows: np.ndarray) -> Array:
        return _nearest(model, *(jnp.asarray(part) for part in np.split(rows, cuts, axis=1)))

    whole = np.concatenate([xs, z, given], axis=1).astype(np.float32)
    return in_blocks(block, whole, xs.shape[1] * (z.shape[1] + 1))


@eqx.filter_jit
def _nearest(
    model: LatentVariableModel,
    xs: Float[Array, "rows numbers"],
    z: Float[Array, "rows dim"],
    given: Float[Array, "rows given"],
) -> Float[Array, "rows dim"]:
    dim = z.shape[1]

    def decode(z: Float[Array, " dim"], given: Float[Array, " given"]) -> Float[Array, " numbers"]:
        return model.mean(z[None], given[None]).reshape(-1)

    def distance(z: Float[Array, "rows dim"]) -> Float[Array, " rows"]:
        return jnp.sum((xs - jax.vmap(decode)(z, given)) ** 2, axis=1)

    def improve(_, state):
        z, now, damping = state
        residual = xs - jax.vmap(decode)(z, given)
        slopes = jax.vmap(jax.jacfwd(decode))(z, given)
        square = jnp.einsum("nji,njk->nik", slopes, slopes)
        size = damping * jnp.maximum(jnp.trace(square, axis1=1, axis2=2) / dim, 1e-12)
        _, inverse = triangular_factors(jnp.eye(dim) + square / size[:, None, None])
        pull = jnp.einsum("nji,nj->ni", slopes, residual) / size[:, None]
        moved = z + jnp.einsum("nji,nj->ni", inverse, jnp.einsum("nij,nj->ni", inverse, pull))
        then = distance(moved)
        better = then < now  # false for what is not finite
        damping = jnp.where(better, jnp.maximum(damping / 3, LEAST_DAMPING), damping * 3)
        return jnp.where(better[:, None], moved, z), jnp.where(better, then, now), damping

    start = (z, distance(z), jnp.full(len(z), FIRST_DAMPING))
    return jax.lax.fori_loop(0, STEPS, improve, start)[0]
