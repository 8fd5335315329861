"""Time, memory and error of `qphi.fit` against the dimension, with defaults only.

  groups   y_ij ~ N(theta_i, 1), theta_i ~ N(mu, tau), mu and tau learned, three observations a group. Exact answer: tau
           on a grid, the rest conjugate.
  crossed  ratings of lecturers by students, as in InstEval: y ~ N(b + u_student + v_lecturer, 1.2) with u ~ N(0, 0.33),
           v ~ N(0, 0.5), b ~ N(0, 10): a Gaussian; a quarter of the effects are lecturers', 18 ratings a student.
           Exact answer: students eliminated from the sparse precision, the rest inverted (after the fit).

Errors are the largest over all parameters: of a mean, in exact posterior sds; of an sd, |log ratio|. The largest of
10,000 parameters from n independent draws would be about 4 / n^(1/2) sds. Seconds are those of `fit`, compilation
included; memory is the peak of the whole process, of which Python with JAX is about 300 MB. Each row is a fresh
process. Writes benchmarks/results/scale.json, docs/figures/scale.png and the table of docs/scale.md.

    python benchmarks/scale.py
    python benchmarks/scale.py --dims 300 1000 --models groups
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

from _results import ROOT, figure_file, markdown, parser, print_table, results_file, save, write_between

NAME = "scale"
DIMS = (100, 300, 1000, 3000, 10_000)
MODELS = ("groups", "crossed")
HEADER = ("model", "dimensions", "data", "verdict", "draws by", "seconds", "peak MB", "mean error", "sd error")
STUDENTS, LECTURERS, NOISE = 0.33, 0.5, 1.2  # sds
RATINGS = 18  # of each student


def main() -> None:
    options = _arguments()
    if options.worker:
        _work(*options.worker)
        return
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    rows = []
    for model in options.models:
        for dim in options.dims:
            rows.append(_run(model, dim))
            print_table(HEADER, [_cells(rows[-1])])
            save(results_file(NAME, options.smoke), {"load": load, "rows": rows})  # a long run may be stopped
    print_table(HEADER, map(_cells, rows))
    _plot(rows, options.smoke)
    if not options.smoke:
        _write_table(rows, load)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--dims", nargs="+", type=int, default=list(DIMS))
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options.add_argument("--worker", nargs=2, metavar=("MODEL", "DIM"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.smoke:
        chosen.dims = [60]
    return chosen


def _run(model: str, dim: int) -> dict[str, Any]:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--worker", model, str(dim)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source}, check=False
    )
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return {"model": model, "dim": dim, "verdict": "crashed"}
    return json.loads(done.stdout.splitlines()[-1])


# In the worker


def _work(model: str, dim_text: str) -> None:
    import jax
    import numpy as np

    import qphi

    dim = int(dim_text)
    random = np.random.default_rng(0)
    program, data, exact = {"groups": _groups, "crossed": _crossed}[model](random, dim)
    began = time.monotonic()
    posterior = qphi.fit(program, *data, key=jax.random.key(0))
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024)
    mean, sd = posterior.mean(), posterior.sd(allow_unreliable=True)
    errors = {name: (abs(mean[name] - m) / s, abs(np.log(sd[name] / s))) for name, (m, s) in exact().items()}
    found = {
        "model": model,
        "dim": dim,
        "data": len(np.asarray(data[0]).ravel()),
        "verdict": str(posterior.verdict.trust),
        "reasons": list(posterior.verdict.reasons),
        "made_by": posterior.made_by,
        "seconds": seconds,
        "peak_mb": peak,
        "mean_error": max(float(e.max()) for e, _ in errors.values()),
        "sd_error": max(float(e.max()) for _, e in errors.values()),
        "stages": dict(posterior.stages),
        **posterior.evaluations,
    }
    print(json.dumps(found))


def _groups(random: Any, dim: int) -> Any:
    import numpy as np
    import numpyro
    import numpyro.distributions as dist

    n = dim - 2
    y = 2 + random.standard_normal((n, 1)) + random.standard_normal((n, 3))

    def program(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        tau = numpyro.sample("tau", dist.HalfNormal(5))
        with numpyro.plate("groups", y.shape[0]):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta[:, None], 1.0), obs=y)

    def exact():
        # with v the variance of a group's mean: mean_i ~ N(mu, tau^2 + v) given tau
        v, bar = 1 / 3, y.mean(axis=1)
        tau = np.linspace(0.3, 2.5, 4001)
        total = tau**2 + v
        precision = n / total + 1 / 100
        mu = bar.sum() / total / precision
        log_p = n * np.log(total) + np.log(precision) + np.sum(bar**2) / total - mu**2 * precision
        log_p = -0.5 * (log_p + tau**2 / 25)
        weights = np.exp(log_p - log_p.max())
        weights /= weights.sum()
        share = tau**2 / total

        def moments(mean, variance):
            first = weights @ mean
            return first, np.sqrt(weights @ (variance + mean**2) - first**2)

        each = [moments(share * b + (1 - share) * mu, share * v + (1 - share) ** 2 / precision) for b in bar]
        return {"mu": moments(mu, 1 / precision), "tau": moments(tau, 0 * tau), "theta": np.array(each).T}

    return program, (y,), exact


def _crossed(random: Any, dim: int) -> Any:
    import numpy as np
    import numpyro
    import numpyro.distributions as dist

    lecturers = dim // 4
    students = dim - 1 - lecturers
    student = np.repeat(np.arange(students), RATINGS)
    lecturer = random.integers(0, lecturers, student.size)
    effects = STUDENTS * random.standard_normal(students)[student]
    effects += LECTURERS * random.standard_normal(lecturers)[lecturer]
    y = 3.3 + effects + NOISE * random.standard_normal(student.size)

    def program(y, student, lecturer):
        b = numpyro.sample("b", dist.Normal(0, 10))
        u = numpyro.sample("u", dist.Normal(0, STUDENTS).expand([students]).to_event(1))
        v = numpyro.sample("v", dist.Normal(0, LECTURERS).expand([lecturers]).to_event(1))
        numpyro.sample("y", dist.Normal(b + u[student] + v[lecturer], NOISE), obs=y)

    def exact():
        from scipy import sparse

        rows = np.arange(student.size)
        ones = np.ones(student.size)
        columns = np.concatenate([0 * rows, 1 + student, 1 + students + lecturer])
        design = sparse.csr_matrix((np.tile(ones, 3), (np.tile(rows, 3), columns)), shape=(student.size, dim))
        prior = np.concatenate([[1 / 100], np.full(students, STUDENTS**-2), np.full(lecturers, LECTURERS**-2)])
        precision = (design.T @ design / NOISE**2 + sparse.diags(prior)).tocsr()
        own, rest = np.arange(1, 1 + students), np.r_[0, 1 + students : dim]
        # students are independent given the rest: S = M - N' D^-1 N is the precision of the rest
        across = sparse.diags(1 / precision.diagonal()[own]) @ precision[own][:, rest]
        schur = precision[rest][:, rest].toarray() - (precision[rest][:, own] @ across).toarray()
        covariance, variance = np.linalg.inv(schur), np.empty(dim)
        variance[rest] = np.diag(covariance)
        variance[own] = 1 / precision.diagonal()[own] + np.sum((across @ covariance) * across.toarray(), axis=1)
        mean, sd = sparse.linalg.spsolve(precision.tocsc(), design.T @ y / NOISE**2), np.sqrt(variance)
        cuts = {"b": 0, "u": slice(1, 1 + students), "v": slice(1 + students, dim)}
        return {name: (mean[cut], sd[cut]) for name, cut in cuts.items()}

    return program, (y, student, lecturer), exact


# Tables and the figure


def _cells(row: dict[str, Any]) -> list[str]:
    if "seconds" not in row:
        return [row["model"], f"{row['dim']:,}", "", row["verdict"], *[""] * 5]
    return [
        row["model"],
        f"{row['dim']:,}",
        f"{row['data']:,}",
        row["verdict"],
        row["made_by"],
        f"{row['seconds']:.0f}",
        f"{row['peak_mb']:,.0f}",
        f"{row['mean_error']:.2f}",
        f"{row['sd_error']:.2f}",
    ]


def _write_table(rows: list[dict[str, Any]], load: float) -> None:
    note = f"Load of the machine when it began: {load:.1f}; above the number of cores, seconds are those of a busy one."
    table = markdown(HEADER, map(_cells, sorted(rows, key=lambda row: (MODELS.index(row["model"]), row["dim"]))))
    write_between("scale", f"{table}\n\n{note}")


def _plot(rows: list[dict[str, Any]], smoke: bool) -> None:
    from matplotlib.ticker import NullFormatter

    from qphi import theme

    drawn = theme.figure(7.5, 3.0, margins=(0.65, 0.15, 0.55, 0.4))
    plots = drawn.subplots(1, 2, gridspec_kw={"wspace": 0.3})
    for plot, column, title in zip(plots, ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True):
        theme.style(plot, title=title)
        for model, colour in zip(MODELS, (theme.ACCENT, theme.SECOND), strict=True):
            found = sorted((r for r in rows if r["model"] == model and column in r), key=lambda r: r["dim"])
            plot.plot([r["dim"] for r in found], [r[column] for r in found], "o-", color=colour, label=model)
        plot.set_xscale("log")
        if column == "seconds":
            plot.set_yscale("log")
            plot.yaxis.set_minor_formatter(NullFormatter())
        else:
            plot.set_ylim(bottom=0)
        plot.set_xlabel("dimensions")
        plot.legend(frameon=False)
    path = figure_file(NAME, smoke)
    path.write_bytes(theme.png(drawn))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
