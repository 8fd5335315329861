"""`TableVAE`: a variational autoencoder of a table with columns of every kind and gaps."""

from __future__ import annotations

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
from qphi.autoencoders.training import hold_out
from qphi.data.codec import Encoded, fit_codec
from qphi.data.frames import Table, read_table, to_container
from qphi.errors import InputError
from qphi.estimators import table_store
from qphi.estimators.checks import positive_count, seed_of
from qphi.loop import Progress
from qphi.tables import anomalies, filling
from qphi.tables.build import build, choose, linear_start
from qphi.tables.rows import Shape
from qphi.tables.training import fit_prior, plan_table
from qphi.tables.uses import decoded_modes, draw_given, encode_rows, sample_rows, score_cells

__all__ = ["TableVAE"]

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
    >>> import numpy as np, qphi
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(80, 1)) @ np.ones((1, 3)) + 0.3 * rng.normal(size=(80, 3))
    >>> x[0, 1] = np.nan
    >>> model = qphi.TableVAE(hidden=(8,), particles=2, max_epochs=1, random_state=0)
    >>> bool(abs(model.fit(x).impute(x)[0, 1] - x[0, [0, 2]].mean()) < 1)  # doctest: +SKIP
    True
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        kinds: Mapping[str, str] | str | None = None,
        hidden: Sequence[int] = (128, 128),
        particles: int | None = None,
        max_epochs: float | None = None,
        max_time: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.latent_dim = latent_dim
        self.kinds = kinds
        self.hidden = hidden
        self.particles = particles
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
        watch: Callable[[Progress], None] | None = None,
    ) -> TableVAE:
        """Train on a data frame (pandas, polars, pyarrow), a dictionary of columns or an array (n, d); gaps are NaN.

        Raises InputError (a ValueError) for tables that do not fit, before any work. Warns with ConvergenceWarning when
        a budget ended the fit. `run_dir` gets the model when it is done.
        """
        self._check_parameters()
        table = read_table(X)
        if table.rows < 2:
            raise InputError("X has 1 row (n_samples = 1): a model of rows needs at least 2. Give more rows.")
        weights = _weights(sample_weight, table.rows)
        codec = fit_codec(table, self.kinds)
        encoded = codec.transform(table)
        vars(self).pop("model_", None)  # a fit that fails from here on leaves nothing that mixes it with the last
        self.codec_, self.schema_, self.seed_ = codec, codec.schema, seed_of(self.random_state)
        self.feature_names_in_ = np.array(list(table.columns), object)
        if table.container == "numpy":
            del self.feature_names_in_
        self.n_features_in_ = len(table.columns)
        self._train(encoded.x, weights, watch)
        self._typical, self._reference = anomalies.fit_typical(codec, table, encoded, self.seed_)
        if run_dir is not None:
            table_store.write_table_model(Path(run_dir), self)
        if not self.status_.succeeded:
            warnings.warn(f"{self.status_text_}. {self.status_.advice}", ConvergenceWarning, stacklevel=2)
        return self

    def _train(self, x: np.ndarray, weights: np.ndarray, watch: Callable[[Progress], None] | None) -> None:
        keys = jax.random.split(jax.random.key(self.seed_, impl="threefry2x32"), 3)
        train, held_out = hold_out(len(x), keys[0])
        shape = Shape(len(self.codec_.numeric), self.codec_.level_counts, self.codec_.intervals)
        architecture = choose(shape, self.latent_dim, tuple(int(w) for w in self.hidden))
        linear = linear_start(x[train], architecture, np.random.default_rng(self.seed_))
        training = plan_table(
            eqx.filter_jit(build)(architecture, linear, keys[1]),
            x[train],
            x[held_out],
            keys[2],
            weights=(weights[train], weights[held_out]),
            particles=self.particles,
        )
        result = training.drive(training.start(), max_epochs=self.max_epochs, max_time=self.max_time, watch=watch)
        model = training.whole(result.answer)
        self.model_, components = fit_prior(model, x[train], x[held_out], self.seed_)
        self.architecture_ = architecture.with_components(components)
        self.status_, self.status_text_ = result.status, result.reason
        self.seconds_, self.n_iter_ = result.seconds, int(result.run.step)
        self.history_ = {name: [float(v) for v in values] for name, values in result.history.items()}
        self._n_features_out = architecture.latent_dim

    def _check_parameters(self) -> None:
        for name in ("latent_dim", "particles"):
            if getattr(self, name) is not None:
                positive_count(name, getattr(self, name))
        for name in ("max_epochs", "max_time"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float, np.number)) and value > 0):
                raise InputError(f"{name}={value!r}: a positive number or None is needed.")
        if not np.ndim(self.hidden) or not len(self.hidden) or min(self.hidden) < 1:
            raise InputError(f"hidden={self.hidden!r}: at least one layer of at least one unit is needed: (128, 128).")

    # ---------------------------------------------------------------- using

    def transform(self, X: Any) -> Float[np.ndarray, "rows latent"]:
        """Posterior means E_q[z | observed cells]: deterministic, one row at a time."""
        return self.encode(X)[0]

    def encode(self, X: Any) -> tuple[Float[np.ndarray, "rows latent"], Float[np.ndarray, "rows latent"]]:
        """Means and standard deviations of q(z | observed cells)."""
        return encode_rows(self._fitted(), self._seen(X)[1].x)

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
        return self.inverse_transform(self.transform(X))

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> Any:
        """Decodes of a straight line between the posterior means of two tables of one row each."""
        if steps < 2:
            raise InputError(f"steps={steps}: at least 2 are needed, the two ends.")
        ends = [self.transform(one) for one in (a, b)]
        if any(len(end) != 1 for end in ends):
            raise InputError("interpolate needs two tables of one row each, such as df.iloc[[3]] and df.iloc[[17]].")
        return self.inverse_transform(interpolate_between(ends[0][0], ends[1][0], steps))

    def sample(
        self, n_samples: int = 1, *, given: Mapping[str, Any] | None = None, random_state: int | None = None
    ) -> Any:
        """New rows, like the table of the fit: z from p(z), cells from p(x|z); categories are drawn as well.

        given: cells that are fixed, {"sex": "female"}; the others are drawn from p(x | given) by importance weighting,
        so a rare level costs no more than a common one. Without `random_state` the fit's own seed is used.
        """
        return to_container(self.sample_table(n_samples, given=given, random_state=random_state))

    def sample_table(
        self, n_samples: int, *, given: Mapping[str, Any] | None = None, random_state: int | None = None
    ) -> Table:
        """`sample` as a `qphi.data.frames.Table`, whatever the container of the fit was."""
        model, count = self._fitted(), positive_count("n_samples", n_samples)
        seed = self.seed_ if random_state is None else int(random_state)
        rng = np.random.default_rng(seed)
        if not given:
            return self.codec_.inverse_transform(sample_rows(model, count, seed), rng=rng)
        row = filling.one_row(self.codec_, given)
        drawn = draw_given(model, self.codec_.transform(row).x, count, seed=seed, particles=max(4 * count, 1000))
        made = self.codec_.inverse_transform(drawn[0], rng=rng)
        for name in given:
            made.columns[name][:] = row.columns[name][0]
        return made

    def impute(self, X: Any, *, n_imputations: int | None = None, draws: int = 100, random_state: int = 0) -> Any:
        """X with its gaps filled, in the container it came in; observed cells stay as they are.

        A gap gets E[x_mis | x_obs] for numbers (the median for whole numbers, ordinals and dates) and the likeliest
        level for categories, from `draws` importance-weighted draws. With `n_imputations=m` a list of m tables, each
        with one draw in each gap: for analyses that have to carry the uncertainty (Rubin 1987).
        """
        tables = self.impute_tables(X, n_imputations=n_imputations, draws=draws, random_state=random_state)
        whole = [filling.give_back(table, X) for table in tables]
        return whole[0] if n_imputations is None else whole

    def impute_tables(
        self, X: Any, *, n_imputations: int | None = None, draws: int = 100, random_state: int = 0
    ) -> list[Table]:
        """`impute` as a list of `qphi.data.frames.Table`: one table, or as many as there are imputations."""
        table, encoded = self._seen(X)
        count = (
            positive_count("draws", draws) if n_imputations is None else positive_count("n_imputations", n_imputations)
        )
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

        A lower bound in expectation that tightens with `particles`. Randomness is the row's own: the same row scores
        the same bits at every call, whatever its neighbours.
        """
        encoded = self._seen(X)[1]
        evidence, _ = score_cells(self._fitted(), encoded.x, positive_count("particles", particles))
        return evidence + encoded.log_slope.sum(axis=1)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: nats per row, higher is better."""
        return float(np.mean(self.score_samples(X)))

    def anomaly_score(self, X: Any) -> Float[np.ndarray, " rows"]:
        """How odd each row is: minus the log of the share of the fit's rows that are as odd, nats; deterministic.

        Odd as a whole, by -log p(x_obs), or by its cells one by one, whichever is rarer (`tables.anomalies.Typical`);
        the same whatever the units of the columns. 0 is as ordinary as can be; log(number of rows) odder than all.
        """
        table, encoded = self._seen(X)
        joint, _ = anomalies.unlikeliness(self._fitted(), encoded, self.codec_.typical_slope, PARTICLES)
        return self.typical_.oddness(joint, self.typical_.own_oddness(self.codec_, table, encoded))

    @property
    def typical_(self) -> anomalies.Typical:
        """How odd the fit's rows are; counted when first asked for, since imputing and sampling need none of it."""
        model = self._fitted()
        if self._reference is not None:
            joint, _ = anomalies.unlikeliness(model, self._reference, self.codec_.typical_slope, PARTICLES)
            self._typical, self._reference = self._typical.with_joint(joint), None
        return self._typical

    def __getstate__(self) -> Any:
        if hasattr(self, "model_"):
            _ = self.typical_  # so that no row of the data is kept
        return super().__getstate__()

    def explain(self, X: Any, top: int = 3) -> list[list[tuple[str, float]]]:
        """For each row the `top` columns that make it odd, with their nats: -log p(x_j | other cells)."""
        encoded = self._seen(X)[1]
        _, cells = anomalies.unlikeliness(self._fitted(), encoded, self.codec_.typical_slope, PARTICLES)
        order = np.argsort(-cells, axis=1, kind="stable")[:, :top]
        return [[(self.codec_.names[j], float(row[j])) for j in best] for row, best in zip(cells, order, strict=True)]

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
        table = read_table(X)
        if table.container == "numpy" and len(table.columns) != self.n_features_in_:
            raise InputError(
                f"X has {len(table.columns)} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input. Give the columns of the fit."
            )
        return table, self.codec_.transform(table)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


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
