"""Autoencoding variational Bayes: the ELBO of every datum in a batch, theta and phi together."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.autoencoders.model import LatentVariableModel
from qphi.bounds import AbstractBound
from qphi.bounds.objective import AbstractObjective, Scores

__all__ = ["AutoencodingObjective"]


class AutoencodingObjective(AbstractObjective):
    """mean_i [ E_q log p_theta(x_i|z) - w KL(q_phi(z|x_i) || p(z)) ], nats per datum.

    w = beta, times a ramp from 0 to 1 over the first `warm_up` steps of training. With beta = 1 this is the ELBO
    (Kingma & Welling 2014, eq. 10, divided by N); otherwise it is not a bound on log p(x) (Higgins et al. 2017), and
    the parts still report the ELBO itself.
    """

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_likelihood", "kl")
    bound: AbstractBound
    beta: Float[Array, ""]
    warm_up: Int[Array, ""]

    def score(self, trainable: PyTree, batch: Any, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        model: LatentVariableModel = trainable
        estimate = self.bound(model.posterior(batch), model.observe(batch), key)
        weight = self.beta * self._ramp(step)
        # surrogate = log likelihood - KL in value and gradient, so moving the weight off 1 takes (w - 1) KL more
        items = estimate.surrogate - (weight - 1.0) * estimate.parts["kl"]
        parts = {"elbo": jnp.mean(estimate.elbo), **{k: jnp.mean(v) for k, v in estimate.parts.items()}}
        return Scores(jnp.mean(items), items, parts)

    def _ramp(self, step: Int[Array, ""] | None):
        return 1.0 if step is None else jnp.minimum(1.0, (step + 1) / jnp.maximum(self.warm_up, 1))
