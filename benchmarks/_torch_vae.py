"""What the throughput benchmarks share: the same VAE in qphi and in eager PyTorch, checked, then raced.

Call `parse` before JAX is used: it restricts the process to the cores asked for, which bounds both libraries.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.networks import AbstractNetwork, linear

LATENT, LEARNING_RATE = 20, 1e-3


def parse(description: str, *, slices: int) -> argparse.Namespace:
    """The options of both benchmarks, `slices` by default; sets the number of threads of both libraries."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, help="cores to use (all that this process may use)")
    parser.add_argument("--batch", type=int, default=128, help="images in a minibatch")
    parser.add_argument("--slices", type=int, default=slices, help="parts of a minibatch, one after the other, in JAX")
    parser.add_argument("--steps", type=int, default=20, help="training steps in a round")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each contestant, alternating")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    options.threads = options.threads or len(cores)
    if not 1 <= options.threads <= len(cores):
        parser.error(f"--threads {options.threads}: this process may use {len(cores)} cores")
    if options.batch % options.slices:
        parser.error(f"--slices {options.slices} must divide the batch of {options.batch}")
    os.sched_setaffinity(0, cores[-options.threads :])  # before XLA starts its thread pool
    torch.set_num_threads(options.threads)
    return options


class VAE(eqx.Module):
    """Features, one linear layer to mean and log scale, and a decoder to Bernoulli logits."""

    features: AbstractNetwork
    heads: eqx.nn.Linear
    decoder: AbstractNetwork

    def __init__(self, features: AbstractNetwork, size: int, decoder: AbstractNetwork, *, key: PRNGKeyArray):
        self.features = features
        self.heads = linear(size, 2 * LATENT, key=key)
        self.decoder = decoder

    def loss(self, xs: Float[Array, "n ..."], noise: Float[Array, "n latent"]) -> Float[Array, ""]:
        """The negative ELBO, nats an image, with one draw of the latent."""
        heads = self.features.batch(xs) @ self.heads.weight.T + self.heads.bias
        mean, log_scale = jnp.split(heads, 2, axis=1)
        logits = self.decoder.batch(mean + jnp.exp(log_scale) * noise).reshape(xs.shape)
        reconstruction = jnp.sum(jax.nn.softplus(logits) - xs * logits)
        kl = jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale) / 2
        return (reconstruction + kl) / xs.shape[0]


