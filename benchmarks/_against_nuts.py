"""Fits of NumPyro programs beside long runs of NUTS: errors, verdicts, seconds, and their table in docs/verdicts.md.

References take minutes and are kept in benchmarks/results/NAME.json.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from _results import markdown, parser, print_table, read, results_file, save, write_between
from _verdicts import is_right, summary

__all__ = ["Program", "compare"]

HEADER = ("model", "numbers", "right", "verdicts", "mean error", "sd error", "seconds", "NUTS seconds", "its R-hat")


class Program(NamedTuple):
    """A NumPyro program with its data."""

    program: Callable[..., None]
    data: tuple[Any, ...]
    swapped: bool = False
    """Entries along each site's axis 0 are labels that may be reversed: NUTS stays with one order, so that the
    reference is its draws and their reversals."""


def compare(name: str, doc: str, models: Mapping[str, Program], *, smoke: str, draws: int = 10_000) -> None:
    """The command line of a benchmark that fits these models and writes its table to its part of docs/verdicts.md."""
    options = parser(doc)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", nargs="+", default=[], metavar="PART", help="models whose names contain PART")
    options.add_argument("--go-on", action="store_true", help="fit only models that an interrupted run has not reached")
    options.add_argument("--references", action="store_true", help="make the references again")
    chosen = options.parse_args()
    if os.environ.get("JAX_ENABLE_X64") != "1":
        sys.exit("JAX_ENABLE_X64=1 is needed: the references are made in double precision, as qphi's answers are.")
    if chosen.smoke:
        chosen.seeds, chosen.only = 1, chosen.only or [smoke]
    path = results_file(name, chosen.smoke)
    kept = read(path) if path.is_file() else {}
    references, rows = kept.get("references", {}), [] if chosen.smoke else kept.get("rows", [])
    for label, case in models.items():
        if chosen.only and not any(part in label for part in chosen.only):
            continue
        if chosen.go_on and any(r["name"] == label for r in rows):
            continue
        if chosen.references or label not in references:
            references[label] = _reference(case, 200 if chosen.smoke else draws)
        rows = [r for r in rows if r["name"] != label]
        found = [{"name": label} | _fitted(case, references[label], seed) for seed in range(chosen.seeds)]
        rows += found
        print_table(HEADER, [_cells(found, references[label])])
        save(path, {"references": references, "rows": rows}, quiet=True)
    said = summary(rows)
    print(said)
    if not chosen.smoke:
        names = [n for n in models if any(r["name"] == n for r in rows)]
        table = [_cells([r for r in rows if r["name"] == n], references[n]) for n in names]
        write_between("verdicts", f"{markdown(HEADER, table)}\n\n{said}", name)


def _reference(case: Program, draws: int) -> dict[str, Any]:
    """Means and sds by NUTS, its R-hat, effective draws and seconds."""
    from numpyro.diagnostics import summary
    from numpyro.infer import MCMC, NUTS

    began = time.monotonic()
    chains = MCMC(
        NUTS(case.program, target_accept_prob=0.95),
        num_warmup=draws // 5,
        num_samples=draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    chains.run(jax.random.key(0), *case.data)
    found = {k: np.asarray(v) for k, v in chains.get_samples(group_by_chain=True).items()}
    if case.swapped:
        found = {k: np.concatenate([v, v[:, :, ::-1]], axis=1) for k, v in found.items()}
    told = summary(found)
    return {
        "mean": {k: v.mean((0, 1)).tolist() for k, v in found.items()},
        "sd": {k: v.std((0, 1)).tolist() for k, v in found.items()},
        "rhat": float(max(np.nanmax(told[k]["r_hat"]) for k in told)),
        "ess": float(min(np.nanmin(told[k]["n_eff"]) for k in told)),
        "seconds": time.monotonic() - began,
    }


def _fitted(case: Program, known: dict[str, Any], seed: int) -> dict[str, Any]:
    """One fit, its verdict and its errors."""
    import qphi

    began = time.monotonic()
    posterior = qphi.fit(case.program, *case.data, key=jax.random.key(seed))
    seconds = time.monotonic() - began
    draws = posterior.sample(jax.random.key(seed), 10_000)
    mean_error, sd_error, where = 0.0, 0.0, ""
    for name, mean in known["mean"].items():
        x, sd = np.asarray(draws[name], np.float64), np.maximum(np.asarray(known["sd"][name]), 1e-12)
        fixed = np.asarray(known["sd"][name]) < 1e-9  # the corner of a Cholesky factor
        off = np.where(fixed, 0.0, np.abs(x.mean(0) - np.asarray(mean)) / sd)
        wide = np.where(fixed, 0.0, np.abs(np.log(np.maximum(x.std(0), 1e-12) / sd)))
        if np.max(off) > mean_error or np.max(wide) > sd_error:
            where = name
        mean_error, sd_error = max(mean_error, float(np.max(off))), max(sd_error, float(np.max(wide)))
    return {
        "seed": seed,
        "verdict": str(posterior.verdict.trust),
        "usable": posterior.verdict.trust.usable,
        "reasons": list(posterior.verdict.reasons),
        "made_by": posterior.made_by,
        "mean_error": mean_error,
        "sd_error": sd_error,
        "worst": where,
        "right": is_right(mean_error, sd_error),
        "seconds": seconds,
    }


def _cells(rows: list[dict[str, Any]], known: dict[str, Any]) -> list[str]:
    verdicts = Counter(r["verdict"] for r in rows)
    size = sum(np.size(v) for v in known["mean"].values())

    def median(key: str) -> float:
        return float(np.median([r[key] for r in rows]))

    return [
        rows[0]["name"],
        str(size),
        f"{sum(r['right'] for r in rows)}/{len(rows)}",
        ", ".join(f"{c} {v}" for v, c in verdicts.items()),
        f"{median('mean_error'):.3f}",
        f"{median('sd_error'):.3f}",
        f"{median('seconds'):.1f}",
        f"{known['seconds']:.0f}",
        f"{known['rhat']:.3f}",
    ]
