"""Densities that factorise matrices or solve equations: `SteinNewton`, which `fit` takes for them, beside `Newton`.

Seconds are those of further fits in the process, with other seeds: nothing is compiled. Newton's Hessians are exact,
but cost as many products as there are dimensions, row by row. `gp_classification` is made here; the others are those
of everyday.py.

    python benchmarks/dear_hessians.py
    python benchmarks/dear_hessians.py --only gp_classification
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from _against_nuts import Program
from _results import parser, print_table, read, results_file, save
from everyday import MODELS

NAME = "dear_hessians"
OTHERS = ("gaussian_process", "correlated_slopes", "predator_prey", "covariance")


def gp_classification(x, y):
    """Logistic, a smooth function of one variable; its scale and length are unknown."""
    length = numpyro.sample("length", dist.InverseGamma(5, 5))
    scale = numpyro.sample("scale", dist.HalfNormal(3))
    with numpyro.plate("points", len(x)):
        raw = numpyro.sample("raw", dist.Normal(0, 1))
    kernel = scale**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 1e-6 * jnp.eye(len(x))
    numpyro.sample("y", dist.Bernoulli(logits=jnp.linalg.cholesky(kernel) @ raw), obs=y)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", default=[], metavar="PART", help="models whose names contain PART")
    options.add_argument("--seeds", type=int, default=3, help="timed, after one that is not")
    chosen = options.parse_args()
    models = {"gp_classification": Program(gp_classification, _points())} | {name: MODELS[name] for name in OTHERS}
    if chosen.smoke:
        chosen.seeds, chosen.only = 1, chosen.only or ["gaussian_process"]
    path = results_file(NAME, chosen.smoke)
    before = read(path)["rows"] if path.is_file() else []  # models that are not asked for keep theirs
    kept = {row["name"]: row for row in before}
    for name, model in models.items():
        if chosen.only and not any(part in name for part in chosen.only):
            continue
        kept[name] = {"name": name} | {kind: _timed(model, kind, chosen.seeds) for kind in ("SteinNewton", "Newton")}
        save(path, {"rows": list(kept.values())}, quiet=True)
    print_table(
        ["model", "dimensions", "seconds", "with Newton", "ratio", "verdicts", "with Newton"],
        [
            [
                row["name"],
                str(row["Newton"]["dim"]),
                f"{row['SteinNewton']['seconds']:.1f}",
                f"{row['Newton']['seconds']:.1f}",
                f"{row['Newton']['seconds'] / row['SteinNewton']['seconds']:.1f}",
                *(", ".join(sorted(row[kind]["verdicts"])) for kind in ("SteinNewton", "Newton")),
            ]
            for row in kept.values()
        ],
    )


def _points() -> tuple[Any, ...]:
    x = np.linspace(-2, 2, 40)
    return x, np.random.default_rng(9).binomial(1, 1 / (1 + np.exp(-3 * np.sin(2 * x))))


def _timed(model: Program, kind: str, seeds: int) -> dict[str, Any]:
    import qphi

    seconds, verdicts, dim = [], [], 0
    for seed in range(seeds + 1):
        began = time.monotonic()
        solver = getattr(qphi.solvers, kind)()
        posterior = qphi.fit(model.program, *model.data, key=jax.random.key(seed), solver=solver)
        if seed:
            seconds.append(time.monotonic() - began)
            verdicts.append(str(posterior.verdict.trust))
        dim = posterior.target.dim
    return {"seconds": statistics.median(seconds), "verdicts": verdicts, "dim": dim}


if __name__ == "__main__":
    main()
