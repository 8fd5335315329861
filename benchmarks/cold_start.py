"""Wall seconds of `qphi fit digits` from a cold start to report.html, and of the imports.

Cold: a fresh process and an empty compilation cache (QPHI_CACHE names an empty folder). Warm: a fresh
process, the same cache, another run folder. The operating system's file cache is not emptied, so the very
first run after installing is slower. Parts are read from outside, by when files of the run folder appear
and from metrics.csv:

    to the data         process start until run.json: Python, imports, reading the data
    to the first check  building, compiling, and the first steps up to the first check
    training            from there to the last check, checkpoints included
    saving              until model.json is there
    report              until report.html is there
    summary             until the process ends: the figures it prints

Imports: fresh processes, alternating; `import qphi` alone is lazy, so `qphi.VAE` (everything a fit needs)
stands too.

Needs no data. Writes benchmarks/results/cold_start.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import parser, print_table, results_file, save

IMPORTS = {
    "import jax": "import jax",
    "import qphi": "import qphi",
    "import jax, qphi": "import jax, qphi",
    "qphi.VAE": "import qphi; qphi.VAE",
}
TARGETS = {"cold": 60.0, "import": 0.5}  # under a minute; under half a second more than jax alone
PARTS = ("to the data", "to the first check", "training", "saving", "report", "summary")


def main() -> None:
    options = _options()
    imports = _imports(1 if options.smoke else options.import_repeats)
    fits = _fits(1 if options.smoke else options.repeats, options)
    results = {"imports": imports, "fits": fits, "arguments": _arguments(options)}
    _print_imports(imports)
    _print_fits(fits)
    save(results_file("cold_start", options.smoke), results)


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3, help="cold and warm fits")
    options.add_argument("--import-repeats", type=int, default=5)
    return options.parse_args()


def _imports(repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, statement in IMPORTS.items():
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds[name].append(float(done.stdout))
    return seconds


def _arguments(options: argparse.Namespace) -> list[str]:
    return ["fit", "digits", *(["--epochs", "20"] if options.smoke else [])]


def _fits(repeats: int, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    fits: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "QPHI_CACHE": str(Path(folder) / "cache")}
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would take the place of qphi's own
            for kind in fits:
                fits[kind].append(_fit(Path(folder) / kind, environment, options))
    return fits


def _fit(run: Path, environment: dict[str, str], options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "qphi.cli.main", *_arguments(options), "--out", str(run)]
    began = time.time()  # the clock of file times
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    ended = time.time()
    if done.returncode != 0 or not (run / "report.html").is_file():
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    with open(run / "metrics.csv", newline="") as file:
        checks = list(csv.DictReader(file))
    asked, fitted, drawn = ((run / name).stat().st_mtime for name in ("run.json", "model.json", "report.html"))
    first = float(checks[0]["seconds"])
    looped = json.loads((run / "model.json").read_text())["seconds"]  # the loop, its checkpoints included
    written = (run / "checkpoint.json").stat().st_mtime  # the loop's last act
    parts = {
        "to the data": asked - began,
        "to the first check": (written - looped - asked) + first,
        "training": looped - first,
        "saving": fitted - written,
        "report": drawn - fitted,
        "summary": ended - drawn,
    }
    whole = {"to report.html": drawn - began, "whole command": ended - began}
    return {**whole, **parts, "epochs": float(checks[-1]["epoch"])}


def _print_imports(imports: dict[str, list[float]]) -> None:
    middle = {name: statistics.median(values) for name, values in imports.items()}
    rows = [[name, f"{middle[name]:.2f}", f"{min(values):.2f}"] for name, values in imports.items()]
    print_table(["seconds", "median", "least"], rows)
    more = middle["import jax, qphi"] - middle["import jax"]
    print(f"qphi on top of jax: {more:+.2f} s (target: under {TARGETS['import']}); ", end="")
    print(f"qphi alone against jax alone: {middle['import qphi'] - middle['import jax']:+.2f} s\n")


def _print_fits(fits: dict[str, list[dict[str, float]]]) -> None:
    names = ["to report.html", "whole command", *PARTS, "epochs"]
    rows = []
    for name in names:
        columns = [f"{statistics.median(fit[name] for fit in fits[kind]):.1f}" for kind in ("cold", "warm")]
        rows.append([f"  {name}" if name in PARTS else name, *columns])
    print_table(["`qphi fit digits`, seconds, median", "cold", "warm cache"], rows)
    slowest = max(fit["to report.html"] for fit in fits["cold"])
    print(f"slowest cold start to the report: {slowest:.1f} s (target: under {TARGETS['cold']:.0f})")


if __name__ == "__main__":
    main()
