"""`SemiSupervisedVAE`: a classifier and a generative model of each class from data of which few have labels."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.build import Architecture, build, choose_network
from qphi.autoencoders.labelled import LabelledModel, LabelledObjective
from qphi.autoencoders.latent import posterior_moments, sample_data
from qphi.autoencoders.networks import MLP
from qphi.autoencoders.training import hold_out, plan
from qphi.bounds import ELBO
from qphi.data.scaling import fit_scaling
from qphi.errors import InputError
from qphi.estimators.uses import positive, random_keys
from qphi.solvers import Problem

__all__ = ["SemiSupervisedVAE"]

LABEL_WEIGHT = 0.1  # Kingma et al. (2014), section 4: alpha = 0.1 N


class SemiSupervisedVAE(ClassifierMixin, BaseEstimator):
    """M2 of Kingma et al. (2014): p(x | y, z) with a label y that is known for some rows, a latent variable for others.

    Rows without a label still teach what data look like, and so where classes part. All classes have the same prior
    probability. Networks are MLPs; scaling, likelihoods, held-out rows and the end of training are those of `qphi.VAE`.
    `classes_`, `model_`, `status_`, `history_` hold the result.

    Parameters
    ----------
    latent_dim : length of z, what the label does not say (a style). likelihood, hidden, max_epochs, max_time,
        random_state : as of `qphi.VAE`.
    """

    def __init__(
        self,
        latent_dim: int = 16,
        *,
        likelihood: str = "auto",
        hidden: tuple[int, ...] = (512, 512),
        max_epochs: float | None = None,
        max_time: float | None = None,
        random_state: int = 0,
    ):
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> SemiSupervisedVAE:
        """Train on images or vectors with labels y (n,): numbers or words, -1, NaN or None where they are missing.

        Raises InputError when no label is there, or all are the same.
        """
        self.scaling_ = fit_scaling(X, self.likelihood)
        x = self.scaling_.prepare(X)
        columns = self._columns(y, len(x))
        classes = columns.shape[1]
        shape, hidden = self.scaling_.model_shape, tuple(int(width) for width in self.hidden)
        architecture = Architecture(
            shape,
            positive(self.latent_dim),
            self.scaling_.likelihood,
            choose_network(shape, "mlp"),
            hidden,
            classes=self.scaling_.classes,
            covariates=classes,
        )
        split_key, model_key, run_key = random_keys(int(self.random_state))
        train, held_out = hold_out(len(x), split_key)
        rows = np.concatenate([x.reshape(len(x), -1), columns], axis=1)
        model = _build(architecture, classes, model_key, jnp.asarray(float(np.std(x[train])) or 1.0))
        training = plan(model.vae, rows[train], rows[held_out], run_key)
        # alpha E over labelled rows, as a weight on each of them
        weight = jnp.asarray(LABEL_WEIGHT * len(rows) / max(float(columns.sum()), 1.0))
        problem, trained = Problem.of(
            model,
            objective=LabelledObjective(ELBO(), weight),
            scoring=LabelledObjective(ELBO(), weight),
            train=jnp.asarray(rows[train]),
            held_out=jnp.asarray(rows[held_out]),
            block=training.problem.block,
        )
        training = dataclasses.replace(training, problem=problem, trained=trained)
        result = training.drive(training.start(), max_epochs=self.max_epochs, max_time=self.max_time)
        self.model_: LabelledModel = problem.whole(result.answer)
        self.status_, self.history_ = result.status, result.history
        if not result.status.succeeded:
            warnings.warn(f"{result.reason}. {result.status.advice}", ConvergenceWarning, stacklevel=2)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """q(y | x), (n, classes), in the order of `classes_`."""
        check_is_fitted(self, "model_")
        rows = self.scaling_.prepare(X)
        return np.exp(in_blocks(lambda block: _log_labels(self.model_, jnp.asarray(block)), rows, self.scaling_.size))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row."""
        return self.classes_[np.argmax(self.predict_proba(X), axis=1)]

    def transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Posterior means of z, (n, latent_dim), given labels y or, without them, the most probable ones."""
        labels = self._onehot(self.predict(X) if y is None else y)
        x = self.scaling_.prepare(X)
        return posterior_moments(self.model_.vae, np.concatenate([x.reshape(len(x), -1), labels], axis=1))[0]

    def sample(self, y: Any, *, noise: bool | None = None, random_state: int = 0) -> np.ndarray:
        """New data, one of each class in `y` (n,); `noise` as in `qphi.VAE.sample`."""
        check_is_fitted(self, "model_")
        labels = self._onehot(y)
        noisy = not self.scaling_.image if noise is None else noise
        size = self.scaling_.size
        return self.scaling_.restore(sample_data(self.model_.vae, len(labels), random_state, noisy, size, labels))

    def _columns(self, y: Any, n: int) -> np.ndarray:
        """One column for each class, zero in rows without a label."""
        y = np.asarray(y, object)
        if y.shape != (n,):
            raise InputError(f"y has shape {y.shape}; one label for each of the {n} rows is needed, -1 if missing.")
        missing = np.array([v is None or v == -1 or v != v for v in y])
        found = list(y[~missing])
        if len(set(found)) < 2:
            raise InputError(
                f"y has {len(set(found))} different labels: at least 2 are needed. Missing ones are -1, NaN or None."
            )
        self.classes_ = np.unique(np.asarray(found))
        columns = np.zeros((n, len(self.classes_)), np.float32)
        columns[~missing] = self._onehot(found)
        return columns

    def _onehot(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        unknown = sorted(set(y.tolist()) - set(self.classes_.tolist()), key=str)
        if unknown:
            raise InputError(f"y has labels {unknown[:5]} that the fit did not see. It knows {self.classes_.tolist()}.")
        return (y[:, None] == self.classes_).astype(np.float32)


@eqx.filter_jit
def _build(architecture: Architecture, classes: int, key: Any, scale: Any) -> LabelledModel:
    vae_key, classifier_key = jax.random.split(key)
    size = int(np.prod(architecture.shape))
    classifier = MLP(size, classes, architecture.hidden, key=classifier_key)
    return LabelledModel(build(architecture, vae_key, scale=scale), classifier)


@eqx.filter_jit
def _log_labels(model: LabelledModel, xs: Any) -> Any:
    return model.log_labels(xs)
