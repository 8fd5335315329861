"""Synthetic rows of Adult and German credit: fidelity, use for learning, detectability, privacy and seconds.

Quality is the mean of column shapes and pair trends as SDMetrics defines them. Use: ROC-AUC, on real test rows, of
boosted trees trained on synthetic rows, beside the same trained on real rows. QPHI_DATA names a folder with tables/.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

import qphi
from _results import need_data, parser, results_file, save
from qphi.data.frames import Table
from qphi.data.table_files import read_table_file
from qphi.tables.synthetic import fidelity


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


def learned(model: qphi.TableVAE, train: Table, test: Table, target: str) -> float:
    """ROC-AUC on the test rows of boosted trees trained on the training rows."""
    column = model.codec_.names.index(target)
    (a, b) = (np.asarray(model.codec_.transform(t).x[..., 2], float) for t in (train, test))
    rest = np.delete(np.arange(a.shape[1]), column)
    trees = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(a[:, rest], a[:, column])
    return float(roc_auc_score(b[:, column], trees.predict_proba(b[:, rest])[:, 1]))


def main() -> None:
    asked = parser(__doc__ or "").parse_args()
    need_data()
    warnings.simplefilter("ignore", ConvergenceWarning)
    folder = Path(os.environ["QPHI_DATA"]) / "tables"
    rows = []
    for name in ("german",) if asked.smoke else ("adult", "german"):
        train, test, target = split(name, folder)
        began = time.perf_counter()
        model = qphi.TableVAE(random_state=0, max_epochs=1 if asked.smoke else None, max_time=50).fit(train)
        fitted = time.perf_counter() - began
        made = model.sample_table(train.rows, random_state=0)
        seconds = time.perf_counter() - began
        found = fidelity(model.codec_, train, made, test)
        use = {"real": learned(model, train, test, target), "synthetic": learned(model, made, test, target)}
        print(f"{name}: {found}; AUC trained on synthetic {use['synthetic']:.3f}, on real {use['real']:.3f}; ", end="")
        print(f"fit {fitted:.0f} s ({model.status_.name}), with samples {seconds:.0f} s", flush=True)
        rows.append(
            {
                "table": name,
                "quality": found.quality,
                "columns": found.column_mean,
                "pairs": found.pair_mean,
                "detection": found.detection,
                "nearest_ratio": found.nearest_ratio,
                "membership": found.membership,
                "auc": use,
                "seconds": seconds,
            }
        )
    save(results_file("tables_synthetic", asked.smoke), {"rows": rows})


if __name__ == "__main__":
    main()
