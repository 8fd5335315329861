"""`VAE`: a variational autoencoder with scikit-learn's habits."""

from __future__ import annotations

import dataclasses
import math
import secrets
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
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from qphi.autoencoders.build import Architecture, build
from qphi.autoencoders.choices import start_vamp
from qphi.autoencoders.evaluation import Evaluation, evaluate, score_rows
from qphi.autoencoders.latent import decode_means, interpolate_between, posterior_moments, sample_data
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.training import Training, continued, hold_out, plan
from qphi.data.scaling import fit_scaling
from qphi.errors import InputError
from qphi.estimators import store
from qphi.estimators.events import Events
from qphi.estimators.options import architecture_of, mixed_precision, objective_words, settings_of, training_of
from qphi.loop import Progress, Result

__all__ = ["VAE"]


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
    likelihood : 'auto' | 'gaussian' | 'bernoulli' | 'continuous-bernoulli'. 'auto' is Bernoulli for data that are all
        0 or 1 (or 0 and 255), Gaussian with a learned scale otherwise.
    beta : weight of the KL. Other than 1, the objective is not a bound on log p(x); scores then still are.
    network : 'auto' | 'mlp' | 'conv'.
    hidden : widths of the fully connected layers.
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
        likelihood: str = "auto",
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

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        watch: Callable[[Progress], None] | None = None,
        tensorboard: bool = False,
    ) -> VAE:
        """Train on images (n, h, w[, channels]) or vectors (n, d).

        With `run_dir` the model, its metrics and a checkpoint are written there as training goes; `resume=True` goes on
        from that checkpoint, with the same data and settings, to the bits of an uninterrupted fit. `watch` is told of
        the progress a few times a second; with `tensorboard`, so are event files in the run folder. Ctrl-C keeps the
        best model so far.

        Raises InputError (a ValueError) for data that do not fit, before any work. Warns with ConvergenceWarning when
        a budget ended the fit before it converged.
        """
        self._check_parameters()
        scaling = fit_scaling(X, self.likelihood)
        folder = None if run_dir is None else Path(run_dir)
        if resume and folder is None:
            raise InputError("resume=True needs run_dir=, the folder of the run to go on with.")
        checkpoint = store.read_checkpoint(folder) if folder is not None and resume else None
        architecture = architecture_of(self, scaling, len(X))
        settings = {"architecture": architecture.to_json(), "scaling": scaling.to_json(), "beta": self.beta}
        settings["training"] = settings_of(self)
        settings["data"] = store.fingerprint(X)
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
        vars(self).pop("model_", None)  # a fit that fails from here on leaves nothing that mixes it with the last
        self.seed_ = self._seed() if checkpoint is None else checkpoint.seed
        self.scaling_, self.architecture_, self.fingerprint_ = scaling, architecture, settings["data"]
        with device, mixed_precision(self):
            training = self._plan(scaling.prepare(X))
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

    def partial_fit(self, X: Any, y: Any = None, *, epochs: float = 1.0) -> VAE:
        """Train on X for so many passes, from where the last call stopped: data that come piece by piece.

        The first call, of an unfitted model, decides scaling and network from its X, which should be typical. Weights,
        their average and the optimiser's moments go on from call to call; a tenth of each X is held out and scored
        once. After `fit` or `load` it goes on from the weights kept. Raises InputError for X of another shape.
        """
        self._check_parameters()
        if not (isinstance(epochs, (int, float)) and math.isfinite(epochs) and epochs > 0):
            raise InputError(f"epochs={epochs!r}: a positive number is needed.")
        if not hasattr(self, "model_"):
            scaling = fit_scaling(X, self.likelihood)
            architecture = architecture_of(self, scaling, len(X))
            self.scaling_, self.architecture_, self.seed_ = scaling, architecture, self._seed()
        x = self.scaling_.prepare(X)
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

    def _check_parameters(self) -> None:
        if not (isinstance(self.latent_dim, (int, np.integer)) and self.latent_dim >= 1):
            raise InputError(f"latent_dim={self.latent_dim!r}: a whole number of at least 1 is needed.")
        if not (isinstance(self.beta, (int, float)) and math.isfinite(self.beta) and self.beta >= 0):
            raise InputError(f"beta={self.beta!r}: a finite number of at least 0 is needed; 1 gives the ELBO.")
        for name in ("max_epochs", "max_time"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float, np.number)) and value > 0):
                raise InputError(f"{name}={value!r}: a positive number or None is needed.")
        if not np.ndim(self.hidden) or not len(self.hidden) or min(self.hidden) < 1:
            raise InputError(f"hidden={self.hidden!r}: at least one layer of at least one unit is needed: (512, 512).")
        training_of(self)

    def _seed(self) -> int:
        if self.random_state is None:
            return secrets.randbelow(2**31)  # from the system; global random state is neither read nor moved
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _on_device(self):
        if self.device is None:
            return jax.default_device(None)
        try:
            return jax.default_device(jax.devices(self.device)[0])
        except RuntimeError:
            have = sorted({d.platform for d in jax.devices()})
            raise InputError(f"device={self.device!r} is not there; JAX sees {', '.join(have)}.") from None

    def _plan(self, x: np.ndarray, model: LatentVariableModel | None = None) -> Training:
        split_key, model_key, run_key = _keys(self.seed_)
        train, held_out = hold_out(len(x), split_key)
        if model is None:
            model = _build(self.architecture_, model_key, jnp.asarray(float(np.std(x[train])) or 1.0))
            model = start_vamp(model, x[train], jax.random.fold_in(model_key, 1))
        # 64 images of 28 x 28 hold about 22 MB of temporaries in the convolutional network; slice larger ones finer.
        conv = self.architecture_.network == "conv"
        slice_size = int(np.clip(2 ** int(np.floor(np.log2(64 * 784 / self.scaling_.size))), 8, 64)) if conv else None
        slice_size = slice_size if self.slice_size is None else int(self.slice_size)
        return plan(model, x[train], x[held_out], run_key, slice_size=slice_size, **training_of(self))

    def _keep(self, training: Training, result: Result) -> None:
        self.model_ = training.whole(result.answer)
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

    # ---------------------------------------------------------------- using

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means E_q[z|x], (n, latent_dim): deterministic, one row at a time."""
        return self.encode(X)[0]

    def encode(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of q(z|x), each (n, latent_dim): every row's Gaussian in latent space."""
        return posterior_moments(self._fitted(), self.scaling_.prepare(X))

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """E[x|z] for each row of Z, in the shape and units of the data (float32)."""
        model = self._fitted()
        z = np.asarray(Z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.architecture_.latent_dim or not len(z):
            raise InputError(
                f"Z has shape {z.shape}; latents of shape (n, {self.architecture_.latent_dim}) with n >= 1 are needed."
            )
        if not np.isfinite(z).all():
            raise InputError("Z has values that are NaN or infinity. Remove those rows.")
        return self.scaling_.restore(decode_means(model, z, self.scaling_.size))

    def sample(self, n_samples: int = 1, *, noise: bool | None = None, random_state: int | None = None) -> np.ndarray:
        """New data: z from the prior, x from p(x|z), in the shape and units of the data.

        noise: whether to draw x from p(x|z) or to give its mean. None draws for vectors, whose noise is part of their
        distribution, and gives the mean for images, where it is what people look at. Without `random_state` the
        fit's own seed is used: the same call gives the same data.
        """
        model = self._fitted()
        if not (isinstance(n_samples, (int, np.integer)) and n_samples >= 1):
            raise InputError(f"n_samples={n_samples!r}: a whole number of at least 1 is needed.")
        seed = self.seed_ if random_state is None else int(random_state)
        noisy = not self.image_ if noise is None else noise
        return self.scaling_.restore(sample_data(model, int(n_samples), seed, noisy, self.scaling_.size))

    def reconstruct(self, X: Any) -> np.ndarray:
        """E[x|z] at the posterior mean of each row."""
        return self.inverse_transform(self.transform(X))

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> np.ndarray:
        """Decodes of a straight line between the posterior means of two data, (steps, *shape).

        The ends are the reconstructions of `a` and `b`, each one datum of the data's shape.
        """
        if steps < 2:
            raise InputError(f"steps={steps}: at least 2 are needed, the two ends.")
        a, b = np.asarray(a), np.asarray(b)
        for name, datum in (("a", a), ("b", b)):
            if datum.shape != self._fitted_shape():
                raise InputError(f"{name} has shape {datum.shape}; one datum of shape {self.shape_} is needed.")
        ends = self.transform(np.stack([a, b]))
        return self.inverse_transform(interpolate_between(ends[0], ends[1], steps))

    def score_samples(self, X: Any, *, particles: int = 100) -> np.ndarray:
        """log p(x) of each row, nats, in the units of the data, by importance weighting with `particles` draws.

        A lower bound in expectation that tightens with `particles` (Burda et al. 2016). Randomness is fixed by the
        row's own values: the same row scores the same bits at every call, whatever its neighbours.
        """
        rows = score_rows(self._fitted(), self.scaling_.prepare(X), _positive(particles))
        return np.asarray(rows.log_evidence, np.float64) + self.scaling_.log_jacobian

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: nats per row, higher is better."""
        return float(np.mean(self.score_samples(X)))

    def evaluate(self, X: Any, *, particles: int = 500) -> Evaluation:
        """ELBO with its two parts, importance-weighted log p(x), bits per dimension, active units; with errors."""
        return evaluate(
            self._fitted(),
            self.scaling_.prepare(X),
            particles=_positive(particles),
            log_jacobian=self.scaling_.log_jacobian,
            whole=self.scaling_.whole,
        )

    def held_out_rows(self, X: Any) -> np.ndarray | None:
        """Which rows of the training data were held out to know when to stop; None when X is other data.

        Their ELBO chose the weights, but no gradient was taken on them. Fewer than 20 rows are never split.
        """
        self._fitted()
        if store.fingerprint(X) != self.fingerprint_:
            return None
        return hold_out(len(X), _keys(self.seed_)[0])[1]

    def decoder_scale(self) -> np.ndarray | None:
        """The learned noise scale of a Gaussian decoder, in the units of the data; None for other likelihoods."""
        likelihood = self._fitted().likelihood
        if self.likelihood_ != "gaussian":
            return None
        return np.asarray(likelihood.scale) * np.asarray(self.scaling_.scale)  # pyright: ignore[reportAttributeAccessIssue]

    # ---------------------------------------------------------------- keeping

    def save(self, path: str | Path) -> None:
        """Write model.safetensors and model.json into the folder `path`. No pickle, and no row of the data, inside:
        but the pseudo-inputs of a VampPrior start at rows of the data, and may still look like them.
        """
        self._fitted()
        store.write_model(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> VAE:
        """The VAE saved in the folder `path`. Raises InputError, saying what is wrong, for damaged files."""
        return store.read_model(Path(path), cls)

    def _fitted(self):
        check_is_fitted(self, "model_")
        return self.model_

    def _fitted_shape(self) -> tuple[int, ...]:
        self._fitted()
        return self.shape_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # the precision of the model
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        return tags


@eqx.filter_jit
def _build(architecture: Architecture, key: PRNGKeyArray, scale: Float[Array, ""]) -> LatentVariableModel:
    return build(architecture, key, scale=scale)  # compiled as one: initialising array by array compiles each


def _keys(seed: int) -> tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray]:
    """For the split, the first weights and the run."""
    split_key, model_key, run_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"), 3)
    return split_key, model_key, run_key


def _positive(particles: int) -> int:
    if not (isinstance(particles, (int, np.integer)) and particles >= 1):
        raise InputError(f"particles={particles!r}: a whole number of at least 1 is needed.")
    return int(particles)
