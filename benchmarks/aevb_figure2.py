"""Figure 2 of Auto-Encoding Variational Bayes (Kingma & Welling 2014): ELBO against training samples seen.

One hidden layer of tanh units in encoder and decoder (500 for MNIST, 200 for Frey faces), minibatches of
100, one sample per datum. MNIST under a Bernoulli, one fixed binarisation (seed 0; the paper's own pixels
were grey levels under a Bernoulli, so its nats are not comparable); latent 3, 5, 10, 20, 200. Frey faces
under a Gaussian with a sigmoid mean and one learned scale, a random fifth held out; latent 2, 5, 10, 20.

Optimiser: qphi's own, Adam at 1e-3 with gradients clipped at norm 100 and a ramp over the first 100
steps. Its plateau rule, which would lower the step and stop, is given a patience that never ends, so the
rate stays 1e-3. What is scored is qphi's answer, the running average of the weights (over 600 steps on
MNIST, 50 on Frey), at the end of the budget: no choice is made on the test set. The paper used Adagrad
with a step from {0.01, 0.02, 0.1} and a small weight decay.

Writes benchmarks/results/aevb_figure2.json, docs/figures/aevb_figure2.png and the table of docs/aevb.md.

    python benchmarks/aevb_figure2.py                 # everything
    python benchmarks/aevb_figure2.py --data frey     # one set; the other's saved runs are kept
    python benchmarks/aevb_figure2.py --plot-only     # figure and table from the saved runs
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import time
from typing import Any

import jax
import numpy as np

from _image_vaes import GREY_LEVELS, NEVER, Bernoulli, binary_mnist, frey_faces, learned_gaussian, tanh_vae
from _results import ROOT, figure_file, markdown, need_data, parser, print_table, read, results_file, save
from qphi.autoencoders.evaluation import evaluate
from qphi.autoencoders.training import plan

NAME = "aevb_figure2"
BATCH = 100
PARTICLES = 500
MARKS = (1e5, 1e6)
DOC = ROOT / "docs" / "aevb.md"
BEGIN, END = "<!-- aevb table: begin (written by benchmarks/aevb_figure2.py) -->", "<!-- aevb table: end -->"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the figure."""

    title: str
    hidden: int
    latents: tuple[int, ...]
    check_every: int  # steps between two points of a curve; a whole number of them makes each of MARKS


SETTINGS = {
    "mnist": Setting("MNIST", 500, (3, 5, 10, 20, 200), 500),
    "frey": Setting("Frey faces", 200, (2, 5, 10, 20), 50),
}


def main() -> None:
    options = _options()
    path = results_file(NAME, options.smoke)
    if not options.plot_only:
        need_data()
        kept = {} if options.smoke or not path.is_file() else _by_name(read(path)["runs"])
        for name in options.data:
            train, test = binary_mnist() if name == "mnist" else frey_faces(options.seed)
            if options.smoke:
                train, test = train[:2000], test[:300]
            for latent_dim in SETTINGS[name].latents[:1] if options.smoke else SETTINGS[name].latents:
                run = _run(name, latent_dim, train, test, options)
                kept[name, latent_dim] = run
                save(path, {"runs": list(kept.values())})  # what is done is done
    runs = read(path)["runs"]
    _print(runs)
    _draw(runs, options.smoke)
    if not options.smoke:
        _write_table(runs)


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--data", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options.add_argument("--samples", type=float, help="budget (3e6 for MNIST, 1e6 for Frey faces)")
    options.add_argument("--is-rows", type=int, default=1000, help="first test rows that log p(x) is taken of; 0: all")
    options.add_argument("--seed", type=int, default=0, help="of weights, minibatches and the Frey split")
    options.add_argument("--plot-only", action="store_true", help="figure and table from the saved runs")
    return options.parse_args()


def _by_name(runs: list[dict]) -> dict[tuple[str, int], dict]:
    return {(run["data"], run["latent_dim"]): run for run in runs}


def _run(name: str, latent_dim: int, train: np.ndarray, test: np.ndarray, options: argparse.Namespace) -> dict:
    setting = SETTINGS[name]
    budget = 2e4 if options.smoke else options.samples or {"mnist": 3e6, "frey": 1e6}[name]
    likelihood = Bernoulli() if name == "mnist" else learned_gaussian(train)
    model_key, run_key = jax.random.split(jax.random.key(options.seed, impl="threefry2x32"))
    model = tanh_vae(train.shape[1], setting.hidden, latent_dim, likelihood, model_key)
    training = plan(model, train, test, run_key, batch_size=BATCH, learning_rate=1e-3, patience=NEVER)
    training = dataclasses.replace(training, check_every=50 if options.smoke else setting.check_every)
    print(f"{setting.title}, latent {latent_dim}: {budget:g} samples ...", flush=True)
    result = training.drive(training.start(), max_epochs=budget / BATCH / training.steps_per_epoch)
    # the last answer: `result.answer` is the best by the test set
    model = training.whole(training.solver.answer(result.run.solver))
    rows = test[: options.is_rows or None] if not options.smoke else test[:64]
    began = time.monotonic()
    final = evaluate(model, rows, particles=16 if options.smoke else PARTICLES)
    run = {
        "data": name,
        "latent_dim": latent_dim,
        "seed": options.seed,
        "hidden": setting.hidden,
        "batch": BATCH,
        "train_rows": len(train),
        "test_rows": len(test),
        "samples": [BATCH * step for step in result.history["step"]],
        "train_elbo": result.history["elbo"],
        "test_elbo": result.history["held_out_elbo"],
        "test_kl": result.history["held_out_kl"],
        "seconds": result.seconds,
        "status": result.status.name,
        "evaluation_rows": final.n,
        "particles": final.particles,
        "elbo": dataclasses.asdict(final.elbo),
        "log_evidence": dataclasses.asdict(final.log_evidence),
        "active_units": final.active_units,
        "evaluation_seconds": time.monotonic() - began,
    }
    if name == "frey":
        run["scale_grey_levels"] = float(model.likelihood.scale) * GREY_LEVELS
    return run


