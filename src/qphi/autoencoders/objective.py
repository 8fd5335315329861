"""Autoencoding variational Bayes: a bound of every datum in a batch, theta and phi together."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.autoencoders.model import LatentVariableModel
from qphi.bounds import AbstractBound
from qphi.bounds.base import Variational
from qphi.bounds.factored import kl_per_unit
from qphi.bounds.objective import AbstractObjective, Scores
from qphi.families import AbstractFamily

__all__ = ["AutoencodingObjective"]


class AutoencodingObjective(AbstractObjective):
    """mean_i [ L(x_i) - (w - 1) KL_i ], nats per datum; for the ELBO that is mean_i [ E_q log p_theta(x_i|z) - w KL_i
    ].

    w = beta times a ramp from 0 to 1 over the first `warm_up` steps of training; with `cycles` > 1 the ramp runs that
    often within them, each time up in the first half and level in the second (Fu et al. 2019). With beta = 1 this
    ends as the bound itself (Kingma & Welling 2014, eq. 10, divided by N). Otherwise **it is not a bound on log
    p(x)** (Higgins et al. 2017). Nor is the capacity-controlled form, L + KL - beta |mean KL - C|, where the ramp
    raises C to `capacity` (Burgess et al. 2018). Either way the parts report the ELBO itself.

    free_bits: while training, no latent unit gains from a KL below so many nats, averaged over the batch: sum_j
    max(free_bits, mean_i KL_ij) (Kingma et al. 2016, appendix C.8). Where units do not separate, the whole KL counts
    against free_bits times their number. Held-out scores do without, so that training stops by the objective itself.
    """

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_likelihood", "kl")
    bound: AbstractBound
    beta: Float[Array, ""]
    warm_up: Int[Array, ""]
    cycles: int = 1
    capacity: float | None = None
    free_bits: float = 0.0

    @property
    def is_bound(self) -> bool:
        """Whether what is climbed in the end is a lower bound on log p(x)."""
        return self.capacity is None and float(self.beta) == 1.0

    def score(self, trainable: PyTree, batch: Any, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        model: LatentVariableModel = trainable
        q, p = model.posterior(batch), model.observe(batch)
        estimate = self.bound(q, p, key)
        kl, ramp = estimate.parts["kl"], self._ramp(step)
        if self.capacity is None:
            # for the ELBO: surrogate = log likelihood - KL in value and gradient, so moving the weight off 1 takes
            # (w - 1) KL more
            items = estimate.surrogate - (self.beta * ramp - 1.0) * kl
        else:
            items = estimate.surrogate + kl - self.beta * jnp.abs(jnp.mean(kl) - ramp * self.capacity)
        if self.free_bits and step is not None:
            items = items - self.beta * ramp * self._missing(q, model.prior, kl)
        parts = {"elbo": jnp.mean(estimate.elbo), **{k: jnp.mean(v) for k, v in estimate.parts.items()}}
        return Scores(jnp.mean(items), items, parts)

    def _missing(self, q: Variational, prior: AbstractFamily, kl: Float[Array, " data"]) -> Float[Array, ""]:
        """sum_j max(free_bits, KL_j) - KL_j."""
        units = kl_per_unit(q, prior)
        if units is None:
            return jax.nn.relu(self.free_bits * prior.dim - jnp.mean(kl))
        return jnp.sum(jax.nn.relu(self.free_bits - jnp.mean(units, axis=0)))

    def _ramp(self, step: Int[Array, ""] | None):
        if step is None:
            return 1.0
        if self.cycles == 1:
            return jnp.minimum(1.0, (step + 1) / jnp.maximum(self.warm_up, 1))
        period = jnp.maximum(self.warm_up / self.cycles, 1.0)
        return jnp.where(step < self.warm_up, jnp.minimum(1.0, 2 * (step % period + 1) / period), 1.0)
