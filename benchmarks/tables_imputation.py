"""Filling gaps: `qphi.TableVAE` against mean, nearest neighbours, chained regressions, chained trees and a MIWAE.

Cells are taken away completely at random (20 % and 50 %, the recipe of the MIWAE authors' notebook, seed 1234) or not
at random: four times as often above a column's median as below it. Errors: root mean square of numbers in units of
their column's standard deviation, and the share of categories that are filled wrongly; 90 % intervals are checked for
how many gaps they cover. All peers get numbers standardised and categories as indicators; the largest is the level.
The MIWAE (Mattei & Frellsen 2019) is this script's own, with the notebook's settings, where torch is installed. Breast
cancer is the case whose squared error is to be compared with the authors' 0.287.

Runs on scikit-learn's tables; QPHI_DATA adds every table of its folder tables/ (.csv.gz, uci_regression_*.npz).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from _results import markdown, parser, print_table, read, results_file, save, write_between
from qphi import TableVAE  # imports are not timed, neither these nor the peers'
from qphi.data.codec import TableCodec, fit_codec
from qphi.data.frames import Table, read_table
from qphi.data.schema import NUMERIC
from qphi.data.table_files import read_table_file

MECHANISMS = {"20 %": (0.2, False), "50 %": (0.5, False), "50 %, not at random": (0.5, True)}
QPHI = {"qphi": "at random", "qphi, not at random": "not at random"}
Fill = Callable[[np.ndarray], np.ndarray]


def tables(smoke: bool, most: int) -> dict[str, Table]:
    """Tables by name, of at most `most` rows."""
    cancer = load_breast_cancer().data
    if smoke:
        return {"breast cancer": read_table(cancer[:100, :6])}
    arrays = {"breast cancer": cancer, "wine": load_wine().data, "diabetes": load_diabetes().data}
    folder = Path(os.environ.get("QPHI_DATA", "")) / "tables"
    for path in sorted(folder.glob("uci_regression_*.npz")):
        file = np.load(path)
        name = path.stem.removeprefix("uci_regression_")
        arrays[name] = max((file[k] for k in file.files if file[k].ndim == 2), key=lambda a: a.size).astype(float)
    found = {name: read_table(x) for name, x in arrays.items()}
    for path in sorted(folder.glob("*.csv.gz")):
        if "_test" not in path.name:
            found[path.name.split(".")[0]] = read_table_file(path)
    rng = np.random.default_rng(0)
    return {name: t if t.rows <= most else t.take(np.sort(rng.permutation(t.rows)[:most])) for name, t in found.items()}


class Case:
    """A table as numbers and level numbers, with cells taken away."""

    def __init__(self, table: Table, share: float, tells: bool, seed: int):
        self.table, self.codec = table, fit_codec(table)
        columns = self.codec.schema.modelled
        self.numeric = np.array([c.kind in NUMERIC for c in columns])
        self.truth = plain(self.codec, table)
        self.mean, self.spread = np.nanmean(self.truth, axis=0), np.nanstd(self.truth, axis=0)
        self.gap = (gaps_that_tell if tells else gaps_at_random)(self.truth, share, seed)
        self.holed = dict(table.columns)
        for name, gap in zip(self.codec.names, self.gap.T, strict=True):
            cells = table.columns[name].copy()
            cells[gap] = None if cells.dtype.kind == "O" else np.nan
            self.holed[name] = cells

    def by_peer(self, fill: Fill) -> np.ndarray:
        """The table as numbers, filled by something that knows matrices only."""
        x = np.where(self.gap, np.nan, self.truth)
        parts, back = [], []
        for j, column in enumerate(self.codec.schema.modelled):
            if self.numeric[j]:
                mean, spread = np.nanmean(x[:, j]), np.nanstd(x[:, j]) or 1.0
                parts.append((x[:, j : j + 1] - mean) / spread)
                back.append(lambda z, mean=mean, spread=spread: z[:, 0] * spread + mean)
            else:
                levels = np.arange(len(column.levels))
                parts.append(np.where(np.isnan(x[:, j : j + 1]), np.nan, x[:, j : j + 1] == levels))
                back.append(lambda z: z.argmax(axis=1))
        filled = np.split(fill(np.concatenate(parts, axis=1)), np.cumsum([p.shape[1] for p in parts])[:-1], axis=1)
        return np.stack([f(z) for f, z in zip(back, filled, strict=True)], axis=1)

    def by_qphi(self, seed: int, smoke: bool, missing: str) -> tuple[np.ndarray, float, float]:
        """The same by qphi, seconds of fit and imputation, and the share of numeric gaps that 90 % intervals cover."""
        began = time.perf_counter()
        kinds = {c.name: c.kind for c in self.codec.schema.columns}
        x: Any = Table(self.holed, "dict", self.table.dtypes, self.table.levels)
        model = TableVAE(kinds=kinds, random_state=seed, max_epochs=2 if smoke else None, missing=missing).fit(x)
        filled = plain(self.codec, model.impute_tables(x)[0])
        seconds = time.perf_counter() - began
        ends = model.impute_intervals(x)
        counted = [np.zeros(0, bool)]
        for j, name in enumerate(self.codec.names):
            if name in ends and self.codec.schema[name].kind not in ("ordinal", "date"):
                (low, high), value, gap = ends[name], self.truth[:, j], self.scored[:, j]
                counted.append(((low <= value) & (value <= high))[gap])
        inside = np.concatenate(counted)
        return filled, seconds, float(inside.mean()) if len(inside) else math.nan

    @property
    def scored(self) -> np.ndarray:
        return self.gap & ~np.isnan(self.truth)

    def errors(self, filled: np.ndarray) -> tuple[float, float]:
        """Root mean square error of numbers, share of wrong categories; NaN where there are none."""
        wrong = np.where(
            self.numeric, (filled - self.truth) / np.where(self.spread > 0, self.spread, 1), filled != self.truth
        )
        number = wrong[:, self.numeric][self.scored[:, self.numeric]]
        category = wrong[:, ~self.numeric][self.scored[:, ~self.numeric]]
        rmse = math.sqrt(np.mean(number**2)) if len(number) else math.nan
        return rmse, float(np.mean(category)) if len(category) else math.nan


def plain(codec: TableCodec, table: Table) -> np.ndarray:
    return np.stack([codec.numbers(name, table) for name in codec.names], axis=1)


def gaps_at_random(x: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The MIWAE notebook's recipe: a choice of cells without replacement."""
    gap = np.zeros(x.size, bool)
    gap[np.random.RandomState(1234 + seed).choice(x.size, int(x.size * share), replace=False)] = True
    return gap.reshape(x.shape)


