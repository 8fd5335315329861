"""The data and the model of Kingma & Welling (2014), section 5, out of qphi's pieces.

One hidden layer of tanh units in encoder and decoder, a Gaussian posterior, a standard normal prior.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from _results import load
from qphi.autoencoders import LatentVariableModel
from qphi.autoencoders.encoders import GaussianEncoder
from qphi.autoencoders.likelihoods import AbstractLikelihood, Bernoulli, Gaussian
from qphi.autoencoders.networks import MLP, AbstractNetwork
from qphi.families import StandardNormal

BINARISATION_SEED = 0
GREY_LEVELS = 255.0  # the model sees pixels / 255
NEVER = 1_000_000_000  # a patience that no fit exhausts: one learning rate, and an end by budget only


class SigmoidMean(AbstractNetwork):
    """A network whose outputs are squeezed into (0, 1): the mean of a Gaussian decoder of pixels."""

    network: MLP

    def __call__(self, z: Float[Array, " latent"]) -> Float[Array, " pixels"]:
        return jax.nn.sigmoid(self.network(z))


def tanh_vae(
    pixels: int, hidden: int, latent_dim: int, likelihood: AbstractLikelihood, key: PRNGKeyArray
) -> LatentVariableModel:
    """A fresh model. A Gaussian likelihood gets a mean in (0, 1), a Bernoulli one logits."""
    encoder_key, head_key, decoder_key = jax.random.split(key, 3)
    features = MLP(pixels, hidden, (), activation=jnp.tanh, activate_last=True, key=encoder_key)
    decoder = MLP(latent_dim, pixels, (hidden,), activation=jnp.tanh, key=decoder_key)
    return LatentVariableModel(
        prior=StandardNormal(latent_dim),
        encoder=GaussianEncoder(features, hidden, latent_dim, key=head_key),
        decoder=SigmoidMean(decoder) if isinstance(likelihood, Gaussian) else decoder,
        likelihood=likelihood,
    )


def binary_mnist() -> tuple[np.ndarray, np.ndarray]:
    """60,000 training and 10,000 test images, rows of 784: each pixel drawn once, 1 by its grey's share."""
    generator = np.random.default_rng(BINARISATION_SEED)
    images = [load(name).x.reshape(-1, 784) / GREY_LEVELS for name in ("mnist", "mnist-test")]
    train, test = ((generator.random(x.shape) < x).astype(np.float32) for x in images)
    return train, test


def frey_faces(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """1,572 training and 393 held-out frames as rows of 560 pixels in [0, 1]: a random fifth is held out.

    The frames are a film: neighbours of a held-out frame are in the training set, which flatters any model.
    """
    x = load("frey").x.reshape(-1, 560).astype(np.float32) / GREY_LEVELS
    order = np.random.default_rng(seed).permutation(len(x))
    count = len(x) // 5
    return x[order[count:]], x[order[:count]]


def learned_gaussian(train: np.ndarray) -> Gaussian:
    """One noise scale for all pixels, learned, which starts at the standard deviation of the data."""
    return Gaussian(start=float(np.std(train)))


__all__ = [
    "BINARISATION_SEED",
    "GREY_LEVELS",
    "NEVER",
    "Bernoulli",
    "binary_mnist",
    "frey_faces",
    "learned_gaussian",
    "tanh_vae",
]
