"""`TableVAE`: a variational autoencoder of a table with columns of every kind and gaps."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from qphi.autoencoders.latent import interpolate_between
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.training import Training, continued, hold_out
from qphi.data.codec import Encoded, TableCodec, fit_codec
from qphi.data.frames import Table, in_pieces, read_table, to_container
from qphi.errors import InputError
from qphi.estimators import store, table_store
from qphi.estimators.options import check_budgets, positive, seed_of
from qphi.families import StandardNormal
from qphi.loop import Progress, Result
from qphi.tables import anomalies, filling
from qphi.tables.build import TableArchitecture, build, choose, linear_start
from qphi.tables.rows import Shape
from qphi.tables.synthetic import Fidelity, fidelity, usefulness
from qphi.tables.training import fit_prior, plan_table
from qphi.tables.uses import decoded_modes, draw_given, encode_rows, sample_given, sample_rows, score_cells

__all__ = ["TableVAE"]

MISSING = ("at random", "not at random")
PARTICLES = 64  # importance weights for a row's scores


class TableVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A generative model of a table: embeds, samples, fills gaps, scores and explains rows of mixed columns.

    Numbers are seen on the scale of normal scores, where a column is roughly N(0, 1) whatever its units or skew; values
    with probability of their own (zeros, bounds, whole numbers) are intervals there, categories a softmax. The model is
    p(z) p(x_obs | z) with gaps left out. It starts as a factor analysis, exact for every pattern of gaps, and networks
    bend it as far as held-out rows agree (importance-weighted bound; Mattei & Frellsen 2019). p(z) is then refitted as
    a mixture of Gaussians where that helps. log densities are nats in the units of the data; of values with probability
    of their own, log probabilities.

    Parameters
    ----------
    latent_dim : length of z; None follows the number of columns, between 10 and 16.
    kinds : kinds of columns by name where those found are not right ('count', ...), or a JSON file (`qphi schema`).
    hidden : widths of the layers that bend the factor analysis.
    particles : draws for each row's bound while training; None follows the number of rows, 20 to 5.
    missing : 'at random' or 'not at random': then a cell may be missing because of its own value, each column's gaps by
        a probit of it, and gaps are filled accordingly. docs/tables.md says what that takes for granted.
    max_epochs, max_time : budgets in passes over the data and in seconds; None leaves the end to convergence.
    random_state : int, RandomState or None. The same int gives the same model, bit for bit, on the same machine.

    Attributes
    ----------
    schema_ : what was found of the columns; print it. codec_ : from tables to what the model sees, and back.
    status_, status_text_, n_iter_, seconds_, seed_, model_ : as of `VAE`. history_ : dict of lists, one entry a check;
        nats per row on the scale of normal scores. typical_ : how odd the fit's rows are, for `anomaly_score`.
        architecture_ : sizes, `components` of the prior among them.

    Examples
    --------
    README's "Door 3" has one that the tests run, and docs/tables.md more::

        model = qphi.TableVAE(random_state=0).fit(df)
        full = model.impute(df)
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        kinds: Mapping[str, str] | str | None = None,
        hidden: Sequence[int] = (128, 128),
        particles: int | None = None,
        missing: str = "at random",
        max_epochs: float | None = None,
        max_time: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.latent_dim = latent_dim
        self.kinds = kinds
        self.hidden = hidden
        self.particles = particles
        self.missing = missing
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.random_state = random_state

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        watch: Callable[[Progress], None] | None = None,
    ) -> TableVAE:
        """Train on a data frame (pandas, polars, pyarrow), a dictionary of columns, an array (n, d) or a sparse matrix.

        Gaps are NaN, None or NaT; what a sparse matrix does not store is zero. With `run_dir` the model and a
        checkpoint are written there as training goes; `resume=True` goes on from that checkpoint, with the same table
        and settings, to the bits of an uninterrupted fit. Ctrl-C keeps the best model so far.

        Raises InputError (a ValueError) for tables that do not fit, before any work. Warns with ConvergenceWarning when
        a budget ended the fit.
        """
        self._check_parameters()
        table = read_table(X)
        _check_rows(table)
        weights = _weights(sample_weight, table.rows)
        folder = None if run_dir is None else Path(run_dir)
        if resume and folder is None:
            raise InputError("resume=True needs run_dir=, the folder of the run to go on with.")
        checkpoint = store.read_checkpoint(folder) if folder is not None and resume else None
        codec = fit_codec(table, self.kinds)
        encoded = codec.transform(table)
        architecture = self._architecture(codec)
        settings = {
            "data": store.fingerprint(np.append(encoded.x.ravel(), weights)),
            "scaling": codec.to_json(),
            "architecture": architecture.to_json(),
            "training": {"particles": None if self.particles is None else int(self.particles)},
        }
        if checkpoint is not None:
            checkpoint.check(settings, self.random_state)
        for name in ("model_", "_last_run"):  # a fit that fails from here on leaves nothing that mixes it with the last
            vars(self).pop(name, None)
        self._describe(codec, table)
        self.seed_ = seed_of(self.random_state) if checkpoint is None else checkpoint.seed
        training, split = self._plan(encoded.x, weights, architecture)
        run = training.start()

        def save(run: Any, history: dict[str, list[float]], seconds: float) -> None:
            assert folder is not None
            store.write_checkpoint(folder, run, self.seed_, settings, history, seconds)

        result = training.drive(
            run if checkpoint is None else checkpoint.run(run),
            max_epochs=self.max_epochs,
            max_time=self.max_time,
            watch=watch,
            save=None if folder is None else save,
            history=None if checkpoint is None else checkpoint.history,
            seconds_before=0.0 if checkpoint is None else checkpoint.seconds,
        )
        self._keep(training, result, architecture, [encoded.x[rows] for rows in split])
        self._typical, self._reference = anomalies.fit_typical(codec, table, encoded, self.seed_)
        if folder is not None:
            table_store.write_table_model(folder, self)
            store.write_metrics(folder, self.history_)
        if not self.status_.succeeded:
            warnings.warn(f"{self.status_text_}. {self.status_.advice}", ConvergenceWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, epochs: float = 1.0, sample_weight: Any = None) -> TableVAE:
        """Train on X for so many passes, from where the last call stopped: tables that come piece by piece.

        The first call, of an unfitted model, decides columns, levels, scales and sizes from its X, which should be
        typical: levels that come later count as missing, with a warning. Weights, their average and the optimiser's
        moments go on from call to call; p(z) and `typical_`, the rows that `anomaly_score` counts among, are those of
        the last X. After `fit` or `load` it goes on from the weights kept. Raises InputError for X with other columns.
        """
        self._check_parameters()
        if not (isinstance(epochs, (int, float)) and math.isfinite(epochs) and epochs > 0):
            raise InputError(f"epochs={epochs!r}: a positive number is needed.")
        begun = hasattr(self, "model_")
        table = self._columns_of_the_fit(X) if begun else read_table(X)
        _check_rows(table)
        weights = _weights(sample_weight, table.rows)
        if not begun:
            codec = fit_codec(table, self.kinds)
            architecture = self._architecture(codec)
            self._describe(codec, table)
            self.seed_ = seed_of(self.random_state)
        else:
            codec, architecture = self.codec_, self.architecture_
        encoded = codec.transform(table)
        training, split = self._plan(encoded.x, weights, architecture, getattr(self, "model_", None))
        last = vars(self).get("_last_run")
        run = training.start() if last is None else continued(training.start(), last)
        steps = max(1, round(epochs * training.steps_per_epoch))
        training = dataclasses.replace(training, check_every=steps)
        result = training.drive(run, max_epochs=(int(run.step) + steps) / training.steps_per_epoch)
        self._keep(training, result, architecture, [encoded.x[rows] for rows in split])
        self._last_run = result.run
        if not begun:
            self._typical, self._reference = anomalies.fit_typical(codec, table, encoded, self.seed_)
        else:
            self._typical, self._reference = anomalies.again(self._typical, codec, table, encoded, self.seed_)
        return self

    def _architecture(self, codec: TableCodec) -> TableArchitecture:
        shape = Shape(len(codec.numeric), codec.level_counts, codec.intervals)
        hidden = tuple(int(w) for w in self.hidden)
        return choose(shape, self.latent_dim, hidden, not_at_random=self.missing == MISSING[1])

    def _describe(self, codec: TableCodec, table: Table) -> None:
        self.codec_, self.schema_ = codec, codec.schema
        self.feature_names_in_ = np.array(list(table.columns), object)
        if not table.named:
            del self.feature_names_in_
        self.n_features_in_ = len(table.columns)

    def _plan(
        self,
        x: Float[np.ndarray, "rows columns 3"],
        weights: Float[np.ndarray, " rows"],
        architecture: TableArchitecture,
        model: LatentVariableModel | None = None,
    ) -> tuple[Training, tuple[np.ndarray, np.ndarray]]:
        """Training from the start or from a model, and the numbers of training and held-out rows."""
        keys = jax.random.split(jax.random.key(self.seed_, impl="threefry2x32"), 3)
        train, held_out = hold_out(len(x), keys[0])
        if model is None:
            linear = linear_start(x[train], architecture, np.random.default_rng(self.seed_))
            gaps = np.isnan(x[train, :, 0]).mean(axis=0) if architecture.not_at_random else None
            start = eqx.filter_jit(build)(architecture, linear, keys[1], gaps)
        else:  # a fitted prior is not one to train with, see `WhitenedMixture`
            start = eqx.tree_at(lambda m: m.prior, model, StandardNormal(architecture.latent_dim))
        parts = (weights[train], weights[held_out])
        return (
            plan_table(start, x[train], x[held_out], keys[2], weights=parts, particles=self.particles),
            (train, held_out),
        )

    def _keep(
        self, training: Training, result: Result, architecture: TableArchitecture, split: list[np.ndarray]
    ) -> None:
        self.model_, components = fit_prior(training.whole(result.answer), split[0], split[1], self.seed_)
        self.architecture_ = architecture.with_components(components)
        self.status_, self.status_text_ = result.status, result.reason
        self.seconds_, self.n_iter_ = result.seconds, int(result.run.step)
        self.history_ = {name: [float(v) for v in values] for name, values in result.history.items()}
        self._n_features_out = architecture.latent_dim

    def _check_parameters(self) -> None:
        for name in ("latent_dim", "particles"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), name)
        check_budgets(self)
        if self.missing not in MISSING:
            raise InputError(f"missing={self.missing!r} is not known. Use one of {', '.join(map(repr, MISSING))}.")

    # ---------------------------------------------------------------- using

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
        """Each row as its posterior mean decodes; gaps come out filled."""
        return filling.joined([self.inverse_transform(self.transform(piece)) for piece in in_pieces(X)])

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> Any:
        """Decodes of a straight line between the posterior means of two tables of one row each."""
        if steps < 2:
            raise InputError(f"steps={steps}: at least 2 are needed, the two ends.")
        ends = [self.transform(one) for one in (a, b)]
        if any(len(end) != 1 for end in ends):
            raise InputError("interpolate needs two tables of one row each, such as df.iloc[[3]] and df.iloc[[17]].")
        return self.inverse_transform(interpolate_between(ends[0][0], ends[1][0], steps))

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

    def impute(self, X: Any, *, n_imputations: int | None = None, draws: int = 100, random_state: int = 0) -> Any:
        """X with its gaps filled, in the container it came in; observed cells stay as they are.

        A gap gets E[x_mis | x_obs] for numbers (the median for whole numbers, ordinals and dates) and the likeliest
        level for categories, from `draws` importance-weighted draws. With `n_imputations=m` a list of m tables, each
        with one draw in each gap: for analyses that have to carry the uncertainty (Rubin 1987).
        """
        asked: dict[str, Any] = {"n_imputations": n_imputations, "draws": draws, "random_state": random_state}
        pieces = [
            [filling.give_back(table, piece) for table in self.impute_tables(piece, **asked)] for piece in in_pieces(X)
        ]
        whole = [filling.joined(parts) for parts in zip(*pieces, strict=True)]
        return whole[0] if n_imputations is None else whole

    def impute_tables(
        self, X: Any, *, n_imputations: int | None = None, draws: int = 100, random_state: int = 0
    ) -> list[Table]:
        """`impute` as a list of `qphi.data.frames.Table`: one table, or as many as there are imputations."""
        table, encoded = self._seen(X)
        count = positive(draws, "draws") if n_imputations is None else positive(n_imputations, "n_imputations")
        u = draw_given(self._fitted(), encoded.x, count, seed=random_state)
        if n_imputations is None:
            return [filling.filled(self.codec_, table, u)]
        return [filling.filled(self.codec_, table, u[:, k : k + 1]) for k in range(count)]

    def impute_intervals(
        self, X: Any, *, coverage: float = 0.9, draws: int = 200
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each numeric column the ends of a central interval that holds a missing cell with probability `coverage`.

        Arrays of one value a row; observed cells have their own value twice.
        """
        if not 0 < coverage < 1:
            raise InputError(f"coverage={coverage}: a number between 0 and 1 is needed, such as 0.9.")
        table, encoded = self._seen(X)
        return filling.intervals(self.codec_, table, draw_given(self._fitted(), encoded.x, draws), coverage)

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
        the same whatever the units of the columns. 0 is as ordinary as can be; log(number of rows) odder than all.
        """
        return np.concatenate([self._oddness(self._scored(piece)) for piece in in_pieces(X)])

    @property
    def typical_(self) -> anomalies.Typical:
        """How odd the fit's rows are; counted when first asked for, since imputing and sampling need none of it."""
        model = self._fitted()
        if self._reference is not None:
            scores = score_cells(model, self._reference.x, PARTICLES)
            joint, _ = anomalies.unlikeliness(scores, self._reference, self.codec_.typical_slope)
            self._typical, self._reference = self._typical.with_joint(joint), None
        return self._typical

    def __getstate__(self) -> Any:
        if hasattr(self, "model_"):
            _ = self.typical_  # so that no row of the data is kept
        return super().__getstate__()

    def explain(self, X: Any, top: int = 3) -> list[list[tuple[str, float]]]:
        """For each row the `top` columns that make it odd, with their nats: -log p(x_j | other cells)."""
        return [row for piece in in_pieces(X) for row in self._reasons(self._scored(piece), top)]

    def score_table(self, X: Any, *, top: int = 3) -> Table:
        """`score_samples`, `anomaly_score` and `explain` of each row side by side, at the cost of one of them."""
        scored = self._scored(X)
        reasons = [", ".join(f"{name} ({nats:.1f})" for name, nats in row) for row in self._reasons(scored, top)]
        columns = {
            "log_p": scored.log_p,
            "anomaly_score": self._oddness(scored),
            "because_of": np.array(reasons, object),
        }
        return Table(columns, "csv", {"log_p": "float64", "anomaly_score": "float64", "because_of": "str"})

    def _scored(self, X: Any, particles: int = PARTICLES) -> _Scored:
        positive(particles, "particles")
        table, encoded = self._seen(X)
        scores = score_cells(self._fitted(), encoded.x, particles)
        joint, cells = anomalies.unlikeliness(scores, encoded, self.codec_.typical_slope)
        return _Scored(table, encoded, scores[0] + encoded.log_slope.sum(axis=1), joint, cells)

    def _oddness(self, scored: _Scored) -> Float[np.ndarray, " rows"]:
        own = self.typical_.own_oddness(self.codec_, scored.table, scored.encoded)
        return self.typical_.oddness(scored.joint, own)

    def _reasons(self, scored: _Scored, top: int) -> list[list[tuple[str, float]]]:
        order = np.argsort(-scored.cells, axis=1, kind="stable")[:, :top]
        return [
            [(self.codec_.names[j], float(row[j])) for j in best] for row, best in zip(scored.cells, order, strict=True)
        ]

    # ---------------------------------------------------------------- keeping

    def save(self, path: str | Path) -> None:
        """Write model.safetensors and model.json into the folder `path`. No pickle inside."""
        self._fitted()
        table_store.write_table_model(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> TableVAE:
        """The model saved in the folder `path`. Raises InputError, saying what is wrong, for damaged files."""
        return table_store.read_table_model(Path(path), cls)

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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Rows with all that one scoring says of them: log p(x_obs), and the two parts of `anomalies.unlikeliness`."""

    table: Table
    encoded: Encoded
    log_p: Float[np.ndarray, " rows"]
    joint: Float[np.ndarray, " rows"]
    cells: Float[np.ndarray, "rows columns"]


def _check_rows(table: Table) -> None:
    if table.rows < 2:
        raise InputError("X has 1 row (n_samples = 1): a model of rows needs at least 2. Give more rows.")


def _weights(sample_weight: Any, rows: int) -> Float[np.ndarray, " rows"]:
    if sample_weight is None:
        return np.ones(rows)
    weights = np.asarray(sample_weight, float)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(
            f"sample_weight has shape {weights.shape}; {rows} finite numbers, none of them negative, are needed."
        )
    if not weights.sum():
        raise InputError("sample_weight: all weights are zero. Give at least one row a weight above 0.")
    return weights / weights.mean()
