"""`VAE`: a variational autoencoder with scikit-learn's habits."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning

from qphi.autoencoders.build import Architecture, attentive, build, centred
from qphi.autoencoders.choices import start_vamp
from qphi.autoencoders.likelihoods import AbstractLikelihood
from qphi.autoencoders.linear_start import linear_start
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.standard import rescaled, standardised
from qphi.autoencoders.training import Training, continued, hold_out, images_at_once, plan
from qphi.data.frames import mixed_table
from qphi.data.scaling import dense
from qphi.errors import InputError
from qphi.estimators import store, table_store
from qphi.estimators.diagnosis import ROWS
from qphi.estimators.events import Events
from qphi.estimators.handover import Handover, either
from qphi.estimators.options import (
    check_options,
    check_same,
    climbs_elbo,
    first_look,
    mixed_precision,
    objective_words,
    own_parts,
    seed_of,
    settings_of,
    training_of,
)
from qphi.estimators.table_vae import TableVAE
from qphi.estimators.uses import Uses, random_keys
from qphi.loop import Progress, Result

__all__ = ["VAE"]


class VAE(Handover, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A variational autoencoder: embeds, generates, reconstructs and scores images or vectors.

    Maximises the ELBO, E_q[log p(x|z)] - KL(q(z|x) || p(z)), with q(z|x) = N(mu(x), diag sigma(x)^2) from an encoder
    and p(x|z) from a decoder (Kingma & Welling 2014); other priors, posteriors and bounds are a word away. Nothing
    needs tuning: network, batches and steps are chosen from the data, a tenth of the rows is held out, training ends
    when the held-out ELBO has stopped rising, and the best weights by that measure are kept. A Gaussian decoder's
    noise scale is learned (Rybkin et al. 2021), so the two terms of the loss are in balance by themselves. All log
    densities are in nats, in the units of the data.

    Parameters
    ----------
    latent_dim : length of z. Units that the data do not need switch themselves off.
    likelihood : 'auto', a name, an `AbstractLikelihood`, or a callable from the decoder's outputs to a NumPyro
        distribution over x. Names, by the data they are for: 'gaussian', 'gaussian-per-feature',
        'gaussian-output-scale', 'student-t' (real numbers); 'bernoulli' (0 and 1), 'continuous-bernoulli' (0..1);
        'discretised-logistic', 'discretised-logistic-mixture' (8-bit levels); 'categorical', 'ordinal' (codes from 0);
        'poisson', 'negative-binomial', 'zero-inflated-negative-binomial' (counts). 'auto' is Bernoulli for data that
        are all 0 or 1 (or 0 and 255), negative binomial for tables of counts, Student-t for tables of numbers with
        outliers, Gaussian with a learned scale otherwise.
        A likelihood that does not suit the data warns, or raises where it has no density for them, and names another.
    beta : weight of the KL. Other than 1, the objective is not a bound on log p(x); scores then still are.
    network : 'auto' | 'mlp' | 'residual-mlp' | 'conv' | 'residual-conv'.
    hidden : widths of the fully connected layers.
    encoder, decoder : modules or functions of your own in place of qphi's: from x to a family or NumPyro distribution
        over z, from z to the likelihood's outputs; with covariates c they are called with (x, c) and (z, c).
    max_epochs, max_time : budgets in passes over the data and in seconds; None leaves the end to convergence.
    random_state : int, RandomState or None. The same int gives the same model, bit for bit, on the same machine.
    device : 'cpu', 'gpu', 'tpu' or None for JAX's default.

    The model. prior : 'normal' | 'mixture' | 'vamp' | 'flow' | 'categorical' | 'ladder'. components : of a mixture (10
    unless given), or pseudo-inputs of a VampPrior (500), which start at training rows. posterior : 'diagonal' |
    'full-rank' | 'student-t' | 'iaf' | 'coupling' | 'categorical' | 'ladder'; the last two have the prior of their
    name. categories : latent_dim / categories one-hot variables. levels : a ladder shares latent_dim out evenly over
    so many. refine_steps : gradient steps that each datum's q takes from the encoder's answer. activation : 'relu' |
    'tanh' | 'silu' | 'gated'.

    The objective. bound : 'elbo' | 'monte-carlo' | 'sticking-the-landing' | 'iwae' | 'dreg' | 'leave-one-out', with
    `particles` draws a datum (1; 8 for the importance-weighted ones) and, for 'iwae' and 'dreg', Renyi's `alpha`.
    free_bits : nats of each unit's KL that cost nothing while training. warm_up_epochs : in which the KL's weight
    rises, `cycles` times. capacity : nats of KL to aim at, with weight beta. docs/bounds.md says which when.

    Training. learning_rate; batch_size (None: by the number of rows) and slice_size, rows whose gradient is taken at
    once; schedule : 'plateau' | 'constant' | 'cosine'; clip_norm of gradients; patience : checks without a rise that
    make a plateau; precision : 'float32' | 'mixed', which is bfloat16 products where the device has them.

    Attributes
    ----------
    status_ : a `qphi.Status`, with `.message` and `.advice`. history_ : dict of lists, one entry a check.
    table_ : the `TableVAE` of a data frame with text, dates or gaps; its attributes are this object's too.
    model_ : the trained `LatentVariableModel`. best_epoch_, n_iter_ (steps), seconds_, seed_, likelihood_, shape_.

    Examples
    --------
    >>> import numpy as np, qphi
    >>> x = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.4]]
    >>> vae = qphi.VAE(latent_dim=1, hidden=(16,), random_state=0).fit(x)
    >>> vae.transform(x).shape
    (60, 1)
    """

    def __init__(
        self,
        latent_dim: int = 16,
        *,
        likelihood: str | AbstractLikelihood | Callable = "auto",
        beta: float = 1.0,
        prior: str = "normal",
        components: int | None = None,
        posterior: str = "diagonal",
        levels: int = 2,
        categories: int = 2,
        refine_steps: int = 0,
        bound: str = "elbo",
        particles: int | None = None,
        alpha: float = 0.0,
        free_bits: float = 0.0,
        warm_up_epochs: float = 0.0,
        cycles: int = 1,
        capacity: float | None = None,
        network: str = "auto",
        hidden: Sequence[int] = (512, 512),
        encoder: Callable | None = None,
        decoder: Callable | None = None,
        activation: str = "relu",
        learning_rate: float = 2e-3,
        batch_size: int | None = None,
        slice_size: int | None = None,
        schedule: str = "plateau",
        clip_norm: float = 100.0,
        patience: int = 8,
        precision: str = "float32",
        max_epochs: float | None = None,
        max_time: float | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
    ):
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.beta = beta
        self.prior = prior
        self.components = components
        self.posterior = posterior
        self.levels = levels
        self.categories = categories
        self.refine_steps = refine_steps
        self.bound = bound
        self.particles = particles
        self.alpha = alpha
        self.free_bits = free_bits
        self.warm_up_epochs = warm_up_epochs
        self.cycles = cycles
        self.capacity = capacity
        self.network = network
        self.hidden = hidden
        self.encoder = encoder
        self.decoder = decoder
        self.activation = activation
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.slice_size = slice_size
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.patience = patience
        self.precision = precision
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.random_state = random_state
        self.device = device

    transform = either(Uses.transform)  # stands here so that scikit-learn's set_output finds it

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        covariates: Any = None,
        size_factors: Any = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        watch: Callable[[Progress], None] | None = None,
        tensorboard: bool = False,
    ) -> VAE:
        """Train on images (n, h, w[, channels]) or vectors (n, d), dense or sparse, or on a data frame.

        A data frame with text, categories, dates or gaps is handed to a `TableVAE`, kept in `table_`: this object then
        has its methods (`impute`, `anomaly_score`, `explain`, ...) and attributes, and its files when saved.

        `covariates` (n, c) make the model conditional, p(x|c): encoder and decoder are told them, and so must be all
        that is asked of it later. `size_factors` (n,), positive, multiply the mean of counts, such as the total of each
        row over the mean total: z then says what the row is made of, not how much of it was seen.

        With `run_dir` the model, its metrics and a checkpoint are written there as training goes; `resume=True` goes on
        from that checkpoint, with the same data and settings, to the bits of an uninterrupted fit. `watch` is told of
        the progress a few times a second; with `tensorboard`, so are event files in the run folder. Ctrl-C keeps the
        best model so far.

        Raises InputError (a ValueError) for data that do not fit, before any work. Warns with ConvergenceWarning when
        a budget ended the fit before it converged.
        """
        check_options(self)
        table = mixed_table(X)
        if table is not None:
            model = self._table_of_own(
                {"covariates": covariates, "size_factors": size_factors, "tensorboard": tensorboard}
            )
            with self._on_device():
                model.fit(table, run_dir=run_dir, resume=resume, watch=watch)
            self._keep_table(model)
            return self
        X = dense(X)
        scaling, given, architecture = first_look(self, X, covariates, size_factors)
        folder = None if run_dir is None else Path(run_dir)
        if resume and folder is None:
            raise InputError("resume=True needs run_dir=, the folder of the run to go on with.")
        checkpoint = store.read_checkpoint(folder) if folder is not None and resume else None
        settings = {"architecture": architecture.to_json(), "scaling": scaling.to_json(), "beta": self.beta}
        settings["training"] = settings_of(self)
        settings["data"] = store.fingerprint(X)
        if given:
            parts = [np.asarray(part, float) for part in (covariates, size_factors) if part is not None]
            settings["given"] = [given.to_json(), *map(store.fingerprint, parts)]
        if checkpoint is not None:
            checkpoint.check(settings, self.random_state)
        if tensorboard and folder is None:
            raise InputError("tensorboard=True needs run_dir=, the folder to write event files into.")
        watchers = [watch] if watch is not None else []
        events = Events(folder) if folder is not None and tensorboard else None
        watchers += [events] if events is not None else []

        def tell(progress: Progress) -> None:
            for each in watchers:
                each(progress.shifted(scaling.log_jacobian))

        device = self._on_device()
        vars(self).pop("_last_run", None)
        for name in ("model_", "table_"):  # a fit that fails from here on leaves nothing that mixes it with the last
            vars(self).pop(name, None)
        self.seed_ = seed_of(self.random_state) if checkpoint is None else checkpoint.seed
        self.scaling_, self.architecture_, self.fingerprint_ = scaling, architecture, settings["data"]
        self.given_ = given
        with device, mixed_precision(self):
            training = self._plan(given.pack(scaling.prepare(X), covariates, size_factors))
            if checkpoint is None:
                run, history, seconds = training.start(), None, 0.0
            else:
                run = checkpoint.run(training.start())
                history, seconds = checkpoint.history, checkpoint.seconds

            def save(run: Any, history: dict[str, list[float]], seconds: float) -> None:
                assert folder is not None
                store.write_checkpoint(folder, run, self.seed_, settings, history, seconds)

            result = training.drive(
                run,
                max_epochs=self.max_epochs,
                max_time=self.max_time,
                watch=tell if watchers else None,
                save=None if folder is None else save,
                history=history,
                seconds_before=seconds,
            )
        self._keep(training, result)
        if events is not None:
            events.close()
        if folder is not None:
            self.save(folder)
            store.write_metrics(folder, self.history_)
        if not result.status.succeeded:
            warnings.warn(f"{self.status_text_}. {result.status.advice}", ConvergenceWarning, stacklevel=2)
        return self

    def partial_fit(
        self, X: Any, y: Any = None, *, epochs: float = 1.0, covariates: Any = None, size_factors: Any = None
    ) -> VAE:
        """Train on X for so many passes, from where the last call stopped: data that come piece by piece.

        The first call, of an unfitted model, decides scaling and network from its X, which should be typical. Weights,
        their average and the optimiser's moments go on from call to call; a tenth of each X is held out and scored
        once. After `fit` or `load` it goes on from the weights kept. Raises InputError for X of another shape, and for
        options that would need another model: what only says how to train may change from call to call. A data frame
        that `fit` would hand to a `TableVAE` goes to its `partial_fit`.
        """
        check_options(self)
        table = mixed_table(X)
        if "table_" in vars(self) or (table is not None and "model_" not in vars(self)):
            fresh = self._table_of_own({"covariates": covariates, "size_factors": size_factors})
            model = vars(self).get("table_", fresh)
            with self._on_device():
                model.partial_fit(X if table is None else table, epochs=epochs)
            self._keep_table(model)
            return self
        if not (isinstance(epochs, (int, float)) and math.isfinite(epochs) and epochs > 0):
            raise InputError(f"epochs={epochs!r}: a positive number is needed.")
        X = dense(X)
        if not hasattr(self, "model_"):
            self.scaling_, self.given_, self.architecture_ = first_look(self, X, covariates, size_factors)
            self.seed_ = seed_of(self.random_state)
        check_same(self, len(X))
        x = self.given_.pack(self.scaling_.prepare(X), covariates, size_factors)
        self.fingerprint_ = store.fingerprint(X)
        with self._on_device(), mixed_precision(self):
            training = self._plan(x, getattr(self, "model_", None))
            run = training.start()
            last = vars(self).get("_last_run")
            run = run if last is None else continued(run, last)
            steps = max(1, round(epochs * training.steps_per_epoch))
            training = dataclasses.replace(training, check_every=steps)
            result = training.drive(run, max_epochs=(int(run.step) + steps) / training.steps_per_epoch)
        self._keep(training, result)
        self._last_run = result.run
        return self

    @property
    def objective_(self) -> str:
        """What was maximised, in words, and whether it is a bound on log p(x). `evaluate` gives the ELBO regardless."""
        self._fitted()
        return objective_words(self)

    def _on_device(self):
        if self.device is None:
            return jax.default_device(None)
        try:
            return jax.default_device(jax.devices(self.device)[0])
        except RuntimeError:
            have = sorted({d.platform for d in jax.devices()})
            raise InputError(f"device={self.device!r} is not there; JAX sees {', '.join(have)}.") from None

    def _plan(self, x: np.ndarray, model: LatentVariableModel | None = None) -> Training:
        split_key, model_key, run_key = random_keys(self.seed_)
        train, held_out = hold_out(len(x), split_key)
        self.seen_ = (x[train[:: -(-len(train) // ROWS)]], x[held_out[:: -(-len(held_out) // ROWS)]])
        model = self._first_model(x[train], model_key) if model is None else model
        slice_size = images_at_once(*self.scaling_.shape[:2]) if self.architecture_.convolutional else None
        slice_size = slice_size if self.slice_size is None else int(self.slice_size)
        return plan(model, x[train], x[held_out], run_key, slice_size=slice_size, **training_of(self))

    def _first_model(self, x: np.ndarray, key: PRNGKeyArray) -> LatentVariableModel:
        """The model before its first step, with what these rows say of where it should start."""
        own = own_parts(self)
        data = x if not self.given_ else x[:, : self.scaling_.size]
        model = _build(self.architecture_, key, jnp.asarray(float(np.std(data)) or 1.0), own)
        if self.scaling_.kind == "counts" and "encoder" not in own and not self.architecture_.convolutional:
            model = attentive(model, data.reshape(len(x), -1))
        if self.scaling_.kind == "counts" and "decoder" not in own:
            sizes = np.exp(x[:, -1:]) if self.given_.sized else 1.0
            model = centred(model, np.mean(data.reshape(len(x), -1) / sizes, axis=0))
        return start_vamp(linear_start(model, x), x, jax.random.fold_in(key, 1))

    def _keep(self, training: Training, result: Result) -> None:
        self.model_ = training.whole(result.answer)
        if climbs_elbo(self):
            self.model_ = standardised(self.model_, np.asarray(training.problem.train))
            self.model_ = rescaled(self.model_, np.asarray(training.problem.held_out))
        self.status_ = result.status
        self.status_text_ = result.reason
        self.history_ = store.per_datum(result.history, self.scaling_.log_jacobian, training.steps_per_epoch)
        self.seconds_ = result.seconds
        self.n_iter_ = int(result.run.step)
        self.best_epoch_ = int(result.run.stopping.best_step) / training.steps_per_epoch
        self._describe()

    def _describe(self) -> None:
        self.likelihood_ = self.scaling_.likelihood
        self.shape_ = self.scaling_.shape
        self.image_ = self.scaling_.image
        self.levels_ = self.scaling_.levels
        self.n_features_in_ = self.scaling_.size if self.image_ else self.shape_[0]
        self._n_features_out = self.architecture_.latent_dim

    # ---------------------------------------------------------------- keeping

    def save(self, path: str | Path) -> None:
        """Write model.safetensors and model.json into the folder `path`. No pickle, and no row of the data, inside:
        but the pseudo-inputs of a VampPrior start at rows of the data, and may still look like them.
        """
        if "table_" in vars(self):
            return self.table_.save(path)
        self._fitted()
        store.write_model(Path(path), self)

    @classmethod
    def load(cls, path: str | Path, *, encoder: Any = None, decoder: Any = None, likelihood: Any = None) -> VAE:
        """The VAE saved in the folder `path`. Raises InputError, saying what is wrong, for damaged files.

        A file holds numbers, no code: an encoder, decoder or likelihood of your own has to be given again, in the form
        (the same sizes) that it had when the VAE was fitted; its trained numbers then come from the file.
        """
        own = {"encoder": encoder, "decoder": decoder, "likelihood": likelihood}
        if store.read_values(Path(path)).get("kind") == table_store.KIND:
            vae = cls()
            vae._keep_table(TableVAE.load(path))
            return vae
        return store.read_model(Path(path), cls, {name: part for name, part in own.items() if part is not None})

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # the precision of the model
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = True
        return tags


@eqx.filter_jit
def _build(
    architecture: Architecture, key: PRNGKeyArray, scale: Float[Array, ""], own: dict[str, Any]
) -> LatentVariableModel:
    return build(architecture, key, scale=scale, own=own)  # compiled as one: initialising array by array compiles each
