"""How good synthetic rows are: like the real ones, column by column and pair by pair, useful, and nobody's copy."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors

from qphi.data.codec import TableCodec
from qphi.data.frames import Table
from qphi.data.schema import NUMERIC
from qphi.errors import InputError

__all__ = ["Fidelity", "Use", "fidelity", "usefulness"]

BINS = 10  # of a number in a pair with a category, as SDMetrics has it
MOST = 5000  # rows compared


@dataclasses.dataclass(frozen=True)
class Use:
    """What boosted trees learn of one column from synthetic and from real rows, judged on real rows new to both.

    measure: 'ROC-AUC' for categories (one against the rest, weighted by frequency, where there are more than two),
    'R^2' for numbers. Synthetic rows are as good as real ones where the two figures are equal.
    """

    target: str
    measure: str
    synthetic: float
    real: float

    def __str__(self) -> str:
        figures = f"{self.synthetic:.3f} trained on synthetic rows, {self.real:.3f} on real ones"
        return f"{self.target}: {self.measure} {figures}"


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How synthetic rows compare with real ones. Of columns, pairs and quality, 1 is perfect, 0 as wrong as can be.

    columns: one minus the Kolmogorov-Smirnov distance of numbers, or the total variation distance of categories. pairs:
    one minus half the difference of correlations, or the total variation distance of contingency tables. quality: the
    mean of the two means, SDMetrics' quality score. detection: ROC-AUC of boosted trees that tell real from synthetic
    rows, cross-validated; 0.5 is perfect, below it rows are copies. nearest_ratio: median distance of synthetic rows to
    their nearest real training row over that of fresh real rows, near 1 is good, far below 1 copies. membership:
    ROC-AUC of telling training rows from fresh ones by their distance to the synthetic rows; 0.5 leaks nothing. Both
    are NaN without fresh rows.
    use: what can be learned from them, where a column to learn was named.
    """

    columns: dict[str, float]
    pairs: dict[tuple[str, str], float]
    detection: float
    nearest_ratio: float
    membership: float
    use: Use | None = None

    @property
    def column_mean(self) -> float:
        """Mean over columns."""
        return float(np.mean(list(self.columns.values())))

    @property
    def pair_mean(self) -> float:
        """Mean over pairs; of the columns where there is only one."""
        return float(np.mean(list(self.pairs.values()))) if self.pairs else self.column_mean

    @property
    def quality(self) -> float:
        """Mean of `column_mean` and `pair_mean`."""
        return (self.column_mean + self.pair_mean) / 2

    def as_dict(self) -> dict[str, Any]:
        """All figures by name, of pairs as "a, b", for JSON; None for what could not be told."""
        found: dict[str, Any] = {"quality": self.quality, "column_mean": self.column_mean, "pair_mean": self.pair_mean}
        for name in ("detection", "nearest_ratio", "membership"):
            value = getattr(self, name)
            found[name] = None if np.isnan(value) else float(value)
        pairs = {f"{a}, {b}": value for (a, b), value in self.pairs.items()}
        return found | {"use": self.use and dataclasses.asdict(self.use), "columns": dict(self.columns), "pairs": pairs}

    def __str__(self) -> str:
        return (
            f"quality {self.quality:.3f} (columns {self.column_mean:.3f}, pairs {self.pair_mean:.3f}), "
            f"detection AUC {self.detection:.3f}, nearest ratio {self.nearest_ratio:.2f}, "
            f"membership AUC {self.membership:.3f}" + (f"; {self.use}" if self.use is not None else "")
        )


def fidelity(codec: TableCodec, real: Table, synthetic: Table, fresh: Table | None = None, seed: int = 0) -> Fidelity:
    """Compare synthetic rows with the real rows of the fit, and with `fresh` real rows that the fit has not seen.

    Synthetic columns without gaps get gaps where randomly chosen real rows have theirs.

    Sources: SDMetrics' definitions of KSComplement, TVComplement, CorrelationSimilarity and ContingencySimilarity.
    """
    rng = np.random.default_rng(seed)
    a, b = (np.stack([codec.numbers(name, table) for name in codec.names], axis=1) for table in (real, synthetic))
    # a model makes whole rows: columns without any gap get those of real rows, or gaps would be all that is judged
    whole = ~np.isnan(b).any(axis=0)
    b[np.isnan(a)[rng.integers(len(a), size=len(b))] & whole] = np.nan
    numeric = [c.kind in NUMERIC for c in codec.schema.modelled]
    names = codec.names
    columns = {
        name: _ks(a[:, j], b[:, j]) if numeric[j] else 1 - _variation(a[:, j], b[:, j]) for j, name in enumerate(names)
    }
    binned = [
        (_bin(a[:, j], a[:, j]), _bin(b[:, j], a[:, j])) if numeric[j] else (a[:, j], b[:, j])
        for j in range(len(names))
    ]
    pairs = {}
    for i, j in itertools.combinations(range(len(names)), 2):
        if numeric[i] and numeric[j]:
            value = 1 - abs(_correlation(a[:, i], a[:, j]) - _correlation(b[:, i], b[:, j])) / 2
        else:
            value = 1 - _variation(*(_join(binned[i][s], binned[j][s]) for s in (0, 1)))
        pairs[names[i], names[j]] = float(value)
    ratio, membership = (np.nan, np.nan) if fresh is None else _privacy(codec, real, synthetic, fresh, rng)
    return Fidelity(columns, pairs, _detection(a, b, numeric, seed), ratio, membership)