class TorchVAE(torch.nn.Module):
    """The same in PyTorch, from its encoder up to the heads and its decoder."""

    def __init__(self, encoder: torch.nn.Module, decoder: torch.nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def loss(self, xs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean, log_scale = self.encoder(xs).chunk(2, 1)
        logits = self.decoder(mean + log_scale.exp() * noise)
        reconstruction = F.binary_cross_entropy_with_logits(logits, xs, reduction="sum")
        kl = (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum() / 2
        return (reconstruction + kl) / len(xs)


def check(vae: VAE, xs: np.ndarray, net: TorchVAE, torch_xs: torch.Tensor, parameters: Callable[[VAE], list]) -> None:
    """Copies the weights into PyTorch and stops unless loss and all gradients agree for the same noise.

    parameters: the VAE's weights, or gradients, as arrays in the order and layout of `net.parameters()`.
    """
    with torch.no_grad():
        for theirs, ours in zip(net.parameters(), parameters(vae), strict=True):
            theirs.copy_(torch.tensor(np.asarray(ours)))
    noise = np.random.default_rng(1).standard_normal((len(xs), LATENT), np.float32)
    loss, gradients = eqx.filter_jit(eqx.filter_value_and_grad(VAE.loss))(vae, xs, jnp.asarray(noise))
    torch_loss = net.loss(torch_xs, torch.tensor(noise))
    torch_loss.backward()
    np.testing.assert_allclose(loss, torch_loss.item(), rtol=1e-5)
    worst = 0.0
    for theirs, ours in zip(net.parameters(), parameters(gradients), strict=True):
        wanted = theirs.grad.numpy()
        worst = max(worst, float(np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()))
    if not worst < 1e-4:  # float32, sums of up to 1e5 terms in another order
        raise SystemExit(f"gradients differ from PyTorch's by {worst:.1e} of the largest entry")
    print(f"loss {loss:.3f} equals PyTorch's; gradients to {worst:.0e} of each array's largest entry")


def jax_round(vae: VAE, data: np.ndarray, options: argparse.Namespace) -> Callable[[], float]:
    """A round of training in one compiled scan, as a call that gives the last loss."""
    adam = optax.adam(LEARNING_RATE)
    slices, images = options.slices, jnp.asarray(data)

    def gradients(vae: VAE, xs: Array, noise: Array):
        if slices == 1:
            return jax.value_and_grad(VAE.loss)(vae, xs, noise)

        def add(total, part):
            return jax.tree.map(jnp.add, total, jax.value_and_grad(VAE.loss)(vae, *part)), None

        parts = jax.tree.map(lambda a: a.reshape(slices, -1, *a.shape[1:]), (xs, noise))
        zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), vae))
        return jax.tree.map(lambda a: a / slices, jax.lax.scan(add, zero, parts)[0])

    def train(vae: VAE, state: optax.OptState, images: Array, key: PRNGKeyArray):
        order = jax.random.permutation(key, len(images))[: options.steps * options.batch]

        def step(carry, inputs):
            vae, state = carry
            index, rows = inputs
            noise = jax.random.normal(jax.random.fold_in(key, index), (options.batch, LATENT))
            loss, gradient = gradients(vae, images[rows], noise)
            updates, state = adam.update(gradient, state)
            return (eqx.apply_updates(vae, updates), state), loss

        rows = order.reshape(options.steps, options.batch)
        (vae, state), losses = jax.lax.scan(step, (vae, state), (jnp.arange(options.steps), rows))
        return vae, state, losses[-1]

    # MLP holds functions as static fields, so every leaf is an array and plain jit will do
    key, state = jax.random.key(2, impl="rbg"), adam.init(vae)
    compiled = jax.jit(train).lower(vae, state, images, key).compile()
    print(f"JAX: {compiled.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB of temporaries")
    carry = [vae, state]

    def run() -> float:
        *carry[:], loss = compiled(*carry, images, key)
        return float(loss)

    return run


def torch_round(
    net: TorchVAE, images: torch.Tensor, options: argparse.Namespace, channels_last: bool = False
) -> Callable[[], float]:
    """The same round in eager PyTorch, with its fused Adam."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    adam = torch.optim.Adam(net.parameters(), LEARNING_RATE, fused=True)

    def run() -> float:
        order = torch.randperm(len(images))[: options.steps * options.batch]
        for rows in order.split(options.batch):
            adam.zero_grad()
            loss = net.loss(images[rows].contiguous(memory_format=layout), torch.randn(len(rows), LATENT))
            loss.backward()
            adam.step()
        return loss.item()

    return run


def race(contestants: Sequence[tuple[str, Callable[[], float]]], options: argparse.Namespace) -> None:
    """Alternates rounds and prints images a second and torch_time / jax_time; JAX is the first contestant."""
    seconds: dict[str, list[float]] = {name: [] for name, _ in contestants}
    for _, run in contestants:
        run()  # warm
    for _ in range(options.rounds):
        for name, run in contestants:
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    count = options.steps * options.batch
    first = seconds[contestants[0][0]]
    print(f"threads {options.threads}, batch {options.batch}, slices {options.slices}, rounds {options.rounds}")
    print(f"{'':24}{'images/s':>18}{'ms a step':>18}{'torch / JAX time':>20}")
    print(f"{'':24}{'median     best':>18}{'median      min':>18}{'median      min':>20}")
    for name, times in seconds.items():
        middle, least = statistics.median(times), min(times)
        ratio = f"{middle / statistics.median(first):.2f}     {least / min(first):.2f}" if times is not first else ""
        print(
            f"{name:24}{count / middle:9.0f}{count / least:9.0f}"
            f"{1e3 * middle / options.steps:9.2f}{1e3 * least / options.steps:9.2f}{ratio:>20}"
        )
