"""Small data and quick fits. Few shapes, since every new one compiles for seconds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from qphi import VAE

ROWS = 600


def vectors(seed: int = 0) -> np.ndarray:
    """600 rows on a noisy plane in three dimensions, float64, in units that are not standardised."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(ROWS, 2))
    return (
        z @ [[3.0, 0.0, 1.0], [0.5, 0.02, -1.0]] + [10.0, 0.0, -3.0] + 0.1 * rng.normal(size=(ROWS, 3)) * [3, 0.02, 1]
    )


def pictures(n: int = 30, side: int = 8, seed: int = 0) -> np.ndarray:
    """Grey 8-bit pictures of a soft blob that moves, (n, side, side)."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side]
    at = rng.uniform(1, side - 2, size=(n, 2, 1, 1))
    blob = np.exp(-((row - at[:, 0]) ** 2 + (column - at[:, 1]) ** 2) / 3)
    return np.clip(230 * blob + rng.uniform(0, 20, size=blob.shape), 0, 255).astype(np.uint8)


def vae(**parameters: Any) -> VAE:
    """A VAE that is quick to compile and to fit."""
    return VAE(**{"latent_dim": 2, "hidden": (16,), "random_state": 0, **parameters})


def quiet_fit(model: VAE, x: Any, **arguments: Any) -> VAE:
    """`fit`, where it is no matter that a small budget ends it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, **arguments)
    return model


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees of arrays are equal bit for bit, NaN included."""
    import jax

    leaves = [jax.tree.leaves(tree) for tree in (a, b)]
    return len(leaves[0]) == len(leaves[1]) and all(
        np.asarray(u).dtype == np.asarray(v).dtype and np.asarray(u).tobytes() == np.asarray(v).tobytes()
        for u, v in zip(*leaves, strict=True)
    )
