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


def days_and_grades() -> dict:
    """Days, and grades of 1 to 5, that follow z; one in five of them missing."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    day = np.datetime64("2024-03-01") + np.round(20 * z).astype("timedelta64[D]")
    x = {
        "a": z + 0.2 * rng.normal(size=300),
        "day": day.astype("datetime64[ns]"),
        "grade": np.clip(np.round(3 + z), 1, 5),
        "city": np.where(z > 0, "Rome", "Oslo").astype(object),
    }
    for name, gap in (("day", np.datetime64("NaT")), ("grade", np.nan), ("city", None)):
        x[name][rng.random(300) < 0.2] = gap
    return x
