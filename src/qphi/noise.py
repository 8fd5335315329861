"""Standard normal noise, made on the host: nothing to compile, the same bits on every device.

Fits on fixed draws, starts and checks take their noise from here. Random bits inside a compiled program cost it
up to a second of compilation; these are arguments of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray
from scipy.linalg import solve_triangular
from scipy.special import ndtri

__all__ = ["checked_key", "fixed_draws", "generator", "stratified_normal", "stratified_uniform", "systematic"]


def checked_key(key: object) -> None:
    """Raises TypeError for what is not one typed JAX key."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        shape = f" of shape {key.shape}" if isinstance(key, jax.Array) else ""
        raise TypeError(f"key must be one typed JAX key, got {type(key).__name__}{shape}. Use jax.random.key(0).")


def generator(key: PRNGKeyArray, *path: int) -> np.random.Generator:
    """A NumPy generator that is a function of a JAX key and of `path`, as `fold_in` would make it."""
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([*words, *path])))


def stratified_uniform(random: np.random.Generator, count: int, dim: int) -> Float[np.ndarray, "count dim"]:
    """A Latin hypercube: in each coordinate one point in each of `count` equal slices of (0, 1).

    Each row is uniform; means over rows have no more variance than those of independent ones, and next to none for
    sums of functions of one coordinate. Source: McKay, Beckman & Conover (1979); Stein (1987).
    """
    strata = random.permuted(np.broadcast_to(np.arange(count)[:, None], (count, dim)), axis=0)
    return (strata + random.uniform(size=(count, dim))) / count


def stratified_normal(random: np.random.Generator, count: int, dim: int) -> Float[np.ndarray, "count dim"]:
    """Latin hypercube draws of N(0, I)."""
    u = stratified_uniform(random, count, dim)
    return ndtri(np.clip(u, 1e-300, 1 - 1e-16))


def systematic(
    random: np.random.Generator, weights: Float[np.ndarray, " draws"], count: int
) -> Int[np.ndarray, " count"]:
    """Indices of `count` draws of equal weight, in random order: one of weight w is chosen floor or ceil of count w
    times (systematic resampling: Kitagawa 1996). `weights` need not sum to one.
    """
    ends = np.cumsum(weights)
    chosen = np.searchsorted(ends / ends[-1], (np.arange(count) + random.uniform()) / count)
    return random.permutation(np.minimum(chosen, len(ends) - 1))


def fixed_draws(random: np.random.Generator, count: int, dim: int) -> Float[np.ndarray, "count dim"]:
    """`count` (even) draws for a fit that keeps them: antithetic, and whitened where there are enough of them.

    Row i and row count/2 + i are each other's negatives, so that odd moments vanish exactly. With count >= 2 dim the
    rows' covariance is exactly I, and every quadratic function has its exact mean: for a Gaussian target the
    objective on these draws *is* the objective. With fewer, each coordinate's variance is 1.
    """
    half = stratified_normal(random, count // 2, dim)
    if count >= 2 * dim:
        # (1/n) sum eps eps' = R' R / n for half = Q R; solving with R' whitens
        r = np.linalg.cholesky(half.T @ half / len(half))
        half = solve_triangular(r, half.T, lower=True).T
    else:
        half = half / np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half])