def bits_per_dimension(elbo: float, pixels: int = 560) -> float:
    """-(ELBO of pixels in 0..255) / (pixels log 2), from that of [0, 1]: a density 255^pixels larger."""
    return -(elbo - pixels * math.log(GREY_LEVELS)) / (pixels * math.log(2))


def _at(run: dict, samples: float) -> str:
    found = [elbo for seen, elbo in zip(run["samples"], run["test_elbo"], strict=True) if seen == samples]
    return f"{found[0]:.1f}" if found else "-"


def _table(runs: list[dict], name: str) -> tuple[list[str], list[list[str]]]:
    mine = sorted((run for run in runs if run["data"] == name), key=lambda run: run["latent_dim"])
    if not mine:
        return [], []
    rows, particles = mine[0]["evaluation_rows"], mine[0]["particles"]
    header = ["latent", *(f"test ELBO at {mark:.0e}".replace("e+0", "e") for mark in MARKS)]
    header += ["at the end", "samples", "training ELBO", f"log p(x), {particles} draws, {rows} rows"]
    header += ["ELBO, same rows", "active units"]
    header += ["bits/dim (ELBO)", "scale, grey levels", "seconds"] if name == "frey" else ["seconds"]
    table = []
    for run in mine:
        evidence, elbo = run["log_evidence"], run["elbo"]
        row = [str(run["latent_dim"]), *(_at(run, mark) for mark in MARKS), f"{run['test_elbo'][-1]:.1f}"]
        row += [f"{run['samples'][-1]:.2g}".replace("e+0", "e"), f"{run['train_elbo'][-1]:.1f}"]
        row += [f"{evidence['value']:.1f} ± {evidence['standard_error']:.1f}", f"{elbo['value']:.1f}"]
        row += [f"{run['active_units']}"]
        if name == "frey":
            row += [f"{bits_per_dimension(run['test_elbo'][-1]):.2f}", f"{run['scale_grey_levels']:.1f}"]
        table.append([*row, f"{run['seconds']:.0f}"])
    return header, table


def _print(runs: list[dict]) -> None:
    for name, setting in SETTINGS.items():
        header, rows = _table(runs, name)
        if rows:
            print(f"\n{setting.title}, nats per image")
            print_table(header, rows)


def _write_table(runs: list[dict]) -> None:
    if not DOC.is_file():
        print(f"{DOC} is not there: no table written")
        return
    text = DOC.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{DOC} needs each of these lines once:\n{BEGIN}\n{END}")
    parts = []
    for name, setting in SETTINGS.items():
        header, rows = _table(runs, name)
        if rows:
            parts.append(f"**{setting.title}**, nats per image\n\n{markdown(header, rows)}")
    body = "\n\n".join([BEGIN, *parts, END])
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    DOC.write_text(pattern.sub(lambda _: body, text), encoding="utf-8")
    print(f"wrote the table of {DOC}")


def _draw(runs: list[dict], smoke: bool) -> None:
    from qphi import theme

    names = [name for name in SETTINGS if any(run["data"] == name for run in runs)]
    across = max(sum(run["data"] == name for run in runs) for name in names)
    drawn = theme.figure(max(5.0, 2.3 * across), 2.9 * len(names) + 0.3)
    grid = drawn.subplots(len(names), across, squeeze=False)
    for line, name in zip(grid, names, strict=True):
        mine = sorted((run for run in runs if run["data"] == name), key=lambda run: run["latent_dim"])
        limits = _limits(mine)
        for place, plot in enumerate(line):
            if place < len(mine):
                _panel(plot, mine[place], limits, first=place == 0)
            else:
                plot.set_axis_off()
    drawn.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=theme.SIZE,
    )
    path = figure_file(NAME, smoke)
    path.write_bytes(theme.png(drawn))
    print(f"wrote {path}")


def _panel(plot: Any, run: dict, limits: tuple[float, float], *, first: bool) -> None:
    from matplotlib.ticker import NullFormatter

    from qphi import theme

    title = f"{SETTINGS[run['data']].title}, latent {run['latent_dim']}"
    y = "ELBO (nats per image)" if first else ""
    theme.style(plot, x="training samples seen", y=y, title=title, grid="both")
    seen, dashes = run["samples"], (0, (5, 2))
    plot.plot(seen, run["train_elbo"], color=theme.SECOND, lw=1.2, ls=dashes, label="training ELBO")
    plot.plot(seen, run["test_elbo"], color=theme.ACCENT, lw=1.8, label="test ELBO")
    plot.set_xscale("log")
    plot.xaxis.set_minor_formatter(NullFormatter())
    plot.set_ylim(*limits)
    plot.tick_params(labelleft=first, which="both")
    plot.text(
        0.97, 0.05, f"test {run['test_elbo'][-1]:.1f}",
        transform=plot.transAxes, ha="right", color=theme.ACCENT, fontsize=theme.SIZE - 1,
    )  # fmt: skip


def _limits(runs: list[dict]) -> tuple[float, float]:
    """One range for a row of panels; curves may enter it from below during the first 100,000 samples."""
    from qphi import theme

    values = [
        elbo
        for run in runs
        for curve in (run["train_elbo"], run["test_elbo"])
        for seen, elbo in zip(run["samples"], curve, strict=True)
        if seen >= min(MARKS[0], run["samples"][-1] / 10)
    ]
    return theme.spread(values, 0.06)


if __name__ == "__main__":
    main()