def usefulness(codec: TableCodec, real: Table, synthetic: Table, fresh: Table, target: str, seed: int = 0) -> Use:
    """Train on synthetic, test on real: boosted trees on normal scores and levels, gaps left as gaps.

    Rows without the target are left out. Raises InputError for a target that the model does not have, or of which the
    training or the fresh rows have one value only.
    """
    if target not in codec.names:
        raise InputError(
            f"target={target!r} is no column of the model. Use one of {', '.join(map(repr, codec.names))}."
        )
    place = codec.names.index(target)
    category = place >= len(codec.scores)
    rows = [np.asarray(codec.transform(table).x[..., 2], float) for table in (real, synthetic, fresh)]
    rows = [x[~np.isnan(x[:, place])] for x in rows]
    inputs, answers = [_filled(np.delete(x, place, axis=1)) for x in rows], [x[:, place] for x in rows]
    for words, values in zip(("training", "synthetic", "fresh"), answers, strict=True):
        if len(np.unique(values)) < 2:
            raise InputError(
                f"target={target!r} has fewer than two values in the {words} rows: nothing can be learned of it, or "
                "judged. Give more rows or another target."
            )
    figures = []
    for k in (1, 0):
        if category:
            trees = HistGradientBoostingClassifier(max_iter=100, random_state=seed).fit(inputs[k], answers[k])
            known = np.isin(answers[2], trees.classes_)
            found = np.asarray(trees.predict_proba(inputs[2][known]))
            figures.append(_auc(answers[2][known], found, trees.classes_))
        else:
            trees = HistGradientBoostingRegressor(max_iter=100, random_state=seed).fit(inputs[k], answers[k])
            figures.append(float(r2_score(answers[2], trees.predict(inputs[2]))))
    return Use(target, "ROC-AUC" if category else "R^2", *figures)


def _filled(x: np.ndarray) -> np.ndarray:
    """Columns of gaps alone, which the trees refuse, are constant instead: nothing is learned of them either way."""
    return np.where(np.isnan(x).all(axis=0), 0.0, x)


def _auc(answers: np.ndarray, found: np.ndarray, levels: np.ndarray) -> float:
    """Of two levels the area under the curve; of more, the mean of each against the rest, weighted by frequency."""
    if len(levels) == 2:
        return float(roc_auc_score(answers, found[:, 1]))
    shares, areas = [], []
    for k, level in enumerate(levels):
        share = float(np.mean(answers == level))
        if 0 < share < 1:
            shares.append(share)
            areas.append(roc_auc_score(answers == level, found[:, k]))
    return float(np.average(areas, weights=shares)) if areas else float("nan")


def _ks(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not (len(a) and len(b)):
        return float(len(a) == len(b))  # a column of gaps alone is like another one, and like no other
    return 1 - float(ks_2samp(a, b, method="asymp").statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation distance of two lists of labels, a gap being one label more."""
    a, b = np.nan_to_num(a, nan=-1.0), np.nan_to_num(b, nan=-1.0)
    levels = np.union1d(a, b)
    shares = [np.bincount(np.searchsorted(levels, x), minlength=len(levels)) / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _bin(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Ten bins of equal width over the real column's range."""
    edges = np.linspace(np.nanmin(like), np.nanmax(like), BINS + 1)[1:-1]
    return np.where(np.isnan(x), np.nan, np.searchsorted(edges, np.nan_to_num(x)).astype(float))


def _join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.nan_to_num(a, nan=-1.0) * 1e4 + np.nan_to_num(b, nan=-1.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 3 or np.std(a[both]) == 0 or np.std(b[both]) == 0:
        return 0.0
    return float(np.corrcoef(a[both], b[both])[0, 1])


def _detection(a: np.ndarray, b: np.ndarray, numeric: list[bool], seed: int) -> float:
    rng = np.random.default_rng(seed)
    count = min(len(a), len(b), MOST)
    x = np.concatenate([a[rng.permutation(len(a))[:count]], b[rng.permutation(len(b))[:count]]])
    y = np.repeat([0, 1], count)
    trees = HistGradientBoostingClassifier(max_iter=60, random_state=seed)
    found = np.asarray(cross_val_predict(trees, x, y, cv=3, method="predict_proba"))[:, 1]
    return float(roc_auc_score(y, found))


def _privacy(codec, real, synthetic, fresh, rng) -> tuple[float, float]:
    def scaled(table: Table) -> np.ndarray:
        x = np.nan_to_num(codec.transform(table.take(rng.permutation(table.rows)[:MOST])).x[..., 2].astype(float))
        levels = [np.eye(n)[x[:, len(codec.scores) + j].astype(int)] for j, n in enumerate(codec.level_counts)]
        return np.concatenate([x[:, : len(codec.scores)], *levels], axis=1)

    train, made, new = scaled(real), scaled(synthetic), scaled(fresh)
    to_train = NearestNeighbors(n_neighbors=1).fit(train)
    near = [float(np.median(to_train.kneighbors(x)[0])) for x in (made, new)]
    count = min(len(train), len(new))
    to_made = NearestNeighbors(n_neighbors=1).fit(made)
    distances = np.concatenate([to_made.kneighbors(x[:count])[0][:, 0] for x in (train, new)])
    membership = roc_auc_score(np.repeat([1, 0], count), -distances)
    return near[0] / max(near[1], 1e-12), float(membership)
