"""Filling gaps: `qphi.TableVAE` against mean, nearest neighbours, chained regressions and chained trees.

Cells are taken away completely at random; errors are root mean squares in units of each column's standard deviation.
Breast cancer with half of the cells missing, the mask recipe of the MIWAE authors' notebook (seed 1234), comes first;
its squared error is the one to compare with their 0.287. 90 % intervals are checked for how many gaps they cover.
Needs scikit-learn only; QPHI_DATA adds further tables.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from _results import markdown, parser, results_file, save, write_between


def tables(smoke: bool) -> dict[str, np.ndarray]:
    """Numeric tables without gaps, standardised."""
    found = {"breast cancer": load_breast_cancer().data}
    if smoke:
        return {"breast cancer": standardised(found["breast cancer"][:100, :6])}
    found |= {"wine": load_wine().data, "diabetes": load_diabetes().data}
    folder = Path(os.environ.get("QPHI_DATA", "")) / "tables"
    for name in ("concrete", "energy"):
        path = folder / f"uci_regression_{name}.npz"
        if path.is_file():
            file = np.load(path)
            found[name] = next(file[k] for k in file.files if file[k].ndim == 2 and file[k].shape[1] == 9).astype(float)
    path = folder / "banknote.csv.gz"
    if path.is_file():
        found["banknote"] = np.loadtxt(path, delimiter=",")[:, :4]
    return {name: standardised(x) for name, x in found.items()}


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def gappy(x: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The MIWAE notebook's recipe: a choice of cells without replacement."""
    flat = x.flatten()
    flat[np.random.RandomState(seed).choice(flat.size, int(flat.size * share), replace=False)] = np.nan
    return flat.reshape(x.shape)


def qphi_fill(x: np.ndarray, seed: int, smoke: bool) -> tuple[np.ndarray, np.ndarray]:
    import qphi

    model = qphi.TableVAE(random_state=seed, max_epochs=2 if smoke else None).fit(x)
    ends = list(model.impute_intervals(x).values())
    return model.impute(x), np.stack([np.stack(pair, axis=1) for pair in ends], axis=1)


def peers(seed: int, smoke: bool) -> dict[str, object]:
    trees = ExtraTreesRegressor(5 if smoke else 50, random_state=seed)
    return {
        "mean": SimpleImputer(),
        "5-NN": KNNImputer(),
        "iterative (BayesianRidge)": IterativeImputer(random_state=seed),
        "iterative (extra trees)": IterativeImputer(trees, max_iter=2 if smoke else 5, random_state=seed),
    }


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--share", type=float, default=0.5, help="of the cells that are taken away")
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--table", action="append", help="only this table; can be repeated")
    asked = made.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    wanted = {name: x for name, x in tables(asked.smoke).items() if not asked.table or name in asked.table}
    if not wanted:
        made.error(f"--table {asked.table}: the tables are {', '.join(tables(asked.smoke))}")
    for name, x in wanted.items():
        for seed in range(asked.seeds):
            holed = gappy(x, asked.share, 1234 + seed)
            gap = np.isnan(holed)
            errors, seconds, covered = {}, {}, float("nan")
            for method, imputer in {**peers(seed, asked.smoke), "qphi": None}.items():
                began = time.perf_counter()
                if imputer is None:
                    filled, ends = qphi_fill(holed, seed, asked.smoke)
                    inside = (ends[..., 0] <= x) & (x <= ends[..., 1])
                    covered = float(inside[gap].mean()) if ends.shape[:2] == x.shape else float("nan")
                else:
                    filled = imputer.fit_transform(holed)  # type: ignore[attr-defined]
                seconds[method] = time.perf_counter() - began
                errors[method] = float(np.sqrt(np.mean((filled - x)[gap] ** 2)))
            shown = "  ".join(f"{m} {e:.3f} ({seconds[m]:.0f} s)" for m, e in errors.items())
            print(f"{name}, seed {seed}: {shown}  covered {covered:.3f}", flush=True)
            rows.append({"table": name, "seed": seed, "rmse": errors, "seconds": seconds, "covered": covered})
    ranks = np.mean([np.argsort(np.argsort(list(r["rmse"].values()))) + 1 for r in rows], axis=0)
    print("average rank: " + "  ".join(f"{m} {r:.2f}" for m, r in zip(rows[0]["rmse"], ranks, strict=True)))
    save(results_file("tables_imputation", asked.smoke), {"share": asked.share, "rows": rows})
    if not asked.smoke:
        _write_table(rows, asked)


def _write_table(rows: list[dict], asked: argparse.Namespace) -> None:
    cells = []
    for name in dict.fromkeys(r["table"] for r in rows):
        mine = [r for r in rows if r["table"] == name]
        errors = [f"{np.mean([r['rmse'][m] ** 2 for r in mine]):.3f}" for m in rows[0]["rmse"]]
        seconds = f"{np.mean([r['seconds']['qphi'] for r in mine]):.0f} s"
        cells.append([name, *errors, f"{np.mean([r['covered'] for r in mine]):.3f}", seconds])
    table = markdown(["mean squared error", *rows[0]["rmse"], "90 % intervals cover", "qphi takes"], cells)
    note = (
        f"{100 * asked.share:.0f} % of the cells missing completely at random, {asked.seeds} seed(s); seconds are "
        "those of the machine as it was, compilation and intervals included: `python benchmarks/tables_imputation.py`."
    )
    write_between("tables", f"{table}\n\n{note}", "imputation")


if __name__ == "__main__":
    main()
