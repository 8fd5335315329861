"""What progress, logging and checkpoints cost a fit; it ought to be nothing that can be measured.

Pairs of the same fit, with (a live bar as on a terminal, a run folder with checkpoints, metrics and
model) and without; who goes first alternates. Printed: the median of the pairs' ratios of wall seconds,
with its quartiles, the difference in seconds, and whether the two models are the same to the bit. A ratio
is only as sharp as the machine is quiet: the table says how much two fits without anything differ, and
gives the ratio of CPU seconds (all threads of the process), which other processes disturb less. A run
folder costs one write at the end whatever the length of the fit, so short fits show it and long ones do
not.

Needs no data (digits), or QPHI_DATA with --data mnist. Writes benchmarks/results/progress_cost.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import qphi
from _results import load, need_data, parser, print_table, results_file, save
from qphi.cli.progress import FitDisplay
from qphi.loop import Progress


class Counting:
    """The command's own bar, which also counts how often it was told."""

    def __init__(self, display: FitDisplay):
        self._display = display
        self.calls = 0

    def __call__(self, progress: Progress) -> None:
        self.calls += 1
        self._display(progress)


def main() -> None:
    options = _options()
    x = _data(options)
    _, wanted, _ = _fit(x, options, watched=False)  # compiles
    _, bits, calls = _fit(x, options, watched=True)
    same = np.array_equal(bits, wanted)
    plain, watched, cpu = [], [], {False: [], True: []}
    for pair in range(2 if options.smoke else options.pairs):
        seconds = {}
        for with_all in (True, False) if pair % 2 else (False, True):
            cpu_began = time.process_time()
            seconds[with_all], bits, _ = _fit(x, options, watched=with_all)
            cpu[with_all].append(time.process_time() - cpu_began)
            same = same and np.array_equal(bits, wanted)
        plain.append(seconds[False])
        watched.append(seconds[True])
    _print(plain, watched, cpu, same, calls)
    results = {"data": options.data, "epochs": options.epochs, "plain": plain, "watched": watched}
    results |= {"cpu_plain": cpu[False], "cpu_watched": cpu[True]}
    save(results_file("progress_cost", options.smoke), {**results, "same_bits": same, "calls": calls})


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--data", choices=["digits", "mnist"], default="digits")
    options.add_argument("--epochs", type=float, help="passes over the data (400 for digits, 3 for MNIST)")
    options.add_argument("--pairs", type=int, default=7)
    given = options.parse_args()
    if given.data == "mnist":
        need_data()
    given.epochs = 20.0 if given.smoke else given.epochs or {"digits": 400.0, "mnist": 3.0}[given.data]
    return given


def _data(options: argparse.Namespace) -> np.ndarray:
    x = load(options.data).x
    return x[:500] if options.smoke else x


def _fit(x: np.ndarray, options: argparse.Namespace, *, watched: bool) -> tuple[float, np.ndarray, int]:
    """Seconds, the trained numbers, and how often the bar was told."""
    vae = qphi.VAE(max_epochs=options.epochs, random_state=0)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        if not watched:
            began = time.perf_counter()
            vae.fit(x)
            return time.perf_counter() - began, _bits(vae), 0
        with _terminal(), FitDisplay(options.data, options.epochs) as display:
            counting = Counting(display)
            began = time.perf_counter()
            vae.fit(x, run_dir=Path(folder) / "run", watch=counting)
            seconds = time.perf_counter() - began
        return seconds, _bits(vae), counting.calls


def _bits(vae: qphi.VAE) -> np.ndarray:
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(vae.model_) if hasattr(leaf, "dtype")]
    return np.concatenate([a.ravel() for a in arrays])


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Makes the bar draw as it does on a terminal, into nothing."""
    before = os.environ.get("FORCE_COLOR")
    os.environ["FORCE_COLOR"] = "1"  # rich's word for: this is a terminal
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            yield
    finally:
        os.environ.pop("FORCE_COLOR")
        if before is not None:
            os.environ["FORCE_COLOR"] = before


def _print(plain: list[float], watched: list[float], cpu: dict[bool, list[float]], same: bool, calls: int) -> None:
    ratios = [b / a for a, b in zip(plain, watched, strict=True)]
    noise = [max(a, b) / min(a, b) for a, b in itertools.pairwise(plain)]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    cpu_ratio = statistics.median(b / a for a, b in zip(cpu[False], cpu[True], strict=True))
    differences = [b - a for a, b in zip(plain, watched, strict=True)]
    rows = [
        ["seconds without, median (least)", f"{statistics.median(plain):.2f} ({min(plain):.2f})"],
        ["seconds with all, median (least)", f"{statistics.median(watched):.2f} ({min(watched):.2f})"],
        ["ratio within a pair, median (quartiles)", f"{middle:.3f} ({low:.3f} to {high:.3f})"],
        ["ratio of the least", f"{min(watched) / min(plain):.3f}"],
        ["ratio of CPU seconds within a pair, median", f"{cpu_ratio:.3f}"],
        ["difference in seconds, median", f"{statistics.median(differences):+.2f}"],
        ["two fits without, slower / faster, median", f"{statistics.median(noise):.3f}"],
        ["times the bar was told, per fit", f"{calls}"],
        ["the same model to the bit", "yes" if same else "NO"],
    ]
    print_table([f"{len(plain)} pairs", ""], rows)
    if not same:
        sys.exit("watching a fit changed its result: a bug")


if __name__ == "__main__":
    main()
