"""What the benchmarks share that is not a model: data that may be missing, tables, and results kept as JSON.

A smoke run writes beside nothing that counts: its results and figures go to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# that this process was started on (`taskset` pins it): thread pools take their size from it
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring as it stands, with the option that all have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--smoke", action="store_true", help="seconds: tiny sizes, figures mean nothing")
    return made


def need_data() -> None:
    """Ends the script with a clear message unless QPHI_DATA names a folder."""
    folder = os.environ.get("QPHI_DATA")
    if not folder:
        sys.exit("QPHI_DATA is not set: it has to name the folder with images/ (see benchmarks/README.md).")
    if not Path(folder).expanduser().is_dir():
        sys.exit(f"QPHI_DATA names {folder}, which is not a folder. Set it to the one with images/.")


def load(name: str):
    """A built-in data set; one that is not there ends the script with the library's own message."""
    from qphi import InputError
    from qphi.data import load

    try:
        return load(name)
    except InputError as error:
        sys.exit(str(error))


def results_file(name: str, smoke: bool, suffix: str = ".json") -> Path:
    """Where results are kept: benchmarks/results, or a temporary folder for a smoke run."""
    folder = _smoke_folder() if smoke else HERE / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (name + suffix)


def figure_file(name: str, smoke: bool) -> Path:
    """Where a figure goes: docs/figures, or a temporary folder for a smoke run."""
    folder = _smoke_folder() if smoke else ROOT / "docs" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"


def _smoke_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"qphi-smoke-{os.getuid() if hasattr(os, 'getuid') else 0}"


def save(path: Path, values: dict[str, Any], *, quiet: bool = False) -> None:
    """Writes results with the machine they come from, whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({"machine": machine(), **values}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    if not quiet:
        print(f"wrote {path}")


def read(path: Path) -> dict[str, Any]:
    """Saved results; ends the script when there are none."""
    if not path.is_file():
        sys.exit(f"{path} is not there: run the benchmark first, without --plot-only.")
    return json.loads(path.read_text(encoding="utf-8"))


def machine() -> dict[str, Any]:
    """What a figure in seconds depends on."""
    import jax

    import qphi

    return {
        "cores": CORES,
        "cpu": _cpu(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "qphi": qphi.__version__,
        "device": jax.devices()[0].device_kind,
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *rest]).rstrip())


def write_between(page: str, text: str, name: str = "table") -> None:
    """Puts text between the lines <!-- name --> and <!-- end of name --> of docs/PAGE.md, whole or not at all."""
    path = ROOT / "docs" / f"{page}.md"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old.count(begin) != 1 or old.count(end) != 1:
        sys.exit(f"{path} needs each of these lines once: {begin} {end}")
    head, tail = old.split(begin)[0], old.split(end)[1]
    temporary = path.with_suffix(".part")
    temporary.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
    temporary.replace(path)
    print(f"wrote the {name} of {path}")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table in Markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])
