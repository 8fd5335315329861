"""Bayesian logistic regression by minibatches: a million rows, fifty covariates, against the answer of all data.

y_i ~ Bernoulli(logit^-1(a + x_i b)), a ~ N(0, 5^2), b ~ N(0, 2^2); covariates are Gaussian, neighbours correlated at
0.45. The program has a plate with subsample_size, so `qphi.fit` sees that many rows at each step; full rank and mean
field. The reference is Laplace's approximation at the mode of all rows, by Newton's method: with so many data its error
is of the order of 1/sqrt(rows) posterior sds. For the mean field, whose optimum is the conditional sd 1/sqrt(H_ii),
that is the reference for sds; how far it is below the marginal sd stands beside.

    passes        rows seen by the steps, over all rows (some ten more are made to begin and to check)
    mean error    largest |mean - reference| over components, in posterior sds; bar 0.1
    sd error      largest |sd / reference - 1|; bar 5 %

Seconds are of the whole of `qphi.fit`, compilation included, each family in a process of its own; peak memory is that
of its process, simulating the data (float32) included.

Needs no data. Writes benchmarks/results/minibatch.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from _results import parser, print_table, results_file, save

FAMILIES = ("full-rank", "mean-field")
BLOCK = 50_000
PRIOR_SDS = (5.0, 2.0)


def main() -> None:
    options = _options()
    if options.family:
        print(json.dumps(_fit(options)))
        return
    answers = {}
    for family in FAMILIES:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--family", family], stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit(f"the {family} fit ended with {done.returncode}")
        answers[family] = json.loads(done.stdout.splitlines()[-1])
    answers = _compared(answers, options)
    header = [
        "family",
        "seconds",
        "steps",
        "passes",
        "peak MB",
        "mean error",
        "sd error",
        "below marginal sd",
    ]
    rows = [
        [
            family,
            f"{found['seconds']:.0f}",
            str(found["steps"]),
            f"{found['passes']:.1f}",
            f"{found['peak_mb']:.0f}",
            f"{found['mean_error']:.3f} sd",
            f"{100 * found['sd_error']:.1f} %",
            f"{100 * found['below_marginal']:.0f} %",
        ]
        for family, found in answers.items()
    ]
    print_table(header, rows)
    for family, found in answers.items():
        print(f"{family}: {found['verdict']}")
    sizes = {"rows": options.rows, "covariates": options.covariates, "subsample": options.subsample}
    save(results_file("minibatch", options.smoke), {**sizes, "fits": answers})


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--covariates", type=int, default=50)
    options.add_argument("--subsample", type=int, default=1000, help="rows seen at each step")
    options.add_argument("--family", choices=FAMILIES, help="fit this one only, and print what was found as JSON")
    given = options.parse_args()
    if given.smoke:
        given.rows, given.covariates, given.subsample = 5000, 4, 200
    return given


def _data(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((options.rows, options.covariates), np.float32)
    for j in range(options.covariates - 1, 0, -1):
        x[:, j] += 0.5 * x[:, j - 1]
    logits = x @ (random.standard_normal(options.covariates) / np.sqrt(options.covariates)).astype(np.float32) - 1
    return x, (random.uniform(size=options.rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def _fit(options: argparse.Namespace) -> dict:
    import jax
    import numpyro
    import numpyro.distributions as dist

    import qphi

    def model(x, y, subsample):
        a = numpyro.sample("a", dist.Normal(0, PRIOR_SDS[0]))
        b = numpyro.sample("b", dist.Normal(0, PRIOR_SDS[1]).expand([x.shape[1]]).to_event(1))
        with numpyro.plate("rows", len(y), subsample_size=subsample) as rows:
            numpyro.sample("y", dist.Bernoulli(logits=a + x[rows] @ b), obs=y[rows])

    x, y = _data(options)
    began = time.perf_counter()
    posterior = qphi.fit(model, x, y, options.subsample, key=jax.random.key(0), family=options.family)
    seconds = time.perf_counter() - began
    mean, sd = posterior.mean(), posterior.sd(allow_unreliable=True)
    return {
        "seconds": seconds,
        "steps": posterior.steps,
        "passes": posterior.steps * options.subsample / options.rows,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mean": [float(mean["a"]), *mean["b"].tolist()],
        "sd": [float(sd["a"]), *sd["b"].tolist()],
        "verdict": str(posterior.verdict),
        "numbers": posterior.verdict.numbers,
    }


def _compared(answers: dict[str, dict], options: argparse.Namespace) -> dict[str, dict]:
    mode, hessian = _laplace(*_data(options))
    marginal, conditional = np.sqrt(np.diag(np.linalg.inv(hessian))), np.diag(hessian) ** -0.5
    for family, found in answers.items():
        mean, sd = np.array(found.pop("mean")), np.array(found.pop("sd"))
        found["mean_error"] = float(np.max(np.abs(mean - mode) / marginal))
        found["sd_error"] = float(np.max(np.abs(sd / (conditional if family == "mean-field" else marginal) - 1)))
        found["below_marginal"] = float(1 - np.min(sd / marginal))
    return answers


def _laplace(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mode and minus the Hessian of log p, by Newton's method on all rows, in double precision."""
    dim = x.shape[1] + 1
    precision = np.r_[PRIOR_SDS[0] ** -2.0, np.full(dim - 1, PRIOR_SDS[1] ** -2.0)]
    beta = np.zeros(dim)
    for _ in range(30):
        gradient, hessian = -precision * beta, np.diag(precision)
        for begin in range(0, len(x), BLOCK):
            rows = x[begin : begin + BLOCK].astype(float)
            rows = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
            p = 1 / (1 + np.exp(-rows @ beta))
            gradient += rows.T @ (y[begin : begin + BLOCK] - p)
            hessian += (rows * (p * (1 - p))[:, None]).T @ rows
        step = np.linalg.solve(hessian, gradient)
        beta = beta + step
        if step @ gradient < 1e-10:  # Newton decrement
            return beta, hessian
    raise SystemExit("Newton's method has not converged")


if __name__ == "__main__":
    main()
