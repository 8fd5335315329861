"""Posteriors with reference draws: how right, how fast and how honest `qphi.fit` is, beside NUTS and SVI.

Each (method, posterior) is a fresh process. Its first fit is timed from the start of the process, imports, tracing and
compilation included (cold); further fits, other seeds of the same model, are timed alone (warm). Defaults only.

  qphi    qphi.fit(model, *data, key=key, effort=...), scored on 10,000 draws of posterior.sample
  nuts    NumPyro NUTS, 4 chains, 1,000 + 1,000, float64, one chain after the other; scored on its 4,000 draws
  svi     NumPyro AutoMultivariateNormal, Adam, 20,000 steps at the best of the learning rates 1e-3, 1e-2 and 1e-1
          (by final ELBO; the seconds are those of all three), float64, 10 particles; 10,000 draws
  pathfinder30, pathfinder100
          BlackJAX multi-path Pathfinder (pip install blackjax), 8 paths of at most so many iterations from U(-2, 2),
          1,250 draws each, float64; 10,000 resampled by its Pareto-smoothed weights

Scores, by the harness beside the references: GOOD when every |bias| <= 0.3 reference sds and every sd is within a
factor of 1.5. `mean error` is the mean over parameters of |bias|, `sd error` of |sd ratio - 1|; both medians over
seeds. SILENT counts fits that are not GOOD and are called trusted or corrected; `false alarm` those that are GOOD and
are called unreliable. Draws themselves have an error: about 0.01 sd for 10,000.

Needs the folder `posteriordb` beside the folder that QPHI_DATA names, or --posteriordb. Writes
benchmarks/results/posteriordb.json and the table of docs/posteriors.md.

    python benchmarks/posteriordb.py                          # qphi at standard effort, 5 seeds
    python benchmarks/posteriordb.py --effort thorough
    python benchmarks/posteriordb.py --methods qphi nuts svi pathfinder30 pathfinder100  # peers: 2 seeds, 240 s
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _results import ROOT, markdown, need_data, parser, print_table, results_file, save, write_between

NAME = "posteriordb"
DRAWS = 10_000
RATES = (1e-3, 1e-2, 1e-1)
PATHS = 8  # of Pathfinder
PEER_SECONDS = 240  # for all seeds of a peer at one posterior
METHODS = ("qphi", "nuts", "svi", "pathfinder30", "pathfinder100")


def main() -> None:
    options = _arguments()
    if options.worker:
        _work(options)
        return
    names = _names(options)
    rows: list[dict[str, Any]] = []
    path = results_file(NAME if options.effort == "standard" else f"{NAME}_{options.effort}", options.smoke)
    for name in names:
        for method in options.methods:
            rows += _run(options, method, name)
            _print_row(method, name, [row for row in rows if (row["method"], row["name"]) == (method, name)])
        save(path, {"effort": options.effort, "rows": rows})  # a long run may be stopped
    for method in options.methods:
        _summary(method, [row for row in rows if row["method"] == method])
        if method != "qphi" and "qphi" in options.methods:
            _ratios(rows, method)
    if not options.smoke and options.effort == "standard" and not options.only:
        _write_table(rows)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=["qphi"])
    options.add_argument("--effort", choices=("quick", "standard", "thorough"), default="standard")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--peer-seeds", type=int, default=2, help="of the methods that are not qphi")
    options.add_argument("--only", nargs="+", default=[], metavar="PART", help="posteriors whose names contain PART")
    options.add_argument("--posteriordb", type=Path, help="the folder with the harness and the references")
    options.add_argument("--worker", nargs=2, metavar=("METHOD", "NAME"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.smoke:
        chosen.seeds, chosen.only = 1, chosen.only or ["kidscore_momiq"]
    if chosen.posteriordb is None:
        need_data()
        chosen.posteriordb = Path(os.environ["QPHI_DATA"]).expanduser().resolve().parent / "posteriordb"
    if not (chosen.posteriordb / "pdbeval").is_dir():
        sys.exit(f"{chosen.posteriordb} has no folder pdbeval. Name the one that has with --posteriordb.")
    return chosen


def _harness(options: argparse.Namespace) -> Any:
    sys.path.insert(0, str(options.posteriordb))
    import pdbeval

    return pdbeval


def _names(options: argparse.Namespace) -> list[str]:
    names = _harness(options).names()
    return [name for name in names if not options.only or any(part in name for part in options.only)]


def _run(options: argparse.Namespace, method: str, name: str) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--worker", method, name, "--effort", options.effort]
    seeds = options.seeds if method == "qphi" else min(options.seeds, options.peer_seeds)
    command += ["--seeds", str(seeds), "--posteriordb", str(options.posteriordb)]
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "QPHI_BENCHMARK_BEGAN": str(time.time()), "PYTHONPATH": source}
    if method.startswith("pathfinder"):  # its batched factorisations wait for each other's threads
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    with tempfile.TemporaryFile("w+") as answers:
        try:  # a peer may hang: two batched triangular solves can wait for each other on two cores
            done = subprocess.run(
                command,
                stdout=answers,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                check=False,
                timeout=None if method == "qphi" else PEER_SECONDS,
            )
            wrong = done.stderr[-2000:] if done.returncode else ""
        except subprocess.TimeoutExpired:
            wrong = f"{method} of {name} was stopped after {PEER_SECONDS} seconds"
        answers.seek(0)
        found = [json.loads(line) for line in answers if line.startswith("{")]
    if wrong:
        print(wrong, file=sys.stderr)
    return found or [{"method": method, "name": name, "seed": 0, "verdict": "failed", "score": "FAILED"}]


# In the worker


def _work(options: argparse.Namespace) -> None:
    method, name = options.worker
    harness = _harness(options)
    case = harness.load(name)
    began = float(os.environ["QPHI_BENCHMARK_BEGAN"])
    loaded = time.time() - began  # of which reading references is a part that no method should pay for
    fit = _pathfinder(int(method[10:])) if method.startswith("pathfinder") else METHOD[method]
    for seed in range(options.seeds):
        start = time.time()
        draws, extra = fit(case, seed, options.effort)
        seconds = time.time() - start
        scores = harness.evaluate(case.expand(draws), case.reference)
        row = harness.summarise(scores)
        bias, ratio = scores["bias"], scores["sd_ratio"]
        found = {
            "method": method,
            "name": name,
            "seed": seed,
            "dim": len(bias),
            "seconds": seconds,
            "imports": loaded if seed == 0 else 0.0,
            "score": row["verdict"],
            "max_bias": row["max_bias"],
            "max_log_sd": row["max_log_sd"],
            "mean_error": float(abs(bias).mean()),
            "sd_error": float(abs(ratio - 1).mean()),
            **extra,
        }
        print(json.dumps(found), flush=True)


def _qphi(case: Any, seed: int, effort: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import jax

    import qphi

    posterior = qphi.fit(case.model_fn, *case.args, key=jax.random.key(seed), effort=effort)
    draws = posterior.sample(jax.random.key(seed + 1000), DRAWS)
    found = {
        "verdict": str(posterior.verdict.trust),
        "made_by": posterior.made_by,
        "reasons": list(posterior.verdict.reasons),
        "stages": dict(posterior.stages),
        **posterior.evaluations,
    }
    return draws, found


def _nuts(case: Any, seed: int, effort: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import jax
    from numpyro.infer import MCMC, NUTS

    with jax.enable_x64(True):
        sampler = _CACHE.setdefault(
            "nuts", MCMC(NUTS(case.model_fn), num_warmup=1000, num_samples=1000, num_chains=4, progress_bar=False,
                         chain_method="sequential")
        )  # fmt: skip
        sampler.run(jax.random.key(seed), *case.args)
        return {name: _numpy(draws) for name, draws in sampler.get_samples().items()}, {"verdict": ""}


def _svi(case: Any, seed: int, effort: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import jax
    import numpyro
    from numpyro.infer import SVI, Predictive, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal

    with jax.enable_x64(True):
        best, lowest = None, float("inf")
        for rate in RATES:
            if ("svi", rate) not in _CACHE:
                guide = AutoMultivariateNormal(case.model_fn)
                svi = SVI(case.model_fn, guide, numpyro.optim.Adam(rate), Trace_ELBO(num_particles=10))
                _CACHE["svi", rate] = (guide, svi)
            guide, svi = _CACHE["svi", rate]
            result = svi.run(jax.random.key(seed), 20_000, *case.args, progress_bar=False)
            loss = float(_numpy(result.losses[-500:]).mean())
            if loss < lowest:
                best, lowest = (guide, result.params), loss
        if best is None:
            raise FloatingPointError("no learning rate gave a finite loss")
        guide, params = best
        draws = guide.sample_posterior(jax.random.key(seed), params, sample_shape=(DRAWS,))
        full = Predictive(case.model_fn, posterior_samples=draws)(jax.random.key(0), *case.args)
        return {name: _numpy(v) for name, v in {**full, **draws}.items() if name != "y"}, {"verdict": ""}


def _pathfinder(iterations: int) -> Any:
    def fit(case: Any, seed: int, effort: str) -> tuple[dict[str, Any], dict[str, Any]]:
        import jax
        import jax.flatten_util
        from blackjax.vi import multipathfinder
        from numpyro.infer import Predictive
        from numpyro.infer.util import initialize_model

        with jax.enable_x64(True):
            if "pathfinder" not in _CACHE:
                info = initialize_model(jax.random.key(0), case.model_fn, model_args=case.args)

                @jax.jit
                def run(key: Any, starts: Any) -> Any:
                    algorithm = multipathfinder.as_top_level_api(lambda z: -info.potential_fn(z))
                    state, _ = algorithm.init(key, starts, DRAWS // PATHS, maxiter=iterations)
                    return jax.vmap(info.postprocess_fn)(algorithm.sample(key, state, DRAWS))

                _CACHE["pathfinder"] = info.param_info.z, run
            z, run = _CACHE["pathfinder"]
            flat, rebuild = jax.flatten_util.ravel_pytree(z)
            start_key, key = jax.random.split(jax.random.key(seed))
            starts = jax.random.uniform(start_key, (PATHS, flat.size), minval=-2.0, maxval=2.0)
            draws = run(key, jax.vmap(rebuild)(starts))
            full = Predictive(case.model_fn, posterior_samples=draws)(jax.random.key(0), *case.args)
            return {name: _numpy(v) for name, v in {**full, **draws}.items() if name != "y"}, {"verdict": ""}

    return fit


METHOD = {"qphi": _qphi, "nuts": _nuts, "svi": _svi}
_CACHE: dict[Any, Any] = {}


def _numpy(values: Any) -> Any:
    import numpy as np

    return np.asarray(values)


# Tables


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    good = sum(row["score"] == "GOOD" for row in rows)
    whole = [row for row in rows if "seconds" in row]
    if not whole:
        return ["0", "failed", *["-"] * 6]
    verdicts = [row["verdict"] for row in rows]
    words = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts) if v)
    cold = [row["imports"] + row["seconds"] for row in whole if row["seed"] == 0]
    warm = [row["seconds"] for row in whole if row["seed"] > 0]
    middle = statistics.median
    return [
        f"{good}/{len(rows)}",
        words,
        f"{middle(row['max_bias'] for row in whole):.3f}",
        f"{middle(row['mean_error'] for row in whole):.3f}",
        f"{100 * middle(row['sd_error'] for row in whole):.1f} %",
        f"{cold[0]:.1f}" if cold else "-",
        f"{middle(warm):.2f}" if warm else "-",
        f"{middle(row.get('gradients', 0) + row.get('values', 0) + row.get('hessians', 0) for row in whole):,.0f}",
    ]


HEADER = ("GOOD", "verdicts", "max bias", "mean error", "sd error", "cold s", "warm s", "evaluations")


def _print_row(method: str, name: str, rows: list[dict[str, Any]]) -> None:
    print(f"{method:5} {name:45} " + "  ".join(_cells(rows)), flush=True)


def _summary(method: str, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    each = [[row for row in rows if row["name"] == name] for name in names]
    whole = [[row for row in group if "seconds" in row] for group in each]
    whole = [group for group in whole if group]
    middle = statistics.median
    silent = [r for r in rows if r["score"] != "GOOD" and r["verdict"] in ("trusted", "corrected")]
    alarms = [r for r in rows if r["score"] == "GOOD" and r["verdict"] in ("unreliable", "failed")]
    right = [r for r in rows if r["score"] == "GOOD"]
    table = [
        ["posteriors GOOD at every seed", f"{sum(all(r['score'] == 'GOOD' for r in g) for g in each)} of {len(each)}"],
        ["fits GOOD", f"{len(right)} of {len(rows)}"],
        ["median of the mean error, reference sds", f"{middle(middle(r['mean_error'] for r in g) for g in whole):.4f}"],
        ["median of the sd error", f"{100 * middle(middle(r['sd_error'] for r in g) for g in whole):.2f} %"],
        ["median cold seconds", f"{middle(g[0]['imports'] + g[0]['seconds'] for g in whole):.2f}"],
    ]
    warm = [middle(r["seconds"] for r in g if r["seed"] > 0) for g in whole if len(g) > 1]
    if warm:
        table.append(["median warm seconds", f"{middle(warm):.3f}"])
    if method == "qphi":
        table.append(["SILENT failures", f"{len(silent)}" + "".join(f" {r['name']}:{r['seed']}" for r in silent)])
        table.append(["false alarms", f"{len(alarms)} of {len(right)} right answers"])
    print()
    print_table([method, ""], table)


def _ratios(rows: list[dict[str, Any]], method: str) -> None:
    """Seconds of `method` over qphi's, posterior by posterior, and what the faster ones of its runs were worth."""
    middle = statistics.median
    warm, cold, faster, as_good = [], [], 0, 0
    for name in dict.fromkeys(row["name"] for row in rows):
        ours, theirs = (
            [r for r in rows if r["name"] == name and r["method"] == m and "seconds" in r] for m in ("qphi", method)
        )
        if not (ours and theirs):
            continue
        cold.append((theirs[0]["imports"] + theirs[0]["seconds"]) / (ours[0]["imports"] + ours[0]["seconds"]))
        ours, theirs = [r for r in ours if r["seed"] > 0], [r for r in theirs if r["seed"] > 0]
        if not (ours and theirs):
            continue
        seconds = middle(r["seconds"] for r in ours)
        warm.append(middle(r["seconds"] for r in theirs) / seconds)
        equal = [r for r in theirs if r["mean_error"] <= middle(o["mean_error"] for o in ours)]
        as_good += len(equal)
        faster += sum(r["seconds"] < seconds for r in equal)
    if warm:
        print_table(
            [f"{method} / qphi", ""],
            [
                ["warm seconds, median of the ratios", f"{middle(warm):.1f} (from {min(warm):.1f} to {max(warm):.0f})"],
                ["cold seconds, median of the ratios", f"{middle(cold):.1f} (from {min(cold):.1f} to {max(cold):.0f})"],
                ["posteriors where qphi is faster cold", f"{sum(r > 1 for r in cold)} of {len(cold)}"],
                ["warm runs as accurate as qphi's median and faster", f"{faster} of {as_good} as accurate"],
            ],
        )


def _write_table(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys((row["name"], row["method"]) for row in rows))
    lines = [
        [name.split("-")[-1], method, *_cells([r for r in rows if (r["name"], r["method"]) == (name, method)])]
        for name, method in names
    ]
    write_between("posteriors", markdown(["posterior", "method", *HEADER], lines))


if __name__ == "__main__":
    main()
