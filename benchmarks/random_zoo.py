"""Silent failures and false alarms of `qphi.fit` over log densities drawn at random, defaults only.

Of each kind (tests/drawn_zoo.py), as many as asked for, each fitted once: turned products of eight shapes, mixtures
of Gaussians of any covariance, narrow modes aside, multivariate Student's t of 2.1 to 6 degrees of freedom, bent
Gaussians, positive variables with light and heavy tails; 1 to 12 dimensions. Right, silent failure and false alarm as
in zoo.py. Writes benchmarks/results/random_zoo.json and its table in docs/verdicts.md.

    python benchmarks/random_zoo.py
    python benchmarks/random_zoo.py --count 10 --kinds student --first 100
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from _results import ROOT, markdown, parser, print_table, results_file, save, write_between
from _verdicts import summary
from zoo import fit_known

sys.path.insert(0, str(ROOT / "tests"))
NAME = "random_zoo"
HEADER = ("kind", "right", "verdicts", "mean error", "sd error", "seconds", "silent", "false alarms")


def main() -> None:
    from drawn_zoo import KINDS, drawn

    options = parser(__doc__ or "")
    options.add_argument("--count", type=int, default=40, help="of each kind")
    options.add_argument("--first", type=int, default=0, help="seed")
    options.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    chosen = options.parse_args()
    if chosen.smoke:
        chosen.count, chosen.kinds = 1, ["student"]
    rows: list[dict[str, Any]] = []
    for kind in chosen.kinds:
        found = []
        for seed in range(chosen.first, chosen.first + chosen.count):
            row = fit_known(kind, drawn(kind, seed), seed, answerable=True)
            found.append(row)
            wrong = row["usable"] != row["right"]
            print(f"{kind} {seed}: {_line(row)}" + (f"  {row['reasons']}" if wrong else ""), flush=True)
        rows += found
        print_table(HEADER, [_cells(found)])
        save(results_file(NAME, chosen.smoke), {"rows": rows})
    said = summary(rows)
    print(said)
    if not chosen.smoke and chosen.kinds == list(KINDS) and chosen.first == 0:
        table = markdown(HEADER, [_cells([row for row in rows if row["name"] == kind]) for kind in KINDS])
        write_between("verdicts", f"{table}\n\n{said}", NAME)


def _line(row: dict[str, Any]) -> str:
    errors = f"mean {row['mean_error']:.3f}, sd {row['sd_error']:.3f}"
    said = "SILENT " if row["usable"] and not row["right"] else "false alarm " if row["right"] != row["usable"] else ""
    return f"{row['dim']} dimensions, {said}{row['verdict']}, {errors}, {row['seconds']:.1f} s"


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    import numpy as np

    verdicts = Counter(row["verdict"] for row in rows).most_common()
    errors = [f"{np.median([row[name] for row in rows]):.3f}" for name in ("mean_error", "sd_error")]
    return [
        rows[0]["name"],
        f"{sum(row['right'] for row in rows)}/{len(rows)}",
        ", ".join(f"{count} {verdict}" for verdict, count in verdicts),
        *errors,
        f"{np.median([row['seconds'] for row in rows]):.1f}",
        str(sum(row["usable"] and not row["right"] for row in rows)),
        str(sum(row["right"] and not row["usable"] for row in rows)),
    ]


if __name__ == "__main__":
    main()
