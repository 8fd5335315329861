"""A small table of mixed columns with gaps, and fits of it that say nothing of their budget."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

ROWS = 300
QUICK = {"hidden": (8,), "max_epochs": 4, "random_state": 0}


def table(rows: int = ROWS, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    x = {
        "a": z + 0.3 * rng.normal(size=rows),
        "b": np.exp(z + 0.3 * rng.normal(size=rows)),
        "n": rng.poisson(np.exp(1 + 0.5 * z)).astype(float),
        "c": np.where(z + 0.3 * rng.normal(size=rows) > 0.97, "rare", "common").astype(object),
        "k": np.ones(rows),
    }
    x["a"][rng.random(rows) < 0.3] = np.nan
    x["c"][:5] = None
    return x


def quiet(model, x, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, **arguments)
