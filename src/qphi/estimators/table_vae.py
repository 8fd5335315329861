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
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning

from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.training import Training, continued, hold_out
from qphi.data.codec import Encoded, TableCodec, fit_codec
from qphi.data.frames import Table, read_table
from qphi.errors import InputError
from qphi.estimators import store, table_store
from qphi.estimators.options import check_budgets, positive, seed_of
from qphi.estimators.table_uses import TableUses
from qphi.families import StandardNormal
from qphi.loop import Progress, Result
from qphi.noise import systematic
from qphi.tables import anomalies
from qphi.tables.build import TableArchitecture, build, choose, linear_start
from qphi.tables.rows import Shape
from qphi.tables.training import fit_prior, plan_table

__all__ = ["TableVAE"]

MISSING = ("at random", "not at random")


class TableVAE(TableUses, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
        widths_ : how wide intervals of gaps have to be. architecture_ : sizes, `components` of the prior among them.

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
        alike = _alike(weights, 0)
        codec = fit_codec(table, self.kinds, alike)
        encoded = codec.transform(table)
        architecture = self._architecture(codec, table.rows)
        settings = {
            "data": store.fingerprint(np.append(encoded.x.ravel(), weights)),
            "scaling": codec.to_json(),
            "architecture": architecture.to_json(),
            "training": {"particles": None if self.particles is None else int(self.particles)},
        }
        if checkpoint is not None:
            checkpoint.check(settings, self.random_state)
        for name in (
            "model_",
            "_last_run",
            "_widths",
        ):  # a fit that fails from here on leaves nothing that mixes it with the last
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
        self._keep(
            training, result, architecture, [encoded.x[rows] for rows in split], [weights[rows] for rows in split]
        )
        self._count_typical(table, encoded, alike, first=True)
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
        moments go on from call to call; p(z), `widths_` and `typical_`, the rows that `anomaly_score` counts among,
        are those of the last X. After `fit` or `load` it goes on from the weights kept. Raises InputError for X with
        other columns.
        """
        self._check_parameters()
        if not (isinstance(epochs, (int, float)) and math.isfinite(epochs) and epochs > 0):
            raise InputError(f"epochs={epochs!r}: a positive number is needed.")
        begun = hasattr(self, "model_")
        table = self._columns_of_the_fit(X) if begun else read_table(X)
        _check_rows(table)
        weights = _weights(sample_weight, table.rows)
        alike = _alike(weights, 0)
        if not begun:
            codec = fit_codec(table, self.kinds, alike)
            architecture = self._architecture(codec, table.rows)
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
        self._keep(
            training, result, architecture, [encoded.x[rows] for rows in split], [weights[rows] for rows in split]
        )
        self._last_run = result.run
        self._count_typical(table, encoded, alike, first=not begun)
        return self

    def _count_typical(
        self, table: Table, encoded: Encoded, alike: Int[np.ndarray, " rows"] | None, *, first: bool
    ) -> None:
        """What is typical of these rows; by the means and deviations of earlier ones unless they are the first."""
        if alike is not None:
            table, encoded = table.take(alike), encoded.take(alike)
        if first:
            self._typical, self._reference = anomalies.fit_typical(self.codec_, table, encoded, self.seed_)
        else:
            self._typical, self._reference = anomalies.again(self._typical, self.codec_, table, encoded, self.seed_)

    def _architecture(self, codec: TableCodec, rows: int) -> TableArchitecture:
        shape = Shape(len(codec.numeric), codec.level_counts, codec.intervals)
        hidden = tuple(int(w) for w in self.hidden)
        return choose(shape, self.latent_dim, hidden, rows, not_at_random=self.missing == MISSING[1])

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
            even = _even(x[train], weights[train], self.seed_)
            linear = linear_start(even, architecture, np.random.default_rng(self.seed_))
            gaps = np.isnan(even[:, :, 0]).mean(axis=0) if architecture.not_at_random else None
            start = eqx.filter_jit(build)(architecture, linear, keys[1], gaps)
        else:  # a fitted prior is not one to train with, see `WhitenedMixture`
            start = eqx.tree_at(lambda m: m.prior, model, StandardNormal(architecture.latent_dim))
        parts = (weights[train], weights[held_out])
        return (
            plan_table(start, x[train], x[held_out], keys[2], weights=parts, particles=self.particles),
            (train, held_out),
        )

    def _keep(
        self,
        training: Training,
        result: Result,
        architecture: TableArchitecture,
        split: list[np.ndarray],
        weights: list[np.ndarray],  # of both parts of the split
    ) -> None:
        train, judged = (_even(x, w, self.seed_) for x, w in zip(split, weights, strict=True))
        self.model_, components = fit_prior(training.whole(result.answer), train, judged, self.seed_)
        self.architecture_ = architecture.with_components(components)
        self.status_, self.status_text_ = result.status, result.reason
        self.seconds_, self.n_iter_ = result.seconds, int(result.run.step)
        self.history_ = {name: [float(v) for v in values] for name, values in result.history.items()}
        self._n_features_out = architecture.latent_dim
        # fewer than 20 rows are all training rows; rows of weight 0 are not the fit's
        self._unseen = split[1][weights[1] > 0] if len(split[1]) < len(split[0]) else None

    def _check_parameters(self) -> None:
        for name in ("latent_dim", "particles"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), name)
        check_budgets(self)
        if self.missing not in MISSING:
            raise InputError(f"missing={self.missing!r} is not known. Use one of {', '.join(map(repr, MISSING))}.")

    transform = TableUses.transform  # stands here so that scikit-learn's set_output finds it

    # ---------------------------------------------------------------- keeping

    def __getstate__(self) -> Any:
        if hasattr(self, "model_"):
            _ = self.typical_, self.widths_  # so that no row of the data is kept
        return super().__getstate__()

    def save(self, path: str | Path) -> None:
        """Write model.safetensors and model.json into the folder `path`. No pickle inside."""
        self._fitted()
        table_store.write_table_model(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> TableVAE:
        """The model saved in the folder `path`. Raises InputError, saying what is wrong, for damaged files."""
        return table_store.read_table_model(Path(path), cls)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


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


def _even(
    x: Float[np.ndarray, "rows columns 3"], weights: Float[np.ndarray, " rows"], seed: int
) -> Float[np.ndarray, "rows columns 3"]:
    """As many rows, each as often as its weight says, for what knows of no weights; x itself where all are equal."""
    rows = _alike(weights, seed)
    return x if rows is None else x[rows]


def _alike(weights: Float[np.ndarray, " rows"], seed: int) -> Int[np.ndarray, " rows"] | None:
    """As many rows, each as often as its weight says; None where all count alike."""
    if not np.ptp(weights) or not weights.any():
        return None
    return np.sort(systematic(np.random.default_rng(seed), weights, len(weights)))
