"""A table of 1,000,000 rows and 50 columns in a Parquet file: seconds and peak memory of `qphi fit`, `score`, `impute`.

Columns are numbers of a few factors, counts and categories with 2 % gaps, made here. Each command is a process of its
own; its peak memory is what the operating system says of it. Needs pyarrow.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from _results import parser, print_table, results_file, save

FACTORS, PIECE = 6, 50_000


def write_table(path: Path, rows: int, columns: int) -> None:
    """A fifth of the columns are counts, a fifth categories, the others numbers."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(FACTORS, columns))
    writer = None
    for first in range(0, rows, PIECE):
        count = min(PIECE, rows - first)
        made = rng.normal(size=(count, FACTORS)) @ loadings / np.sqrt(FACTORS) + 0.5 * rng.normal(size=(count, columns))
        cells: dict[str, pyarrow.Array] = {}
        for j in range(columns):
            gap = rng.random(count) < 0.02
            if j % 5 == 0:
                values: np.ndarray = rng.poisson(np.exp(1 + 0.5 * made[:, j]))
            elif j % 5 == 1:
                values = np.array(["low", "middle", "high"])[np.digitize(made[:, j], [-0.7, 0.9])]
            else:
                values = made[:, j]
            cells[f"x{j}"] = pyarrow.array(values, mask=gap)
        piece = pyarrow.table(cells)
        writer = writer or pyarrow.parquet.ParquetWriter(path, piece.schema)
        writer.write_table(piece)
    if writer is not None:
        writer.close()


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in GB of a `qphi` command."""
    began = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-m", "qphi.cli.main", *arguments], dict(os.environ))
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"qphi {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1e6


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--rows", type=int, default=1_000_000)
    made.add_argument("--columns", type=int, default=50)
    made.add_argument("--fit-time", default="2m", help="budget of the fit, as qphi fit --max-time has it")
    asked = made.parse_args()
    if asked.smoke:
        asked.rows, asked.columns, asked.fit_time = 3000, 8, "5s"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        table, run = Path(folder) / "table.parquet", str(Path(folder) / "run")
        write_table(table, asked.rows, asked.columns)
        commands = {
            "fit": ["fit", str(table), "--out", run, "--max-time", asked.fit_time],
            "score": ["score", run, str(table), "-o", str(Path(folder) / "scores.parquet")],
            "impute": ["impute", run, str(table), "-o", str(Path(folder) / "full.parquet")],
        }
        for name, arguments in commands.items():
            found[name] = dict(zip(("seconds", "peak_gb"), measured(arguments), strict=True))
            print(name, found[name], flush=True)
    save(results_file("tables_large", asked.smoke), {"rows": asked.rows, "columns": asked.columns, "found": found})
    lines = [[name, f"{one['seconds']:.0f}", f"{one['peak_gb']:.2f}"] for name, one in found.items()]
    print_table([f"{asked.rows:,} x {asked.columns}", "seconds", "peak GB"], lines)


if __name__ == "__main__":
    main()
