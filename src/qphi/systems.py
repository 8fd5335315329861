"""Small positive definite systems, one for each row, solved for all rows at once by products and sums alone.

XLA's batched factorisations on a CPU share a pool of threads and can wait for each other for ever (seen in jaxlib 0.10
on two cores, `targets/oracle.py`); they are also slow for matrices this small. So no program of tables has one,
nor has the search for nearest codes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["triangular_factors"]


@jax.custom_jvp
def triangular_factors(
    precision: Float[Array, "rows dim dim"],
) -> tuple[Float[Array, "rows dim dim"], Float[Array, "rows dim dim"]]:
    """L and L^-1, both lower triangular, with P = L L', for each row's P = I + (positive semidefinite).

    Row by row of the matrix: with the first j rows of L^-1 known, l = L^-1[:j, :j] P[:j, j] is row j of L, its pivot is
    sqrt(P_jj - |l|^2), and row j of L^-1 is (e_j - l' L^-1) / pivot. A pivot of such a P is at least 1; what rounding
    takes below that is put right. Wrong for other P: use a Cholesky factorisation. NaN stays NaN. Derivatives are those
    of the Cholesky factor, dL = L Phi(L^-1 dP L^-T), Phi the lower triangle with half the diagonal (Murray 2016).
    """
    dim = precision.shape[-1]
    place = jnp.arange(dim)

    def border(j, carry):
        lower, inverse = carry
        column = jax.lax.dynamic_index_in_dim(precision, j, axis=2, keepdims=False)
        before = jnp.sum(inverse * column[:, None, :], axis=2)  # rows from j on are zero still
        own = jax.lax.dynamic_index_in_dim(column, j, axis=1)
        pivot = jnp.sqrt(jnp.maximum(own - jnp.sum(before**2, axis=1, keepdims=True), 1.0))
        unit = (place == j).astype(precision.dtype)
        row = (unit - jnp.sum(before[:, :, None] * inverse, axis=1)) / pivot
        lower = jax.lax.dynamic_update_index_in_dim(lower, before + unit * pivot, j, axis=1)
        return lower, jax.lax.dynamic_update_index_in_dim(inverse, row, j, axis=1)

    zeros = jnp.zeros_like(precision)
    return jax.lax.fori_loop(0, dim, border, (zeros, zeros))


@triangular_factors.defjvp
def _change(primals, tangents):
    lower, inverse = triangular_factors(*primals)
    (change,) = tangents
    dim = lower.shape[-1]
    half = jnp.tril(jnp.ones((dim, dim), lower.dtype)) - 0.5 * jnp.eye(dim, dtype=lower.dtype)
    turned = half * (inverse @ change @ jnp.swapaxes(inverse, 1, 2))
    return (lower, inverse), (lower @ turned, -turned @ inverse)
