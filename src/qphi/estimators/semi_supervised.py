"""`SemiSupervisedVAE`: a classifier and a generative model of each class from data of which few have labels."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
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
from qphi.data.scaling import Scaling, fit_scaling
from qphi.errors import InputError
from qphi.estimators import store
from qphi.estimators.options import check_sizes, plain, seed_of
from qphi.estimators.uses import random_keys
from qphi.serialise import load_arrays, save_arrays, write_json
from qphi.solvers import Problem
from qphi.status import Status

__all__ = ["SemiSupervisedVAE"]

_PARAMETERS = ("latent_dim", "likelihood", "max_epochs", "max_time")
LABEL_WEIGHT = 0.1  # Kingma et al. (2014), section 4: alpha = 0.1 N


class SemiSupervisedVAE(ClassifierMixin, BaseEstimator):
    """M2 of Kingma et al. (2014): p(x | y, z) with a label y that is known for some rows, a latent variable for others.

    Rows without a label still teach what data look like, and so where classes part. All classes have the same prior
    probability. Networks are MLPs; scaling, likelihoods, held-out rows and the end of training are those of `qphi.VAE`.
    `classes_`, `model_`, `status_`, `history_` and `seed_` hold the result.

    Parameters
    ----------
    latent_dim : length of z, what the label does not say (a style). likelihood (a name), hidden, max_epochs, max_time,
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
        random_state: int | np.random.RandomState | None = None,
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
        check_sizes(self)
        if not isinstance(self.likelihood, str):
            raise InputError(f"likelihood={self.likelihood!r}: a name is needed, as 'auto'. Use qphi.VAE for others.")
        scaling = fit_scaling(X, self.likelihood)
        x = scaling.prepare(X)
        self.classes_, columns = _classes_and_columns(y, len(x))
        classes, shape = columns.shape[1], scaling.model_shape
        vars(self).pop("model_", None)  # a fit that fails from here on leaves nothing that mixes it with the last
        self.scaling_, self.seed_ = scaling, seed_of(self.random_state)
        self.architecture_ = Architecture(
            shape,
            int(self.latent_dim),
            scaling.likelihood,
            choose_network(shape, "mlp"),
            tuple(int(width) for width in self.hidden),
            classes=scaling.classes,
            covariates=classes,
        )
        split_key, model_key, run_key = random_keys(self.seed_)
        train, held_out = hold_out(len(x), split_key)
        rows = np.concatenate([x.reshape(len(x), -1), columns], axis=1)
        model = _build(self.architecture_, model_key, jnp.asarray(float(np.std(x[train])) or 1.0))
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
        self.status_, self.n_features_in_ = result.status, scaling.size
        self.history_ = store.per_datum(result.history, scaling.log_jacobian, training.steps_per_epoch)
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
        check_is_fitted(self, "model_")
        labels = self._onehot(self.predict(X) if y is None else y)
        x = self.scaling_.prepare(X)
        return posterior_moments(self.model_.vae, np.concatenate([x.reshape(len(x), -1), labels], axis=1))[0]

    def sample(self, y: Any, *, noise: bool | None = None, random_state: int | None = None) -> np.ndarray:
        """New data, one of each class in `y` (n,); `noise` as in `qphi.VAE.sample`."""
        check_is_fitted(self, "model_")
        labels = self._onehot(y)
        noisy = not self.scaling_.image if noise is None else noise
        size, seed = self.scaling_.size, self.seed_ if random_state is None else int(random_state)
        return self.scaling_.restore(sample_data(self.model_.vae, len(labels), seed, noisy, size, labels))

    def save(self, path: str | Path) -> None:
        """Write model.safetensors and model.json into the folder `path`. No pickle, and no row of the data, inside."""
        check_is_fitted(self, "model_")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        checksum = save_arrays(folder / "model.safetensors", eqx.filter(self.model_, eqx.is_array))
        parameters = {name: plain(getattr(self, name)) for name in _PARAMETERS}
        write_json(
            folder / "model.json",
            {
                "kind": store.LABELLED,
                "parameters": parameters | {"hidden": list(self.architecture_.hidden)},
                "architecture": self.architecture_.to_json(),
                "scaling": self.scaling_.to_json(),
                "classes": self.classes_.tolist(),
                "seed": self.seed_,
                "status": self.status_.name,
                "history": self.history_,
                "sha256": checksum,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> SemiSupervisedVAE:
        """What `save` left in the folder `path`. Raises InputError, saying what is wrong, for damaged files."""
        folder = Path(path)
        values = store.read_values(folder, store.LABELLED)
        try:
            parameters: dict[str, Any] = dict(values["parameters"])
            hidden = tuple(parameters.pop("hidden"))
            model = cls(random_state=values["seed"], hidden=hidden, **parameters)
            model.architecture_ = Architecture.from_json(values["architecture"])
            model.scaling_ = Scaling.from_json(values["scaling"])
            model.classes_, model.seed_ = np.asarray(values["classes"]), values["seed"]
            model.status_, model.history_ = Status[values["status"]], values["history"]
            model.n_features_in_, checksum = model.scaling_.size, values["sha256"]
            skeleton = eqx.filter_eval_shape(_build, model.architecture_, jax.random.key(0), jnp.ones(()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise store.damaged(folder, error) from None
        model.model_ = load_arrays(folder / "model.safetensors", skeleton, checksum)
        return model

    def _onehot(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        unknown = sorted(set(y.tolist()) - set(self.classes_.tolist()), key=str)
        if unknown:
            raise InputError(f"y has labels {unknown[:5]} that the fit did not see. It knows {self.classes_.tolist()}.")
        return (y[:, None] == self.classes_).astype(np.float32)


def _classes_and_columns(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes, and one column for each of them, zero in rows without a label."""
    y = np.asarray(y, object)
    if y.shape != (n,):
        raise InputError(f"y has shape {y.shape}; one label for each of the {n} rows is needed, -1 if missing.")
    missing = np.array([v is None or v == -1 or v != v for v in y])
    found = np.asarray(list(y[~missing]))
    classes = np.unique(found)
    if len(classes) < 2:
        raise InputError(
            f"y has {len(classes)} different labels: at least 2 are needed. Missing ones are -1, NaN or None."
        )
    columns = np.zeros((n, len(classes)), np.float32)
    columns[~missing] = found[:, None] == classes
    return classes, columns


@eqx.filter_jit
def _build(architecture: Architecture, key: Any, scale: Any) -> LabelledModel:
    vae_key, classifier_key = jax.random.split(key)
    classifier = MLP(math.prod(architecture.shape), architecture.covariates, architecture.hidden, key=classifier_key)
    return LabelledModel(build(architecture, vae_key, scale=scale), classifier)


@eqx.filter_jit
def _log_labels(model: LabelledModel, xs: Any) -> Any:
    return model.log_labels(xs)
