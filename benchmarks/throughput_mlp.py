"""Training throughput of the 784-400-20-400-784 VAE against the same network in eager PyTorch.

Bernoulli likelihood, Adam. Loss and gradients are first checked to agree; then rounds alternate in this
process on the same cores.

    python benchmarks/throughput_mlp.py --threads 1
"""

from __future__ import annotations

import jax
import numpy as np
import torch

from _torch_vae import LATENT, VAE, TorchVAE, check, jax_round, parse, race, torch_round
from qphi.autoencoders.networks import MLP

PIXELS, HIDDEN = 784, 400


def jax_vae() -> VAE:
    keys = jax.random.split(jax.random.key(0), 3)
    features = MLP(PIXELS, HIDDEN, (), activate_last=True, key=keys[0])
    return VAE(features, HIDDEN, MLP(LATENT, PIXELS, (HIDDEN,), key=keys[1]), key=keys[2])


def torch_vae() -> TorchVAE:
    nn = torch.nn
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    return TorchVAE(encoder, decoder)


def parameters(vae: VAE) -> list:
    """In the order of `torch_vae().parameters()`."""
    layers = [*vae.features.layers, vae.heads, *vae.decoder.layers]
    return [array for layer in layers for array in (layer.weight, layer.bias)]


def main() -> None:
    options = parse(__doc__.splitlines()[0], slices=1)
    data = np.random.default_rng(0).random((options.steps * options.batch, PIXELS), np.float32)
    images = torch.tensor(data)
    vae, net = jax_vae(), torch_vae()
    check(vae, data[: options.batch], net, images[: options.batch], parameters)
    race([("JAX", jax_round(vae, data, options)), ("torch", torch_round(net, images, options))], options)


if __name__ == "__main__":
    main()
