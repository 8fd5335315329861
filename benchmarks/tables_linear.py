"""Beside the linear methods: reconstruction against PCA, and held-out density of small tables against a Gaussian.

Reconstruction: R^2 of standardised numeric columns, on rows that were held out, of `VAE(latent_dim=k)` and of PCA with
k components, for k = 2 and 5 (fewer than there are columns): at the code that is nearest to the row, as PCA's
projection is (`reconstruct(x, nearest=True)`), and at the posterior mean. Density: mean log p(x) of 50 held-out rows,
nats in the units of the data, of a `TableVAE` of 100 rows and of a full-covariance Gaussian fitted to the same rows.
For it all columns are taken as real, and rounded values are spread over the interval that they stand for, so that both
are densities. scikit-learn's tables; QPHI_DATA adds more.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

import qphi
from _results import markdown, parser, print_table, read, results_file, save, write_between
from qphi.data.frames import read_table
from qphi.data.schema import find_schema
from qphi.data.table_files import read_table_file

SMALL, KEPT = 150, 100
RECONSTRUCTION, DENSITY = "reconstruction", "density"
DENSITY_SEEDS = 4  # for each of reconstruction: 50 rows are few, and such a fit takes two seconds
NUMBERS = ("real", "positive", "bounded", "count")


def tables(smoke: bool) -> dict[str, np.ndarray]:
    """Numeric columns without gaps."""
    loaders = {"iris": load_iris, "wine": load_wine, "diabetes": load_diabetes, "breast cancer": load_breast_cancer}
    found = {name: np.asarray(loader().data, float) for name, loader in loaders.items()}
    if smoke:
        return {"iris": found["iris"]}
    folder = Path(os.environ.get("QPHI_DATA", "")) / "tables"
    for path in sorted(folder.glob("uci_regression_*.npz")):
        file = np.load(path)
        whole = max((file[k] for k in file.files if file[k].ndim == 2), key=lambda a: a.size)
        found[path.stem.removeprefix("uci_regression_")] = whole.astype(float)
    for path in sorted(folder.glob("*.csv.gz")):
        if "_test" not in path.name:
            table = read_table_file(path)
            names = [c.name for c in find_schema(table).columns if c.kind in NUMBERS]
            x = np.stack([table.columns[name].astype(float) for name in names], axis=1)
            x = x[~np.isnan(x).any(axis=1)][:5000]
            if x.shape[1] >= 3 and len(x) >= SMALL:
                found[path.name.split(".")[0]] = x
    return {name: x[:, x.std(axis=0) > 0] for name, x in found.items()}


def reconstruction(x: np.ndarray, k: int, seed: int, smoke: bool) -> dict[str, float]:
    """R^2 on a fifth of the rows, which neither has seen."""
    order = np.random.default_rng(seed).permutation(len(x))
    new, old = x[order[: len(x) // 5]], x[order[len(x) // 5 :]]
    mean, spread = old.mean(axis=0), old.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    pca = PCA(k).fit((old - mean) / spread)
    z = (new - mean) / spread
    vae = qphi.VAE(latent_dim=k, random_state=seed, max_epochs=2 if smoke else None).fit((old - mean) / spread)
    made = {
        "PCA": pca.inverse_transform(pca.transform(z)),
        "qphi": vae.reconstruct(z, nearest=True),
        "posterior mean": vae.reconstruct(z),
    }
    total = np.sum((z - z.mean(axis=0)) ** 2)
    return {method: float(1 - np.sum((again - z) ** 2) / total) for method, again in made.items()}


def density(x: np.ndarray, seed: int, smoke: bool) -> dict[str, float]:
    """Mean log density of held-out rows of a small table."""
    order = np.random.default_rng(seed).permutation(len(x))[:SMALL]
    x = spread_out(x, np.random.default_rng(seed))
    old, new = x[order[:KEPT]], x[order[KEPT:]]
    old, new = (part[:, old.std(axis=0) > 0] for part in (old, new))
    gaussian = multivariate_normal(old.mean(axis=0), np.cov(old.T), allow_singular=True)
    kinds = dict.fromkeys(read_table(old).columns, "real")
    model = qphi.TableVAE(kinds=kinds, random_state=seed, max_epochs=2 if smoke else None).fit(old)
    return {"Gaussian": float(np.mean(gaussian.logpdf(new))), "qphi": float(model.score(new))}


def spread_out(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Columns with ties, uniform over the smallest step between two of their values."""
    steps = [np.min(np.diff(np.unique(column))) if len(np.unique(column)) < len(x) else 0.0 for column in x.T]
    return x + rng.uniform(-0.5, 0.5, x.shape) * np.array(steps)


def _is_of(row: dict, how: str) -> bool:
    return row["what"].startswith("log p") == (how == DENSITY)


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--table", action="append", help="only these; the others' saved figures are kept")
    made.add_argument("--only", choices=(RECONSTRUCTION, DENSITY), help="the other's saved figures are kept")
    asked = made.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    asked.seeds = 1 if asked.smoke else asked.seeds
    path = results_file("tables_linear", asked.smoke)
    rows = read(path)["rows"] if (asked.only or asked.table) and path.is_file() and not asked.smoke else []
    rows = [
        r for r in rows if (asked.only and not _is_of(r, asked.only)) or (asked.table and r["table"] not in asked.table)
    ]
    for name, x in tables(asked.smoke).items():
        if asked.table and name not in asked.table:
            continue
        for seed in range(asked.seeds):
            for k in (2, 5) if asked.only != DENSITY else ():
                if k < x.shape[1]:
                    rows.append({"what": f"R^2, {k} latents", "table": name, "seed": seed})
                    rows[-1] |= reconstruction(x, k, seed, asked.smoke)
                    print(rows[-1], flush=True)
        for seed in range(DENSITY_SEEDS * asked.seeds) if asked.only != RECONSTRUCTION else ():
            rows.append({"what": "log p of 50 rows", "table": name, "seed": seed} | density(x, seed, asked.smoke))
            print(rows[-1], flush=True)
        save(path, {"rows": rows}, quiet=True)
    lines = []
    for what, table in dict.fromkeys((r["what"], r["table"]) for r in rows):
        mine = [r for r in rows if (r["what"], r["table"]) == (what, table)]
        linear = np.array([r.get("PCA", r.get("Gaussian")) for r in mine])
        own = np.array([r["qphi"] for r in mine])
        middle = [r["posterior mean"] for r in mine if "posterior mean" in r]
        by_mean = f"{np.mean(middle):.3f}" if middle else ""
        gain = own - linear
        difference = f"{gain.mean():+.3f}"
        if len(gain) > 1 and np.isfinite(gain).all():
            difference += f" ± {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}"
        lines.append([f"{what}: {table}", f"{linear.mean():.3f}", f"{own.mean():.3f}", difference, by_mean])
    lines.sort()
    header = ["", "PCA, Gaussian", "qphi", "difference", "qphi, posterior mean"]
    print_table(header, lines)
    if not asked.smoke:
        kinds = (RECONSTRUCTION, DENSITY)
        splits = {how: 1 + max((r["seed"] for r in rows if _is_of(r, how)), default=-1) for how in kinds}
        note = (
            f"Means over {splits[RECONSTRUCTION]} splits, of densities {splits[DENSITY]}, ± standard error; rows that "
            "neither has seen: `python benchmarks/tables_linear.py`."
        )
        write_between("tables", f"{markdown(header, lines)}\n\n{note}", "linear")


if __name__ == "__main__":
    main()
