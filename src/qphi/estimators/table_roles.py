"""Focused classes over `TableVAE`, with scikit-learn's interfaces for their roles: fill gaps, find odd rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, OutlierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from qphi.data.frames import Table, is_table
from qphi.errors import InputError
from qphi.estimators.table_vae import TableVAE

__all__ = ["AnomalyDetector", "Imputer"]


class _OverTable(BaseEstimator):
    """Parameters and checks that the roles share; `model_` is the `TableVAE` behind them."""

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        kinds: Mapping[str, str] | str | None = None,
        hidden: Sequence[int] = (128, 128),
        missing: str = "at random",
        max_epochs: float | None = None,
        max_time: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.latent_dim = latent_dim
        self.missing = missing
        self.kinds = kinds
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.random_state = random_state

    def _fit_model(self, X: Any, sample_weight: Any) -> Any:
        X = self._checked(X, reset=True)
        shared = ("latent_dim", "kinds", "hidden", "missing", "max_epochs", "max_time", "random_state")
        model = TableVAE(**{name: getattr(self, name) for name in shared})
        self.model_ = model.fit(X, sample_weight=sample_weight)
        self.n_iter_, self.status_ = model.n_iter_, model.status_
        return X

    def _checked(self, X: Any, *, reset: bool = False) -> Any:
        """Frames as they are, arrays by scikit-learn's own checks; in both cases with its bookkeeping of columns."""
        if isinstance(X, Table):
            return X
        if is_table(X):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return X
        return validate_data(
            self,
            X,
            accept_sparse=["csr", "csc"],
            ensure_all_finite="allow-nan",
            dtype="numeric",
            ensure_min_samples=2 if reset else 1,
            reset=reset,
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags


class Imputer(OneToOneFeatureMixin, TransformerMixin, _OverTable):
    """Fills gaps with what a generative model of the table expects there; scikit-learn's transformer.

    `transform` keeps observed cells to the bit and the container of its input; a gap gets E[x_mis | x_obs], rounded
    for whole numbers, the likeliest level for categories (`TableVAE.impute`, mixed columns too). It is deterministic.
    Where cells may be missing because of their own value, say missing='not at random'. Parameters and attributes are
    those of `TableVAE`; `model_` is one, with `impute(X, n_imputations=5)` for multiple imputation, `impute_intervals`
    and `impute_probabilities`.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Imputer:
        """Fit the model of the rows; gaps are NaN, None or NaT."""
        self._fit_model(X, sample_weight)
        return self

    def transform(self, X: Any) -> Any:
        """X with its gaps filled."""
        check_is_fitted(self, "model_")
        return self.model_.impute(self._checked(X))


class AnomalyDetector(OutlierMixin, _OverTable):
    """Finds rows that a generative model of the table finds unlikely; scikit-learn's outlier detector.

    `score_samples` is minus `TableVAE.anomaly_score`, higher is more normal; `offset_` its quantile at `contamination`
    on the training rows. `explain(X)` names the columns that make a row odd. Mixed columns and gaps are fine.

    contamination : share of the training rows that `predict` calls outliers (-1), above 0 and at most 0.5.
    """

    def __init__(
        self,
        contamination: float = 0.1,
        latent_dim: int | None = None,
        *,
        kinds: Mapping[str, str] | str | None = None,
        hidden: Sequence[int] = (128, 128),
        missing: str = "at random",
        max_epochs: float | None = None,
        max_time: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(
            latent_dim,
            kinds=kinds,
            hidden=hidden,
            missing=missing,
            max_epochs=max_epochs,
            max_time=max_time,
            random_state=random_state,
        )
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> AnomalyDetector:
        """Fit the model of the rows and the threshold."""
        if not (isinstance(self.contamination, (int, float)) and 0 < self.contamination <= 0.5):
            raise InputError(f"contamination={self.contamination!r}: a share above 0 and at most 0.5 is needed.")
        X = self._fit_model(X, sample_weight)
        self.offset_ = float(np.percentile(-self.model_.anomaly_score(X), 100.0 * self.contamination))
        return self

    def score_samples(self, X: Any) -> Float[np.ndarray, " rows"]:
        """Minus the anomaly score of each row: higher is more normal."""
        check_is_fitted(self, "model_")
        return -self.model_.anomaly_score(self._checked(X))

    def decision_function(self, X: Any) -> Float[np.ndarray, " rows"]:
        """`score_samples` - `offset_`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for a normal row, -1 for an outlier."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def explain(self, X: Any, top: int = 3) -> list[list[tuple[str, float]]]:
        """For each row the `top` columns that make it odd, with their nats; see `TableVAE.explain`."""
        check_is_fitted(self, "model_")
        return self.model_.explain(self._checked(X), top)
