"""Training throughput of a small convolutional VAE against the same network in eager PyTorch.

28 x 28 x 1 -> 32 -> 64 channels by 4x4 stride-2 convolutions, 20 latents, mirrored decoder, Bernoulli, Adam.
Loss and gradients are first checked to agree; then rounds alternate in this process on the same cores.
JAX takes a minibatch in slices whose temporaries stay in the cache: 22 MB
instead of 43.

    python benchmarks/throughput_conv.py --threads 1
"""

from __future__ import annotations

import copy

import jax
import numpy as np
import torch

from _torch_vae import LATENT, VAE, TorchVAE, check, jax_round, parse, race, torch_round
from qphi.autoencoders.conv_networks import ConvFeatures, ConvImage

SHAPE = (28, 28, 1)


def jax_vae() -> VAE:
    keys = jax.random.split(jax.random.key(0), 3)
    features = ConvFeatures(SHAPE, (32, 64), key=keys[0])
    return VAE(features, features.out_size, ConvImage(LATENT, SHAPE, (64, 32), key=keys[1]), key=keys[2])


def torch_vae() -> TorchVAE:
    nn = torch.nn
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 2 * LATENT),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENT, 3136), nn.Unflatten(1, (64, 7, 7)), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1),
    )  # fmt: skip
    return TorchVAE(encoder, decoder)


def parameters(vae: VAE) -> list:
    """In the order of `torch_vae().parameters()`. Transposed kernels are (in, out, 4, 4) there."""
    arrays = []
    for kernel, bias in zip(vae.features.kernels, vae.features.biases, strict=True):
        arrays += [kernel.transpose(3, 2, 0, 1), bias]
    arrays += [vae.heads.weight, vae.heads.bias, vae.decoder.weight, vae.decoder.bias]
    for kernel, bias in zip(vae.decoder.kernels, vae.decoder.biases, strict=True):
        arrays += [kernel.transpose(3, 2, 0, 1), bias]
    return arrays


def main() -> None:
    options = parse(__doc__.splitlines()[0], slices=2)
    data = np.random.default_rng(0).random((options.steps * options.batch, *SHAPE), np.float32)
    images = torch.tensor(data).permute(0, 3, 1, 2).contiguous()
    vae, net = jax_vae(), torch_vae()
    check(vae, data[: options.batch], net, images[: options.batch], parameters)
    contestants = [
        ("JAX", jax_round(vae, data, options)),
        ("torch", torch_round(copy.deepcopy(net), images, options)),
        ("torch, channels last", torch_round(copy.deepcopy(net), images, options, channels_last=True)),
    ]
    race(contestants, options)


if __name__ == "__main__":
    main()
