"""Synthetic rows of Adult and German credit: fidelity, use for learning, detectability, privacy and seconds.

Quality is the mean of column shapes and pair trends as SDMetrics defines them. Use: ROC-AUC, on real test rows, of
boosted trees trained on synthetic rows, beside the same trained on real rows. Peers: a Gaussian copula of this script's
own, and CTGAN and TVAE of the package `ctgan` where it is installed (qphi's extra `peers`); all are judged by one
code, as many synthetic rows as training rows. QPHI_DATA names a folder with tables/. CTGAN takes hours on Adult.

    python benchmarks/tables_synthetic.py
    python benchmarks/tables_synthetic.py --tables german --methods CTGAN   # the others' saved figures are kept
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning

import qphi
from _results import markdown, need_data, parser, print_table, read, results_file, save, write_between
from qphi.data.codec import fit_codec
from qphi.data.frames import Table
from qphi.data.table_files import read_table_file
from qphi.tables.synthetic import fidelity, usefulness

TABLES, ORDER = ("adult", "german"), ("qphi", "Gaussian copula", "TVAE", "CTGAN")
GAP = "(gap)"  # a level of its own to methods that know no gaps
Method = Callable[[Table, int, int, bool], Table]  # training rows, how many, seed, smoke -> synthetic rows


def split(name: str, folder: Path) -> tuple[Table, Table, str]:
    """Training and test rows, and the column to be predicted."""
    if name == "adult":
        train, test = (read_table_file(folder / f"adult_{part}.csv.gz") for part in ("train", "test"))
        target = list(test.columns)[-1]
        test.columns[target][:] = [str(v).rstrip(".") for v in test.columns[target]]
        return train, test, target
    whole = read_table_file(folder / "german_credit.csv.gz")
    order = np.random.default_rng(0).permutation(whole.rows)
    return whole.take(order[:700]), whole.take(order[700:]), list(whole.columns)[-1]


def by_qphi(train: Table, count: int, seed: int, smoke: bool) -> Table:
    model = qphi.TableVAE(random_state=seed, max_epochs=1 if smoke else None, max_time=35).fit(train)
    return model.sample_table(count, random_state=seed)


def by_copula(train: Table, count: int, seed: int, smoke: bool) -> Table:
    """Normal scores of ranks, ties broken at random, and their correlations; back by the columns' own quantiles."""
    rng = np.random.default_rng(seed)
    codes, values = [], []
    for cells in train.columns.values():
        labels = cells if cells.dtype.kind == "f" else np.array([GAP if v is None else v for v in cells], object)
        different, code = np.unique(labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True)
        codes.append(code)
        values.append(different)
    ranks = [rankdata(code + rng.random(len(code))) / (len(code) + 1) for code in codes]  # codes are whole numbers
    drawn = norm.cdf(rng.multivariate_normal(np.zeros(len(codes)), np.corrcoef(norm.ppf(ranks)), size=count))
    columns = {}
    for j, (name, cells) in enumerate(train.columns.items()):
        made = values[j][np.sort(codes[j])[(drawn[:, j] * len(codes[j])).astype(int)]]
        columns[name] = made.astype(float) if cells.dtype.kind == "f" else labels_of(made)
    return dataclasses.replace(train, columns=columns, index=None)


def by_ctgan(kind: str) -> Method:
    def method(train: Table, count: int, seed: int, smoke: bool) -> Table:
        import ctgan
        import pandas
        import torch

        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the package draws from it
        filled = {
            name: cells if cells.dtype.kind == "f" else np.array([GAP if v is None else v for v in cells], object)
            for name, cells in train.columns.items()
        }
        discrete = [c.name for c in fit_codec(train).schema.columns if c.levels]
        model = getattr(ctgan, kind)(epochs=1 if smoke else 300)
        model.fit(pandas.DataFrame(filled), discrete)
        made = model.sample(count)
        columns = {
            name: made[name].to_numpy(float) if cells.dtype.kind == "f" else labels_of(made[name].to_numpy(object))
            for name, cells in train.columns.items()
        }
        return dataclasses.replace(train, columns=columns, index=None)

    return method


def labels_of(cells: np.ndarray) -> np.ndarray:
    found = np.empty(len(cells), object)
    found[:] = [None if v == GAP else str(v) for v in cells]
    return found


def methods() -> dict[str, Method]:
    found: dict[str, Method] = {"qphi": by_qphi, "Gaussian copula": by_copula}
    if importlib.util.find_spec("ctgan") is not None:
        found |= {kind: by_ctgan(kind) for kind in ("TVAE", "CTGAN")}
    return found


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--methods", nargs="+", metavar="NAME", help=f"of {', '.join(methods())}; all unless given")
    made.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    asked = made.parse_args()
    need_data()
    warnings.simplefilter("ignore", ConvergenceWarning)
    wanted = {name: method for name, method in methods().items() if not asked.methods or name in asked.methods}
    if not wanted:
        made.error(f"--methods {asked.methods}: the methods here are {', '.join(methods())}")
    folder = Path(os.environ["QPHI_DATA"]) / "tables"
    path = results_file("tables_synthetic", asked.smoke)
    rows = read(path)["rows"] if path.is_file() and not asked.smoke else []
    for table in ("german",) if asked.smoke else asked.tables:
        train, test, target = split(table, folder)
        codec = fit_codec(train)
        for seed in range(asked.seeds):
            for name, method in wanted.items():
                rows = [r for r in rows if (r["table"], r["method"], r["seed"]) != (table, name, seed)]
                began = time.perf_counter()
                synthetic = method(train, train.rows, seed, asked.smoke)
                seconds = time.perf_counter() - began
                found = fidelity(codec, train, synthetic, test, seed)
                use = usefulness(codec, train, synthetic, test, target, seed)
                print(f"{table}, {name}, seed {seed}: {found}; {use}; {seconds:.0f} s", flush=True)
                rows.append(
                    {
                        "table": table,
                        "method": name,
                        "seed": seed,
                        "quality": found.quality,
                        "columns": found.column_mean,
                        "pairs": found.pair_mean,
                        "detection": found.detection,
                        "nearest_ratio": found.nearest_ratio,
                        "membership": found.membership,
                        "auc": {"synthetic": use.synthetic, "real": use.real},
                        "seconds": seconds,
                    }
                )
                save(path, {"rows": rows}, quiet=True)
    report(rows, page=not asked.smoke)


def report(rows: list[dict], page: bool) -> None:
    head = ("table", "method", "quality", "AUC synthetic", "AUC real", "detection", "nearest", "membership", "seconds")
    rows, lines = sorted(rows, key=lambda r: (r["table"], ORDER.index(r["method"]))), []
    for table, name in dict.fromkeys((r["table"], r["method"]) for r in rows):
        mine = [r for r in rows if (r["table"], r["method"]) == (table, name)]
        figures = [
            [r["quality"], r["auc"]["synthetic"], r["auc"]["real"], r["detection"], r["nearest_ratio"], r["membership"]]
            for r in mine
        ]
        seconds = np.mean([r["seconds"] for r in mine])
        lines.append([table, name, *(f"{v:.3f}" for v in np.mean(figures, axis=0)), f"{seconds:.0f}"])
    print_table(head, lines)
    if page:
        note = "As many synthetic rows as training rows; AUC of boosted trees on real test rows; seconds: fit, draws"
        text = f"{markdown(head, lines)}\n\n{note}: `python benchmarks/tables_synthetic.py`."
        write_between("tables", text, "synthetic")


if __name__ == "__main__":
    main()
