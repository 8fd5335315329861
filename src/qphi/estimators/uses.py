"""What a fitted VAE can be asked."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from sklearn.utils.validation import check_is_fitted

from qphi.autoencoders.build import Architecture
from qphi.autoencoders.latent import decode_means, posterior_moments, sample_data
from qphi.autoencoders.likelihoods import Gaussian
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.nearest import nearest_latents
from qphi.autoencoders.training import hold_out
from qphi.data.given import Given
from qphi.data.scaling import Scaling, dense
from qphi.errors import InputError
from qphi.estimators import store
from qphi.estimators.options import positive

__all__ = ["Uses", "random_keys"]


class Uses:
    """Encoding, decoding, sampling and scoring. A conditional model takes `covariates=` (n, c), or one row for all,
    and a model of counts with size factors `size_factors=` (n,), 1 if left out, as the fit did."""

    model_: LatentVariableModel
    scaling_: Scaling
    given_: Given
    architecture_: Architecture
    seed_: int
    shape_: tuple[int, ...]
    image_: bool
    fingerprint_: str

    def transform(self, X: Any, *, covariates: Any = None, size_factors: Any = None) -> np.ndarray:
        """Posterior means E_q[z|x], (n, latent_dim): deterministic, one row at a time."""
        return self.encode(X, covariates=covariates, size_factors=size_factors)[0]

    def encode(self, X: Any, *, covariates: Any = None, size_factors: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of q(z|x), each (n, latent_dim): every row's Gaussian in latent space."""
        return posterior_moments(self._fitted(), self._rows(X, covariates, size_factors))

    def inverse_transform(self, Z: Any, *, covariates: Any = None, size_factors: Any = None) -> np.ndarray:
        """E[x|z] for each row of Z, in the shape and units of the data (float32)."""
        model = self._fitted()
        z = self._latents(Z)
        given = self.given_.pack(len(z), covariates, size_factors)
        return self.scaling_.restore(decode_means(model, z, self.scaling_.size, given))

    def sample(
        self,
        n_samples: int = 1,
        *,
        noise: bool | None = None,
        random_state: int | None = None,
        covariates: Any = None,
        size_factors: Any = None,
    ) -> np.ndarray:
        """New data: z from the prior, x from p(x|z), in the shape and units of the data.

        noise: whether to draw x from p(x|z) or to give its mean. None draws for vectors, whose noise is part of their
        distribution, and gives the mean for images, where it is what people look at. Without `random_state` the
        fit's own seed is used: the same call gives the same data.
        """
        model = self._fitted()
        n_samples = positive(n_samples, "n_samples")
        seed = self.seed_ if random_state is None else int(random_state)
        noisy = not self.image_ if noise is None else noise
        given = self.given_.pack(n_samples, covariates, size_factors)
        return self.scaling_.restore(sample_data(model, n_samples, seed, noisy, self.scaling_.size, given))

    def reconstruct(
        self, X: Any, *, nearest: bool = False, covariates: Any = None, size_factors: Any = None
    ) -> np.ndarray:
        """E[x|z] at the posterior mean of each row.

        nearest: at the z whose E[x|z] is nearest to x instead, in squared error of what the network sees. This is what
        PCA's projection does, and what to compare with it: a posterior mean is drawn towards the prior's, so that its
        decode has less of the noise of x, and less of x. Raises InputError for latents that are not continuous, and
        for categorical data, whose likeliest level does not move with z.
        """
        given = {"covariates": covariates, "size_factors": size_factors}
        z = self.transform(X, **given)
        if nearest:
            model = self._fitted()
            if model.prior.support_size is not None:
                raise InputError("nearest=True needs continuous latents, and this prior's are levels. Leave it out.")
            if not model.likelihood.has_average:
                raise InputError("nearest=True needs data with a mean, and categories have none. Leave it out.")
            x = self.scaling_.prepare(X)
            packed = self.given_.pack(len(z), covariates, size_factors)
            z = nearest_latents(model, x.reshape(len(x), -1), z, packed)
        return self.inverse_transform(z, **given)

    def held_out_rows(self, X: Any) -> np.ndarray | None:
        """Which rows of the training data were held out to know when to stop; None when X is other data.

        Their ELBO chose the weights, but no gradient was taken on them. Fewer than 20 rows are never split.
        """
        self._fitted()
        X = dense(X)
        if store.fingerprint(X) != self.fingerprint_:
            return None
        return hold_out(len(X), random_keys(self.seed_)[0])[1]

    def decoder_scale(self) -> np.ndarray | None:
        """The learned noise scale of a Gaussian decoder, in the units of the data; None for other likelihoods."""
        likelihood = self._fitted().likelihood
        if not isinstance(likelihood, Gaussian):
            return None
        scale = np.asarray(likelihood.scale) * np.asarray(self.scaling_.scale).reshape(-1)
        return scale.reshape(self.shape_) if scale.size == self.scaling_.size > 1 else scale

    def _rows(self, X: Any, covariates: Any = None, size_factors: Any = None) -> np.ndarray:
        self._fitted()
        return self.given_.pack(self.scaling_.prepare(X), covariates, size_factors)

    def _latents(self, Z: Any) -> np.ndarray:
        z = np.asarray(Z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.architecture_.latent_dim or not len(z):
            raise InputError(
                f"Z has shape {z.shape}; latents of shape (n, {self.architecture_.latent_dim}) with n >= 1 are needed."
            )
        if not np.isfinite(z).all():
            raise InputError("Z has values that are NaN or infinity. Remove those rows.")
        return z

    def _fitted(self) -> LatentVariableModel:
        check_is_fitted(self, "model_")
        return self.model_

    def _fitted_shape(self) -> tuple[int, ...]:
        self._fitted()
        return self.shape_


def random_keys(seed: int) -> tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray]:
    """For the split, the first weights and the run."""
    split_key, model_key, run_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"), 3)
    return split_key, model_key, run_key
