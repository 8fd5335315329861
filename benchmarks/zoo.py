"""Silent failures and false alarms of `qphi.fit` over log densities with known answers, defaults only.

The zoo (tests/posterior_zoo.py): Gaussians with scales from 1e-6 to 1e6 and in up to 1,000 dimensions, ridges, skews,
boundaries, kinks, bananas, waves, a product, funnels, several modes, spikes in slabs, heavy tails, functionals
without a mean or a variance, densities with NaN, jumps and steps, improper and unbounded ones.

An answer is right where every mean is within 0.3 posterior sds and every sd within a factor of 1.5. A silent failure
is a wrong answer called `trusted` or `corrected` (of densities that no answer can be right for: any that is); a false
alarm is a right one called `unreliable` or `failed`. Writes benchmarks/results/zoo.json and the table of
docs/verdicts.md.

    python benchmarks/zoo.py
    python benchmarks/zoo.py --seeds 1 --only funnel modes
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from _results import ROOT, markdown, parser, print_table, results_file, save, write_between
from _verdicts import is_right, summary

sys.path.insert(0, str(ROOT / "tests"))
NAME = "zoo"
HEADER = ("density", "dimensions", "right", "verdicts", "mean error", "sd error", "seconds")


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", nargs="+", default=[], metavar="PART", help="densities whose names contain PART")
    chosen = options.parse_args()
    if chosen.smoke:
        chosen.seeds, chosen.only = 1, chosen.only or ["standard", "cauchy"]
    from posterior_zoo import DOUBTFUL, HARD, RIGHT

    rows = []
    for name, known in {**RIGHT, **HARD, **DOUBTFUL}.items():
        if chosen.only and not any(part in name for part in chosen.only):
            continue
        found = [fit_known(name, known, seed, answerable=name not in DOUBTFUL) for seed in range(chosen.seeds)]
        rows += found
        print_table(HEADER, [_cells(found)])
        save(results_file(NAME, chosen.smoke), {"rows": rows})
    said = summary(rows)
    print(said)
    if not (chosen.smoke or chosen.only):
        _write(rows, said)


def fit_known(name: str, known: Any, seed: int, *, answerable: bool) -> dict[str, Any]:
    """One fit with defaults, beside what is known: a row of the results."""
    import numpy as np

    from posterior_zoo import fitted

    began = time.monotonic()
    posterior = fitted(known, seed)
    seconds = time.monotonic() - began
    mean, sd = posterior.mean()["x"], posterior.sd(allow_unreliable=True)["x"]
    with np.errstate(all="ignore"):
        mean_error = float(np.max(np.abs(mean - known.mean) / known.sd))
        sd_error = float(np.max(np.abs(np.log(sd / known.sd))))
    return {
        "name": name,
        "dim": known.dim,
        "seed": seed,
        "verdict": str(posterior.verdict.trust),
        "usable": posterior.verdict.trust.usable,
        "reasons": list(posterior.verdict.reasons),
        "answerable": answerable,
        "mean_error": mean_error,
        "sd_error": sd_error,
        "right": answerable and is_right(mean_error, sd_error),
        "seconds": seconds,
    }


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    import numpy as np

    first = rows[0]
    verdicts = Counter(row["verdict"] for row in rows).most_common()
    errors = [f"{np.median([row[name] for row in rows]):.3f}" for name in ("mean_error", "sd_error")]
    return [
        first["name"],
        f"{first['dim']:,}",
        f"{sum(row['right'] for row in rows)}/{len(rows)}" if first["answerable"] else "no answer",
        ", ".join(f"{count} {verdict}" for verdict, count in verdicts),
        *(errors if first["answerable"] else ("", "")),
        f"{np.median([row['seconds'] for row in rows]):.1f}",
    ]


def _write(rows: list[dict[str, Any]], said: str) -> None:
    names = dict.fromkeys(row["name"] for row in rows)
    table = markdown(HEADER, [_cells([row for row in rows if row["name"] == name]) for name in names])
    write_between("verdicts", f"{table}\n\n{said}")


if __name__ == "__main__":
    main()
