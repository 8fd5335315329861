"""What is lost between the ELBO and log p(x), and what a code costs: fits of q to one datum at a time."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.autoencoders.blocks import in_blocks
from qphi.autoencoders.evaluation import Figure, figure_of
from qphi.autoencoders.model import LatentVariableModel
from qphi.bounds import ELBO
from qphi.bounds.elbo import log_prior_many
from qphi.bounds.factored import kl_to_prior, knows_kl
from qphi.families import Batch

__all__ = ["Gaps", "RateDistortion", "gaps", "rate_distortion"]

STEPS, RATE, DRAWS = 60, 0.1, 8  # of Adam for each datum, its first step size, draws a step
CHUNKS, CHUNK = 8, 32  # draws that judge: 256 for each datum


@dataclasses.dataclass(frozen=True)
class Gaps:
    """log p(x) - ELBO = approximation gap + amortisation gap, nats per datum (Cremer et al. 2018, arXiv 1801.03558).

    amortisation: by how much the best q of the encoder's family for each datum beats the encoder's answer. A large one
    asks for a larger encoder or longer training. approximation: what that best q still lacks; it asks for a richer
    family. Its log p(x) comes from 256 importance weights, so it is a lower bound in expectation.
    """

    amortisation: Figure
    approximation: Figure
    n: int


@dataclasses.dataclass(frozen=True)
class RateDistortion:
    """Rate (nats of code) and distortion (-E_q log p(x|z), nats) of one decoder, codes refined for each beta."""

    betas: tuple[float, ...]
    rate: tuple[float, ...]
    distortion: tuple[float, ...]


def gaps(model: LatentVariableModel, xs: np.ndarray, *, seed: int = 0) -> Gaps:
    """Refine q(z|x) from the encoder's answer by 60 steps of Adam, datum by datum, and compare the ELBOs.

    Both are judged with the same 256 fresh draws. Where refining made a datum worse the encoder's answer is kept as
    the optimum, so a perfect encoder shows a gap of the judge's noise, not below zero.
    """
    found = _in_blocks(model, xs, 1.0, seed)
    best = np.maximum(found["refined"], found["encoded"])
    evidence = np.maximum(found["evidence"], best)
    return Gaps(figure_of(best - found["encoded"]), figure_of(evidence - best), len(xs))


def rate_distortion(
    model: LatentVariableModel, xs: np.ndarray, *, betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0), seed: int = 0
) -> RateDistortion:
    """The curve that q of the encoder's family can reach with this decoder: codes that maximise
    E_q log p(x|z) - beta KL for each beta. At beta = 1 it passes the refined ELBO (Alemi et al. 2018, 1711.00464)."""
    found = [_in_blocks(model, xs, beta, seed) for beta in betas]
    rate = tuple(float(np.mean(f["kl"])) for f in found)
    return RateDistortion(betas, rate, tuple(float(-np.mean(f["log_likelihood"])) for f in found))


def _in_blocks(model: LatentVariableModel, xs: np.ndarray, beta: float, seed: int) -> dict[str, np.ndarray]:
    key = jax.random.key(seed, impl="threefry2x32")

    def block(block: np.ndarray):
        return _refine_and_judge(model, jnp.asarray(block), jnp.asarray(float(beta)), key)

    found = in_blocks(block, xs, CHUNK * math.prod(xs.shape[1:]))
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


@eqx.filter_jit
def _refine_and_judge(
    model: LatentVariableModel, xs: Float[Array, "data ..."], beta: Float[Array, ""], key: PRNGKeyArray
) -> dict[str, Float[Array, " data"]]:
    q, p = model.posterior(xs), model.settled().observe(xs)
    fit_key, judge_key = jax.random.split(key)
    own, common = q.split()  # what data have in common is not this datum's to change
    arrays, fixed = eqx.partition(own, eqx.is_inexact_array)
    adam = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def with_own(arrays) -> Batch:
        return dataclasses.replace(q, family=eqx.combine(arrays, fixed, common))

    def loss(arrays, key: PRNGKeyArray) -> Array:
        estimate = ELBO(DRAWS)(with_own(arrays), p, key)
        return -jnp.sum(estimate.surrogate - (beta - 1.0) * estimate.parts["kl"])  # data do not share numbers

    def step(carry, index: Array):
        arrays, state = carry
        move, state = adam.update(jax.grad(loss)(arrays, jax.random.fold_in(fit_key, index)), state)
        return (optax.apply_updates(arrays, move), state), None

    (refined, _), _ = jax.lax.scan(step, (arrays, adam.init(arrays)), jnp.arange(STEPS))

    def judged(arrays):
        q = with_own(arrays)

        def chunk(index: Array):
            z, log_q = q.sample_and_log_prob_many(jax.random.fold_in(judge_key, index), CHUNK)
            log_likelihood, kl = p.log_likelihood_many(z), log_q - log_prior_many(p, z)
            weights = jax.nn.logsumexp(log_likelihood - kl, axis=0)
            return jnp.mean(log_likelihood, axis=0), jnp.mean(kl, axis=0), weights

        log_likelihood, kl, weights = jax.lax.map(chunk, jnp.arange(CHUNKS))
        evidence = jax.nn.logsumexp(weights, axis=0) - math.log(CHUNK * CHUNKS)
        likelihood = jnp.mean(log_likelihood, axis=0)
        kl = kl_to_prior(q, p.prior) if knows_kl(q, p.prior) else jnp.mean(kl, axis=0)
        return likelihood - kl, likelihood, kl, evidence

    encoded, _, _, _ = judged(arrays)
    best, likelihood, kl, evidence = judged(refined)
    return {"encoded": encoded, "refined": best, "log_likelihood": likelihood, "kl": kl, "evidence": evidence}
