"""Semi-supervised autoencoders: a label that is a latent variable where it is missing."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import AbstractNetwork, apply_many
from qphi.bounds import AbstractBound
from qphi.bounds.objective import AbstractObjective, Scores

__all__ = ["LabelledModel", "LabelledObjective"]


class LabelledModel(eqx.Module):
    """p(y) p(z) p(x | y, z) with q(y | x) q(z | x, y), y one of K classes of equal prior probability.

    `vae` is conditional on y, one column for each class in the rows' covariates; `classifier` gives logits of q(y|x).
    """

    vae: LatentVariableModel
    classifier: AbstractNetwork

    def log_labels(self, xs: Float[Array, "data ..."]) -> Float[Array, "data classes"]:
        """log q(y | x)."""
        return jax.nn.log_softmax(apply_many(self.classifier, xs))

    def each_label(self, rows: Float[Array, "data numbers"], classes: int) -> Float[Array, "each numbers"]:
        """The rows once with every label, all rows with the first label first."""
        labels = jnp.repeat(jnp.eye(classes, dtype=rows.dtype), len(rows), axis=0)
        return jnp.concatenate([jnp.tile(rows[:, :-classes], (classes, 1)), labels], axis=1)


class LabelledObjective(AbstractObjective):
    """M2 of Kingma et al. (2014), arXiv 1406.5298, eq. 6-9, nats per datum; rows end in a label's columns, all zero
    where it is missing.

    With L(x, y) = E_q(z|x,y)[log p(x|y,z)] - KL(q(z|x,y) || p(z)) + log p(y), the ELBO of a datum is L(x, y) where y is
    known, and sum_y q(y|x) [L(x, y) - log q(y|x)] where it is not: the label is enumerated, not sampled. What is
    climbed adds `weight` log q(y|x) for known labels, or the classifier would learn from missing ones only.
    """

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_likelihood", "kl")
    bound: AbstractBound
    weight: Float[Array, ""]

    def score(self, trainable: PyTree, batch: Any, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        model: LabelledModel = trainable
        assert model.vae.rows is not None
        classes, data = model.vae.rows.covariates, len(batch)
        every = model.each_label(batch, classes)
        estimate = self.bound(model.vae.posterior(every), model.vae.observe(every), key)
        per_label = estimate.surrogate.reshape(classes, data).T - jnp.log(classes)
        xs = jax.vmap(model.vae.rows.split)(batch)[0]
        log_q, label = model.log_labels(xs), batch[:, -classes:]
        known = jnp.sum(label, axis=1)
        weights = jnp.where(known[:, None] > 0, label, jnp.exp(log_q))

        elbo = jnp.sum(weights * (per_label - jnp.where(known[:, None] > 0, 0.0, log_q)), axis=1)
        items = elbo + self.weight * jnp.sum(label * log_q, axis=1)
        likelihood = jnp.sum(weights * estimate.parts["log_likelihood"].reshape(classes, data).T, axis=1)
        # what is paid for code and label together
        parts = {"elbo": jnp.mean(elbo), "log_likelihood": jnp.mean(likelihood), "kl": jnp.mean(likelihood - elbo)}
        return Scores(jnp.mean(items), items, parts)
