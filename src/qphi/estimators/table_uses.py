"""What a fitted `TableVAE` can be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.utils.validation import check_is_fitted

from qphi.autoencoders.latent import interpolate_between
from qphi.autoencoders.model import LatentVariableModel
from qphi.data.codec import Encoded, TableCodec
from qphi.data.containers import of_columns, to_container
from qphi.data.frames import Table, in_pieces, read_table
from qphi.errors import InputError
from qphi.estimators.options import positive
from qphi.tables import anomalies, filling
from qphi.tables.build import TableArchitecture
from qphi.tables.synthetic import Fidelity, fidelity, usefulness
from qphi.tables.uses import decoded_modes, draw_given, encode_rows, sample_given, sample_rows, score_cells
from qphi.tables.widths import Widths, fit_factors, hidden

__all__ = ["TableUses"]

PARTICLES = 64  # importance weights for a row's scores
IMPUTING = 256  # draws of a gap
HIDDEN = 3000  # numeric cells, at most, that widths of intervals are learned from
NUMBERS = 2**25  # drawn at a time


class TableUses:
    """Embedding, sampling, filling and scoring; a gap is what the table's container has for one."""

    model_: LatentVariableModel
    codec_: TableCodec
    architecture_: TableArchitecture
    seed_: int
    n_features_in_: int
    _typical: anomalies.Typical
    _reference: Encoded | None  # the fit's rows, until they are counted
    _widths: Widths = Widths()
    _unseen: Float[np.ndarray, "rows columns 3"] | None = None  # held-out rows, until widths are counted

    def transform(self, X: Any) -> Float[np.ndarray, "rows latent"]:
        """Posterior means E_q[z | observed cells]: deterministic, one row at a time."""
        return self.encode(X)[0]

    def encode(self, X: Any) -> tuple[Float[np.ndarray, "rows latent"], Float[np.ndarray, "rows latent"]]:
        """Means and standard deviations of q(z | observed cells)."""
        parts = [encode_rows(self._fitted(), self._seen(piece)[1].x) for piece in in_pieces(X)]
        means, deviations = (np.concatenate(part) for part in zip(*parts, strict=True))
        return means, deviations

    def inverse_transform(self, Z: Any) -> Any:
        """The middle of p(x|z), medians and likeliest levels, as a table like the one of the fit."""
        z = np.asarray(Z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.architecture_.latent_dim or not len(z) or not np.isfinite(z).all():
            raise InputError(
                f"Z has shape {z.shape}; finite latents (n, {self.architecture_.latent_dim}), n >= 1, are needed."
            )
        return to_container(self.codec_.inverse_transform(decoded_modes(self._fitted(), z)))

    def reconstruct(self, X: Any) -> Any:
        """Each row as its posterior mean decodes, in the container and types of the fit, with the columns of X; gaps
        come out filled."""
        return filling.joined([self._reconstructed(piece) for piece in in_pieces(X)])

    def _reconstructed(self, X: Any) -> Any:
        table = read_table(X)
        return to_container(dataclasses.replace(self.reconstruct_table(table), index=table.index))

    def reconstruct_table(self, X: Any) -> Table:
        """`reconstruct` as a `qphi.data.frames.Table`."""
        table, encoded = self._seen(X)
        means, _ = encode_rows(self._fitted(), encoded.x)
        made = self.codec_.inverse_transform(decoded_modes(self._fitted(), means))
        return dataclasses.replace(made, columns={name: made.columns[name] for name in table.columns})

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> Any:
        """Decodes of a straight line between the posterior means of two tables of one row each."""
        return to_container(self.interpolate_table(a, b, steps))

    def interpolate_table(self, a: Any, b: Any, steps: int = 9) -> Table:
        """`interpolate` as a `qphi.data.frames.Table`."""
        if steps < 2:
            raise InputError(f"steps={steps}: at least 2 are needed, the two ends.")
        ends = [self.transform(one) for one in (a, b)]
        if any(len(end) != 1 for end in ends):
            raise InputError("interpolate needs two tables of one row each, such as df.iloc[[3]] and df.iloc[[17]].")
        walk = np.asarray(interpolate_between(ends[0][0], ends[1][0], steps), np.float32)
        return self.codec_.inverse_transform(decoded_modes(self._fitted(), walk))

    def sample(
        self,
        n_samples: int = 1,
        *,
        given: Mapping[str, Any] | None = None,
        balanced: str | None = None,
        random_state: int | None = None,
    ) -> Any:
        """New rows, like the table of the fit: z from p(z), cells from p(x|z); categories are drawn as well.

        given: cells that are fixed, of any columns, {"sex": "female", "age": 40}; the others are drawn from
        p(x | given) by importance weighting, so a rare level costs no more than a common one. balanced: a column whose
        levels all come equally often (to one row), in random order; the others are drawn given its level, so what goes
        with a level stays as it is in the data. Without `random_state` the fit's own seed is used.
        """
        return to_container(self.sample_table(n_samples, given=given, balanced=balanced, random_state=random_state))

    def sample_table(
        self,
        n_samples: int,
        *,
        given: Mapping[str, Any] | None = None,
        balanced: str | None = None,
        random_state: int | None = None,
    ) -> Table:
        """`sample` as a `qphi.data.frames.Table`, whatever the container of the fit was."""
        model, count = self._fitted(), positive(n_samples, "n_samples")
        seed = self.seed_ if random_state is None else int(random_state)
        rng = np.random.default_rng(seed)
        if not given and balanced is None:
            return self.codec_.inverse_transform(sample_rows(model, count, seed), rng=rng)
        rows = filling.conditions(self.codec_, given or {}, balanced)
        which = rng.permutation(np.arange(count) % len(rows)) if len(rows) > 1 else np.zeros(count, int)
        drawn = np.empty((count, len(self.codec_.names)), np.float32)
        for k in np.unique(which):
            mine = which == k
            drawn[mine] = sample_given(model, self.codec_.transform(rows[k]).x[0], int(mine.sum()), seed)
        made = self.codec_.inverse_transform(drawn, rng=rng)
        for name in [*(given or {}), *([] if balanced is None else [balanced])]:
            made.columns[name] = np.concatenate([row.columns[name] for row in rows])[which]
        return made

    def impute(self, X: Any, *, n_imputations: int | None = None, draws: int = IMPUTING, random_state: int = 0) -> Any:
        """X with its gaps filled, in the container it came in; observed cells stay as they are.

        A gap gets E[x_mis | x_obs] for numbers (rounded for whole ones; the median for ordinals and dates) and the
        likeliest level for categories, from `draws` importance-weighted draws. With `n_imputations=m` a list of m
        tables, each with one draw in each gap: for analyses that have to carry the uncertainty (Rubin 1987).
        """
        asked: dict[str, Any] = {"n_imputations": n_imputations, "draws": draws, "random_state": random_state}
        pieces = [
            [filling.give_back(table, piece) for table in self.impute_tables(piece, **asked)] for piece in in_pieces(X)
        ]
        whole = [filling.joined(parts) for parts in zip(*pieces, strict=True)]
        return whole[0] if n_imputations is None else whole

    def impute_tables(
        self, X: Any, *, n_imputations: int | None = None, draws: int = IMPUTING, random_state: int = 0
    ) -> list[Table]:
        """`impute` as a list of `qphi.data.frames.Table`: one table, or as many as there are imputations."""
        table, encoded = self._seen(X)
        count = positive(draws, "draws") if n_imputations is None else positive(n_imputations, "n_imputations")
        width, proposed = (count, count) if n_imputations is None else (1, IMPUTING)
        rows = _with_gaps(encoded)
        parts = [
            [filling.middles(self.codec_, u[:, k : k + width], np.isnan(x[..., 0])) for k in range(0, count, width)]
            for x, u in self._drawn(encoded.x[rows], count, proposed, random_state)
        ]
        return [filling.filled(self.codec_, table, rows, np.concatenate(part)) for part in zip(*parts, strict=True)]

    def impute_intervals(
        self, X: Any, *, coverage: float = 0.9, draws: int = IMPUTING
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each numeric column the ends of a central interval that holds a missing cell with probability `coverage`.

        Dates and ordinals too; `impute_probabilities` is for categories. Arrays of one value a row; observed cells have
        their own value twice. Ends are values that the column can have.
        Intervals are as wide as held-out rows of the fit, cells hidden, say that they have to be (`widths_`): the
        probability is over all numeric cells, where a third is missing at random, and for no fewer draws.
        """
        _check_coverage(coverage)
        table, encoded = self._seen(X)
        rows, draws = _with_gaps(encoded), positive(draws, "draws")
        parts = [
            filling.ends(self.codec_, u, coverage, self.widths_) for _, u in self._drawn(encoded.x[rows], draws, draws)
        ]
        return filling.intervals(table, rows, _joined(parts, axis=1))

    def impute_probabilities(self, X: Any, *, draws: int = IMPUTING) -> dict[str, Float[np.ndarray, "rows levels"]]:
        """For each column with levels p(x_j = level | the row's other cells), (rows, levels), of `draws` draws.

        Levels stand as in `schema_[name].levels`; the row of an observed cell is 1 at its own, all 0 where it is a
        number that is none of an ordinal column's; a category that the fit did not see counts as missing. A column to
        predict is one whose cells are all missing: `model.impute_probabilities(df.assign(income=None))["income"]`.
        """
        table, encoded = self._seen(X)
        rows, draws = _with_gaps(encoded), positive(draws, "draws")
        parts = [filling.level_shares(self.codec_, u) for _, u in self._drawn(encoded.x[rows], draws, draws)]
        return filling.probabilities(self.codec_, table, rows, _joined(parts))

    def impute_listed(
        self, X: Any, *, coverage: float = 0.9, draws: int = IMPUTING, random_state: int = 0
    ) -> tuple[Table, Table]:
        """`impute`, and a line for each gap: row, column, value, interval or probability of the level; of one set of
        draws. Both as `qphi.data.frames.Table`."""
        _check_coverage(coverage)
        table, encoded = self._seen(X)
        rows, draws = _with_gaps(encoded), positive(draws, "draws")
        values, ends, shares = [], [], []
        for x, u in self._drawn(encoded.x[rows], draws, draws, random_state):
            values.append(filling.middles(self.codec_, u, np.isnan(x[..., 0])))
            ends.append(filling.ends(self.codec_, u, coverage, self.widths_))
            shares.append(filling.level_shares(self.codec_, u))
        full = filling.filled(self.codec_, table, rows, np.concatenate(values))
        listed = filling.listed(self.codec_, table, full, rows, _joined(ends, axis=1), _joined(shares))
        return full, listed

    def _drawn(
        self, x: Float[np.ndarray, "rows columns 3"], draws: int, proposed: int, seed: int = 0
    ) -> Iterator[tuple[Float[np.ndarray, "some columns 3"], Float[np.ndarray, "some draws columns"]]]:
        """Rows, and draws of all their cells, as many at a time as memory has room for; at least one piece."""
        most = max(NUMBERS // (draws * x.shape[1]), 1)
        for begin in range(0, max(len(x), 1), most):
            part = x[begin : begin + most]
            if len(part):
                yield part, draw_given(self._fitted(), part, draws, seed=seed, particles=proposed)
            else:
                yield part, np.zeros((0, draws, x.shape[1]), np.float32)

    def score_samples(self, X: Any, *, particles: int = PARTICLES) -> Float[np.ndarray, " rows"]:
        """log p(x_obs) of each row, nats, in the units of the data, by importance weighting.

        With missing='not at random' it is log p(x_obs, which cells are missing).

        A lower bound in expectation that tightens with `particles`. Randomness is the row's own: the same row scores
        the same bits at every call, whatever its neighbours.
        """
        return np.concatenate([self._scored(piece, particles).log_p for piece in in_pieces(X)])

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: nats per row, higher is better."""
        return float(np.mean(self.score_samples(X)))

    def evaluate(
        self, X: Any, fresh: Any = None, *, target: str | None = None, synthetic: Any = None, random_state: int = 0
    ) -> Fidelity:
        """How good synthetic rows are beside the rows X of the fit: fidelity, use and privacy, as `Fidelity` says.

        fresh: real rows that the fit has not seen; without them privacy is NaN and use cannot be judged. target: a
        column that boosted trees learn to predict, once from synthetic and once from real rows, judged on the fresh
        ones. synthetic: rows to judge instead of as many of the model's own as X has, of any origin. Raises InputError
        for a target without fresh rows, and for tables that have not the columns of the fit.
        """
        if target is not None and fresh is None:
            raise InputError(f"target={target!r} needs fresh rows: what is learned is judged on rows new to the fit.")
        real = self._columns_of_the_fit(X)
        if synthetic is None:
            synthetic = self.sample_table(real.rows, random_state=random_state)
        made = self._columns_of_the_fit(synthetic)
        new = None if fresh is None else self._columns_of_the_fit(fresh)
        found = fidelity(self.codec_, real, made, new, random_state)
        if target is None or new is None:
            return found
        return dataclasses.replace(found, use=usefulness(self.codec_, real, made, new, target, random_state))

    def anomaly_score(self, X: Any) -> Float[np.ndarray, " rows"]:
        """How odd each row is: minus the log of the share of the fit's rows that are as odd, nats; deterministic.

        Odd as a whole, by -log p(x_obs), or by its cells one by one, whichever is rarer (`tables.anomalies.Typical`);
        the same whatever the units of the columns. 0 is as ordinary as can be; log(number of rows) odder than
        all of them, and more the odder still.
        """
        return np.concatenate([self._oddness(self._scored(piece)) for piece in in_pieces(X)])

    @property
    def typical_(self) -> anomalies.Typical:
        """How odd the fit's rows are; counted when first asked for, since imputing and sampling need none of it."""
        model = self._fitted()
        if self._reference is not None:
            scores = score_cells(model, self._reference.x, PARTICLES)
            slope, rarest = self.codec_.relative_slope(self._reference), self._typical.rarest
            joint, _ = anomalies.unlikeliness(scores, self._reference, slope, rarest)
            self._typical, self._reference = self._typical.with_joint(joint), None
        return self._typical

    @property
    def widths_(self) -> Widths:
        """How much wider intervals are than the model's own; counted when first asked for."""
        self._fitted()
        if self._unseen is not None:
            self._widths, self._unseen = self._counted(self._unseen), None
        return self._widths

    def _counted(self, unseen: Float[np.ndarray, "rows columns 3"]) -> Widths:
        """Factors from held-out rows; those of before where these say too little."""
        columns = filling.measured(self.codec_)
        numeric = list(columns)
        having = np.flatnonzero(~np.isnan(unseen[:, numeric, 0]).all(axis=1))
        random = np.random.default_rng(self.seed_)
        rows = random.permutation(having)[: max(HIDDEN // max(len(numeric), 1), 1)]
        x, cells = unseen[rows], {False: [], True: []}
        for gone, rest in hidden(x, self.seed_):
            asked = np.flatnonzero(gone[:, numeric].any(axis=1))
            if not len(asked):
                continue
            u = np.concatenate([u[:, :, numeric] for _, u in self._drawn(rest[asked], IMPUTING, IMPUTING)])
            for place, (j, stepped) in enumerate(columns.items()):
                own = gone[asked, j]
                cells[stepped].append((x[asked[own], j], u[own, :, place]))
        points, steps = fit_factors(cells[False], len(rows)), fit_factors(cells[True], len(rows))
        return Widths(points or self._widths.points, steps or self._widths.steps)

    def explain(self, X: Any, top: int = 3) -> list[list[tuple[str, float]]]:
        """For each row the `top` columns that make it odd, with their nats: -log p(x_j | other cells)."""
        return [row for piece in in_pieces(X) for row in self._reasons(self._scored(piece), top)]

    def score_table(self, X: Any, *, top: int = 3) -> Any:
        """`score_samples`, `anomaly_score` and `explain` of each row side by side, at the cost of one of them.

        A frame of the library of X, with its index; a dictionary of columns where X is an array or a dictionary.
        """
        return to_container(self.score_rows(read_table(X), top=top))

    def score_rows(self, table: Table, *, top: int = 3) -> Table:
        """`score_table` as a `qphi.data.frames.Table`."""
        scored = self._scored(table)
        reasons = [", ".join(f"{name} ({nats:.1f})" for name, nats in row) for row in self._reasons(scored, top)]
        columns = {
            "log_p": scored.log_p,
            "anomaly_score": self._oddness(scored),
            "because_of": np.array(reasons, object),
        }
        return of_columns(columns, table)

    def _scored(self, X: Any, particles: int = PARTICLES) -> _Scored:
        positive(particles, "particles")
        table, encoded = self._seen(X)
        scores = score_cells(self._fitted(), encoded.x, particles)
        slope, rarest = self.codec_.relative_slope(encoded), self._typical.rarest
        joint, cells = anomalies.unlikeliness(scores, encoded, slope, rarest)
        return _Scored(table, encoded, scores[0] + encoded.log_slope.sum(axis=1), joint, cells)

    def _oddness(self, scored: _Scored) -> Float[np.ndarray, " rows"]:
        own = self.typical_.own_oddness(self.codec_, scored.table, scored.encoded)
        return self.typical_.oddness(scored.joint, own)

    def _reasons(self, scored: _Scored, top: int) -> list[list[tuple[str, float]]]:
        names = self.codec_.names
        order = np.argsort(-scored.cells, axis=1, kind="stable")[:, :top]
        return [[(names[j], float(row[j])) for j in best] for row, best in zip(scored.cells, order, strict=True)]

    def _fitted(self):
        check_is_fitted(self, "model_")
        return self.model_

    def _seen(self, X: Any) -> tuple[Table, Encoded]:
        self._fitted()
        table = self._columns_of_the_fit(X)
        return table, self.codec_.transform(table)

    def _columns_of_the_fit(self, X: Any) -> Table:
        table = read_table(X)
        if not table.named and len(table.columns) != self.n_features_in_:
            raise InputError(
                f"X has {len(table.columns)} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input. Give the columns of the fit."
            )
        return table


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise InputError(f"coverage={coverage}: a number between 0 and 1 is needed, such as 0.9.")


def _joined(parts: list[dict[str, np.ndarray]], axis: int = 0) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis=axis) for name in parts[0]}


def _with_gaps(encoded: Encoded) -> Int[np.ndarray, " drawn"]:
    return np.flatnonzero(np.isnan(encoded.x[..., 0]).any(axis=1))


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Rows with all that one scoring says of them: log p(x_obs), and the two parts of `anomalies.unlikeliness`."""

    table: Table
    encoded: Encoded
    log_p: Float[np.ndarray, " rows"]
    joint: Float[np.ndarray, " rows"]
    cells: Float[np.ndarray, "rows columns"]
