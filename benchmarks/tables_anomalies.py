"""Odd rows: ROC-AUC of `TableVAE.anomaly_score` on the ADBench tables, against isolation forest, Mahalanobis and 5-NN.

Where PyOD is installed (qphi's extra `peers`) its ECOD and its autoencoder, `pyod.models.vae.VAE`, too. Fit and scored
on all rows, as ADBench does. QPHI_DATA names a folder with tables/adbench/*.npz.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import qphi
from _results import markdown, need_data, parser, results_file, save, write_between


def scores(x: np.ndarray, seed: int, seconds: float, smoke: bool) -> dict[str, np.ndarray]:
    """Every method's oddness of every row, higher is odder."""
    varied = x[:, x.std(axis=0) > 0]
    z = (varied - varied.mean(axis=0)) / varied.std(axis=0)
    precision = np.linalg.inv(np.cov(z.T) + 1e-6 * np.eye(z.shape[1]))
    model = qphi.TableVAE(random_state=seed, max_epochs=1 if smoke else None, max_time=seconds).fit(x)
    more = {} if importlib.util.find_spec("pyod") is None else by_pyod(z, seed, smoke)
    return more | {
        "isolation forest": -IsolationForest(random_state=seed).fit(z).score_samples(z),
        "Mahalanobis": np.einsum("ni,ij,nj->n", z, precision, z),
        "5-NN": NearestNeighbors(n_neighbors=6).fit(z).kneighbors(z)[0][:, 5],
        "qphi": model.anomaly_score(x),
    }


def by_pyod(z: np.ndarray, seed: int, smoke: bool) -> dict[str, np.ndarray]:
    import torch
    from pyod.models.ecod import ECOD
    from pyod.models.vae import VAE

    torch.manual_seed(seed)
    network = VAE(epoch_num=1 if smoke else 30, random_state=seed, verbose=0)
    return {"ECOD": ECOD().fit(z).decision_scores_, "VAE (PyOD)": network.fit(z).decision_scores_}


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--rows", type=int, default=10_000, help="of a table at most")
    made.add_argument("--max-time", type=float, default=30.0, help="seconds of training for each table at most")
    asked = made.parse_args()
    need_data()
    warnings.simplefilter("ignore", ConvergenceWarning)
    files = sorted((Path(os.environ["QPHI_DATA"]) / "tables" / "adbench").glob("*.npz"))
    rows = []
    for path in files[:1] if asked.smoke else files:
        file = np.load(path)
        keep = np.sort(np.random.default_rng(0).permutation(len(file["X"]))[: asked.rows])
        x, odd = file["X"][keep].astype(float), file["y"][keep]
        for seed in range(asked.seeds):
            found = {m: float(roc_auc_score(odd, s)) for m, s in scores(x, seed, asked.max_time, asked.smoke).items()}
            print(f"{path.stem}, seed {seed}: " + "  ".join(f"{m} {v:.3f}" for m, v in found.items()), flush=True)
            rows.append({"table": path.stem, "seed": seed, "auc": found})
    print("mean: " + "  ".join(f"{m} {v}" for m, v in overall(rows).items()))
    save(results_file("tables_anomalies", asked.smoke), {"max_time": asked.max_time, "rows": rows})
    if not asked.smoke:
        _write_table(rows, asked)


def overall(rows: list[dict]) -> dict[str, str]:
    """Each method's mean over tables, with its standard error over seeds where there are several."""
    found = {}
    for method in rows[0]["auc"]:
        seeds = [np.mean([r["auc"][method] for r in rows if r["seed"] == s]) for s in {r["seed"] for r in rows}]
        error = f" ± {np.std(seeds, ddof=1) / len(seeds) ** 0.5:.3f}" if len(seeds) > 1 else ""
        found[method] = f"{np.mean(seeds):.3f}{error}"
    return found


def _write_table(rows: list[dict], asked: argparse.Namespace) -> None:
    means = overall(rows)
    cells = []
    for name in dict.fromkeys(r["table"] for r in rows):
        mine = [r["auc"] for r in rows if r["table"] == name]
        cells.append([name, *(f"{np.mean([auc[m] for auc in mine]):.3f}" for m in means)])
    table = markdown(["ROC-AUC", *means], [*cells, ["**mean**", *(f"**{v}**" for v in means.values())]])
    note = (
        f"Means over {asked.seeds} seed(s), ± standard error over them; at most {asked.rows:,} rows and "
        f"{asked.max_time:.0f} s of training for each table: `python benchmarks/tables_anomalies.py "
        f"--seeds {asked.seeds} --max-time {asked.max_time:g} --rows {asked.rows}`."
    )
    write_between("tables", f"{table}\n\n{note}", "anomalies")


if __name__ == "__main__":
    main()