def gaps_that_tell(x: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Four times as often above a column's median as below it, `share` of the cells of an even column."""
    high = x > np.nanmedian(x, axis=0)
    return np.random.default_rng(1234 + seed).random(x.shape) < np.where(high, 1.6 * share, 0.4 * share)


def peers(seed: int, smoke: bool) -> dict[str, Fill]:
    trees = ExtraTreesRegressor(5 if smoke else 50, random_state=seed)
    kept = {"keep_empty_features": True}
    found: dict[str, Fill] = {
        "mean": SimpleImputer(**kept).fit_transform,
        "5-NN": KNNImputer(**kept).fit_transform,
        "iterative (BayesianRidge)": IterativeImputer(random_state=seed, **kept).fit_transform,
        "iterative (extra trees)": IterativeImputer(
            trees, max_iter=2 if smoke else 5, random_state=seed, **kept
        ).fit_transform,
    }
    if importlib.util.find_spec("torch") is not None:
        found["MIWAE (PyTorch)"] = lambda x: miwae(x, seed, 20 if smoke else 15_000)
    return found


def miwae(x: np.ndarray, seed: int, most_steps: int) -> np.ndarray:
    """MIWAE by the notebook's settings: 128 units, 20 particles, batches of 64, 2,000 epochs, Student-t decoder."""
    import torch
    from torch import nn
    from torch.distributions import Independent, Normal, StudentT

    torch.manual_seed(seed)
    seen = torch.tensor(~np.isnan(x), dtype=torch.float32)
    data = torch.tensor(np.nan_to_num(x), dtype=torch.float32)
    rows, p = data.shape
    d, units, particles = max(p // 2, 1), 128, 20

    def network(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, outputs)
        )

    encoder, decoder = network(p, 2 * d), network(d, 3 * p)

    def weights(xs: Any, mask: Any, count: int) -> tuple[Any, Any]:
        out = encoder(xs)
        q = Independent(Normal(out[:, :d], nn.functional.softplus(out[:, d:]) + 1e-6), 1)
        z = q.rsample((count,))
        mean, scale, df = decoder(z).split(p, dim=-1)
        each = StudentT(nn.functional.softplus(df) + 3, mean, nn.functional.softplus(scale) + 0.001).log_prob(xs)
        log_prior = Independent(Normal(torch.zeros(d), torch.ones(d)), 1).log_prob(z)
        return (each * mask).sum(-1) + log_prior - q.log_prob(z), mean

    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    steps = min(2000 * max(rows // 64, 1), most_steps)
    for _ in range(steps):
        rows_now = torch.randint(rows, (min(64, rows),))
        log_w, _ = weights(data[rows_now], seen[rows_now], particles)
        loss = -(torch.logsumexp(log_w, 0) - math.log(particles)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    filled = x.copy()
    with torch.no_grad():
        for i in range(rows):
            log_w, mean = weights(data[i : i + 1], seen[i : i + 1], 1000)
            found = (torch.softmax(log_w, 0)[..., None] * mean).sum(0)[0].numpy()
            filled[i] = np.where(np.isnan(x[i]), found, x[i])
    return filled


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--mechanism", action="append", choices=list(MECHANISMS), help="only this one; can be repeated")
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--rows", type=int, default=1000, help="of a table at most")
    made.add_argument("--table", action="append", help="only this table; can be repeated")
    made.add_argument("--method", action="append", help="only this method; can be repeated")
    made.add_argument("--go-on", action="store_true", help="keep what an interrupted run has saved")
    asked = made.parse_args()
    for category in (ConvergenceWarning, RuntimeWarning):
        warnings.simplefilter("ignore", category)
    every = tables(asked.smoke, asked.rows)
    wanted = {name: x for name, x in every.items() if not asked.table or name in asked.table}
    if not wanted:
        made.error(f"--table {asked.table}: the tables are {', '.join(every)}")
    path = results_file("tables_imputation", asked.smoke)
    rows: list[dict[str, Any]] = read(path)["rows"] if asked.go_on else []
    there = {(r["table"], r["mechanism"], r["seed"], r["method"]) for r in rows}
    for name, table in wanted.items():
        for mechanism in asked.mechanism or list(MECHANISMS):
            for seed in range(asked.seeds):
                case = Case(table, *MECHANISMS[mechanism], seed)
                methods = [*peers(seed, asked.smoke), *(QPHI if MECHANISMS[mechanism][1] else ["qphi"])]
                for method in methods:
                    known = (name, mechanism, seed, method) in there
                    if known or (asked.method and method not in asked.method):
                        continue
                    rows.append({"table": name, "mechanism": mechanism, "seed": seed, "method": method})
                    rows[-1] |= one(case, method, seed, asked.smoke)
                    print(*(f"{k} {v:.3f}" if isinstance(v, float) else v for k, v in rows[-1].items()), flush=True)
                    save(path, {"rows": rows, "most_rows": asked.rows}, quiet=True)
    head, lines = summary(rows)
    print_table(head, lines)
    if not asked.smoke:
        _write_tables(rows, asked)


def one(case: Case, method: str, seed: int, smoke: bool) -> dict[str, float]:
    began, covered = time.perf_counter(), math.nan
    if method in QPHI:
        filled, seconds, covered = case.by_qphi(seed, smoke, QPHI[method])
    else:
        filled = case.by_peer(peers(seed, smoke)[method])
        seconds = time.perf_counter() - began
    rmse, wrong = case.errors(filled)
    return {"rmse": rmse, "wrong": wrong, "covered": covered, "seconds": seconds}


def summary(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Each method's average rank over tables, and its mean errors, for each mechanism."""
    head, lines = ["", "average rank", "RMSE", "categories wrong", "90 % cover", "seconds"], []
    for mechanism in dict.fromkeys(r["mechanism"] for r in rows):
        mine = [r for r in rows if r["mechanism"] == mechanism]
        ranks: dict[str, list[float]] = {}
        for key in dict.fromkeys((r["table"], r["seed"]) for r in mine):
            here = [r for r in mine if (r["table"], r["seed"]) == key]
            for measure in ("rmse", "wrong"):
                values = [r[measure] for r in here]
                if not np.isnan(values).any():
                    for r, rank in zip(here, rankdata(np.round(values, 4)), strict=True):
                        ranks.setdefault(r["method"], []).append(float(rank))
        for method, found in ranks.items():
            own = [r for r in mine if r["method"] == method]
            error = np.std(found) / math.sqrt(len(found))
            means = [np.nanmean([r[k] for r in own]) for k in ("rmse", "wrong", "covered")]
            seconds = f"{np.mean([r['seconds'] for r in own]):.0f}"
            cells = ["" if np.isnan(m) else f"{m:.3f}" for m in means]
            lines.append([f"{mechanism}: {method}", f"{np.mean(found):.2f} ± {error:.2f}", *cells, seconds])
    return head, lines


def _write_tables(rows: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    cancer = [r for r in rows if (r["table"], r["mechanism"]) == ("breast cancer", "50 %")]
    parts = []
    if cancer:
        methods = list(dict.fromkeys(r["method"] for r in cancer))
        line = [f"{np.mean([r['rmse'] ** 2 for r in cancer if r['method'] == m]):.3f}" for m in methods]
        own = [r for r in cancer if r["method"] == "qphi"]
        more = [f"{np.mean([r['covered'] for r in own]):.3f}", f"{np.mean([r['seconds'] for r in own]):.0f} s"]
        header = ["mean squared error", *methods, "90 % intervals cover", "qphi takes"]
        parts.append(markdown(header, [["breast cancer, 50 %", *line, *more]]))
    parts.append(markdown(*summary(rows)))
    count, seeds = (len({r[key] for r in rows}) for key in ("table", "seed"))
    only = "".join(f' --mechanism "{name}"' for name in asked.mechanism or [])
    parts.append(
        f"{count} tables of at most {asked.rows:,} rows, {seeds} seed(s); ranks are of tables and both errors, "
        f"± standard error; seconds are those of the machine as it was: "
        f"`python benchmarks/tables_imputation.py --seeds {seeds}{only}`."
    )
    write_between("tables", "\n\n".join(parts), "imputation")


if __name__ == "__main__":
    main()
